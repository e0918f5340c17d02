//! All ports of some addresses, probed from a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use adit_lab::Host;
use anyhow::{Context as _, Result};
use serde_json::Value;

const PROGRAM: &str = include_str!("probe.py");

/// What answered, by target: `tcp` and `udp` with kinds of answers and how many there were, `open` with the ports, and how
/// many packets were `sent`.
pub(crate) fn probe(
    host: &Host,
    from: (Ipv4Addr, Ipv6Addr),
    ports: &RangeInclusive<u16>,
    packets_a_second: u32,
    targets: &[IpAddr],
) -> Result<Value> {
    let mut command = vec![
        "python3".to_owned(),
        "-c".to_owned(),
        PROGRAM.to_owned(),
        from.0.to_string(),
        from.1.to_string(),
        format!("{}-{}", ports.start(), ports.end()),
        packets_a_second.to_string(),
    ];
    command.extend(targets.iter().map(IpAddr::to_string));
    let output = host.exec(command)?;
    serde_json::from_str(&output.stdout).with_context(|| output.stdout.clone())
}
