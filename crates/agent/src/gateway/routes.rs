//! The main routing table, as `/proc/net` shows it: nothing but reading, without rights.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A route of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interface: String,
    pub(super) destination: IpNet,
    pub(super) gateway: Option<IpAddr>,
    pub(super) metric: u32,
}

/// `RTF_UP` and `RTF_REJECT` of the kernel.
const UP: u32 = 0x0001;
const REJECT: u32 = 0x0200;

pub(super) fn routes() -> io::Result<Vec<Route>> {
    let mut routes = ipv4(&fs::read_to_string("/proc/thread-self/net/route")?);
    // There is no such file where IPv6 is off.
    match fs::read_to_string("/proc/thread-self/net/ipv6_route") {
        Ok(text) => routes.extend(ipv6(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(routes)
}

fn ipv4(text: &str) -> Vec<Route> {
    text.lines().skip(1).filter_map(ipv4_line).collect()
}

/// Interface, destination, gateway, flags, two counters, metric, mask; addresses are in the order of the processor.
fn ipv4_line(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| {
        let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
    let gateway = address(2)?;
    let destination = IpNet::with_netmask(address(1)?.into(), address(7)?.into()).ok()?;
    (flags & UP != 0 && flags & REJECT == 0).then_some(Route {
        interface: (*fields.first()?).to_owned(),
        destination,
        gateway: Some(IpAddr::V4(gateway)).filter(|it| !it.is_unspecified()),
        metric: fields.get(6)?.parse().ok()?,
    })
}

fn ipv6(text: &str) -> Vec<Route> {
    text.lines().filter_map(ipv6_line).collect()
}

/// Destination, its length, source, its length, next hop, metric, two counters, flags, interface; all in hexadecimal.
fn ipv6_line(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| {
        let number = u128::from_str_radix(fields.get(at)?, 16).ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(number)))
    };
    let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
    let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
    (flags & UP != 0 && flags & REJECT == 0).then_some(Route {
        interface: (*fields.get(9)?).to_owned(),
        destination: IpNet::new(address(0)?, length).ok()?,
        gateway: address(4).filter(|it| !it.is_unspecified()),
        metric: u32::from_str_radix(fields.get(5)?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn tables_are_read() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            wg0\t00003B0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            lo\t00000000\t00000000\t0201\t0\t0\t4000\t00000000\t0\t0\t0\n";
        let routes = ipv4(text);
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].gateway, Some("192.168.0.1".parse().unwrap()));
        assert_eq!(routes[0].metric, 100);
        assert_eq!(routes[1].destination, "10.59.0.0/24".parse().unwrap());
        let text = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        let routes = ipv6(text);
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].gateway, Some("fe80::1".parse().unwrap()));
        assert_eq!(routes[0].interface, "eth0");
    }
}
