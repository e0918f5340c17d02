//! Other servers' configurations, as text and as the rows of a database. What was read can be sent and read again.

#![no_main]

use adit_model::change::Change;
use adit_model::decide::decide;
use adit_model::facts::Facts;
use adit_model::import::{Hints, Import, Reading, read, read_tables};
use adit_model::state::State;
use libfuzzer_sys::fuzz_target;

/// What is taken over is there as a whole.
fn check(reading: Reading) {
    let sent = serde_json::to_string(&reading.import).expect("it can be sent");
    let import: Import = serde_json::from_str(&sent).expect("what was sent can be read");
    assert_eq!(import, reading.import);
    let devices = import.devices.len();
    let change = Change::Import(Box::new(import));
    if let Ok(edits) = decide(&State::default(), change, &Facts::default(), 1, &[7; 64]) {
        let mut state = State::default();
        for edit in &edits {
            state.absorb(edit);
        }
        assert_eq!(state.devices.len(), devices);
    }
}

fuzz_target!(|text: &str| {
    let (clients, text) = text.split_once('\0').unwrap_or(("", text));
    let hints = Hints {
        subnet: "wg0",
        listen_port: None,
        clients: Some(clients),
    };
    if let Ok(reading) = read(text, &hints) {
        check(reading);
    }
    if let Ok(tables) = serde_json::from_str(text)
        && let Ok(reading) = read_tables(&tables, &hints)
    {
        check(reading);
    }
});
