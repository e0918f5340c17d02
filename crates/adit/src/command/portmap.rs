//! `adit portmap`: ports of this host, asked of the gateway that is in front of it.

mod address;
mod arguments;
mod view;
mod watch;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use adit_agent::connection::find;
use adit_agent::gateway::{Candidate, Kind, candidates};
use adit_agent::holder::{Change, Holder, Reason, Wanted};
use adit_agent::holdings::{Holding, Holdings, HoldingsError};
use adit_agent::igd::Router;
use adit_model::protocol::Protocol;
use anyhow::Context as _;
use tokio::runtime::Builder;
use tokio::time::timeout;

pub(crate) use self::arguments::PortmapCommand;
use self::arguments::{Asking, Families};
use self::view::{Document, describe};
use crate::output::{Failure, Output};
use crate::target::Ports;

/// For so long an answer to the first request is awaited.
const PATIENCE: Duration = Duration::from_secs(20);

/// For so long a gateway of a family that was not asked for is looked for: most networks have none for IPv6.
const CASUAL_PATIENCE: Duration = Duration::from_secs(4);

/// UPnP is spoken besides when nobody answered in another way for this time, and what answers it waits as long for who may still.
const HEAD_START: Duration = Duration::from_secs(2);

/// For so long a gateway may take to say that a mapping is gone.
const FAREWELL: Duration = Duration::from_secs(5);

pub(super) fn run(
    command: PortmapCommand,
    output: Output,
    runtime_dir: Option<PathBuf>,
) -> Result<(), Failure> {
    let holdings = Holdings::new(folder(runtime_dir)?);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        match command {
            PortmapCommand::Add(asking) => add(output, &holdings, &asking).await,
            PortmapCommand::Watch(asking) => watch::run(output, &holdings, &asking).await,
            PortmapCommand::List => list(output, &holdings),
            PortmapCommand::Address(whom) => address::run(output, &whom).await,
            PortmapCommand::Remove { ports, all } => remove(output, &holdings, &ports, all).await,
        }
    })
}

/// Where what is held is written down: that of the host for root, the user's own for others.
fn folder(runtime_dir: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(folder) = runtime_dir {
        return Ok(folder);
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(super::RUNTIME_DIR.into());
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|it| !it.is_empty());
    own.map(|folder| PathBuf::from(folder).join("adit"))
        .ok_or_else(|| Failure::Refused {
            code: "no-runtime-dir",
            message: "there is no directory in which to write down what is held".to_owned(),
            hint: "name one with `--runtime-dir DIR`, or set XDG_RUNTIME_DIR".to_owned(),
        })
}

async fn add(output: Output, holdings: &Holdings, asking: &Asking) -> Result<(), Failure> {
    let (mut holders, mut problems) = open(holdings, asking).await?;
    let mut held = Vec::new();
    let mut reasons = Vec::new();
    for holder in &mut holders {
        reasons.extend(settle(holder, &mut held, &mut problems).await);
    }
    let now = SystemTime::now();
    for holding in &held {
        // A process that renews it goes on with that.
        let known = holdings.list(now).map_err(stored)?;
        let before = known.iter().find(|other| other.is_same(holding));
        let holding = holding.clone().watched_like(before);
        holdings.put(holding, now).map_err(stored)?;
    }
    if held.is_empty() {
        return Err(refused(&problems, &reasons));
    }
    for problem in &problems {
        output.note(problem);
    }
    if output.is_json() {
        return output.document(&Document::new(&held, &problems, now));
    }
    for holding in &held {
        output.result(&describe(holding, now));
        view::warn(output, holding);
    }
    Ok(())
}

/// Nothing is held.
fn refused(problems: &[String], reasons: &[Reason]) -> Failure {
    let is_no_names = |reason: &Reason| matches!(reason, Reason::NoNames(_));
    if reasons.iter().any(is_no_names) {
        return Failure::Refused {
            code: "no-names",
            message: problems.join("; "),
            hint: "TLS names are led by gateways that offer it, as Adit's does for IPv4 (`--gateway ADDR` names one); without \
                   `--hostname` a port is this host's alone"
                .to_owned(),
        };
    }
    Failure::Refused {
        code: "not-mapped",
        message: problems.join("; "),
        hint: "does the gateway allow this device to open ports (`adit device set NAME --auto-ports on` there)? Another gateway is \
               named with `--gateway ADDR`"
            .to_owned(),
    }
}

fn list(output: Output, holdings: &Holdings) -> Result<(), Failure> {
    let now = SystemTime::now();
    let held = holdings.list(now).map_err(stored)?;
    if output.is_json() {
        return output.document(&Document::new(&held, &[], now));
    }
    if held.is_empty() {
        output.note("This host holds no port: `adit portmap add 8080/tcp` asks for one.");
        return Ok(());
    }
    view::table(output, &held, now);
    Ok(())
}

