//! The story itself: every step is a command that a person would type, and what has to be seen after it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit_lab::{Gateway, Host, Lab, Output, Process, WgQuick, wait_until};
use anyhow::{Context as _, Result, bail, ensure};

use super::super::narrator::Narrator;
use super::super::{down_line, exec_line};

const INTERNET_IPV4: &str = "198.51.100.10";
const INTERNET_IPV6: &str = "2001:db8:ffff::10";
const VPS_IPV4: &str = "203.0.113.2";
const CGNAT_IPV4: &str = "192.0.2.2";
/// The service on the box.
const BOX_PORT: &str = "8080";
/// The port on the VPS that is forwarded to it.
const FORWARDED_PORT: &str = "80";
/// The service on the Internet host.
const INTERNET_PORT: &str = "7000";
/// More lines of output than these tell a reader nothing.
const LINES: usize = 60;
const PATIENCE: Duration = Duration::from_secs(5);

const INTRODUCTION: &str = "\
Adit demo: an Internet in a box, made of network namespaces on this machine.
Nothing outside of them is touched.

    internet  198.51.100.10             vps  203.0.113.2
    2001:db8:ffff::10                   2001:db8:1::2
        |                                |
    ----+------- the Internet -----------+-------------+----
                                                       |
                          carrier-grade NAT 192.0.2.2, shared by many homes
                                                       |
                              home router: NAT once more, and no IPv6
                                                       |
                           box 192.168.1.10, laptop 192.168.1.11, ...

The box runs a service that nobody outside can reach. That changes now.";

/// What a visitor needs to know afterwards.
pub(super) struct Places {
    box_ipv6: String,
}

struct Story<'a> {
    narrator: &'a mut Narrator,
    interrupted: &'a AtomicBool,
    lab: &'a Lab,
    binary: &'a Path,
    gateway: Gateway,
    internet: Host,
    home: Host,
    laptop: Host,
}

struct BoxAddresses {
    ipv4: String,
    ipv6: String,
}

pub(super) fn introduce(narrator: &mut Narrator) -> Result<()> {
    narrator.write(INTRODUCTION)
}

pub(super) fn tell(
    narrator: &mut Narrator,
    lab: &Lab,
    binary: &Path,
    interrupted: &AtomicBool,
) -> Result<Places> {
    let mut story = Story {
        narrator,
        interrupted,
        lab,
        binary,
        gateway: lab.gateway(binary)?,
        internet: lab.host("internet")?,
        home: lab.host("box")?,
        laptop: lab.host("laptop")?,
    };
    story.tell()
}

pub(super) fn show_around(narrator: &mut Narrator, lab: &Lab, places: &Places) -> Result<()> {
    let instance = lab.instance();
    narrator.write(&format!(
        "Lab {instance} is left running: the hosts below, the gateway on vps, the services on box and internet, and two \
         tunnels.\n"
    ))?;
    narrator.write(&lab.topology().describe())?;
    narrator.write("Try, for example:\n")?;
    let reach = format!("nc -n {} {BOX_PORT}", places.box_ipv6);
    for line in [
        exec_line(instance, "vps", "adit status"),
        exec_line(instance, "vps", "adit device list"),
        exec_line(instance, "vps", "nft list table inet adit"),
        exec_line(instance, "box", "wg show"),
        exec_line(instance, "internet", &reach),
        exec_line(
            instance,
            "internet",
            &format!("nc -n {VPS_IPV4} {FORWARDED_PORT}"),
        ),
        exec_line(instance, "laptop", "bash"),
    ] {
        narrator.write(&format!("  {line}"))?;
    }
    narrator.write(&format!("\nRemove it with: {}", down_line(instance)))
}

