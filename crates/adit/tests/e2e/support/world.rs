//! A lab with a running gateway, and devices that join it.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use adit_lab::{Gateway, Host, Lab, TemporaryLab, Topology, WgQuick, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::machine::Machine;

pub(crate) const INTERNET4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub(crate) const INTERNET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10);
pub(crate) const STRANGER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
pub(crate) const STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x20);
/// The addresses of the VPS.
pub(crate) const PUBLIC4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) lab: TemporaryLab,
    _machine: Machine,
}

/// A host that is a device of the gateway; the device bears the host's name.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) host: Host,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Option<Ipv6Addr>,
    pub(crate) interface: String,
    pub(crate) answer: Value,
    pub(crate) tunnel: WgQuick,
}

/// What the command line says when it does not do what it was told.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl World {
    /// The topology with a gateway that has nothing to do yet.
    pub(crate) fn start(topology: &str, purpose: &str) -> Result<Self> {
        let machine = Machine::share();
        let lab = Lab::temporary(&Topology::by_name(topology)?, purpose)?;
        let gateway = lab.start_gateway(binary())?;
        Ok(Self {
            gateway,
            lab,
            _machine: machine,
        })
    }

    /// Of what was started by hand.
    pub(crate) fn of(gateway: Gateway, lab: TemporaryLab) -> Self {
        Self {
            gateway,
            lab,
            _machine: Machine::share(),
        }
    }

    /// [`Self::start`] with the subnet `lan`: 10.59.0.0/24 and a global prefix, delivered as the topology does.
    pub(crate) fn with_subnet(topology: &str, purpose: &str) -> Result<Self> {
        let world = Self::start(topology, purpose)?;
        if topology == "one-to-one-nat" {
            world.adit(&format!("uplink set --advertised {PUBLIC4}"))?;
        }
        let ipv6 = match world.provided() {
            Some(prefix) => format!(" --ipv6 {prefix}"),
            None => String::new(),
        };
        world.adit(&format!("subnet add lan --ipv4 10.59.0.0/24{ipv6}"))?;
        Ok(world)
    }

    /// A global prefix that this topology delivers: in `on-link` and `narrow` the very one of the uplink.
    pub(crate) fn prefix(&self) -> Result<&'static str> {
        self.provided()
            .with_context(|| format!("a prefix in topology {}", self.lab.topology().name))
    }

    /// [`Self::prefix`], if there is one; without it devices have private addresses, which are translated.
    pub(crate) fn provided(&self) -> Option<&'static str> {
        match self.lab.topology().name.as_str() {
            "routed" | "one-to-one-nat" | "two-uplinks" => Some("2001:db8:100:1::/64"),
            "on-link" => Some("2001:db8:1::/64"),
            "narrow" => Some("2001:db8:1::f000/124"),
            _ => None,
        }
    }

    /// The IPv4 address of the VPS as its interface has it.
    pub(crate) fn local4(&self) -> Result<Ipv4Addr> {
        let uplinks = self.list("uplink")?;
        let first = uplinks.iter().find(|uplink| uplink["name"] == "eth0");
        let local = first.and_then(|uplink| uplink["local"].as_str());
        Ok(local.context("the address of eth0")?.parse()?)
    }

    /// Whether the provider asks by Neighbor Discovery for each address of the prefix.
    pub(crate) fn is_on_link(&self) -> bool {
        matches!(self.lab.topology().name.as_str(), "on-link" | "narrow")
    }

    /// The IPv6 address of the VPS.
    pub(crate) fn public6(&self) -> Option<Ipv6Addr> {
        match self.lab.topology().name.as_str() {
            "ipv4-only" => None,
            "narrow" => Some(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xf001)),
            _ => Some(PUBLIC6),
        }
    }

    /// Where the IPv6 Internet reaches a device, and sees it come from: its own address, or that of the VPS.
    pub(crate) fn outside6(&self, device: &Device) -> Option<Ipv6Addr> {
        self.provided()
            .map_or_else(|| self.public6(), |_| device.ipv6)
    }

    /// Opens the same port of a device and of the VPS for both families.
    pub(crate) fn publish(&self, device: &str, port: &str) -> Result<()> {
        self.adit(&format!("forward add {port} {device}"))?;
        if self.provided().is_some() {
            self.adit(&format!("pinhole add {device} {port}"))?;
        }
        Ok(())
    }

    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        self.lab.host(name)
    }

    /// Runs the command line with `--json`; words are separated by blanks.
    pub(crate) fn adit(&self, command: &str) -> Result<Value> {
        self.gateway.adit_json(command.split_whitespace())
    }

    /// Runs a command that must be refused with exit status 1, and change nothing.
    pub(crate) fn refused(&self, command: &str) -> Result<Refused> {
        let before = self.revision()?;
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.push("--json");
        let output = self.gateway.try_adit(&words)?;
        ensure!(
            output.status.code() == Some(1),
            "{command}: was to be refused with 1: {output}"
        );
        let document: Value = serde_json::from_str(&output.stderr)
            .with_context(|| format!("{command}: no JSON on stderr: {output}"))?;
        ensure!(
            output.stdout.is_empty(),
            "{command}: a refusal wrote to stdout: {output}"
        );
        let field = |name: &str| -> Result<String> {
            let text = document["error"][name].as_str().unwrap_or_default();
            ensure!(!text.is_empty(), "{command}: no {name} in {document}");
            Ok(text.to_owned())
        };
        ensure!(
            self.revision()? == before,
            "{command}: was refused, and changed something"
        );
        Ok(Refused {
            code: field("code")?,
            message: field("message")?,
            hint: field("hint")?,
        })
    }

    pub(crate) fn revision(&self) -> Result<u64> {
        self.adit("status")?["revision"]
            .as_u64()
            .context("adit status --json: revision")
    }

    /// Objects of one kind, as `list` shows them.
    pub(crate) fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let document = self.adit(&format!("{kind} list"))?;
        let items = document[format!("{kind}s")].as_array();
        Ok(items
            .with_context(|| format!("adit {kind} list --json: {document}"))?
            .clone())
    }

    /// The object of a kind whose fields have these values.
    pub(crate) fn find(&self, kind: &str, fields: &Value) -> Result<Value> {
        let fields = fields.as_object().context("fields")?;
        let items = self.list(kind)?;
        let found = items.iter().find(|item| {
            fields
                .iter()
                .all(|(name, value)| item.get(name) == Some(value))
        });
        found
            .cloned()
            .with_context(|| format!("no {kind} with {fields:?} among {items:?}"))
    }

    pub(crate) fn id(&self, kind: &str, fields: &Value) -> Result<u64> {
        self.find(kind, fields)?["id"]
            .as_u64()
            .with_context(|| format!("id of a {kind}"))
    }

    /// Adds a device with the name of a host, and brings its tunnel up there.
    pub(crate) fn join(&self, host: &str, options: &str) -> Result<Device> {
        let answer = self.adit(&format!("device add {host} {options}"))?;
        let text = answer["config"]
            .as_str()
            .with_context(|| format!("config in {answer}"))?;
        let device = self.connect(host, text, answer.clone())?;
        device.await_tunnel()?;
        Ok(device)
    }

    /// Brings a tunnel up on a host, without waiting for the gateway to like it.
    pub(crate) fn connect(&self, host: &str, text: &str, answer: Value) -> Result<Device> {
        let address = |name: &str| answer["device"][name].as_str().map(str::to_owned);
        let ipv4 = address("ipv4").with_context(|| format!("device.ipv4 in {answer}"))?;
        let tunnel = self
            .lab
            .wg_quick_up(host, text)
            .with_context(|| format!("configuration of {host}:\n{text}"))?;
        Ok(Device {
            host: self.host(host)?,
            ipv4: ipv4.parse()?,
            ipv6: address("ipv6").map(|text| text.parse()).transpose()?,
            interface: tunnel.interface().to_owned(),
            answer,
            tunnel,
        })
    }
}

