//! How ports and devices are written on the command line.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use adit_model::protocol::Protocol;

/// `PORT[-PORT][/tcp|/udp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// Empty: all.
    pub(crate) protocols: BTreeSet<Protocol>,
}

/// `[ADDR:]PORT[-PORT][/tcp|/udp]`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicPorts {
    pub(crate) address: Option<IpAddr>,
    pub(crate) ports: Ports,
}

/// `DEVICE[:PORT]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DevicePort {
    pub(crate) device: String,
    pub(crate) port: Option<u16>,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (range, protocols) = match text.split_once('/') {
            Some((range, protocol)) => (range, [protocol.parse()?].into()),
            None => (text, BTreeSet::new()),
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(range)?, port(range)?),
        };
        if last < first {
            return Err(format!("the range {range} ends before it begins"));
        }
        Ok(Self {
            first,
            last,
            protocols,
        })
    }
}

impl FromStr for PublicPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |address: &str| {
            format!("`{address}` is no address; write 198.51.100.7:443 or [2001:db8::7]:443")
        };
        let (address, ports) = if let Some(rest) = text.strip_prefix('[') {
            let (address, ports) = rest.split_once("]:").ok_or_else(|| refuse(text))?;
            let address: Ipv6Addr = address.parse().map_err(|_| refuse(address))?;
            (Some(IpAddr::V6(address)), ports)
        } else if let Some((address, ports)) = text.rsplit_once(':') {
            let address: Ipv4Addr = address.parse().map_err(|_| refuse(address))?;
            (Some(IpAddr::V4(address)), ports)
        } else {
            (None, text)
        };
        Ok(Self {
            address,
            ports: ports.parse()?,
        })
    }
}

impl FromStr for DevicePort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, port) = match text.split_once(':') {
            Some((device, number)) => (device, Some(port(number)?)),
            None => (text, None),
        };
        if device.is_empty() {
            return Err("the device is missing; write DEVICE or DEVICE:PORT".to_owned());
        }
        Ok(Self {
            device: device.to_owned(),
            port,
        })
    }
}

fn port(text: &str) -> Result<u16, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|port| is_number && *port > 0)
        .ok_or_else(|| format!("`{text}` is no port; ports are 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> (Option<String>, u16, u16, Vec<&'static str>) {
        let PublicPorts { address, ports } = text.parse().unwrap();
        let protocols = ports.protocols.iter().map(|protocol| protocol.name());
        (
            address.map(|address| address.to_string()),
            ports.first,
            ports.last,
            protocols.collect(),
        )
    }

    #[test]
    fn public_ports_have_an_address_a_range_and_a_protocol_or_not() {
        assert_eq!(public("443"), (None, 443, 443, vec![]));
        assert_eq!(public("5000-5003/udp"), (None, 5000, 5003, vec!["udp"]));
        assert_eq!(
            public("198.51.100.7:80/tcp"),
            (Some("198.51.100.7".to_owned()), 80, 80, vec!["tcp"])
        );
        assert_eq!(
            public("[2001:db8::7]:1-65535"),
            (Some("2001:db8::7".to_owned()), 1, 65535, vec![])
        );
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in [
            "",
            "0",
            "65536",
            "+80",
            " 80",
            "80-",
            "-80",
            "90-80",
            "80/",
            "80/sctp",
            "80/tcp/udp",
            "80/TCP",
            ":80",
            "host:80",
            "2001:db8::7:80",
            "[2001:db8::7]",
            "[2001:db8::7]80",
            "[198.51.100.7]:80",
            "198.51.100.7:",
            "1:2:3",
        ] {
            assert!(bad.parse::<PublicPorts>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_device_may_have_a_port() {
        let device: DevicePort = "nas:8080".parse().unwrap();
        assert_eq!((device.device.as_str(), device.port), ("nas", Some(8080)));
        let device: DevicePort = "12".parse().unwrap();
        assert_eq!((device.device.as_str(), device.port), ("12", None));
        for bad in ["", ":80", "nas:", "nas:0", "nas:80-81", "nas:80:81"] {
            assert!(bad.parse::<DevicePort>().is_err(), "{bad}");
        }
    }
}
