"""What the benchmarks share: network namespaces of their own, Adit in one, a tunnel without Adit in another."""

import base64
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = f"b{os.getpid() % 100000}"
LOCK = threading.Lock()

# Packets a second of a stream.
RATE = 200


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


class Socket(http.client.HTTPConnection):
    """HTTP over the administrator's Unix socket, one connection for all requests."""

    def __init__(self, path):
        super().__init__("adit")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)

    def get(self, route):
        return self.ask("GET", route, None)

    def post(self, route, body):
        return self.ask("POST", route, json.dumps(body))

    def ask(self, method, route, body):
        try:
            self.request(method, "/api/v1" + route, body, {"content-type": "application/json"})
        except BrokenPipeError:
            # The gateway ends connections that were idle.
            self.close()
            self.request(method, "/api/v1" + route, body, {"content-type": "application/json"})
        answer = self.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit(f"{method} {route}: {answer.status} {text[:500]}")
        return json.loads(text)


def key(number):
    """A public key: any 32 bytes will do for a peer that never connects."""
    return base64.b64encode(number.to_bytes(4, "big") * 8).decode()


def namespace(suffix):
    name = f"{NAME}{suffix}"
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    run("ip", "-n", name, "link", "set", "eth0", "up")
    run("ip", "-n", name, "link", "set", "peer0", "up")
    run("ip", "-n", name, "address", "add", "203.0.113.2/24", "dev", "eth0")
    run("ip", "-n", name, "route", "add", "default", "via", "203.0.113.1")
    run("ip", "-n", name, "address", "add", "2001:db8:1::2/64", "dev", "eth0", "nodad")
    run("ip", "-n", name, "route", "add", "default", "via", "2001:db8:1::1", "dev", "eth0")
    return name