impl Device {
    pub(crate) fn ipv6(&self) -> Result<Ipv6Addr> {
        self.ipv6
            .with_context(|| format!("{} has no IPv6 address", self.host.name()))
    }

    pub(crate) fn await_handshake(&self) -> Result<()> {
        let what = format!("a handshake of {}", self.host.name());
        wait_until(&what, Duration::from_secs(10), || self.has_handshake())
    }

    /// Waits until the tunnel carries packets both ways.
    ///
    /// `wg-quick` sets its mark after the first handshake has left, so a host with a strict `rp_filter` drops what
    /// comes through the tunnel until it has sent something itself.
    pub(crate) fn await_tunnel(&self) -> Result<()> {
        self.await_handshake()?;
        let subnet = self.ipv4.octets();
        let gateway = Ipv4Addr::new(subnet[0], subnet[1], subnet[2], 1).to_string();
        let source = self.ipv4.to_string();
        let what = format!("an answer of the gateway to {}", self.host.name());
        wait_until(&what, Duration::from_secs(10), || {
            self.host
                .exec(["ping", "-c1", "-W1", "-I", &source, &gateway])?;
            Ok(true)
        })
    }

    pub(crate) fn has_handshake(&self) -> Result<bool> {
        let shown = self
            .host
            .exec(["wg", "show", &self.interface, "latest-handshakes"])?
            .stdout;
        Ok(shown.lines().any(|line| {
            line.split_whitespace()
                .nth(1)
                .is_some_and(|time| time != "0")
        }))
    }
}

/// The process that carries a tunnel interface.
pub(crate) fn dataplane(interface: &str) -> Result<i32> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let words: Vec<&str> = command.trim_end_matches('\0').split('\0').collect();
        let [program, arguments @ ..] = words.as_slice() else {
            continue;
        };
        let carries = program.ends_with("wireguard-go") || arguments.first() == Some(&"wireguard");
        if carries && arguments.last() == Some(&interface) {
            return Ok(process);
        }
    }
    anyhow::bail!("no process serves {interface}")
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_adit"))
}
