//! Discovery by SSDP: what a search is answered (UPnP Device Architecture 1.1 §1.3).

use std::net::SocketAddr;
use std::time::Duration;

use super::description::{Device, Identity, Resource};
use super::http::{Head, Kind, Start, write_head};
use super::service::{Service, Version};

/// The longest search; what is larger is no search.
const SEARCH: usize = 1500;
/// Seconds that what is told counts for.
const MAX_AGE: &str = "max-age=1800";

/// A search that is for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Datagrams for the searcher, to be sent once each.
    pub answers: Vec<Vec<u8>>,
    /// The answers are due within this time; at once is fine where few answer.
    pub within: Duration,
}

/// Reads a datagram. `None` is silence: it is no search, or not for anything that we are.
///
/// `server` is where the documents are, by the address that the searcher reaches us at. A search to a group must say how
/// long it waits; one that came to us alone need not (§1.3.2, §1.3.3).
pub fn receive_search(
    datagram: &[u8],
    is_multicast: bool,
    identity: &Identity,
    server: SocketAddr,
) -> Option<Search> {
    if datagram.len() > SEARCH {
        return None;
    }
    let (head, _) = Head::parse(Kind::Request, datagram).ok()??;
    let Start::Request { method, target } = &head.start else {
        return None;
    };
    let man = head.single("man").ok()??;
    if method != "M-SEARCH" || target != "*" || man.trim_matches('"') != "ssdp:discover" {
        return None;
    }
    let wait = match head.single("mx").ok()? {
        Some(text) => text.parse::<u8>().ok().filter(|seconds| *seconds > 0),
        None => None,
    };
    if is_multicast && wait.is_none() {
        return None;
    }
    let wanted = head.single("st").ok()??;
    let answers: Vec<Vec<u8>> = targets(identity)
        .into_iter()
        .filter(|target| wanted == target.kind || (wanted == "ssdp:all" && !target.is_lower))
        .map(|target| target.answer(identity, server))
        .collect();
    // More than five seconds count as five.
    let within = Duration::from_secs(u64::from(wait.unwrap_or(0).min(5)));
    (!answers.is_empty()).then_some(Search { answers, within })
}

/// Something that can be searched for.
struct Target {
    version: Version,
    kind: String,
    name: String,
    /// A type of version 1 that a device of version 2 is, too. It answers for it when asked (§1.3.3), after the one that
    /// is of version 1 and nothing else: clients that look on find pinholes, and the others have what they know.
    is_lower: bool,
}

impl Target {
    fn answer(&self, identity: &Identity, server: SocketAddr) -> Vec<u8> {
        let location = format!(
            "http://{server}{}",
            Resource::description_path(self.version)
        );
        let boot = identity.boot.to_string();
        write_head(
            "HTTP/1.1 200 OK",
            &[
                ("CACHE-CONTROL", MAX_AGE),
                ("EXT", ""),
                ("LOCATION", &location),
                ("SERVER", &identity.server()),
                ("ST", &self.kind),
                ("USN", &self.name),
                ("BOOTID.UPNP.ORG", &boot),
                ("CONFIGID.UPNP.ORG", "1"),
            ],
        )
        .into_bytes()
    }
}

