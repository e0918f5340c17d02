//! A gateway, a machine outside and three devices in network namespaces; a bridge stands in for the tunnel.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Devices 1 and 2 are in the first subnet, device 3 in the second.
pub(crate) const PLACES: [&str; 5] = ["gateway", "outside", "device1", "device2", "device3"];

pub(crate) struct World {
    prefix: String,
}

impl World {
    pub(crate) fn build() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let world = Self {
            prefix: format!("aditfw{}x{number}", std::process::id()),
        };
        for place in PLACES {
            shell(&format!("ip netns add {}", world.namespace(place)));
            world.shell(place, "ip link set lo up; sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.default.accept_redirects=0 net.ipv6.conf.default.accept_redirects=0 net.ipv6.conf.default.accept_dad=0 net.ipv4.ping_group_range='0 0'");
        }
        world.shell(
            "gateway",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
             for setting in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do test ! -e $setting || echo 0 > $setting; done
             ip link add adit0 address 02:00:00:00:00:01 type bridge
             ip link set adit0 up
             ip address add 10.59.0.1/24 dev adit0
             ip address add 10.60.0.1/24 dev adit0
             ip address add 2001:db8:0:1::1/64 dev adit0 nodad
             ip address add 2001:db8:0:2::1/64 dev adit0 nodad",
        );
        world.connect("outside", "uplink0");
        world.shell("gateway", "ip address add 192.0.2.1/24 dev uplink0; ip address add 2001:db8:ff::1/64 dev uplink0 nodad");
        world.shell(
            "outside",
            "ip address add 192.0.2.9/24 dev eth0
             ip address add 2001:db8:ff::9/64 dev eth0 nodad
             ip route add 10.0.0.0/8 via 192.0.2.1
             ip route add 2001:db8:0::/46 via 2001:db8:ff::1",
        );
        for (device, subnet, host) in [("device1", 1, 2), ("device2", 1, 3), ("device3", 2, 2)] {
            world.connect(device, device);
            world.shell(
                "gateway",
                &format!(
                    "ip link set {device} master adit0; bridge link set dev {device} isolated on"
                ),
            );
            world.shell(
                device,
                &format!(
                    "ip address add 10.{v4}.0.{host}/32 dev eth0
                     ip address add 2001:db8:0:{subnet}::{host}/128 dev eth0 nodad
                     ip route add default via 10.{v4}.0.1 dev eth0 onlink
                     ip -6 route add 2001:db8:0:{subnet}::1/128 dev eth0
                     ip -6 route add default via 2001:db8:0:{subnet}::1 dev eth0",
                    v4 = 58 + subnet,
                ),
            );
            // A tunnel has no neighbours, and the firewall lets nobody claim to be one; a bridge needs them.
            for (at, interface, whose, far, address) in [
                ("gateway", "adit0", device, "eth0", host),
                (device, "eth0", "gateway", "adit0", 1),
            ] {
                let link = world.shell(whose, &format!("cat /sys/class/net/{far}/address"));
                world.shell(
                    at,
                    &format!(
                        "ip -6 neigh replace 2001:db8:0:{subnet}::{address} lladdr {} dev {interface} nud permanent",
                        link.trim()
                    ),
                );
            }
        }
        world
    }

    /// Runs a closure, and an asynchronous program if need be, in the network namespace of a place.
    pub(crate) fn within<T: Send>(&self, place: &str, action: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace(place))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs an asynchronous program on the gateway.
    pub(crate) fn on_gateway<T: Send>(&self, program: impl AsyncFnOnce(&Self) -> T + Send) -> T {
        self.within("gateway", || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(program(self))
        })
    }

    /// A socket that lives in the namespace of a place, whatever thread uses it.
    pub(crate) fn udp(&self, place: &str, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        let socket = self.within(place, || UdpSocket::bind(address).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(1000)))
            .unwrap();
        socket
    }

    /// A socket of a protocol that has no ports: the one for experiments (RFC 3692 section 2.1).
    pub(crate) fn raw(&self, place: &str, address: &str) -> UdpSocket {
        const EXPERIMENT: i32 = 253;
        let address: SocketAddr = address.parse().unwrap();
        self.within(place, || {
            let kind = socket2::Type::RAW;
            let protocol = socket2::Protocol::from(EXPERIMENT);
            let domain = socket2::Domain::for_address(address);
            let socket = socket2::Socket::new(domain, kind, Some(protocol)).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.into()
        })
    }

    pub(crate) fn shell(&self, place: &str, script: &str) -> String {
        shell(&format!(
            "ip netns exec {} sh -ec '{}'",
            self.namespace(place),
            script.replace('\'', "'\\''")
        ))
    }

    /// Whether a command succeeds there.
    pub(crate) fn succeeds(&self, place: &str, script: &str) -> bool {
        let command = format!(
            "ip netns exec {} sh -c '{script}' >/dev/null 2>&1",
            self.namespace(place)
        );
        Command::new("sh")
            .args(["-c", &command])
            .status()
            .unwrap()
            .success()
    }

    /// Moves an interface of the gateway to another place.
    pub(crate) fn give(&self, interface: &str, place: &str) {
        let place = self.namespace(place);
        self.shell("gateway", &format!("ip link set {interface} netns {place}"));
    }

    fn connect(&self, place: &str, name: &str) {
        let (gateway, place) = (self.namespace("gateway"), self.namespace(place));
        shell(&format!(
            "ip link add {name} netns {gateway} type veth peer name eth0 netns {place}
             ip -n {gateway} link set {name} up
             ip -n {place} link set eth0 up"
        ));
    }

    fn namespace(&self, place: &str) -> String {
        format!("{}{place}", self.prefix)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for place in PLACES {
            let _ = Command::new("ip")
                .args(["netns", "delete", &self.namespace(place)])
                .status();
        }
    }
}

/// The tests need root, and say so by failing.
fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {message}");
    String::from_utf8(output.stdout).unwrap()
}
