"""Tunnels of userspace WireGuards, for the benchmarks that compare them."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

from world import NAME, ROOT, run

SOCKETS = pathlib.Path("/var/run/wireguard")
TOOLS = ROOT / "target/tools/bin"
PORT = 51820
# All that were made, to be taken away at the end.
HOSTS = []


def commands(adit, newer):
    return {
        "adit": [adit, "wireguard", "--foreground"],
        "wireguard-go": ["wireguard-go", "--foreground"],
        "newer": [newer, "--foreground"],
        "boringtun": [TOOLS / "boringtun-cli", "--foreground", "--disable-drop-privileges"],
        "gotatun": [TOOLS / "gotatun", "--foreground", "--disable-drop-privileges"],
        "none": None,
    }


def chosen(arguments):
    """The programs that --programs names, or all that there are, each with its command; builds ours unless --adit names it."""
    known = commands(arguments.adit or ROOT / "target/release/adit", arguments.newer)
    names = arguments.programs or [name for name in known if name != "newer" or arguments.newer]
    if unknown := set(names) - set(known):
        sys.exit(f"not known: {', '.join(sorted(unknown))}")
    programs = {name: known[name] for name in names}
    if not arguments.adit:
        run("cargo", "build", "--release", "--locked", "-p", "adit", cwd=ROOT)
    for name, command in programs.items():
        if command and not (command[0] and shutil.which(command[0])):
            sys.exit(f"{name}: there is no program {command[0]}; leave it out with --programs, or run scripts/install-peers")
    return programs


class Interface:
    """One end of a tunnel, in a namespace that is there."""

    def __init__(self, ns, interface, command, folder, port=PORT):
        self.ns, self.interface = ns, interface
        program, *options = command
        log = open(folder / f"{interface}.log", "w")
        environment = {**os.environ, "LOG_LEVEL": "error", "WG_SUDO": "1"}
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", ns, program, *options, interface],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        self.socket = SOCKETS / f"{interface}.sock"
        deadline = time.monotonic() + 10
        while not self.socket.exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"{program} does not start: {pathlib.Path(log.name).read_text()}")
            time.sleep(0.02)
        self.private = run("wg", "genkey").stdout.strip()
        self.public = run("wg", "pubkey", input=self.private).stdout.strip()
        self.wg("set", interface, "listen-port", str(port), "private-key", "/dev/stdin", input=self.private)
        run("ip", "-n", ns, "link", "set", interface, "mtu", "1420", "up")

    def wg(self, *arguments, **options):
        return run("ip", "netns", "exec", self.ns, "wg", *arguments, **options)

    def peer(self, other, allowed, endpoint=None):
        where = ["endpoint", f"{endpoint}:{PORT}"] if endpoint else []
        self.wg("set", self.interface, "peer", other.public, "allowed-ips", allowed, *where)

    def pin(self, core):
        """All threads of the dataplane on one core, or on all."""
        cores = str(core) if core is not None else f"0-{os.cpu_count() - 1}"
        run("taskset", "--all-tasks", "--cpu-list", "--pid", cores, str(self.process.pid))

    def memory(self):
        """Resident memory in MB, now and at most."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return [int(status.split(name)[1].split()[0]) / 1024 for name in ("VmRSS:", "VmHWM:")]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.socket.unlink(missing_ok=True)


class Host:
    """A namespace with one end of a tunnel: 10.9.0.N and fd09::N inside, 192.0.2.N outside."""

    def __init__(self, name, number, command, folder):
        self.ns, self.number = f"{NAME}{name}{number}", number
        self.tunnel = None
        # Other tunnels of this namespace, to be taken away with it.
        self.more = []
        HOSTS.append(self)
        run("ip", "netns", "add", self.ns)
        run("ip", "-n", self.ns, "link", "set", "lo", "up")
        if command:
            self.tunnel = Interface(self.ns, f"{self.ns}w", command, folder)
            self.address(self.tunnel.interface, 9)

    def address(self, interface, third):
        run("ip", "-n", self.ns, "address", "add", f"10.{third}.0.{self.number}/24", "dev", interface)
        run("ip", "-n", self.ns, "address", "add", f"fd0{third}::{self.number}/64", "dev", interface, "nodad")

    def start(self, *command):
        return subprocess.Popen(
            ["ip", "netns", "exec", self.ns, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pin(self, core):
        if self.tunnel:
            self.tunnel.pin(core)

    def stop(self):
        for tunnel in [self.tunnel, *self.more]:
            if tunnel:
                tunnel.stop()
        subprocess.run(["ip", "netns", "del", self.ns], check=False)


def join(left, right, net):
    """A veth pair between two hosts, 192.0.NET.N."""
    names = [f"v{net}" for _ in range(2)]
    run("ip", "link", "add", names[0], "netns", left.ns, "type", "veth", "peer", "name", names[1], "netns", right.ns)
    for host, name in zip((left, right), names):
        run("ip", "-n", host.ns, "address", "add", f"192.0.{net}.{host.number}/24", "dev", name)
        run("ip", "-n", host.ns, "link", "set", name, "up")


class Pair:
    """Two hosts with a tunnel, or without one."""

    def __init__(self, name, command, folder):
        self.left, self.right = (Host(name, number, command, folder) for number in (1, 2))
        join(self.left, self.right, 2)
        if command:
            for host, other in ((self.left, self.right), (self.right, self.left)):
                allowed = f"10.9.0.{other.number}/32,fd09::{other.number}/128"
                host.tunnel.peer(other.tunnel, allowed, f"192.0.2.{other.number}")
        else:
            for host in (self.left, self.right):
                host.address("v2", 9)
        self.hosts = [self.left, self.right]
        self.to = {4: "10.9.0.2", 6: "fd09::2"}
        reach(self.left, self.to[4])
        reach(self.left, self.to[6])


class Chain(Pair):
    """Two peers that reach each other through a third."""

    def __init__(self, name, command, folder):
        self.left, self.middle, self.right = (Host(name, number, command, folder) for number in (3, 4, 5))
        join(self.left, self.middle, 2)
        join(self.middle, self.right, 3)
        if command:
            for net, host in ((2, self.left), (3, self.right)):
                host.tunnel.peer(self.middle.tunnel, "10.9.0.0/24,fd09::/64", f"192.0.{net}.4")
                self.middle.tunnel.peer(host.tunnel, f"10.9.0.{host.number}/32,fd09::{host.number}/128", f"192.0.{net}.{host.number}")
        else:
            for net, host in ((2, self.left), (3, self.right)):
                host.address(f"v{net}", 9)
                run("ip", "-n", host.ns, "route", "add", "10.9.0.0/16", "via", f"192.0.{net}.4", "src", f"10.9.0.{host.number}")
                run("ip", "-n", host.ns, "route", "del", "10.9.0.0/24", "dev", f"v{net}")
                run("ip", "-n", self.middle.ns, "route", "add", f"10.9.0.{host.number}", "via", f"192.0.{net}.{host.number}")
        run("ip", "netns", "exec", self.middle.ns, "sysctl", "-q", "net.ipv4.ip_forward=1")
        self.hosts = [self.left, self.middle, self.right]
        self.to = {4: "10.9.0.5"}
        reach(self.left, self.to[4])


def reach(host, address):
    """Waits until an address answers, which makes the handshake, too."""
    for _ in range(20):
        if host.start("ping", "-c1", "-W1", address).wait() == 0:
            return
    sys.exit(f"{host.ns} does not reach {address}")
