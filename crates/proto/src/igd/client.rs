//! The client's side: searching a gateway, reading its description, and asking it for ports.
//!
//! Nothing is followed that leads to another address than the one that was asked.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use super::action::{Action, Answer, Mapping};
use super::fault::Fault;
use super::http::{Head, HttpError, Kind, Receiver, Start, write_head};
use super::server::Seen;
use super::service::{Service, Version};
use super::soap::{read_answer, write_call};
use super::xml::{Element, Limits, XmlError};

/// Bytes of a document that a gateway may send.
const DOCUMENT: usize = 128 * 1024;
/// How many ports are tried one after the other.
const TRIES: u8 = 16;

/// What is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchTarget {
    Gateway(Version),
    Service(Service),
}

impl SearchTarget {
    fn urn(self) -> String {
        match self {
            Self::Gateway(Version::One) => {
                "urn:schemas-upnp-org:device:InternetGatewayDevice:1".to_owned()
            }
            Self::Gateway(Version::Two) => {
                "urn:schemas-upnp-org:device:InternetGatewayDevice:2".to_owned()
            }
            Self::Service(service) => service.urn(),
        }
    }

    /// The datagram, for a group or for one gateway alone. The answer is awaited for `wait` seconds, 1 to 5.
    pub fn search(self, to: SocketAddr, wait: u8) -> Vec<u8> {
        write_head(
            "M-SEARCH * HTTP/1.1",
            &[
                ("HOST", &to.to_string()),
                ("MAN", "\"ssdp:discover\""),
                ("MX", &wait.clamp(1, 5).to_string()),
                ("ST", &self.urn()),
            ],
        )
        .into_bytes()
    }

    /// Where the description is, from an answer to this search. `None` if it is none, or leads elsewhere than to its sender.
    pub fn answered(self, datagram: &[u8], source: IpAddr) -> Option<Location> {
        let (head, _) = Head::parse(Kind::Response, datagram).ok()??;
        let is_ours = head.single("st").ok()?? == self.urn();
        let location = Location::parse(head.single("location").ok()??)?;
        let is_its_own = location.address.ip() == source.to_canonical();
        (head.start == Start::Response { status: 200 } && is_ours && is_its_own).then_some(location)
    }
}

/// Where a document or a service is: an address, not a name, and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub address: SocketAddr,
    path: String,
}

impl Location {
    /// Reads an absolute URL.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let length = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(length)?;
        let address = authority.parse().ok().or_else(|| {
            let bare = authority.trim_start_matches('[').trim_end_matches(']');
            Some(SocketAddr::new(bare.parse().ok()?, 80))
        })?;
        let path = if path.is_empty() { "/" } else { path };
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        (scheme.eq_ignore_ascii_case("http") && is_plain && address.port() != 0).then(|| Self {
            address,
            path: path.to_owned(),
        })
    }

    /// A reference from a document here (RFC 3986 §5.2, without dots), if it stays at this address.
    fn join(&self, reference: &str) -> Option<Self> {
        let reference = reference.trim();
        if reference.contains("://") {
            return Self::parse(reference)
                .filter(|location| location.address.ip() == self.address.ip());
        }
        if reference.is_empty() || !reference.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let path = if reference.starts_with('/') {
            reference.to_owned()
        } else {
            let (folder, _) = self.path.rsplit_once('/')?;
            format!("{folder}/{reference}")
        };
        Some(Self {
            address: self.address,
            path,
        })
    }

    /// Fetches the description that is here.
    pub fn describe(&self) -> Exchange {
        let host = self.address.to_string();
        let head = write_head(
            &format!("GET {} HTTP/1.1", self.path),
            &[("Host", &host), ("Connection", "close")],
        );
        Exchange::new(self.address, head.into_bytes())
    }
}

impl Seen {
    /// Asks a gateway of ours that listens there.
    pub fn ask(self, gateway: SocketAddr) -> Exchange {
        let path = self.path().to_owned();
        Location {
            address: gateway,
            path,
        }
        .describe()
    }

    /// Reads the answer.
    pub fn read(body: &[u8]) -> Option<IpAddr> {
        let text = str::from_utf8(body).ok()?;
        text.trim_end().parse().ok()
    }
}

