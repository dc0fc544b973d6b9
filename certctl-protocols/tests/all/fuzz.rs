//! The fuzz targets without a fuzzer: mutations of the seeds, always the same ones.

use std::{fs, path::Path};

// Public in the crate that they belong to.
#[allow(unreachable_pub)]
#[path = "../../../fuzz/src/targets.rs"]
mod targets;

#[test]
fn signed_messages() {
    smoke("jws", targets::jws, 20_000);
}

#[test]
fn keys() {
    smoke("jwk", targets::jwk, 20_000);
}

#[test]
fn everything_of_acme() {
    smoke("acme_wire", targets::acme_wire, 20_000);
}

#[test]
fn header_values() {
    smoke("headers", targets::headers, 40_000);
}

/// Runs the target over its seeds, and over this many mutations of them.
fn smoke(name: &str, target: fn(&[u8]), rounds: usize) {
    let seeds = seeds(name);
    assert!(seeds.len() >= 3, "the seeds of {name} are missing");
    seeds.iter().for_each(|seed| target(seed));
    target(&[]);
    let mut random = Random(0x5eed_0000_0000_0001 ^ name.len() as u64);
    for _ in 0..rounds {
        let input = mutated(&seeds, &mut random);
        // Without it a panic would not say what caused it.
        let shown = Shown(&input);
        target(&input);
        std::mem::forget(shown);
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The order of a directory is not the same everywhere.
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One to four changes to one of the seeds.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const PIECES: [&[u8]; 16] = [
        b"\"", b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e999", b"\\ud800", b"\xff",
        b"\0", b"=", b"\r\n",
    ];
    let mut out = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len() + 1);
        let len = random.below(24).min(out.len() - at);
        match random.below(8) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..at + len)),
            2 if at < out.len() => out[at] ^= 1 << random.below(8),
            3 if at < out.len() => out[at] = random.next() as u8,
            4 => {
                let piece = out[at..at + len].to_vec();
                splice(&mut out, at, &piece.repeat(1 + random.below(40)));
            }
            5 => splice(&mut out, at, PIECES[random.below(PIECES.len())]),
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let len = random.below(64).min(other.len() - from);
                splice(&mut out, at, &other[from..from + len]);
            }
            _ => splice(&mut out, at, &[b'[', b'{'][..1].repeat(1 + random.below(300))),
        }
    }
    out
}

fn splice(out: &mut Vec<u8>, at: usize, piece: &[u8]) {
    out.splice(at..at, piece.iter().copied());
}

/// xorshift64*: the same numbers on every machine, today and in years.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Prints the input while a panic unwinds.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("the input was {:?}", String::from_utf8_lossy(self.0));
    }
}
