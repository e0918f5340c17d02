//! What is to be done on this host, in order: only what is not so yet.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use adit_api::client::Client;
use adit_api::types::device::{AddDevice, AddedDevice};
use adit_api::types::subnet::AddSubnet;
use adit_api::types::uplink::SetUplink;
use adit_model::change::{Change, Ipv6Wish, Patch};
use adit_model::diagnosis::Daemon;
use adit_model::problem::Problem;
use adit_model::state::Delivery;
use adit_model::survey::{Ipv6Class, foresee};
use anyhow::Context as _;
use nix::unistd::User;

use super::SetupArguments;
use super::files::{CONFIGURATION, File, NAMES, PROGRAM, configuration};
use super::look::{Carrier, Host};
use super::step::Step;
use super::supervisor::{GATEWAY, Supervisor};
use crate::command::read;
use crate::output::{Failure, Output};

/// The user that the daemon runs as.
const USER: &str = "adit";

const STATE: &str = "/var/lib/adit";

/// Where services look for a program that is named without its folder.
const FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin"];

/// With these a gateway would not come up.
const BLOCKING: [&str; 5] = [
    "program-missing",
    "tunnel-port-taken",
    "configuration-unreadable",
    "state-unreadable",
    "key-unusable",
];

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What is wrong with this host, and stays so.
    pub(super) problems: Vec<Problem>,
    /// The device that was asked for, if there is one of that name.
    pub(super) device_there: Option<String>,
    supervisor: Supervisor,
}

/// What shall be in the state.
#[derive(Debug, Default)]
struct Wishes {
    uplink: Option<(String, SetUplink)>,
    subnet: Option<AddSubnet>,
    device: Option<AddDevice>,
}

