//! The demo that a newcomer sees first: its own expectations hold, and it leaves nothing behind.

use std::process::Command;

use adit_lab::Lab;
use anyhow::{Result, ensure};

use crate::support::binary;

#[test]
fn the_demo_keeps_its_promises() -> Result<()> {
    for topology in ["on-link", "routed"] {
        let instance = format!("e2e-demo-{}-{topology}", std::process::id());
        let output = Command::new(binary())
            .args(["lab", "demo", topology, "--instance", &instance])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{topology}: {}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(
            text.contains("198.51.100.10"),
            "{topology}: no visitor in\n{text}"
        );
        let left = Lab::list()?.into_iter().any(|lab| lab.instance == instance);
        ensure!(!left, "{instance} is still up");
    }
    Ok(())
}