class Adit:
    def __init__(self, binary, folder, count=0, flights=1, prefix="2001:db8:2::/64"):
        self.ns = namespace("a")
        self.binary = binary
        self.interface = f"{NAME}a"
        self.folders = ["--state-dir", folder / "state", "--runtime-dir", folder / "run", "--interface", self.interface]
        self.path = str(folder / "run" / "adit.sock")
        self.text = folder / "log"
        self.start()
        self.socket.post("/subnets", {"name": "home", "ipv4": "10.64.0.0/16", "ipv6": prefix})
        self.next = 0
        self.fill = timed(lambda: self.add_many(count, flights)) / 1000

    def start(self, *tracer):
        """Starts the daemon; returns the time until everything is applied."""
        began = time.perf_counter()
        command = ["ip", "netns", "exec", self.ns, *tracer, self.binary, "gateway", "run", *self.folders]
        environment = {**os.environ, "RUST_LOG": "info,adit_host::reconcile=debug"}
        self.log = open(self.text, "a")
        self.daemon = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        deadline = began + 60
        while True:
            if time.perf_counter() > deadline or self.daemon.poll() is not None:
                sys.exit(f"the gateway does not start; see {self.text}")
            try:
                self.socket = Socket(self.path)
                if self.socket.get("/status")["applied"]:
                    return time.perf_counter() - began
            except OSError:
                pass
            time.sleep(0.01)

    def teardown(self):
        run("ip", "netns", "exec", self.ns, self.binary, "gateway", "teardown", *self.folders)

    def add(self, way=None):
        with LOCK:
            self.next += 1
            number = self.next
        (way or self.socket).post("/devices", {"name": f"d{number}", "public_key": key(number)})

    def add_many(self, count, flights):
        """Adds devices over so many connections at a time."""
        ways = [Socket(self.path) for _ in range(flights)]
        with concurrent.futures.ThreadPoolExecutor(flights) as pool:
            shares = [count // flights + (place < count % flights) for place in range(flights)]
            list(pool.map(lambda share: [self.add(share[0]) for _ in range(share[1])], zip(ways, shares)))

    def process(self, name):
        """The process of a name in the namespace."""
        for candidate in run("ip", "netns", "pids", self.ns).stdout.split():
            status = pathlib.Path(f"/proc/{candidate}/status")
            if status.exists() and status.read_text().startswith(f"Name:\t{name}\n"):
                return int(candidate)
        sys.exit(f"no process {name}")

    def memory(self, name="adit"):
        """Resident memory in MB."""
        status = pathlib.Path(f"/proc/{self.process(name)}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024

    def processor(self, name="adit"):
        """Seconds of processor time so far."""
        fields = pathlib.Path(f"/proc/{self.process(name)}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def halt(self):
        """Ends the daemon; the tunnel stays."""
        os.kill(self.process("adit"), signal.SIGTERM)
        self.daemon.wait(30)
        self.log.close()

    def stop(self):
        self.halt()
        end(self.ns, self.interface)


class Plain:
    """A tunnel without Adit, with as many peers."""

    def __init__(self, folder, count):
        self.ns = namespace("p")
        self.interface = f"{NAME}p"
        self.file = folder / f"{self.interface}.conf"
        private = run("wg", "genkey").stdout.strip()
        self.text = [f"[Interface]\nPrivateKey = {private}\nListenPort = 51820\nAddress = 10.64.0.1/16, 2001:db8:2::a40:1/64\n"]
        self.next = 0
        for _ in range(count):
            self.next += 1
            self.text.append(self.peer(self.next))
        self.write()
        run("ip", "netns", "exec", self.ns, "wg-quick", "up", str(self.file))

    def addresses(self, number):
        high, low = divmod(number + 1, 256)
        return f"10.64.{high}.{low}/32", f"2001:db8:2::a40:{number + 1:x}/128"

    def peer(self, number):
        return f"[Peer]\nPublicKey = {key(number)}\nAllowedIPs = {', '.join(self.addresses(number))}\n"

    def write(self):
        self.file.write_text("".join(self.text))
        self.file.chmod(0o600)

    def set(self):
        self.next += 1
        ipv4, ipv6 = self.addresses(self.next)
        script = (f"wg set {self.interface} peer {key(self.next)} allowed-ips {ipv4},{ipv6} && "
                  f"ip route add {ipv4} dev {self.interface} && ip -6 route add {ipv6} dev {self.interface}")
        run("ip", "netns", "exec", self.ns, "sh", "-c", script)
        self.text.append(self.peer(self.next))

    def syncconf(self):
        self.next += 1
        self.text.append(self.peer(self.next))
        self.write()
        script = f"wg-quick strip {self.file} > {self.file}.bare && wg syncconf {self.interface} {self.file}.bare"
        run("ip", "netns", "exec", self.ns, "sh", "-c", script)

    def restart(self):
        self.next += 1
        self.text.append(self.peer(self.next))
        self.write()
        script = f"wg-quick down {self.file} && wg-quick up {self.file}"
        run("ip", "netns", "exec", self.ns, "sh", "-c", script)

    def stop(self):
        run("ip", "netns", "exec", self.ns, "wg-quick", "down", str(self.file))
        end(self.ns, self.interface)


class Device:
    """A device in a namespace of its own, on the far end of a gateway's uplink."""

    def __init__(self, gateway, folder, configuration, suffix="d"):
        self.ns = self.interface = f"{NAME}{suffix}"
        run("ip", "netns", "add", self.ns)
        run("ip", "-n", gateway, "link", "set", "peer0", "netns", self.ns)
        run("ip", "-n", self.ns, "link", "set", "lo", "up")
        run("ip", "-n", self.ns, "link", "set", "peer0", "up")
        run("ip", "-n", self.ns, "address", "add", "203.0.113.1/24", "dev", "peer0")
        self.file = folder / f"{self.interface}.conf"
        self.file.write_text(configuration)
        self.file.chmod(0o600)
        run("ip", "netns", "exec", self.ns, "wg-quick", "up", str(self.file))
        self.stream(10).communicate()

    def stream(self, count):
        command = ["ip", "netns", "exec", self.ns, "ping", "-q", "-n", "-W", "1", "-i", str(1 / RATE), "-c", str(count), "10.64.0.1"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def lost(self, change, seconds, count):
        """How many packets a stream of so many seconds loses to so many changes."""
        stream = self.stream(RATE * seconds)
        for _ in range(count):
            time.sleep(seconds / (count + 1))
            change()
        sent, received = re.search(r"(\d+) packets transmitted, (\d+) received", stream.communicate()[0]).groups()
        return int(sent) - int(received)

    def stop(self):
        run("ip", "netns", "exec", self.ns, "wg-quick", "down", str(self.file))
        end(self.ns, self.interface)


def end(name, interface):
    """Ends what is left in a namespace that this script made, and removes it."""
    subprocess.run(["ip", "-n", name, "link", "delete", interface], capture_output=True)
    for pid in run("ip", "netns", "pids", name).stdout.split():
        os.kill(int(pid), 15)
    run("ip", "netns", "delete", name)


def timed(function):
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1000