async fn remove(
    output: Output,
    holdings: &Holdings,
    ports: &[Ports],
    all: bool,
) -> Result<(), Failure> {
    let now = SystemTime::now();
    let mut held = holdings.list(now).map_err(stored)?;
    if !all {
        for ports in ports {
            if !held.iter().any(|holding| is_named(holding, ports)) {
                let range = super::ports(ports.first, ports.last, &ports.protocols);
                return Err(Failure::Refused {
                    code: "not-held",
                    message: format!("this host holds no port {range}"),
                    hint: "`adit portmap list` shows what it holds".to_owned(),
                });
            }
        }
        held.retain(|holding| ports.iter().any(|ports| is_named(holding, ports)));
    }
    if let Some((holding, process)) = held
        .iter()
        .find_map(|holding| Some((holding, holding.live_watcher()?)))
    {
        return Err(Failure::Refused {
            code: "held-by-process",
            message: format!(
                "port {}/{} is kept by process {process}",
                holding.port, holding.protocol
            ),
            hint: format!("end that process (`kill {process}`): it gives the port back"),
        });
    }
    let mut unconfirmed = Vec::new();
    let mut gateways: BTreeMap<(String, IpAddr), Vec<Holding>> = BTreeMap::new();
    for holding in held.iter().cloned() {
        let key = (holding.gateway.to_string(), holding.local);
        gateways.entry(key).or_default().push(holding);
    }
    for holdings_there in gateways.into_values() {
        unconfirmed.extend(give_back(holdings_there).await);
    }
    for holding in &held {
        holdings.remove(holding, now).map_err(stored)?;
    }
    for holding in &unconfirmed {
        output.note(&format!(
            "the gateway {} did not confirm: port {}/{} ends in {} s at the latest",
            holding.gateway.ip(),
            holding.port,
            holding.protocol,
            holding.left(now).as_secs()
        ));
    }
    if output.is_json() {
        return output.document(&Document::new(&held, &[], now));
    }
    output.note(&format!("{} given back", super::count(held.len(), "port")));
    Ok(())
}

/// Tells one gateway; what it did not confirm comes back.
async fn give_back(held: Vec<Holding>) -> Vec<Holding> {
    let Some(first) = held.first() else {
        return held;
    };
    let Some(mut holder) = meet_again(first).await else {
        return held;
    };
    for holding in &held {
        holder.release_earlier(holding);
    }
    let gone = farewell(&mut holder).await;
    held.into_iter()
        .filter(|holding| {
            !gone.iter().any(|wanted| {
                wanted.first.get() == holding.port && wanted.protocol == holding.protocol
            })
        })
        .collect()
}

/// The gateway of a mapping, spoken to as it was then.
async fn meet_again(holding: &Holding) -> Option<Holder> {
    let candidate = Candidate {
        server: holding.gateway,
        local: holding.local,
        kind: Kind::Named,
    };
    if holding.mechanism == "upnp" {
        return Router::find(&candidate).await.map(Holder::with_router);
    }
    find(vec![candidate]).await.map(Holder::new)
}

/// Waits until everything is given back; what the gateway confirmed.
async fn farewell(holder: &mut Holder) -> Vec<Wanted> {
    let until = tokio::time::Instant::now() + FAREWELL;
    let mut gone = Vec::new();
    while !holder.is_empty() {
        match tokio::time::timeout_at(until, holder.next_change()).await {
            Ok(Change::Released(wanted, true)) => gone.push(wanted),
            Ok(
                Change::Released(_, false)
                | Change::Held(_)
                | Change::Failed(..)
                | Change::Lost(_)
                | Change::Reset
                | Change::Absent(_),
            ) => {}
            Err(_) => break,
        }
    }
    gone
}