/// One request and its answer, on a connection of TCP that the caller opens to `address` and closes.
#[derive(Debug)]
pub struct Exchange {
    address: SocketAddr,
    request: Option<Vec<u8>>,
    receiver: Receiver,
    error: Option<HttpError>,
}

/// Why an exchange brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A status that is neither success nor a fault of SOAP.
    #[error("the gateway answered with status {0}")]
    Status(u16),
}

impl Exchange {
    fn new(address: SocketAddr, request: Vec<u8>) -> Self {
        Self {
            address,
            request: Some(request),
            receiver: Receiver::new(Kind::Response, DOCUMENT),
            error: None,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request, once.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.request.take()
    }

    pub fn handle_input(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.receiver.handle_input(bytes).err();
        }
    }

    /// The gateway closed the connection.
    pub fn handle_end(&mut self) {
        if self.error.is_none() {
            self.error = self.receiver.handle_end().err();
        }
    }

    /// The body of the answer, when it is complete. A fault of SOAP is an answer, too.
    pub fn outcome(&self) -> Option<Result<&[u8], ExchangeError>> {
        if let Some(error) = self.error {
            return Some(Err(error.into()));
        }
        if !self.receiver.is_complete() {
            return None;
        }
        let status = match self.receiver.head().map(|head| &head.start) {
            Some(Start::Response { status }) => *status,
            Some(Start::Request { .. }) | None => 0,
        };
        Some(match status {
            200 | 500 => Ok(self.receiver.body()),
            status => Err(ExchangeError::Status(status)),
        })
    }
}

/// Why a description is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DescriptionError {
    #[error("the description is not readable: {0}")]
    Xml(#[from] XmlError),
    #[error("the description names no service that maps ports")]
    NoService,
}

/// Why a call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CallError {
    #[error("the gateway's answer is not readable: {0}")]
    Xml(#[from] XmlError),
    #[error("the gateway refused with code {}: {}", .0.told().0, .0.told().1)]
    Fault(Fault),
}

/// A gateway whose description was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteGateway {
    services: Vec<(Service, Location)>,
}

impl RemoteGateway {
    /// Reads a description that was fetched from a location.
    ///
    /// # Errors
    ///
    /// When it is not a description, or has no service that we know.
    pub fn from_description(
        location: &Location,
        document: &[u8],
    ) -> Result<Self, DescriptionError> {
        let root = Element::parse(document, Limits::DOCUMENT)?;
        let base = match root.text_of("URLBase") {
            Some(base) if !base.is_empty() => location.join(base),
            Some(_) | None => None,
        };
        let base = base.unwrap_or_else(|| location.clone());
        let mut services = Vec::new();
        collect(&root, &base, &mut services);
        if services.is_empty() {
            return Err(DescriptionError::NoService);
        }
        Ok(Self { services })
    }

    /// The version of the service that maps ports.
    pub fn version(&self) -> Option<Version> {
        [Version::Two, Version::One]
            .into_iter()
            .find(|version| self.find(Service::WanIpConnection(*version)).is_some())
    }

    pub fn has_pinholes(&self) -> bool {
        self.find(Service::WanIpv6FirewallControl).is_some()
    }

    /// The request that asks for something, if the gateway has the service for it.
    pub fn call(&self, action: &Action) -> Option<Exchange> {
        let (service, location) = self.service_for(action)?;
        let name = action.name();
        let body = write_call(service, name, &action.arguments());
        let head = write_head(
            &format!("POST {} HTTP/1.1", location.path),
            &[
                ("Host", &location.address.to_string()),
                ("Content-Type", "text/xml; charset=\"utf-8\""),
                ("Content-Length", &body.len().to_string()),
                ("SOAPAction", &format!("\"{}#{name}\"", service.urn())),
                ("Connection", "close"),
            ],
        );
        Some(Exchange::new(location.address, (head + &body).into_bytes()))
    }

