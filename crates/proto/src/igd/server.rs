//! The gateway's side of one HTTP connection: a request, its answer, and the end.

use std::net::{IpAddr, SocketAddr};

use super::action::{Action, Answer, Arguments};
use super::description::{Identity, Resource, abilities, describe};
use super::fault::Fault;
use super::http::{Head, HttpError, Kind, Receiver, Start, is_literal, write_head};
use super::service::{Service, Version};
use super::soap::{CallError, read_call, write_answer, write_fault};

/// Bytes of a request's body.
const BODY: usize = 16 * 1024;

/// An action that the gateway is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The service as the client called it, with the version that it knows.
    pub service: Service,
    /// The root device that it talks to.
    pub device: Version,
    pub action: Action,
}

/// What a client may ask of itself, by a plain GET: no protocol has a request for it that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The address by which the Internet sees it through this gateway.
    Address,
    /// The address that the datagrams of its tunnel come from.
    Endpoint,
}

impl Seen {
    pub const ALL: [Self; 2] = [Self::Address, Self::Endpoint];

    /// The path at the gateway.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Address => "/address",
            Self::Endpoint => "/endpoint",
        }
    }
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An action of UPnP.
    Call(Request),
    /// Something of itself.
    Seen(Seen),
}

/// A connection that a client opened.
#[derive(Debug)]
pub struct Connection {
    local: SocketAddr,
    identity: Identity,
    receiver: Receiver,
    state: State,
    outgoing: Vec<u8>,
    told_to_go_on: bool,
}

#[derive(Debug)]
enum State {
    Receiving,
    /// A request that has not been fetched.
    Asked(Event),
    /// The caller owes an outcome.
    Waiting(Event),
    /// Everything is said; it may still have to be fetched.
    Answered,
}

/// A status line's end, and what goes with it.
struct Refusal {
    status: &'static str,
    allow: Option<&'static str>,
}

impl Refusal {
    const fn new(status: &'static str) -> Self {
        Self {
            status,
            allow: None,
        }
    }
}

impl From<HttpError> for Refusal {
    fn from(error: HttpError) -> Self {
        Self::new(match error {
            HttpError::Malformed | HttpError::Truncated => "400 Bad Request",
            HttpError::HeadTooLarge => "431 Request Header Fields Too Large",
            HttpError::BodyTooLarge => "413 Content Too Large",
            HttpError::Encoding => "501 Not Implemented",
        })
    }
}

impl Connection {
    /// `local` is the address that the client connected to: the only one that it may call us by.
    pub fn new(identity: Identity, local: SocketAddr) -> Self {
        Self {
            local,
            identity,
            receiver: Receiver::new(Kind::Request, BODY),
            state: State::Receiving,
            outgoing: Vec::new(),
            told_to_go_on: false,
        }
    }

