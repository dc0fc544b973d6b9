//! What the benches measure with.
#![allow(unreachable_pub)]

use std::time::{Duration, Instant};

/// The time that a phase took, and the processor time that this process used up in it: other programs disturb the one more
/// than the other.
pub struct Phase {
    begin: Instant,
    cpu: Duration,
}

impl Phase {
    /// Now.
    pub fn begin() -> Self {
        Self { begin: Instant::now(), cpu: cpu() }
    }

    /// What it took.
    pub fn end(self) -> Spent {
        Spent { wall: self.begin.elapsed(), cpu: cpu() - self.cpu }
    }
}

/// What a phase took.
#[derive(Clone, Copy)]
pub struct Spent {
    pub wall: Duration,
    pub cpu: Duration,
}

/// Processor time of this process so far (user and system), from the kernel's count of ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> =
        stat.rsplit(')').next().unwrap_or("").split(' ').filter_map(|f| f.parse().ok()).collect();
    // After the state: utime and stime are the 11th and 12th.
    Duration::from_millis(fields.get(10..12).map_or(0, |ticks| ticks.iter().sum::<i64>().unsigned_abs() * 10))
}