    /// Reads the answer to a call.
    ///
    /// # Errors
    ///
    /// When the gateway refuses, or does not answer what was asked.
    pub fn read(&self, action: &Action, body: &[u8]) -> Result<Answer, CallError> {
        let (service, _) = self
            .service_for(action)
            .ok_or(CallError::Fault(Fault::InvalidAction))?;
        let values = read_answer(service, action.name(), body)?.map_err(CallError::Fault)?;
        Answer::read(action, &values).map_err(|_| CallError::Xml(XmlError::Malformed))
    }

    fn find(&self, wanted: Service) -> Option<(Service, &Location)> {
        self.services
            .iter()
            .find(|(service, _)| *service == wanted)
            .map(|(service, location)| (*service, location))
    }

    fn service_for(&self, action: &Action) -> Option<(Service, &Location)> {
        [
            Service::WanIpConnection(Version::Two),
            Service::WanIpConnection(Version::One),
            Service::WanIpv6FirewallControl,
            Service::WanCommonInterfaceConfig,
        ]
        .into_iter()
        .filter(|service| service.action(action.name()).is_some())
        .find_map(|service| self.find(service))
    }
}

/// The services of a device and of the devices inside it. The depth is the document's, which is limited.
fn collect(element: &Element, base: &Location, services: &mut Vec<(Service, Location)>) {
    if element.name == "service" {
        let service = element.text_of("serviceType").and_then(Service::from_urn);
        let location = element.text_of("controlURL").and_then(|url| base.join(url));
        if let (Some(service), Some(location)) = (service, location) {
            services.push((service, location));
        }
        return;
    }
    for child in &element.children {
        collect(child, base, services);
    }
}

/// Gets one port mapped, and asks differently where a gateway wants that.
#[derive(Debug, Clone)]
pub struct Mapper {
    wish: Mapping,
    any: bool,
    tries: u8,
    outcome: Option<Result<MappedPort, Fault>>,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedPort {
    pub external_port: u16,
    /// Seconds as they were asked for, to be renewed before; 0 where the gateway knows only mappings that stay until they
    /// are deleted.
    pub lease: u32,
}

impl Mapper {
    pub fn new(gateway: &RemoteGateway, wish: Mapping) -> Self {
        let any = gateway.version() == Some(Version::Two);
        Self {
            wish,
            any,
            tries: TRIES,
            outcome: None,
        }
    }

    /// What to ask next; `None` when it is decided.
    pub fn next_action(&self) -> Option<Action> {
        if self.outcome.is_some() {
            return None;
        }
        let wish = self.wish.clone();
        Some(if self.any {
            Action::AddAny(wish)
        } else {
            Action::Add(wish)
        })
    }

    /// What the gateway said to it.
    pub fn handle_answer(&mut self, answer: Result<Answer, Fault>) {
        if self.outcome.is_some() {
            return;
        }
        self.tries = self.tries.saturating_sub(1);
        let fault = match answer {
            Ok(Answer::Reserved(external_port)) => {
                self.wish.external_port = external_port;
                return self.decide(None);
            }
            Ok(_) => return self.decide(None),
            Err(fault) => fault,
        };
        if self.tries == 0 {
            return self.decide(Some(fault));
        }
        let wish = &mut self.wish;
        if fault == Fault::OnlyPermanentLeases && wish.lease != 0 {
            wish.lease = 0;
        } else if fault == Fault::SamePortRequired && wish.external_port != wish.internal_port {
            wish.external_port = wish.internal_port;
        } else if fault == Fault::InvalidAction && self.any {
            self.any = false;
        } else if matches!(fault, Fault::Conflict | Fault::ConflictWithOtherMechanism) {
            wish.external_port = wish.external_port.checked_add(1).unwrap_or(1024);
        } else {
            self.decide(Some(fault));
        }
    }

    /// The port that was mapped, or the last refusal.
    pub fn outcome(&self) -> Option<Result<MappedPort, Fault>> {
        self.outcome
    }

    fn decide(&mut self, fault: Option<Fault>) {
        self.outcome = Some(match fault {
            Some(fault) => Err(fault),
            None => Ok(MappedPort {
                external_port: self.wish.external_port,
                lease: self.wish.lease,
            }),
        });
    }
}

#[cfg(test)]
mod tests;
