//! Clients of others, as programs contain them: each obtains a port, through which the Internet reaches the device, renews it and gives
//! it back. What they are told and how they answer is in `tests/clients`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::support::{
    Device, Findings, INTERNET4, INTERNET6, PUBLIC4, World, at, connect, converse, listen,
};

const SHORT: Duration = Duration::from_millis(700);

const NAT_PMP: &str = include_str!("../clients/py_natpmp.py");
const MINIUPNPC: &str = include_str!("../clients/python_miniupnpc.py");
const NAT_PORT_MAPPER: &str = include_str!("../clients/nat_port_mapper.mjs");

#[test]
fn clients_of_others_open_renew_and_close_ports() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-clients")?;
    // To miniupnpc a gateway with an address of documentation, as in the lab, is not connected.
    world.adit(&format!(
        "uplink set --advertised 11.22.33.44 --endpoint {PUBLIC4}"
    ))?;
    let full = world.join("box", "--kind server --routing full")?;
    let inbound = world.join("laptop", "--kind server")?;
    let own = |device: &Device| Ok::<_, anyhow::Error>((device.ipv4.into(), device.ipv6()?.into()));
    let (full4, full6): (IpAddr, IpAddr) = own(&full)?;
    let (inbound4, _): (IpAddr, IpAddr) = own(&inbound)?;
    let cases = [
        ("crab_nat", &full, full4, "pcp"),
        ("crab_nat", &full, full6, "pcp"),
        ("crab_nat", &inbound, inbound4, "nat-pmp"),
        ("igd_next", &full, full4, "upnp"),
        ("igd_next", &inbound, inbound4, "upnp"),
        ("miniupnpc", &full, full4, "upnp"),
        ("py-natpmp", &inbound, inbound4, "nat-pmp"),
        ("nat-port-mapper", &full, full4, "upnp"),
        ("nat-port-mapper", &inbound, inbound4, "nat-pmp"),
    ];
    let mut programs = Vec::new();
    for (port, (client, device, own, mechanism)) in (7001..).zip(cases) {
        let wish = Wish {
            client,
            device,
            own,
            port,
            mechanism,
        };
        programs.push(Program::start(&world, wish)?);
    }
    let mut findings = Findings::default();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = programs
            .iter_mut()
            .map(|program| scope.spawn(|| program.go_through(&world)))
            .collect();
        running.into_iter().map(|one| one.join()).collect()
    });
    for (program, outcome) in programs.iter().zip(outcomes) {
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")));
        findings.check(&program.name(), outcome);
    }
    findings.conclude()?;
    let left = world.list("lease")?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// What a program shall obtain.
struct Wish<'world> {
    client: &'static str,
    device: &'world Device,
    own: IpAddr,
    port: u16,
    mechanism: &'static str,
}

/// A program that answers each line with a line.
struct Program<'world> {
    wish: Wish<'world>,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    complaints: PathBuf,
}

