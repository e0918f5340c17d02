//! Configurations of several files: each begins with a comment that is its path, as `systemctl cat` shows files.

use super::policy::{CHAINS, Slot};

/// The tunnel's interface.
pub(super) const INTERFACE: &str = "adit";

/// The line that begins a file.
pub(super) fn begin(path: &str) -> String {
    format!("# {path}")
}

/// The service that marks the replies to what came in through the tunnel. It lives as long as the interface.
pub(super) fn reply_service(slot: Slot) -> String {
    let device = format!("sys-subsystem-net-devices-{INTERFACE}.device");
    let table = format!("inet adit-{INTERFACE}");
    let mut lines = vec![
        begin("/etc/systemd/system/adit-replies.service"),
        "# systemctl daemon-reload && systemctl enable --now adit-replies".to_owned(),
        "[Unit]".to_owned(),
        format!("Description=Replies to what came in through {INTERFACE}"),
        format!("BindsTo={device}"),
        format!("After={device} nftables.service"),
        "# A restart of the firewall takes all tables away.".to_owned(),
        "PartOf=nftables.service".to_owned(),
        String::new(),
        "[Service]".to_owned(),
        "Type=oneshot".to_owned(),
        "RemainAfterExit=yes".to_owned(),
        format!("ExecStartPre=-nft delete table {table}"),
        format!("ExecStart=nft add table {table}"),
    ];
    for (name, head) in CHAINS {
        lines.push(format!(
            "ExecStart=nft 'add chain {table} {name} {{ {head} }}'"
        ));
    }
    for rule in slot.marks(INTERFACE) {
        if !rule.comment.is_empty() {
            lines.push(format!("# {}", rule.comment));
        }
        lines.push(format!(
            "ExecStart=nft add rule {table} {} {}",
            rule.chain, rule.text
        ));
    }
    lines.extend([
        format!("ExecStart=-sysctl -q net/ipv4/conf/{INTERFACE}/src_valid_mark=1"),
        format!("ExecStop=-nft delete table {table}"),
        String::new(),
        "[Install]".to_owned(),
        format!("WantedBy={device}"),
    ]);
    lines.join("\n") + "\n"
}
