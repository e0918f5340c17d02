//! What setup writes: the same files that packages install.

/// A file and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) path: &'static str,
    /// Where packages put the same; with it there nothing is written.
    pub(super) packaged: &'static [&'static str],
    pub(super) text: &'static str,
    pub(super) mode: u32,
}

/// The program, where services find it under its name alone.
pub(super) const PROGRAM: &str = "/usr/local/bin/adit";

pub(super) const CONFIGURATION: &str = "/etc/adit/gateway.toml";

pub(super) const NAMES: [File; 2] = [
    File {
        path: "/etc/iproute2/rt_protos.d/adit.conf",
        packaged: &[
            "/usr/share/iproute2/rt_protos.d/adit.conf",
            "/usr/lib/iproute2/rt_protos.d/adit.conf",
        ],
        text: include_str!("../../../../../packaging/iproute2/rt_protos.d/adit.conf"),
        mode: 0o644,
    },
    File {
        path: "/etc/iproute2/rt_tables.d/adit.conf",
        packaged: &[
            "/usr/share/iproute2/rt_tables.d/adit.conf",
            "/usr/lib/iproute2/rt_tables.d/adit.conf",
        ],
        text: include_str!("../../../../../packaging/iproute2/rt_tables.d/adit.conf"),
        mode: 0o644,
    },
];

pub(super) const UNITS: [File; 3] = [
    File {
        path: "/etc/systemd/system/adit-gateway.service",
        packaged: &[
            "/usr/lib/systemd/system/adit-gateway.service",
            "/lib/systemd/system/adit-gateway.service",
        ],
        text: include_str!("../../../../../packaging/systemd/adit-gateway.service"),
        mode: 0o644,
    },
    File {
        path: "/etc/systemd/system/adit-wireguard@.service",
        packaged: &[
            "/usr/lib/systemd/system/adit-wireguard@.service",
            "/lib/systemd/system/adit-wireguard@.service",
        ],
        text: include_str!("../../../../../packaging/systemd/adit-wireguard@.service"),
        mode: 0o644,
    },
    File {
        path: "/etc/systemd/system/adit-front.service",
        packaged: &[
            "/usr/lib/systemd/system/adit-front.service",
            "/lib/systemd/system/adit-front.service",
        ],
        text: include_str!("../../../../../packaging/systemd/adit-front.service"),
        mode: 0o644,
    },
];

pub(super) const SCRIPT: File = File {
    path: "/etc/init.d/adit-gateway",
    packaged: &[],
    text: include_str!("../../../../../packaging/openrc/adit-gateway"),
    mode: 0o755,
};

/// The first configuration of a gateway; it is the administrator's from then on.
pub(super) fn configuration(interface: &str) -> String {
    format!(
        "# How the gateway of this host runs. What may stand here besides is in its documentation.\n\
         interface = \"{interface}\"\n"
    )
}
