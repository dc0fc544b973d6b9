//! How the examples talk to whoever runs them.
#![allow(unreachable_pub)]

use certctl::engine::{Event, EventStream};

/// Prints each step as it is committed.
pub async fn narrate(mut events: EventStream) {
    while let Some(event) = events.next().await {
        if let Event::Happened(event) = event {
            let facts: Vec<String> = ["serial", "target", "not_after", "warnings", "error"]
                .iter()
                .filter_map(|key| Some(format!("{key} {}", event.details.get(*key)?.as_str()?)))
                .collect();
            say(&format!("  {}  {}", event.action, facts.join(", ")));
        }
    }
}

/// What the environment says, if it says something.
#[allow(clippy::disallowed_methods)] // A program reads its environment; the library does not.
pub fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Prints a line.
#[allow(clippy::print_stdout)] // A program talks to its operator.
pub fn say(line: &str) {
    println!("{line}");
}
