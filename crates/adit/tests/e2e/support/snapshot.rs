//! What a host's kernel holds, without what is the gateway's and without what changes by itself.

use std::collections::BTreeMap;

use adit_lab::Host;
use anyhow::{Result, ensure};
use serde_json::Value;

/// Text by what it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    parts: BTreeMap<&'static str, Vec<String>>,
}

const SYSCTLS: &str = "sysctls";

impl Snapshot {
    /// Objects of others: those that do not bear the gateway's marks.
    pub(crate) fn of_others(host: &Host, interface: &str) -> Result<Self> {
        let lines = |command: &[&str]| -> Result<Vec<String>> {
            Ok(host
                .exec(command)?
                .stdout
                .lines()
                .map(str::to_owned)
                .collect())
        };
        let objects = |command: &[&str]| -> Result<Vec<String>> {
            let mut kept = lines(command)?;
            kept.retain(|line| !line.contains("proto 173") && !line.contains(interface));
            let mut kept: Vec<String> = kept.iter().map(|line| without_expiry(line)).collect();
            kept.sort();
            Ok(kept)
        };
        let mut sysctls = lines(&["sysctl", "-a", "--pattern", "^net"])?;
        sysctls.retain(|line| !is_volatile(line) && !line.contains(interface));
        sysctls.sort();
        let mut tables = Vec::new();
        let mut ours = false;
        for line in lines(&["nft", "-s", "list", "ruleset"])? {
            ours |= line == "table inet adit {";
            if !ours {
                tables.push(line.clone());
            }
            ours &= line != "}";
        }
        Ok(Self {
            parts: BTreeMap::from([
                ("nftables", tables),
                (
                    "routes",
                    objects(&["ip", "-4", "route", "show", "table", "all"])?,
                ),
                (
                    "IPv6 routes",
                    objects(&["ip", "-6", "route", "show", "table", "all"])?,
                ),
                ("rules", objects(&["ip", "-4", "rule", "show"])?),
                ("IPv6 rules", objects(&["ip", "-6", "rule", "show"])?),
                (
                    "proxy neighbours",
                    objects(&["ip", "neigh", "show", "proxy"])?,
                ),
                ("addresses", objects(&["ip", "-o", "address", "show"])?),
                ("links", objects(&["ip", "-o", "link", "show"])?),
                (SYSCTLS, sysctls),
            ]),
        })
    }

    /// Everything, with what the gateway's table and WireGuard interface hold in it, however it came there.
    pub(crate) fn complete(host: &Host, interface: &str) -> Result<Self> {
        let mut snapshot = Self::of_all(host)?;
        snapshot.parts.insert("our table", own_table(host)?);
        snapshot
            .parts
            .insert("WireGuard", wireguard(host, interface)?);
        for lines in snapshot.parts.values_mut() {
            for line in lines.iter_mut() {
                *line = without_index(line);
            }
            lines.sort();
        }
        Ok(snapshot)
    }

    /// Everything, the gateway's own too.
    pub(crate) fn of_all(host: &Host) -> Result<Self> {
        Self::of_others(host, "no interface has such a name")
    }

    /// Without settings, and without the anycast addresses that the kernel adds while it forwards.
    pub(crate) fn without_sysctls(mut self) -> Self {
        self.parts.remove(SYSCTLS);
        for lines in self.parts.values_mut() {
            lines.retain(|line| !line.starts_with("anycast "));
        }
        self
    }

    pub(crate) fn ensure_same(&self, after: &Self) -> Result<()> {
        let mut differences = String::new();
        for (name, before) in &self.parts {
            let Some(after) = after.parts.get(name) else {
                continue;
            };
            for line in before.iter().filter(|line| !after.contains(line)) {
                differences.push_str(&format!("\n{name}: gone: {line}"));
            }
            for line in after.iter().filter(|line| !before.contains(line)) {
                differences.push_str(&format!("\n{name}: new: {line}"));
            }
            if before != after && differences.is_empty() {
                differences.push_str(&format!("\n{name}: another order: {after:?}"));
            }
        }
        ensure!(differences.is_empty(), "it is not as it was:{differences}");
        Ok(())
    }
}

/// Sets of the table whose elements tell what packets there were.
pub(crate) const FILLED_BY_PACKETS: [&str; 3] = ["asked6", "heard6", "spoke6"];

/// The objects of our table; sets and maps without an order, since the kernel keeps none.
fn own_table(host: &Host) -> Result<Vec<String>> {
    let shown = host.try_exec(["nft", "-j", "-s", "list", "table", "inet", "adit"])?;
    if !shown.status.success() {
        return Ok(Vec::new());
    }
    let listing: Value = serde_json::from_str(&shown.stdout)?;
    let mut lines = Vec::new();
    for object in listing["nftables"].as_array().into_iter().flatten() {
        let mut object = object.clone();
        for body in object.as_object_mut().into_iter().flatten() {
            if let Some(body) = body.1.as_object_mut() {
                body.remove("handle");
                // What packets put there.
                let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
                if FILLED_BY_PACKETS.contains(&name) {
                    body.remove("elem");
                }
                // And what they put there with a count of its own.
                let is_counted = |element: &Value| element["elem"].get("ct count").is_some();
                let elements = body.get("elem").and_then(Value::as_array);
                if elements.is_some_and(|elements| elements.iter().any(is_counted)) {
                    body.remove("elem");
                }
                if let Some(Value::Array(elements)) = body.get_mut("elem") {
                    elements.sort_by_key(Value::to_string);
                }
            }
        }
        lines.push(object.to_string());
    }
    Ok(lines)
}

/// Peers with their prefixes. Preshared keys are random, so only their presence is compared.
fn wireguard(host: &Host, interface: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for what in ["public-key", "listen-port", "allowed-ips", "preshared-keys"] {
        let shown = host.try_exec(["wg", "show", interface, what])?;
        lines.extend(shown.stdout.lines().map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            if what == "preshared-keys" && words.get(1).is_some_and(|key| *key != "(none)") {
                words.truncate(1);
            }
            if let Some(prefixes) = words.get_mut(1..) {
                prefixes.sort_unstable();
            }
            format!("{what} {}", words.join(" "))
        }));
    }
    Ok(lines)
}

/// An interface that was made anew has another index, and another random address.
fn without_index(line: &str) -> String {
    match line.split_once(": ") {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest.to_owned(),
        Some(_) | None => line.to_owned(),
    }
}

fn is_volatile(sysctl: &str) -> bool {
    [
        "nf_conntrack_count",
        "net.ipv4.tcp_fastopen_key",
        "net.core.rps_",
        "net.ipv4.route.",
    ]
    .iter()
    .any(|name| sysctl.contains(name))
}

fn without_expiry(line: &str) -> String {
    let mut words = Vec::new();
    let mut skip = false;
    for word in line.split_whitespace() {
        if skip {
            skip = false;
        } else if word == "expires" || word == "valid_lft" || word == "preferred_lft" {
            skip = true;
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}
