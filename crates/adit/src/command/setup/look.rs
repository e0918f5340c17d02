//! What this host is like, before anything is planned.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use adit_api::client::{Client, ClientError};
use adit_gateway::RunOptions;
use adit_model::diagnosis::{Daemon, Examination};
use adit_model::state::Settings;
use adit_model::survey::{Ipv4Class, SurveyedUplink, survey};

use super::SetupArguments;
use super::files::CONFIGURATION;
use super::supervisor::{Supervisor, succeeds};
use crate::output::Failure;

/// What carries the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Kernel,
    /// `adit wireguard`.
    Userspace,
    None,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) examination: Examination,
    pub(super) uplinks: Vec<SurveyedUplink>,
    pub(super) carrier: Carrier,
    pub(super) supervisor: Supervisor,
    pub(super) interface: String,
    pub(super) listen_port: u16,
    /// Names of what is there already.
    pub(super) subnets: BTreeSet<String>,
    pub(super) devices: BTreeSet<String>,
    pub(super) has_devices: bool,
    /// What was said about uplinks: name, advertised address, endpoint.
    pub(super) said: Vec<(String, Option<Ipv4Addr>, Option<String>)>,
}

impl Host {
    pub(super) async fn look(
        arguments: &SetupArguments,
        client: &Client,
        runtime_dir: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let status = match client.status().await {
            Ok(status) => Some(status),
            Err(ClientError::Unreachable { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let daemon = match status {
            Some(_) => Daemon::Running,
            None => Daemon::Stopped,
        };
        let has_file = Path::new(CONFIGURATION).exists();
        let options = RunOptions {
            runtime_dir,
            interface: arguments.interface.clone().filter(|_| !has_file),
            ..RunOptions::default()
        };
        let interface = status.map(|status| status.interface);
        let examination = adit_gateway::examine(options, daemon, interface).await?;
        if let Some(wanted) = &arguments.interface
            && *wanted != examination.interface
        {
            return Err(Failure::Refused {
                code: "interface-configured",
                message: format!(
                    "{CONFIGURATION} has the tunnel's interface as {}, not {wanted}",
                    examination.interface
                ),
                hint: "leave `--interface` out, or change it there and restart the gateway"
                    .to_owned(),
            });
        }
        let mut host = Self {
            uplinks: Vec::new(),
            carrier: Carrier::find(),
            supervisor: Supervisor::find(),
            interface: examination.interface.clone(),
            listen_port: Settings::default().listen_port,
            subnets: BTreeSet::new(),
            devices: BTreeSet::new(),
            has_devices: false,
            said: Vec::new(),
            examination: Examination::default(),
        };
        host.fill(client, daemon, &examination).await?;
        let lent = adit_gateway::lent_addresses().await?;
        host.uplinks = survey(&examination, &lent);
        for uplink in &mut host.uplinks {
            let said = host.said.iter().find(|(name, ..)| *name == uplink.name);
            if let (Some((_, Some(told), _)), Ipv4Class::OneToOneNat { advertised, .. }) =
                (said, &mut uplink.ipv4)
            {
                *advertised = Some(*told);
            }
        }
        host.examination = examination;
        Ok(host)
    }

    /// The uplink with a private address of which nobody has said what the Internet sees.
    pub(super) fn unadvertised(&self) -> Option<(&str, Ipv4Addr)> {
        self.uplinks.iter().find_map(|uplink| match uplink.ipv4 {
            Ipv4Class::OneToOneNat {
                local,
                advertised: None,
            } => Some((uplink.name.as_str(), local)),
            Ipv4Class::OneToOneNat { .. } | Ipv4Class::Public { .. } | Ipv4Class::None => None,
        })
    }

    async fn fill(
        &mut self,
        client: &Client,
        daemon: Daemon,
        examination: &Examination,
    ) -> Result<(), Failure> {
        match daemon {
            Daemon::Running => {
                self.listen_port = client.settings().await?.listen_port;
                let subnets = client.subnets().await?.subnets;
                self.subnets = subnets.into_iter().map(|subnet| subnet.name).collect();
                let devices = client.devices().await?.devices;
                self.devices = devices.into_iter().map(|device| device.name).collect();
                let uplinks = client.uplinks().await?.uplinks;
                self.said = uplinks
                    .into_iter()
                    .map(|uplink| (uplink.name, uplink.advertised, uplink.endpoint))
                    .collect();
            }
            Daemon::Stopped | Daemon::Silent => {
                let Some(state) = &examination.state else {
                    return Ok(());
                };
                self.listen_port = state.settings.listen_port;
                self.subnets = state.subnets.values().map(|it| it.name.clone()).collect();
                self.devices = state.devices.values().map(|it| it.name.clone()).collect();
                self.said = state
                    .uplinks
                    .values()
                    .map(|it| (it.name.clone(), it.advertised, it.endpoint.clone()))
                    .collect();
            }
        }
        self.has_devices = !self.devices.is_empty();
        Ok(())
    }
}

impl Carrier {
    fn find() -> Self {
        // A module that is there and not loaded is loaded when it is first needed.
        if Path::new("/sys/module/wireguard").exists()
            || succeeds("modprobe", &["--quiet", "--dry-run", "wireguard"])
        {
            return Self::Kernel;
        }
        if Path::new("/dev/net/tun").exists()
            || succeeds("modprobe", &["--quiet", "--dry-run", "tun"])
        {
            return Self::Userspace;
        }
        Self::None
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "adit",
            Self::None => "none",
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Kernel => "WireGuard: the kernel's".to_owned(),
            Self::Userspace => {
                "WireGuard: the kernel has none; `adit wireguard` carries the packets".to_owned()
            }
            Self::None => "WireGuard: none".to_owned(),
        }
    }
}