/// Everything that we are, twice (§1.2.2).
fn targets(identity: &Identity) -> Vec<Target> {
    let mut targets = Vec::new();
    for version in Version::ALL {
        let mut add = |device: Device, kind: Option<String>, is_lower: bool| {
            let udn = identity.udn(version, device);
            let (kind, name) = match kind {
                Some(kind) => (kind.clone(), format!("{udn}::{kind}")),
                None => (udn.clone(), udn),
            };
            targets.push(Target {
                version,
                kind,
                name,
                is_lower,
            });
        };
        add(Device::Root, Some("upnp:rootdevice".to_owned()), false);
        for device in Device::ALL {
            add(device, None, false);
            add(device, Some(device.urn(version)), false);
            if version == Version::Two {
                add(device, Some(device.urn(Version::One)), true);
            }
        }
        for service in Service::of(version) {
            add(Device::with(*service), Some(service.urn()), false);
        }
        if version == Version::Two {
            let service = Service::WanIpConnection(Version::One);
            add(Device::with(service), Some(service.urn()), true);
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{Search, receive_search};
    use crate::igd::description::Identity;
    use crate::igd::http::{Head, Kind};

    fn identity() -> Identity {
        Identity {
            seed: [7; 16],
            name: "Adit".to_owned(),
            software: "0.1.0".to_owned(),
            boot: 5,
        }
    }

    fn search(datagram: &str, is_multicast: bool) -> Option<Search> {
        let server = "10.59.0.1:5000".parse().unwrap();
        receive_search(datagram.as_bytes(), is_multicast, &identity(), server)
    }

    /// As miniupnpc sends it.
    fn miniupnpc(target: &str) -> String {
        format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: {target}\r\n\
             MAN: \"ssdp:discover\"\r\nMX: 2\r\n\r\n"
        )
    }

    fn values(search: &Search, name: &str) -> Vec<String> {
        let value = |answer: &Vec<u8>| {
            let (head, length) = Head::parse(Kind::Response, answer).unwrap().unwrap();
            assert_eq!(length, answer.len());
            head.single(name).unwrap().unwrap().to_owned()
        };
        search.answers.iter().map(value).collect()
    }

    #[test]
    fn what_is_asked_is_answered() {
        for (target, versions) in [
            (
                "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
                &["1", "2"][..],
            ),
            (
                "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
                &["2"],
            ),
            ("urn:schemas-upnp-org:device:WANDevice:1", &["1", "2"]),
            ("urn:schemas-upnp-org:device:WANConnectionDevice:2", &["2"]),
            (
                "urn:schemas-upnp-org:service:WANIPConnection:1",
                &["1", "2"],
            ),
            ("urn:schemas-upnp-org:service:WANIPConnection:2", &["2"]),
            (
                "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",
                &["2"],
            ),
        ] {
            let found = search(&miniupnpc(target), true).unwrap();
            assert_eq!(found.within, Duration::from_secs(2));
            assert_eq!(values(&found, "st"), vec![target; versions.len()]);
            let location = |version| format!("http://10.59.0.1:5000/igd{version}/description.xml");
            let expected: Vec<String> = versions.iter().map(location).collect();
            assert_eq!(values(&found, "location"), expected);
            let name = values(&found, "usn").remove(0);
            assert!(
                name.starts_with("uuid:07070707-") && name.ends_with(target),
                "{name}"
            );
            let device = name.split_once("::").unwrap().0;
            let by_name = search(&miniupnpc(device), true).unwrap();
            assert_eq!(values(&by_name, "usn"), [device]);
        }
        let both = search(&miniupnpc("upnp:rootdevice"), true).unwrap();
        assert_eq!(both.answers.len(), 2);
        let all = search(&miniupnpc("ssdp:all"), true).unwrap();
        let names: BTreeSet<String> = values(&all, "usn").into_iter().collect();
        // Seven for the devices of each version; three and four services, of which none of the names are the same.
        assert_eq!(names.len(), 7 + 3 + 7 + 4);
        assert_eq!(all.answers.len(), names.len());
    }

    #[test]
    fn anything_else_is_silence() {
        let st = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
        for datagram in [
            miniupnpc("urn:schemas-upnp-org:service:WANPPPConnection:1"),
            miniupnpc("urn:schemas-upnp-org:device:MediaServer:1"),
            miniupnpc("uuid:07070707-0707-0707-0707-070707070707"),
            miniupnpc(""),
            miniupnpc(st).replace("M-SEARCH", "NOTIFY"),
            miniupnpc(st).replace(" * ", " / "),
            miniupnpc(st).replace("ssdp:discover", "ssdp:alive"),
            miniupnpc(st).replace("MX: 2\r\n", ""),
            miniupnpc(st).replace("MX: 2", "MX: 0"),
            miniupnpc(st).replace("MX: 2", "MX: 2\r\nST: ssdp:all"),
            miniupnpc(st).trim_end().to_owned(),
            miniupnpc(&"x".repeat(1500)),
            String::new(),
            "\r\n\r\n".to_owned(),
        ] {
            assert_eq!(search(&datagram, true), None, "{datagram:?}");
        }
        let unicast = miniupnpc(st).replace("MX: 2\r\n", "");
        assert_eq!(search(&unicast, false).unwrap().within, Duration::ZERO);
        let patient = miniupnpc(st).replace("MX: 2", "MX: 120");
        assert_eq!(
            search(&patient, true).unwrap().within,
            Duration::from_secs(5)
        );
    }
}