impl Story<'_> {
    fn tell(&mut self) -> Result<Places> {
        self.without_adit()?;
        self.start_gateway()?;
        self.add_subnet()?;
        let (addresses, tunnel) = self.add_box()?;
        let mut watch = self.watch(&tunnel)?;
        self.deny_by_default(&addresses, &watch)?;
        self.open_pinhole(&addresses, &mut watch)?;
        self.add_forward(&addresses, &mut watch)?;
        watch.stop()?;
        self.go_out(&addresses)?;
        self.add_phone()?;
        self.stop_daemon(&addresses)?;
        self.look_back()?;
        Ok(Places {
            box_ipv6: addresses.ipv6,
        })
    }

    fn without_adit(&mut self) -> Result<()> {
        self.step("Without Adit: the box is out of reach")?;
        self.serve(&self.home.clone(), BOX_PORT)?;
        self.serve(&self.internet.clone(), INTERNET_PORT)?;
        let home = self.home.clone();
        ensure!(
            !self.ping(&home, INTERNET_IPV6)?,
            "the box reaches the IPv6 Internet without Adit"
        );
        self.narrator.fact("the box has no IPv6")?;
        self.expect_seen_as(&home, None, INTERNET_IPV4, INTERNET_PORT, CGNAT_IPV4)?;
        self.narrator
            .fact("its IPv4 address on the Internet belongs to the provider's NAT")?;
        let internet = self.internet.clone();
        self.expect_silence(&internet, CGNAT_IPV4, BOX_PORT)?;
        self.narrator
            .fact("and nobody can connect to the box by it")
    }

    fn start_gateway(&mut self) -> Result<()> {
        self.step("The gateway runs on the VPS")?;
        self.narrator.command("vps", "adit gateway run &")?;
        self.narrator
            .say("(in this lab with folders and an interface of its own)")?;
        self.gateway = self.lab.start_gateway(self.binary)?;
        self.adit(&["status"])?;
        self.narrator.fact("the gateway says that all is applied")
    }

    fn add_subnet(&mut self) -> Result<()> {
        let topology = self.lab.topology();
        let how = topology.name.clone();
        let prefix = topology
            .prefix
            .clone()
            .with_context(|| format!("topology {how} has no prefix to hand on"))?;
        self.step("A subnet, with the IPv6 prefix that the provider gave the VPS")?;
        self.adit(&[
            "subnet",
            "add",
            "home",
            "--ipv4",
            "10.59.0.0/24",
            "--ipv6",
            &prefix,
        ])?;
        let subnets = self.gateway.adit_json(["subnet", "list"])?;
        let found = &subnets["subnets"][0]["effective_delivery"];
        ensure!(found == how.as_str(), "the delivery is {found}, not {how}");
        self.narrator.fact(match how.as_str() {
            "routed" => "the provider routes it to the VPS: nothing else is needed",
            _ => "the prefix is on the provider's link: the gateway answers for every address it hands out",
        })
    }

    fn add_box(&mut self) -> Result<(BoxAddresses, WgQuick)> {
        self.step("The box becomes a device: a server, with a key pair of its own")?;
        let private_key = self.home.exec(["wg", "genkey"])?.stdout;
        let public_key = self
            .home
            .exec_with_input(["wg", "pubkey"], &private_key)?
            .stdout;
        let public_key = public_key.trim();
        let key_file = self.home.folder()?.join("private.key");
        write_secret(&key_file, &private_key)?;
        let key_file = key_file.display().to_string();
        self.narrator.command(
            "box",
            &format!("(umask 077; wg genkey > {key_file}); wg pubkey < {key_file}"),
        )?;
        self.narrator.output(public_key, 1)?;
        let arguments = [
            "device",
            "add",
            "box",
            "--kind",
            "server",
            "--public-key",
            public_key,
            "--key-file",
            &key_file,
        ];
        self.adit_shortly(&arguments, 8)?;
        let device = self.gateway.adit_json(["device", "show", "box"])?;
        let text = |field: &str| {
            device[field]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("the device has no {field}: {device}"))
        };
        let addresses = BoxAddresses {
            ipv4: text("ipv4")?,
            ipv6: text("ipv6")?,
        };
        let configuration = self
            .gateway
            .adit(["device", "config", "box", "--key-file", &key_file])?
            .stdout;
        let tunnel = self.connect("box", &configuration)?;
        let home = self.home.clone();
        ensure!(
            self.ping(&home, "10.59.0.1")?,
            "no ping from the box to the gateway through the tunnel"
        );
        self.narrator.fact(
            "WireGuard is up, outwards through both NATs; the private key never left the box",
        )?;
        let internet = self.internet.clone();
        ensure!(
            self.ping(&internet, &addresses.ipv6)?,
            "no ping from the Internet to {}",
            addresses.ipv6
        );
        self.narrator.fact(&format!(
            "the box has a global address, {}, and a host on the Internet pings it",
            addresses.ipv6
        ))?;
        Ok((addresses, tunnel))
    }

    fn deny_by_default(&mut self, addresses: &BoxAddresses, watch: &Process) -> Result<()> {
        self.step("Nothing is open unless you say so")?;
        let internet = self.internet.clone();
        self.expect_silence(&internet, &addresses.ipv6, BOX_PORT)?;
        let seen = watch.stdout()?;
        ensure!(seen.is_empty(), "tcpdump on the box's tunnel saw {seen}");
        self.narrator
            .fact("tcpdump on the box: nothing arrived, not even a SYN")?;
        self.expect_silence(&internet, VPS_IPV4, FORWARDED_PORT)?;
        self.narrator.fact("nor does anything answer on the VPS")
    }

    fn open_pinhole(&mut self, addresses: &BoxAddresses, watch: &mut Process) -> Result<()> {
        self.step("A pinhole: one port of the box's own IPv6 address")?;
        self.adit(&["pinhole", "add", "box", &format!("{BOX_PORT}/tcp")])?;
        let internet = self.internet.clone();
        self.expect_seen_as(&internet, None, &addresses.ipv6, BOX_PORT, INTERNET_IPV6)?;
        self.expect_packet(watch, INTERNET_IPV6, &addresses.ipv6)?;
        self.narrator
            .fact("the Internet reaches the box, and the box sees who it is: no translation")
    }

    fn add_forward(&mut self, addresses: &BoxAddresses, watch: &mut Process) -> Result<()> {
        self.step(
            "A forward: a port of the VPS's IPv4 address, for the half of the world without IPv6",
        )?;
        self.adit(&[
            "forward",
            "add",
            &format!("{FORWARDED_PORT}/tcp"),
            &format!("box:{BOX_PORT}"),
            "--label",
            "demo",
        ])?;
        let internet = self.internet.clone();
        self.expect_seen_as(&internet, None, VPS_IPV4, FORWARDED_PORT, INTERNET_IPV4)?;
        self.expect_packet(watch, INTERNET_IPV4, &addresses.ipv4)?;
        self.narrator
            .fact("over IPv4 too the box sees the true source address, through the tunnel")
    }

    fn go_out(&mut self, addresses: &BoxAddresses) -> Result<()> {
        self.step("And outwards: the box uses its new address, or the old way, as it likes")?;
        let home = self.home.clone();
        self.expect_seen_as(
            &home,
            Some(&addresses.ipv6),
            INTERNET_IPV6,
            INTERNET_PORT,
            &addresses.ipv6,
        )?;
        self.narrator.fact("over IPv6 the box appears as itself")?;
        self.expect_seen_as(&home, None, INTERNET_IPV4, INTERNET_PORT, CGNAT_IPV4)?;
        self.narrator.fact(
            "what does not ask for the tunnel still goes the way it always went (routing: inbound)",
        )
    }

    fn add_phone(&mut self) -> Result<()> {
        self.step(
            "A phone: the WireGuard app scans the code, and all that it sends goes through the VPS",
        )?;
        let output = self.adit(&["device", "add", "phone", "--qr"])?;
        let configuration = configuration_in(&output.stdout)?;
        self.narrator.say("The laptop plays the phone:")?;
        self.connect("laptop", &configuration)?;
        let device = self.gateway.adit_json(["device", "show", "phone"])?;
        let ipv6 = device["ipv6"]
            .as_str()
            .context("the phone has no IPv6 address")?
            .to_owned();
        let laptop = self.laptop.clone();
        self.expect_seen_as(&laptop, None, INTERNET_IPV4, INTERNET_PORT, VPS_IPV4)?;
        self.expect_seen_as(&laptop, None, INTERNET_IPV6, INTERNET_PORT, &ipv6)?;
        self.narrator
            .fact("IPv4 by the address of the VPS, IPv6 by an address of its own")
    }

    fn stop_daemon(&mut self, addresses: &BoxAddresses) -> Result<()> {
        self.step("The daemon decides, but does not carry packets: it can stop")?;
        let daemon = self
            .gateway
            .process_id()?
            .context("the gateway is not running")?;
        self.narrator
            .command("vps", &format!("kill -TERM {daemon}"))?;
        let status = self.gateway.terminate()?;
        ensure!(
            status.is_none_or(|status| status.success()),
            "the gateway ended with {status:?}"
        );
        let internet = self.internet.clone();
        self.expect_seen_as(&internet, None, &addresses.ipv6, BOX_PORT, INTERNET_IPV6)?;
        self.expect_seen_as(&internet, None, VPS_IPV4, FORWARDED_PORT, INTERNET_IPV4)?;
        self.narrator
            .fact("without the daemon all that was open stays open")?;
        self.narrator.command("vps", "adit gateway run &")?;
        self.gateway.start()?;
        self.expect_seen_as(&internet, None, &addresses.ipv6, BOX_PORT, INTERNET_IPV6)?;
        self.narrator
            .fact("started again, it takes over what is there")
    }

    fn look_back(&mut self) -> Result<()> {
        self.step("What the gateway says now")?;
        self.adit(&["device", "list"])?;
        self.adit(&["forward", "list"])?;
        self.adit(&["pinhole", "list"])?;
        self.adit(&["status"])?;
        let status = self.gateway.adit_json(["status"])?;
        ensure!(status["applied"] == true, "status: {status}");
        self.narrator.fact("all of it is in this host's kernel")
    }

    fn step(&mut self, title: &str) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        self.narrator.step(title)
    }

    /// Types a command on a host; any exit status is an answer.
    fn run(&mut self, host: &Host, words: &[&str]) -> Result<Output> {
        self.narrator.command(host.name(), &words.join(" "))?;
        let output = host.try_exec(words)?;
        let said = [output.stdout.trim(), output.stderr.trim()].join("\n");
        self.narrator.output(said.trim(), LINES)?;
        Ok(output)
    }

    /// Whether the address answers; shows the answers alone.
    fn ping(&mut self, host: &Host, address: &str) -> Result<bool> {
        let words = ["ping", "-n", "-c", "1", "-W", "3", address];
        self.narrator.command(host.name(), &words.join(" "))?;
        let output = host.try_exec(words)?;
        let answers: Vec<&str> = output
            .stdout
            .lines()
            .filter(|line| line.contains("bytes from"))
            .collect();
        self.narrator.output(&answers.join("\n"), LINES)?;
        self.narrator.output(&output.stderr, LINES)?;
        Ok(output.status.success())
    }

    /// Types an `adit` command on the VPS, which has to succeed.
    fn adit(&mut self, arguments: &[&str]) -> Result<Output> {
        self.adit_shortly(arguments, LINES)
    }

    /// The same, of whose output only so many lines are shown.
    fn adit_shortly(&mut self, arguments: &[&str], limit: usize) -> Result<Output> {
        let words = arguments.join(" ");
        self.narrator.command("vps", &format!("adit {words}"))?;
        let output = self.gateway.try_adit(arguments)?;
        self.narrator.output(&output.stdout, limit)?;
        ensure!(
            output.status.success(),
            "adit {words} ended with {}: {}",
            output.status,
            output.stderr.trim()
        );
        self.narrator.output(&output.stderr, limit)?;
        Ok(output)
    }

    /// Starts the service on a host, and waits until it listens.
    fn serve(&mut self, host: &Host, port: &str) -> Result<()> {
        self.narrator.command(
            host.name(),
            &format!("adit lab answer {port} --name {} &", host.name()),
        )?;
        let log = host.folder()?.join("answer.log");
        let (binary, name) = (self.binary.as_os_str(), host.name());
        host.start_daemon(
            [
                binary,
                "lab".as_ref(),
                "answer".as_ref(),
                port.as_ref(),
                "--name".as_ref(),
                name.as_ref(),
            ],
            &log,
        )?;
        let number: u16 = port.parse()?;
        let what = format!("a service on port {port} of {name}; see {}", log.display());
        wait_until(&what, PATIENCE, || {
            Ok(host
                .enter(|| std::net::TcpStream::connect(("127.0.0.1", number)))?
                .is_ok())
        })
    }

    fn connect(&mut self, host: &str, configuration: &str) -> Result<WgQuick> {
        let tunnel = self.lab.wg_quick_up(host, configuration)?;
        let path = tunnel.configuration().display().to_string();
        self.narrator
            .say(&format!("its configuration goes into {path}"))?;
        self.narrator
            .command(host, &format!("wg-quick up {path}"))?;
        Ok(tunnel)
    }

    /// Captures what comes out of the box's tunnel for its service.
    fn watch(&mut self, tunnel: &WgQuick) -> Result<Process> {
        let filter = format!("tcp dst port {BOX_PORT}");
        let mut watch = self.home.spawn([
            "tcpdump",
            "-l",
            "-n",
            "-p",
            "-t",
            "-i",
            tunnel.interface(),
            &filter,
        ])?;
        watch.wait_for_output("listening on", PATIENCE)?;
        Ok(watch)
    }

    /// Connects to an answering service, which has to say that it sees the caller as this address.
    fn expect_seen_as(
        &mut self,
        host: &Host,
        source: Option<&str>,
        address: &str,
        port: &str,
        seen: &str,
    ) -> Result<()> {
        let mut words = vec!["nc", "-n", "-w", "3"];
        if let Some(source) = source {
            words.extend(["-s", source]);
        }
        words.extend([address, port]);
        let output = self.run(host, &words)?;
        let wanted: IpAddr = seen.parse()?;
        match output.stdout.trim().rsplit_once("you are ") {
            Some((_, found)) if found.parse() == Ok(wanted) => Ok(()),
            Some((_, found)) => bail!("{} is seen as {found}, not as {seen}", host.name()),
            None => bail!(
                "{} gets no answer from {address} port {port}: {output}",
                host.name()
            ),
        }
    }

    /// Connects to a port where nothing may answer.
    fn expect_silence(&mut self, host: &Host, address: &str, port: &str) -> Result<()> {
        let output = self.run(host, &["nc", "-v", "-n", "-w", "1", address, port])?;
        ensure!(
            !output.status.success() && output.stdout.is_empty(),
            "{address} port {port} can be reached: {output}"
        );
        Ok(())
    }

    /// A packet of the connection in the capture on the box, which is shown.
    fn expect_packet(&mut self, watch: &mut Process, from: &str, to: &str) -> Result<()> {
        let (from, to) = (format!(" {from}."), format!(" > {to}.{BOX_PORT}:"));
        let is_it = |line: &str| line.contains(&from) && line.contains(&to) && line.contains("[S]");
        let mut packet = None;
        wait_until(
            &format!("a packet{from}* >{to} on the box's tunnel"),
            PATIENCE,
            || {
                packet = watch
                    .stdout()?
                    .lines()
                    .find(|line| is_it(line))
                    .map(str::to_owned);
                Ok(packet.is_some())
            },
        )?;
        let packet = packet.unwrap_or_default();
        let packet = packet.split(", seq").next().unwrap_or(&packet);
        self.narrator
            .say(&format!("tcpdump on the box's tunnel: {packet}"))
    }
}

/// The configuration in what `adit device add` said.
fn configuration_in(text: &str) -> Result<String> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| line.trim() == "[Interface]");
    let last = lines
        .iter()
        .rposition(|line| line.trim().starts_with("PersistentKeepalive"));
    match (first, last) {
        (Some(first), Some(last)) if first < last => Ok(lines[first..=last].join("\n") + "\n"),
        (_, _) => bail!("adit device add wrote no configuration: {text:?}"),
    }
}

fn write_secret(path: &PathBuf, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