impl Plan {
    pub(super) fn make(arguments: &SetupArguments, host: &Host) -> Result<Self, Failure> {
        let wishes = Wishes::read(arguments, host)?;
        let problems = problems(&wishes, host)?;
        if let Some(problem) = problems
            .iter()
            .find(|problem| BLOCKING.contains(&problem.code.as_str()))
        {
            return Err(Failure::Refused {
                code: "host-not-ready",
                message: format!("{}: {}", problem.object, problem.message),
                hint: problem.fix.clone(),
            });
        }
        if !arguments.dry_run {
            check(host)?;
        }
        let mut steps = on_host(host)?;
        steps.extend(wishes.steps());
        Ok(Self {
            steps,
            problems,
            device_there: arguments
                .device
                .clone()
                .filter(|name| host.devices.contains(name)),
            supervisor: host.supervisor,
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// Everything up to the running service.
    pub(super) fn prepare(&self, output: Output) -> Result<(), Failure> {
        for step in self.steps.iter().filter(|step| !step.is_change()) {
            output.note(&format!("{step} …"));
            step.perform(self.supervisor)?;
        }
        Ok(())
    }

    /// What the service is told; the device that was made.
    pub(super) async fn finish(
        &self,
        client: &Client,
        output: Output,
    ) -> Result<Option<AddedDevice>, Failure> {
        let mut added = None;
        for step in &self.steps {
            match step {
                Step::SetUplink(name, request) => {
                    output.note(&format!("{step} …"));
                    client.set_uplink(name, request).await?;
                }
                Step::AddSubnet(request) => {
                    output.note(&format!("{step} …"));
                    client.add_subnet(request).await?;
                }
                Step::AddDevice(request) => {
                    output.note(&format!("{step} …"));
                    added = Some(client.add_device(request).await?);
                }
                Step::CopyProgram { .. }
                | Step::AddUser(_)
                | Step::GiveState { .. }
                | Step::Write { .. }
                | Step::Reload
                | Step::Enable(_)
                | Step::Start(_)
                | Step::Restart(_) => {}
            }
        }
        Ok(added)
    }
}

impl Wishes {
    fn read(arguments: &SetupArguments, host: &Host) -> Result<Self, Failure> {
        let subnet = arguments.subnet.clone().or_else(|| {
            let is_needed = arguments.device.is_some() && host.subnets.is_empty();
            is_needed.then(|| "home".to_owned())
        });
        let device = arguments
            .device
            .clone()
            .filter(|name| !host.devices.contains(name));
        let subnet_of_device = subnet.clone();
        let subnet = match subnet.filter(|name| !host.subnets.contains(name)) {
            Some(name) => Some(add_subnet(arguments, host, name)?),
            None => None,
        };
        Ok(Self {
            uplink: set_uplink(arguments, host)?,
            subnet,
            device: device.map(|name| AddDevice {
                name,
                subnet: subnet_of_device,
                kind: arguments.kind.into(),
                ..AddDevice::default()
            }),
        })
    }

    /// As the gateway will decide about them. A subnet that is not asked for yet will come: what is in its way counts.
    fn changes(&self, host: &Host) -> Vec<Change> {
        let uplink = self.uplink.clone();
        let uplink = uplink.map(|(name, request)| Change::SetUplink(Some(name), request.into()));
        let subnet = self.subnet.clone().or_else(|| {
            let text = "10.59.0.0/24".parse().ok()?;
            let is_empty = host.subnets.is_empty();
            is_empty.then(|| subnet_of("home".to_owned(), text, None))
        });
        let subnet = subnet.map(|request| Change::AddSubnet(request.into()));
        uplink.into_iter().chain(subnet).collect()
    }

    fn steps(self) -> impl Iterator<Item = Step> {
        let uplink = self
            .uplink
            .map(|(name, request)| Step::SetUplink(name, request));
        let subnet = self.subnet.map(Step::AddSubnet);
        let device = self
            .device
            .map(|request| Step::AddDevice(Box::new(request)));
        uplink.into_iter().chain(subnet).chain(device)
    }
}

fn add_subnet(arguments: &SetupArguments, host: &Host, name: String) -> Result<AddSubnet, Failure> {
    let ipv6 = match arguments.ipv6.as_deref() {
        Some("private") => None,
        Some(text) => Some(read("--ipv6", text)?.0),
        None => own_prefix(host),
    };
    let ipv4 = read("--ipv4", &arguments.ipv4)?;
    Ok(subnet_of(name, ipv4, ipv6))
}

fn subnet_of(
    name: String,
    ipv4: adit_api::text::Text<ipnet::Ipv4Net>,
    ipv6: Option<Ipv6Wish>,
) -> AddSubnet {
    AddSubnet {
        name,
        ipv4,
        ipv6: ipv6.map(adit_api::text::Text),
        delivery: Delivery::Auto,
        egress: None,
        peers: true,
        host_access: false,
        gateway_address: true,
        force: false,
    }
}

/// Without a way to the IPv6 Internet global addresses are of no use.
fn own_prefix(host: &Host) -> Option<Ipv6Wish> {
    host.examination.facts.default_interface(true)?;
    let prefix = host.uplinks.iter().map(|uplink| uplink.ipv6);
    prefix
        .filter_map(Ipv6Class::own_prefix)
        .next()
        .map(Ipv6Wish::Prefix)
}

fn set_uplink(
    arguments: &SetupArguments,
    host: &Host,
) -> Result<Option<(String, SetUplink)>, Failure> {
    if arguments.advertised.is_none() && arguments.endpoint.is_none() {
        return Ok(None);
    }
    let name = host
        .unadvertised()
        .map(|(name, _)| name)
        .or_else(|| host.uplinks.first().map(|uplink| uplink.name.as_str()));
    let Some(name) = name else {
        return Err(Failure::Refused {
            code: "no-uplink",
            message: "this host has no default route, so it has no uplink either".to_owned(),
            hint: "mend the host's network first: `ip route show default`".to_owned(),
        });
    };
    let said = host.said.iter().find(|(uplink, ..)| uplink == name);
    let (advertised, endpoint) = said.map_or((None, None), |(_, advertised, endpoint)| {
        (*advertised, endpoint.as_deref())
    });
    let wanted_address = arguments.advertised.filter(|it| Some(*it) != advertised);
    let wanted_endpoint = arguments
        .endpoint
        .clone()
        .filter(|it| Some(it.as_str()) != endpoint);
    if wanted_address.is_none() && wanted_endpoint.is_none() {
        return Ok(None);
    }
    let request = SetUplink {
        advertised: match wanted_address {
            Some(address) => Patch::Set(adit_api::text::Text(address)),
            None => Patch::Keep,
        },
        endpoint: match wanted_endpoint {
            Some(endpoint) => Patch::Set(endpoint),
            None => Patch::Keep,
        },
    };
    Ok(Some((name.to_owned(), request)))
}

/// What will be wrong when all is done, as far as it can be seen before; a running gateway tells itself.
fn problems(wishes: &Wishes, host: &Host) -> Result<Vec<Problem>, Failure> {
    match host.examination.daemon {
        Daemon::Stopped => {
            foresee(host.examination.clone(), wishes.changes(host)).map_err(|refusal| {
                Failure::Refused {
                    code: refusal.code(),
                    message: refusal.to_string(),
                    hint: refusal.hint(),
                }
            })
        }
        Daemon::Running | Daemon::Silent => Ok(Vec::new()),
    }
}

/// What nobody but the administrator can mend.
fn check(host: &Host) -> Result<(), Failure> {
    if host.carrier == Carrier::None {
        return Err(Failure::Refused {
            code: "wireguard-missing",
            message: "this kernel has neither WireGuard nor /dev/net/tun, so nothing can carry packets".to_owned(),
            hint: "in a container, have its host give it /dev/net/tun; else a kernel with the wireguard or the tun module; then run this again".to_owned(),
        });
    }
    if host.supervisor == Supervisor::Unknown {
        return Err(Failure::Refused {
            code: "no-service-manager",
            message: "neither systemd nor OpenRC runs here, so there is nothing that would start the gateway".to_owned(),
            hint: "have what starts services here run `adit gateway run`, and tell the gateway the rest with `adit subnet add` and `adit device add`".to_owned(),
        });
    }
    let is_own = host.supervisor.is_active(GATEWAY);
    let is_running = host.examination.daemon != Daemon::Stopped;
    let dataplane = host.supervisor.dataplane(&host.interface);
    let is_left = matches!(host.carrier, Carrier::Userspace)
        && host.examination.tunnel.is_some()
        && dataplane.is_some_and(|service| !host.supervisor.is_active(&service));
    if (is_running && !is_own) || is_left {
        return Err(Failure::Refused {
            code: "not-a-service",
            message: if is_running {
                "a gateway runs on this host that is no service".to_owned()
            } else {
                format!("interface {} was left by a gateway that was no service", host.interface)
            },
            hint: "end it if it runs, withdraw what it made with `adit gateway teardown`, and run this again; its state is kept".to_owned(),
        });
    }
    Ok(())
}

fn on_host(host: &Host) -> Result<Vec<Step>, Failure> {
    let supervisor = host.supervisor;
    let mut steps = Vec::new();
    steps.extend(copy_program()?);
    let is_new_program = !steps.is_empty();
    let user = User::from_name(USER).context("cannot look for the user adit")?;
    if user.is_none() {
        steps.push(Step::AddUser(USER));
    }
    // What a gateway made that was run by hand, as root.
    if fs::metadata(STATE).is_ok_and(|directory| directory.uid() == 0) {
        steps.push(Step::GiveState {
            path: STATE,
            user: USER,
        });
    }
    if !Path::new(CONFIGURATION).exists() {
        steps.push(Step::Write {
            path: CONFIGURATION,
            text: configuration(&host.interface),
            mode: 0o644,
        });
    }
    steps.extend(NAMES.iter().filter_map(write));
    let files: Vec<Step> = supervisor.files().iter().filter_map(write).collect();
    // An earlier run may have ended between writing them and telling.
    let has_new_files = !files.is_empty() || supervisor.is_outdated(GATEWAY);
    steps.extend(files);
    if has_new_files && supervisor.has_to_reload() {
        steps.push(Step::Reload);
    }
    let dataplane = supervisor
        .dataplane(&host.interface)
        .filter(|_| matches!(host.carrier, Carrier::Userspace));
    let front = supervisor.front().map(str::to_owned);
    let services: BTreeSet<_> = dataplane.into_iter().chain(front).collect();
    for service in services.into_iter().chain([GATEWAY.to_owned()]) {
        if supervisor == Supervisor::Unknown {
            break;
        }
        if !supervisor.is_enabled(&service) {
            steps.push(Step::Enable(service.clone()));
        }
        if !supervisor.is_active(&service) {
            steps.push(Step::Start(service));
        } else if service == GATEWAY && (has_new_files || is_new_program) {
            steps.push(Step::Restart(service));
        }
    }
    Ok(steps)
}

/// A service finds the program in the usual folders only, and it may not look into anybody's home.
fn copy_program() -> Result<Option<Step>, Failure> {
    let program = env::current_exe().context("cannot find this program")?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    let is_found = FOLDERS
        .iter()
        .filter_map(|it| fs::canonicalize(it).ok())
        .any(|it| it == folder);
    if is_found {
        return Ok(None);
    }
    let same = fs::read(&program).ok().zip(fs::read(PROGRAM).ok());
    Ok(match same {
        Some((this, there)) if this == there => None,
        Some(_) | None => Some(Step::CopyProgram {
            from: program,
            to: PROGRAM,
        }),
    })
}

fn write(file: &File) -> Option<Step> {
    if file.packaged.iter().any(|path| Path::new(path).exists()) {
        return None;
    }
    let is_same = fs::read_to_string(file.path).is_ok_and(|text| text == file.text)
        && fs::metadata(file.path)
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == file.mode & 0o111);
    (!is_same).then(|| Step::Write {
        path: file.path,
        text: file.text.to_owned(),
        mode: file.mode,
    })
}