    /// Takes what the client sent. What comes after the request is ignored: each connection carries one.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Receiving) {
            return;
        }
        if let Err(error) = self.receive(bytes) {
            self.refuse(&error);
        }
    }

    /// The client sends no more.
    pub fn handle_end(&mut self) {
        if matches!(self.state, State::Receiving) {
            self.state = State::Answered;
        }
    }

    /// The request, once.
    pub fn poll_event(&mut self) -> Option<Event> {
        match &self.state {
            State::Asked(event) => {
                let event = event.clone();
                self.state = State::Waiting(event.clone());
                Some(event)
            }
            State::Receiving | State::Waiting(_) | State::Answered => None,
        }
    }

    /// What became of the call. An answer to another action than the one asked is told as a failure.
    pub fn handle_outcome(&mut self, outcome: Result<Answer, Fault>) {
        let State::Waiting(Event::Call(request)) = &self.state else {
            return;
        };
        let service = request.service;
        let name = request.action.name();
        let values =
            outcome.and_then(|answer| answer.arguments(&request.action).ok_or(Fault::ActionFailed));
        self.answer_call(service, name, values);
    }

    /// The address that the client asked for, if there is one.
    pub fn handle_seen(&mut self, address: Option<IpAddr>) {
        if !matches!(self.state, State::Waiting(Event::Seen(_))) {
            return;
        }
        let Some(address) = address else {
            return self.refuse(&Refusal::new("404 Not Found"));
        };
        let text = format!("{address}\n");
        self.write(
            "200 OK",
            &[
                ("Content-Type", "text/plain"),
                ("Content-Length", &text.len().to_string()),
                ("Cache-Control", "no-store"),
                ("Connection", "close"),
            ],
            &text,
        );
    }

    /// Bytes for the client.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.outgoing.is_empty()).then(|| std::mem::take(&mut self.outgoing))
    }

    /// Whether what the client sends no longer matters: there is a request, or an answer to what was none.
    pub fn is_decided(&self) -> bool {
        match self.state {
            State::Receiving => false,
            State::Asked(_) | State::Waiting(_) | State::Answered => true,
        }
    }

    /// Whether nothing more will come of this connection.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Answered) && self.outgoing.is_empty()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let had_head = self.receiver.head().is_some();
        self.receiver.handle_input(bytes)?;
        if !had_head && let Some(head) = self.receiver.head() {
            let expects = head.single("expect")?;
            // Whoever has no right to ask does not get as far as sending a body.
            self.check(head)?;
            if !self.receiver.is_complete()
                && !self.told_to_go_on
                && expects == Some("100-continue")
            {
                self.told_to_go_on = true;
                self.outgoing
                    .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
        if self.receiver.is_complete() {
            self.handle_request()?;
        }
        Ok(())
    }

    /// What a request must be before anything else is looked at.
    fn check(&self, head: &Head) -> Result<(Resource, bool), Refusal> {
        let Start::Request { method, target } = &head.start else {
            return Err(Refusal::new("400 Bad Request"));
        };
        let host = head
            .single("host")?
            .ok_or(Refusal::new("400 Bad Request"))?;
        if !is_literal(host, self.local.ip()) {
            return Err(Refusal::new("403 Forbidden"));
        }
        let path = match target.strip_prefix("http://") {
            Some(rest) => {
                let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
                if !is_literal(authority, self.local.ip()) {
                    return Err(Refusal::new("403 Forbidden"));
                }
                rest.strip_prefix(authority).unwrap_or_default()
            }
            None => target,
        };
        if matches!(method.as_str(), "SUBSCRIBE" | "UNSUBSCRIBE") {
            return Err(Refusal::new("501 Not Implemented"));
        }
        let resource = Resource::at(path).ok_or(Refusal::new("404 Not Found"))?;
        let (methods, allow) = match resource {
            Resource::Description(_) | Resource::Abilities(_) => {
                (&["GET", "HEAD"][..], "GET, HEAD")
            }
            Resource::Control(..) => (&["POST"][..], "POST"),
            Resource::Seen(_) => (&["GET"][..], "GET"),
        };
        if methods.contains(&method.as_str()) {
            return Ok((resource, method == "HEAD"));
        }
        Err(Refusal {
            status: "405 Method Not Allowed",
            allow: Some(allow),
        })
    }

    fn handle_request(&mut self) -> Result<(), Refusal> {
        let Some(head) = self.receiver.head() else {
            return Ok(());
        };
        let (resource, is_bare) = self.check(head)?;
        match resource {
            Resource::Description(version) => {
                let document = describe(&self.identity, version);
                self.respond("200 OK", &document, is_bare);
            }
            Resource::Abilities(service) => self.respond("200 OK", &abilities(service), is_bare),
            Resource::Seen(seen) => self.state = State::Asked(Event::Seen(seen)),
            Resource::Control(version, service) => {
                let header = head
                    .single("soapaction")?
                    .ok_or(Refusal::new("400 Bad Request"))?;
                let header = header.to_owned();
                self.handle_call(version, service, &header)?;
            }
        }
        Ok(())
    }

    fn handle_call(
        &mut self,
        version: Version,
        service: Service,
        header: &str,
    ) -> Result<(), Refusal> {
        // A service of version 2 does what one of version 1 does, for those who only know that.
        let services = match service {
            Service::WanIpConnection(Version::Two) => {
                &[service, Service::WanIpConnection(Version::One)][..]
            }
            Service::WanIpConnection(Version::One)
            | Service::Layer3Forwarding
            | Service::WanCommonInterfaceConfig
            | Service::WanIpv6FirewallControl => &[service][..],
        };
        let call = match read_call(services, header, self.receiver.body()) {
            Ok(call) => call,
            Err(CallError::Malformed) => return Err(Refusal::new("400 Bad Request")),
            Err(CallError::Fault(fault)) => {
                self.respond("500 Internal Server Error", &write_fault(fault), false);
                return Ok(());
            }
        };
        if let Some(values) = self.constant(
            version,
            call.name,
            call.arguments.text_of("NewConnectionType"),
        ) {
            self.answer_call(call.service, call.name, values);
            return Ok(());
        }
        match Action::read(call.service, call.name, &call.arguments) {
            Ok(action) => {
                self.state = State::Asked(Event::Call(Request {
                    service: call.service,
                    device: version,
                    action,
                }));
            }
            Err(fault) => self.answer_call(call.service, call.name, Err(fault)),
        }
        Ok(())
    }

    /// Answers that do not depend on anything that the gateway does. A device does not decide how the gateway is
    /// connected, so what would change that is not for it; what is already so succeeds.
    fn constant(
        &self,
        version: Version,
        name: &str,
        kind: Option<&str>,
    ) -> Option<Result<Arguments, Fault>> {
        match name {
            "GetDefaultConnectionService" => Some(Ok(vec![(
                "NewDefaultConnectionService",
                self.identity.default_connection(version),
            )])),
            "GetConnectionTypeInfo" => Some(Ok(vec![
                ("NewConnectionType", "IP_Routed".to_owned()),
                ("NewPossibleConnectionTypes", "IP_Routed".to_owned()),
            ])),
            "GetNATRSIPStatus" => Some(Ok(vec![
                ("NewRSIPAvailable", "0".to_owned()),
                ("NewNATEnabled", "1".to_owned()),
            ])),
            "RequestConnection" => Some(Ok(Vec::new())),
            "SetConnectionType" => Some(match kind {
                Some("IP_Routed") => Ok(Vec::new()),
                Some(_) => Err(Fault::NotAuthorized),
                None => Err(Fault::InvalidArguments),
            }),
            "ForceTermination" | "SetDefaultConnectionService" => Some(Err(Fault::NotAuthorized)),
            _ => None,
        }
    }

    fn answer_call(&mut self, service: Service, name: &str, values: Result<Arguments, Fault>) {
        match values {
            Ok(values) => self.respond("200 OK", &write_answer(service, name, &values), false),
            Err(fault) => self.respond("500 Internal Server Error", &write_fault(fault), false),
        }
    }

    fn respond(&mut self, status: &str, document: &str, is_bare: bool) {
        let length = document.len().to_string();
        let server = self.identity.server();
        self.write(
            status,
            &[
                ("Content-Type", "text/xml; charset=\"utf-8\""),
                ("Content-Length", &length),
                ("Connection", "close"),
                ("Ext", ""),
                ("Server", &server),
            ],
            if is_bare { "" } else { document },
        );
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let allow = refusal.allow.map(|methods| ("Allow", methods));
        let mut headers = vec![("Content-Length", "0"), ("Connection", "close")];
        headers.extend(allow);
        self.write(refusal.status, &headers, "");
    }

    fn write(&mut self, status: &str, headers: &[(&str, &str)], body: &str) {
        let head = write_head(&format!("HTTP/1.1 {status}"), headers);
        self.outgoing.extend_from_slice(head.as_bytes());
        self.outgoing.extend_from_slice(body.as_bytes());
        self.state = State::Answered;
    }
}

#[cfg(test)]
mod tests;