impl<'world> Program<'world> {
    fn start(world: &World, wish: Wish<'world>) -> Result<Self> {
        let gateway = match wish.own {
            IpAddr::V4(_) => "10.59.0.1".to_owned(),
            IpAddr::V6(_) => gateway6(world)?,
        };
        let (own, port) = (wish.own.to_string(), wish.port.to_string());
        let mut command = vec!["timeout".to_owned(), "120".to_owned()];
        command.extend(program(wish.client)?);
        command.extend([gateway, own, port, wish.mechanism.to_owned()]);
        let folder = wish.device.host.folder()?;
        fs::create_dir_all(&folder)?;
        let complaints = folder.join(format!("{}-{}", wish.client, wish.port));
        let mut process = wish
            .device
            .host
            .command(&command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&complaints)?)
            .spawn()?;
        Ok(Self {
            wish,
            input: process.stdin.take().context("input")?,
            output: BufReader::new(process.stdout.take().context("output")?),
            process,
            complaints,
        })
    }

    fn name(&self) -> String {
        let Wish {
            client,
            own,
            mechanism,
            ..
        } = self.wish;
        format!("{client}, {mechanism} from {own}")
    }

    fn ask(&mut self, word: &str) -> Result<String> {
        // A program that is gone answers nothing.
        let _ = writeln!(self.input, "{word}");
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() || line.starts_with("failed") {
            let complaints = fs::read_to_string(&self.complaints)?;
            bail!("{word}: {line}\n{complaints}");
        }
        Ok(line.trim_end().to_owned())
    }

    fn go_through(&mut self, world: &World) -> Result<()> {
        let internet = world.host("internet")?;
        let told = self.ask("open")?;
        let mut words = told.split(' ');
        let external: u16 = words.next().unwrap_or_default().parse()?;
        let mechanism = words.next().unwrap_or_default();
        ensure!(mechanism == self.wish.mechanism, "{told}");
        let (outside, source): (IpAddr, IpAddr) = match self.wish.own {
            IpAddr::V4(_) => (PUBLIC4.into(), INTERNET4.into()),
            IpAddr::V6(own) => (own.into(), INTERNET6.into()),
        };
        let address = words.next();
        ensure!(address.is_none_or(|it| it == "11.22.33.44"), "{told}");

        let inside = at(self.wish.own, self.wish.port);
        let listener = listen(&self.wish.device.host, inside)?;
        let mut open = converse(&internet, None, at(outside, external), &listener)?;
        open.talk()?;
        ensure!(open.seen.ip() == source, "the device sees {}", open.seen);

        let first = self.expires_in(world)?;
        wait_until(
            "a part of its time is over",
            Duration::from_secs(10),
            || Ok(self.expires_in(world)? + 1 < first),
        )?;
        let before = self.expires_in(world)?;
        let renewed = self.ask("renew")?;
        let after = self.expires_in(world)?;
        let same = format!("{external} {mechanism}");
        ensure!(renewed.starts_with(&same), "{renewed} in place of {same}");
        ensure!(after > before, "renewed: {before} s became {after} s");
        open.talk()?;

        let closed = self.ask("close")?;
        ensure!(closed == "closed", "{closed}");
        ensure!(open.is_cut()?, "a connection survives its mapping");
        let late = connect(&internet, None, at(outside, external), SHORT);
        ensure!(late.is_err(), "what was given back is still open");
        Ok(())
    }

    /// What is left of the lease, in seconds.
    fn expires_in(&self, world: &World) -> Result<u64> {
        self.lease(world)?["expires_in"]
            .as_u64()
            .context("expires_in")
    }

    fn lease(&self, world: &World) -> Result<Value> {
        let internal = at(self.wish.own, self.wish.port).to_string();
        let leases = world.list("lease")?;
        let lease = leases.iter().find(|it| it["internal"] == internal);
        let lease = lease.with_context(|| format!("no lease for {internal} in {leases:?}"))?;
        ensure!(lease["mechanism"] == self.wish.mechanism, "{lease}");
        Ok(lease.clone())
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn gateway6(world: &World) -> Result<String> {
    let subnets = world.list("subnet")?;
    let address = subnets.first().map(|it| &it["gateway_ipv6"]);
    let address = address.and_then(Value::as_str);
    Ok(address.with_context(|| format!("{subnets:?}"))?.to_owned())
}

/// How a client is called.
fn program(client: &str) -> Result<Vec<String>> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/clients");
    ensure!(
        tools.join("rust").exists(),
        "there are no clients: `scripts/install-clients` installs them"
    );
    let tool = |place: &str| -> Result<String> {
        let path = tools.join(place);
        Ok(path.to_str().context("a path in letters")?.to_owned())
    };
    let python = |script: &str| {
        Ok([&tool("python/bin/python")?, "-c", script]
            .map(str::to_owned)
            .to_vec())
    };
    match client {
        "crab_nat" | "igd_next" => Ok(vec![tool(&format!("rust/debug/{client}"))?]),
        "py-natpmp" => python(NAT_PMP),
        "miniupnpc" => python(MINIUPNPC),
        // Packages are looked for beside the working directory.
        "nat-port-mapper" => Ok([
            "env",
            "--chdir",
            &tool("npm")?,
            "node",
            "--input-type=module",
            "--eval",
            NAT_PORT_MAPPER,
        ]
        .map(str::to_owned)
        .to_vec()),
        other => bail!("no client is called {other}"),
    }
}