/// Finds the gateways, one for each family, and asks them; besides, why some were not found.
async fn open(holdings: &Holdings, asking: &Asking) -> Result<(Vec<Holder>, Vec<String>), Failure> {
    let (ipv4, ipv6) = reachable(asking)?;
    let families = asking.families();
    let (ipv4, ipv6) = tokio::join!(
        search(ipv4, families.ipv4, PATIENCE),
        search(ipv6, families.ipv6, ipv6_patience(families)),
    );
    let mut holders = Vec::new();
    let mut problems = Vec::new();
    for found in [ipv4, ipv6].into_iter().flatten() {
        match found {
            Ok(mut holder) => {
                ask(&mut holder, holdings, asking)?;
                holders.push(holder);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if holders.is_empty() {
        if problems.is_empty() {
            problems.push("this host has no gateway that could be asked".to_owned());
        }
        return Err(Failure::Refused {
            code: "no-gateway",
            message: problems.join("; "),
            hint: "is the tunnel up? Another gateway is named with `--gateway ADDR`".to_owned(),
        });
    }
    Ok((holders, problems))
}

/// Who may be asked in each family, the best first.
fn reachable(asking: &Asking) -> Result<(Vec<Candidate>, Vec<Candidate>), Failure> {
    let families = asking.families();
    let candidates = match asking.gateway {
        Some(address) => vec![named(address)?],
        None => candidates().context("read the interfaces and routes of this host")?,
    };
    Ok(candidates
        .into_iter()
        .filter(|candidate| match candidate.server {
            SocketAddr::V4(_) => families.ipv4,
            SocketAddr::V6(_) => families.ipv6,
        })
        .partition(|candidate| candidate.server.is_ipv4()))
}

/// Asks for everything, as for what it was before where that is known.
fn ask(holder: &mut Holder, holdings: &Holdings, asking: &Asking) -> Result<(), Failure> {
    let known = holdings.list(SystemTime::now()).map_err(stored)?;
    let place = holder.place();
    for wanted in asking.wanted(place.gateway.is_ipv4())? {
        let is_it = |it: &&Holding| it.is_of(place, wanted.protocol, wanted.first.get());
        let nonce = known.iter().find(is_it).map(|holding| holding.nonce);
        holder.want(wanted, nonce).context("draw a random number")?;
    }
    Ok(())
}

fn named(address: IpAddr) -> Result<Candidate, Failure> {
    Candidate::named(address).map_err(|error| Failure::Refused {
        code: "no-route",
        message: format!("there is no way to {address}: {error}"),
        hint: "name the address of the gateway inside the tunnel".to_owned(),
    })
}

const fn ipv6_patience(families: Families) -> Duration {
    if families.ipv4 {
        CASUAL_PATIENCE
    } else {
        PATIENCE
    }
}

async fn search(
    candidates: Vec<Candidate>,
    is_wanted: bool,
    patience: Duration,
) -> Option<Result<Holder, String>> {
    if candidates.is_empty() || !is_wanted {
        return None;
    }
    let names: Vec<_> = candidates.iter().map(ToString::to_string).collect();
    let found = timeout(patience, find(candidates.clone()));
    // What speaks PCP or NAT-PMP has answered long before.
    let router = async {
        tokio::time::sleep(HEAD_START).await;
        Router::find_first(&candidates).await
    };
    let (mut found, mut router) = (pin!(found), pin!(router));
    let (connection, router) = tokio::select! {
        found = &mut found => match found.ok().flatten() {
            Some(connection) => (Some(connection), None),
            None => (None, router.await),
        },
        router = &mut router => {
            let found = match router {
                Some(_) => timeout(HEAD_START, found).await.unwrap_or(Ok(None)),
                None => found.await,
            };
            (found.ok().flatten(), router)
        }
    };
    if let Some(connection) = connection {
        return Some(Ok(Holder::new(connection)));
    }
    if let Some(router) = router {
        return Some(Ok(Holder::with_router(router)));
    }
    let protocols = "PCP, NAT-PMP or UPnP";
    Some(Err(format!(
        "nobody answers {protocols} at {}",
        names.join(", ")
    )))
}

/// Waits until each thing that is wanted is held or refused; why it is refused.
async fn settle(
    holder: &mut Holder,
    held: &mut Vec<Holding>,
    problems: &mut Vec<String>,
) -> Vec<Reason> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let gateway = holder.gateway().ip();
    let mut refused: Vec<(Protocol, u16)> = Vec::new();
    let mut reasons = Vec::new();
    while !holder.is_settled_but(&refused) {
        match tokio::time::timeout_at(until, holder.next_change()).await {
            Ok(Change::Held(holding)) => {
                held.retain(|other| !other.is_same(&holding));
                held.push(holding);
            }
            Ok(Change::Failed(wanted, reason, _)) => {
                problems.push(problem(gateway, &wanted, &reason));
                refused.push((wanted.protocol, wanted.first.get()));
                reasons.push(reason);
            }
            Ok(Change::Absent(_)) | Err(_) => {
                problems.push(format!("{gateway} stopped answering"));
                break;
            }
            Ok(Change::Lost(_) | Change::Released(..) | Change::Reset) => {}
        }
    }
    reasons
}

fn problem(gateway: IpAddr, wanted: &Wanted, reason: &Reason) -> String {
    let (port, protocol) = (wanted.first, wanted.protocol);
    format!("{gateway}, port {port}/{protocol}: {reason}")
}

fn is_named(holding: &Holding, ports: &Ports) -> bool {
    let last = holding.port.saturating_add(holding.ports.saturating_sub(1));
    let is_protocol = ports.protocols.is_empty() || ports.protocols.contains(&holding.protocol);
    is_protocol && ports.first <= last && holding.port <= ports.last
}

fn stored(error: HoldingsError) -> Failure {
    Failure::Failed(error.into())
}
