//! Every operation of the document, over real TCP, with every kind of credentials that must not do.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use adit_model::change::{
    AddDevice, AddForward, AddPinhole, AddSubnet, AddToken, Change, Ipv6Wish, Parties, RequestLease,
};
use adit_model::facts::{AddressFact, LinkFact, RouteFact};
use adit_model::protocol::Protocol;
use adit_model::state::{Delivery, DeviceId, DeviceKind, Family, Mechanism, Scope};
use adit_store::Store;
use tokio::runtime::Runtime;

use super::*;
use crate::answers::Answers;
use crate::caller::Caller;
use crate::control::Await;
use crate::http::authority;
use crate::writer::{Writer, seconds_since_1970};

/// Enough for a test to fail as often as it has to.
const GENEROUS: Allowance = Allowance {
    burst: 1_000_000,
    every: Duration::from_millis(1),
};

/// A daemon's inside with a real store and a kernel that takes everything, and its API on a port of loopback.
struct World {
    control: Arc<Control>,
    address: SocketAddr,
    runtime: Runtime,
    forwards: [u64; 2],
    pinholes: [u64; 2],
    leases: [u64; 2],
    _directory: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

fn lease_wish(device: DeviceId) -> RequestLease {
    RequestLease {
        parties: Parties::own(device),
        mechanism: Mechanism::NatPmp,
        family: Family::Ipv4,
        protocol: Some(Protocol::Tcp),
        internal: 9090,
        external: None,
        address: None,
        exact: false,
        count: 1,
        parity: false,
        lifetime: 3600,
        nonce: None,
        clear_filters: false,
        filters: Vec::new(),
        remote: None,
        hostnames: Default::default(),
        description: String::new(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// In lower case, without the date.
    head: Vec<String>,
    body: String,
}

/// An operation of the document, as the document tells of it.
#[derive(Clone, Debug)]
struct Operation {
    id: String,
    method: String,
    path: String,
    scopes: BTreeSet<String>,
}

impl World {
    fn start(allowance: Allowance) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let (published, state) = watch::channel(Arc::new(State::default()));
        let facts = watch::channel(Arc::new(facts())).1;
        let (requests, received) = mpsc::channel(16);
        let writer = Writer {
            holding: crate::names::Holding::default(),
            store,
            state: State::default(),
            facts: facts.clone(),
            answers: Answers::default(),
            directory: directory.path().to_owned(),
            private_key: watch::Sender::new(PrivateKey::from_random([1; 32])),
            observer: adit_host::listener::Observer::default(),
            leading: watch::Sender::new(Arc::default()),
            published,
            events: Arc::clone(&stopped().events),
            metrics: Arc::clone(&stopped().metrics),
        };
        std::thread::spawn(move || writer.run(received));
        let (awaits, mut awaited) = mpsc::channel::<Await>(16);
        std::thread::spawn(move || {
            while let Some(request) = awaited.blocking_recv() {
                let _ = request.answer.send(Vec::new());
            }
        });
        let mut control = Arc::into_inner(stopped()).unwrap();
        control.requests = requests;
        control.awaits = awaits;
        control.state = state.clone();
        control.facts = facts;
        let control = Arc::new(control);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let names = vec!["gw.example.com".to_owned()];
        let listener = Listener {
            socket,
            tls: None,
            router: guarded_router(Arc::clone(&control), names, "http", allowance),
            state,
            stop: stopping,
            told: watch::channel(None).0,
        };
        std::thread::spawn(move || listener.run());
        let mut world = Self {
            control,
            address,
            runtime: Runtime::new().unwrap(),
            forwards: [0; 2],
            pinholes: [0; 2],
            leases: [0; 2],
            _directory: directory,
            _stop: stop,
        };
        world.fill();
        world
    }

    /// Two devices with a forward, a pinhole and a lease each.
    fn fill(&mut self) {
        self.change(Change::AddSubnet(AddSubnet {
            name: "lan".into(),
            ipv4: "10.59.0.0/24".parse().unwrap(),
            ipv6: Ipv6Wish::Private,
            delivery: Delivery::Auto,
            egress: None,
            peers: true,
            host_access: false,
            gateway_address: true,
            force: true,
        }));
        for (index, name) in ["mine", "rival"].into_iter().enumerate() {
            let number = u8::try_from(index).unwrap();
            self.change(Change::AddDevice(AddDevice {
                name: name.into(),
                subnet: None,
                kind: DeviceKind::Server,
                routing: None,
                ipv4: None,
                public_key: PrivateKey::from_random([number + 1; 32]).public_key(),
                egress: None,
                delegate: Vec::new(),
                expires: None,
                port_policy: Default::default(),
            }));
            self.change(Change::AddForward(AddForward {
                address: None,
                port: 8080 + u16::from(number),
                port_end: 8080 + u16::from(number),
                protocols: [].into(),
                device: name.into(),
                target_port: None,
                hostname: None,
                proxy_protocol: false,
                label: String::new(),
            }));
            self.forwards[index] = self.state().sequence;
            self.change(Change::AddPinhole(AddPinhole {
                device: name.into(),
                port: 443,
                port_end: 443,
                protocols: [].into(),
                label: String::new(),
            }));
            self.pinholes[index] = self.state().sequence;
            let device = self.state().device(name).unwrap().id;
            self.change(Change::RequestLease(Box::new(lease_wish(device))));
            self.leases[index] = self.state().sequence;
        }
    }

    fn change(&self, change: Change) {
        let caller = Caller::User { uid: Some(0) };
        self.runtime
            .block_on(self.control.change(change, caller, None))
            .unwrap();
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.control.state.borrow())
    }

    /// Adds a token; its name is its text too.
    fn token(&self, name: &str, scopes: &[Scope], device: Option<&str>, expires: Option<u64>) {
        self.change(Change::AddToken(AddToken {
            name: name.into(),
            hash: authority::hash(name),
            scopes: scopes.iter().copied().collect(),
            device: device.map(str::to_owned),
            expires,
        }));
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        Answer {
            status: status.parse().unwrap(),
            head: lines
                .map(str::to_lowercase)
                .filter(|line| !line.starts_with("date:"))
                .collect(),
            body: body.to_owned(),
        }
    }

    fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let value = format!("Bearer {token}");
        self.send(method, path, &[("Authorization", &value)], body)
    }

    /// A body that would do something to what belongs to the first device, if it were let through.
    fn body(operation: &Operation) -> &'static str {
        match operation.id.as_str() {
            "add_forward" => r#"{"port":9000,"device":"mine"}"#,
            "add_pinhole" => r#"{"port":9000,"device":"mine"}"#,
            "add_device" => r#"{"name":"new"}"#,
            "add_subnet" => r#"{"name":"new","ipv4":"10.60.0.0/24"}"#,
            "add_token" => r#"{"name":"new","scopes":["read","write","secrets"]}"#,
            "set_device" | "set_forward" | "set_pinhole" => r#"{"enabled":false}"#,
            "apply_declaration" | "plan_declaration" => {
                r#"{"declaration":{"subnet":{"lan":{"ipv4":"10.59.0.0/24"}},"device":{"rival":{}}}}"#
            }
            "set_subnet" => r#"{"peers":false}"#,
            "set_settings" => r#"{"clamp_mtu":1300}"#,
            "set_uplink" => r#"{"endpoint":"gw.example.com"}"#,
            _ => "{}",
        }
    }

    /// The path with what belongs to one of the devices in it.
    fn path(&self, operation: &Operation, index: usize) -> String {
        let path = &operation.path;
        let (forward, pinhole) = (self.forwards[index], self.pinholes[index]);
        let value = match path.split('/').nth(3).unwrap_or_default() {
            "subnets" => "lan".to_owned(),
            "devices" => ["mine", "rival"][index].to_owned(),
            "forwards" => forward.to_string(),
            "pinholes" => pinhole.to_string(),
            "leases" => self.leases[index].to_string(),
            "uplinks" => "eth0".to_owned(),
            "tokens" => "read".to_owned(),
            _ => "1".to_owned(),
        };
        let parts: Vec<&str> = path
            .split('/')
            .map(|part| if part.starts_with('{') { &value } else { part })
            .collect();
        parts.join("/")
    }
}

fn facts() -> Facts {
    let mut facts = Facts {
        ipv6: true,
        ..Facts::default()
    };
    facts.links.insert(
        "eth0".into(),
        LinkFact {
            index: 2,
            mtu: 1500,
            up: true,
        },
    );
    facts.addresses.insert(AddressFact {
        interface: "eth0".into(),
        address: "198.51.100.7/24".parse().unwrap(),
    });
    facts.routes.insert(RouteFact {
        destination: "0.0.0.0/0".parse().unwrap(),
        interface: "eth0".into(),
        gateway: Some("198.51.100.1".parse().unwrap()),
        metric: 0,
        from_router_advertisement: false,
    });
    facts
}

/// What the document says; every operation has to say what it needs.
fn operations() -> Vec<Operation> {
    let (_, document) = {
        let (router, mut document) = routes().split_for_parts();
        Operations::declare(&mut document);
        (router, serde_json::to_value(&document).unwrap())
    };
    let scheme = &document["components"]["securitySchemes"]["token"];
    assert_eq!(
        (scheme["type"].as_str(), scheme["scheme"].as_str()),
        (Some("http"), Some("bearer"))
    );
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let needs = operation["security"][0]["token"]
                .as_array()
                .unwrap_or_else(|| {
                    panic!("{method} {path}: `{id}` has no row in OPERATIONS of http/scope.rs")
                });
            found.push(Operation {
                id: id.to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                scopes: needs
                    .iter()
                    .map(|scope| scope.as_str().unwrap().to_owned())
                    .collect(),
            });
        }
    }
    found
}

/// All sets of scopes but the empty one, which stands for `read`.
fn scope_sets() -> Vec<Vec<Scope>> {
    (1..8_u8)
        .map(|bits| {
            let chosen = Scope::ALL.iter().enumerate();
            chosen
                .filter(|(index, _)| bits & (1 << index) != 0)
                .map(|(_, scope)| *scope)
                .collect()
        })
        .collect()
}

fn name_of(scopes: &[Scope]) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
    names.join("-")
}

#[test]
fn no_credentials_but_the_right_ones_do_anything() {
    let world = World::start(GENEROUS);
    for scopes in scope_sets() {
        world.token(&name_of(&scopes), &scopes, None, None);
    }
    world.token("of-rival", &Scope::ALL, Some("rival"), None);
    world.token("of-mine", &Scope::ALL, Some("mine"), None);
    world.token("removed", &Scope::ALL, None, None);
    world.change(Change::RemoveToken("removed".into()));
    world.token("expired", &Scope::ALL, None, Some(seconds_since_1970() + 1));
    std::thread::sleep(Duration::from_millis(2100));
    let before = world.state();
    let all = name_of(&Scope::ALL);
    let good = format!("Bearer {all}");
    let stored = format!("Bearer {}", authority::hash(&all));
    let void: [&[(&str, &str)]; 10] = [
        &[],
        &[("Authorization", "")],
        &[("Authorization", "Bearer")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Basic YTpi")],
        &[("Authorization", &good), ("Authorization", &good)],
        &[("Authorization", "Bearer adit_0000")],
        &[("Authorization", &stored)],
        &[("Authorization", "Bearer removed")],
        &[("Authorization", "Bearer expired")],
    ];
    let operations = operations();
    let unauthorized = world.send("GET", "/api/v1/status", &[], "");
    assert_eq!(unauthorized.status, 401);
    assert!(
        unauthorized
            .head
            .contains(&"www-authenticate: bearer realm=\"adit\"".to_owned())
    );
    let forbidden = world.ask("POST", "/api/v1/tokens", &all, "{}");
    assert_eq!(forbidden.status, 403);

    let elsewhere = [
        ("GET", "/"),
        ("GET", "/api/v1/nothing"),
        ("PUT", "/api/v1/devices"),
        ("GET", "/api/v1/devices/nobody"),
        ("DELETE", "/api/v1/forwards/999"),
        ("GET", "/api/v1/devices/mine/"),
        ("GET", "//api/v1/status"),
        ("OPTIONS", "*"),
    ];
    let mut checked = 0;
    let mut expect = |answer: Answer, expected: &Answer, what: &str| {
        assert_eq!(&answer, expected, "{what}");
        checked += 1;
    };
    for headers in void {
        for (method, path) in elsewhere {
            let answer = world.send(method, path, headers, "");
            expect(
                answer,
                &unauthorized,
                &format!("{method} {path} {headers:?}"),
            );
        }
        for operation in &operations {
            let (method, path) = (&operation.method, world.path(operation, 0));
            let answer = world.send(method, &path, headers, World::body(operation));
            expect(
                answer,
                &unauthorized,
                &format!("{method} {path} {headers:?}"),
            );
        }
    }
    for operation in &operations {
        let (method, path) = (&operation.method, world.path(operation, 0));
        let body = World::body(operation);
        for scopes in scope_sets() {
            let names: BTreeSet<String> =
                scopes.iter().map(|scope| scope.name().to_owned()).collect();
            if !operation.scopes.is_subset(&names) {
                let token = name_of(&scopes);
                let answer = world.ask(method, &path, &token, body);
                expect(answer, &forbidden, &format!("{method} {path} {token}"));
                // Nobody learns in this way what there is.
                let nowhere = path.replace("mine", "nobody");
                let answer = world.ask(method, &nowhere, &token, body);
                expect(answer, &forbidden, &format!("{method} {nowhere} {token}"));
            }
        }
        let is_list = operation.id.starts_with("list_")
            && ["devices", "forwards", "pinholes", "leases"]
                .iter()
                .any(|kind| path.ends_with(kind));
        if !is_list && operation.id != "show_document" {
            let answer = world.ask(method, &path, "of-rival", body);
            expect(answer, &forbidden, &format!("{method} {path} of-rival"));
        }
    }
    for (method, path) in elsewhere {
        let answer = world.ask(method, path, "of-rival", "");
        expect(answer, &forbidden, &format!("{method} {path} of-rival"));
    }
    assert_eq!(world.state(), before, "something was changed");
    assert!(checked > operations.len() * 12, "{checked}");

    // The same requests do get through with what they need; else all of this would show nothing.
    for operation in &operations {
        let (method, path) = (&operation.method, world.path(operation, 0));
        let is_administrators = operation.scopes.contains("administrator");
        let token = if operation.scopes.is_empty() || is_administrators {
            all.clone()
        } else {
            let scopes = Scope::ALL.into_iter();
            let needed = scopes.filter(|scope| operation.scopes.contains(scope.name()));
            name_of(&needed.collect::<Vec<_>>())
        };
        let answer = world.ask(method, &path, &token, World::body(operation));
        if is_administrators {
            assert_eq!(answer, forbidden, "{method} {path}");
        } else {
            let passed = !matches!(answer.status, 401 | 403 | 405 | 429);
            assert!(passed, "{method} {path} {token}: {answer:?}");
        }
    }
    assert_ne!(world.state().revision, before.revision);
}

#[test]
fn a_token_for_one_device_sees_and_changes_the_things_of_that_device() {
    let world = World::start(GENEROUS);
    world.token("own", &Scope::ALL, Some("mine"), None);
    world.token("own-read", &[Scope::Read], Some("mine"), None);
    let (forwards, pinholes) = (world.forwards, world.pinholes);
    for kind in ["devices", "forwards", "pinholes", "leases"] {
        let answer = world.ask("GET", &format!("/api/v1/{kind}"), "own-read", "");
        assert_eq!(answer.status, 200);
        let list: Value = serde_json::from_str(&answer.body).unwrap();
        // A lease is a forward as well.
        let count = if kind == "forwards" { 2 } else { 1 };
        assert_eq!(list[kind].as_array().unwrap().len(), count, "{list}");
        assert!(!answer.body.contains("rival"), "{}", answer.body);
    }
    let taken = r#"{"port":8081,"device":"mine"}"#;
    for (method, path, body, status) in [
        ("DELETE", format!("/leases/{}", world.leases[1]), "", 403),
        ("DELETE", format!("/leases/{}", world.leases[0]), "", 200),
        ("GET", "/devices/mine".to_owned(), "", 200),
        ("HEAD", "/devices/mine".to_owned(), "", 200),
        ("GET", "/devices/rival".to_owned(), "", 403),
        ("HEAD", "/devices/rival".to_owned(), "", 403),
        ("GET", "/devices/%72ival".to_owned(), "", 403),
        ("GET", "/devices/mine/config".to_owned(), "", 200),
        ("GET", "/devices/rival/config".to_owned(), "", 403),
        ("POST", "/devices/mine/rekey".to_owned(), "{}", 403),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"routing":"full"}"#,
            200,
        ),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"kind":"server"}"#,
            403,
        ),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"name":"rival2"}"#,
            403,
        ),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"expires":null}"#,
            403,
        ),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"ipv4":"10.59.0.9"}"#,
            403,
        ),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"delegate":["192.168.0.0/16"]}"#,
            403,
        ),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"enabled":false}"#,
            200,
        ),
        (
            "PATCH",
            "/devices/mine".to_owned(),
            r#"{"enabled":true}"#,
            403,
        ),
        ("DELETE", "/devices/mine".to_owned(), "", 403),
        (
            "POST",
            "/forwards".to_owned(),
            r#"{"port":9001,"device":"mine"}"#,
            201,
        ),
        (
            "POST",
            "/forwards".to_owned(),
            r#"{"port":9002,"device":"rival"}"#,
            403,
        ),
        (
            "POST",
            "/forwards".to_owned(),
            r#"{"port":9002,"device":"nobody"}"#,
            403,
        ),
        ("POST", "/forwards".to_owned(), taken, 409),
        (
            "PATCH",
            format!("/forwards/{}", forwards[0]),
            r#"{"device":"rival"}"#,
            403,
        ),
        (
            "PATCH",
            format!("/forwards/{}", forwards[0]),
            r#"{"label":"x"}"#,
            200,
        ),
        (
            "PATCH",
            format!("/forwards/{}", forwards[1]),
            r#"{"device":"mine"}"#,
            403,
        ),
        ("DELETE", format!("/forwards/{}", forwards[1]), "", 403),
        ("DELETE", format!("/forwards/{}", forwards[0]), "", 200),
        (
            "POST",
            "/pinholes".to_owned(),
            r#"{"port":9001,"device":"mine"}"#,
            201,
        ),
        (
            "POST",
            "/pinholes".to_owned(),
            r#"{"port":9001,"device":"rival"}"#,
            403,
        ),
        ("DELETE", format!("/pinholes/{}", pinholes[1]), "", 403),
        ("DELETE", format!("/pinholes/{}", pinholes[0]), "", 200),
        ("GET", "/forwards?device=mine".to_owned(), "", 200),
        ("GET", "/forwards?device=rival".to_owned(), "", 403),
        ("GET", "/forwards?device=nobody".to_owned(), "", 403),
        ("GET", "/pinholes?device=rival".to_owned(), "", 403),
        ("GET", "/devices?subnet=lan".to_owned(), "", 403),
        ("GET", "/devices?subnet=nowhere".to_owned(), "", 403),
        ("GET", "/devices?limit=1".to_owned(), "", 200),
        ("GET", "/status".to_owned(), "", 403),
        ("GET", "/tokens".to_owned(), "", 403),
    ] {
        let answer = world.ask(method, &format!("/api/v1{path}"), "own", body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        assert!(
            !answer.body.contains("rival"),
            "{method} {path}: {answer:?}"
        );
    }
    let answer = world.ask("GET", "/api/v1/devices/mine/config", "own-read", "");
    assert_eq!(answer.status, 403, "without the scope `secrets`");

    // The token goes with its device.
    world.change(Change::RemoveDevice("mine".into()));
    assert_eq!(world.ask("GET", "/api/v1/devices", "own", "").status, 401);
    assert!(world.state().tokens.is_empty());
}

#[test]
fn writing_shows_no_keys() {
    let world = World::start(GENEROUS);
    world.token("writer", &[Scope::Read, Scope::Write], None, None);
    let state = world.state();
    let key = state.device("mine").unwrap().preshared_key.to_base64();
    for operation in operations() {
        let path = world.path(&operation, 0);
        let answer = world.ask(&operation.method, &path, "writer", World::body(&operation));
        let what = format!("{} {path}", operation.method);
        assert!(!answer.body.contains(&key), "{what}: {answer:?}");
        assert!(!answer.body.contains("PrivateKey = "), "{what}: {answer:?}");
    }
    world.token("all", &Scope::ALL, None, None);
    let other = world.state().device("rival").unwrap().clone();
    let answer = world.ask("GET", "/api/v1/devices/rival/config", "all", "");
    assert!(answer.body.contains(&other.preshared_key.to_base64()));
}

#[test]
fn what_a_web_page_elsewhere_sends_is_refused() {
    let world = World::start(GENEROUS);
    world.token("t", &[Scope::Read], None, None);
    let token = ("Authorization", "Bearer t");
    let port = world.address.port();
    let own = format!("127.0.0.1:{port}");
    let origin = format!("http://127.0.0.1:{port}");
    let status = |headers: &[(&str, &str)]| world.send("GET", "/api/v1/status", headers, "").status;
    assert_eq!(status(&[token, ("Host", &own), ("Origin", &origin)]), 200);
    assert_eq!(status(&[token, ("Host", "gw.example.com")]), 200);
    assert_eq!(status(&[token, ("Host", "198.51.100.7")]), 200, "an uplink");
    for headers in [
        &[token, ("Host", "evil.example")][..],
        &[("Host", "evil.example")],
        &[token, ("Host", "203.0.113.99")],
        &[token, ("Host", &own), ("Origin", "http://evil.example")],
        &[token, ("Host", &own), ("Origin", "null")],
        &[token, ("Host", &own), ("Origin", "http://127.0.0.1:3000")],
        &[
            token,
            ("Host", &own),
            ("Origin", &origin),
            ("Origin", &origin),
        ],
    ] {
        assert_eq!(status(headers), 403, "{headers:?}");
    }
    let answer = world.send(
        "OPTIONS",
        "/api/v1/devices",
        &[
            token,
            ("Host", &own),
            ("Origin", "http://evil.example"),
            ("Access-Control-Request-Method", "DELETE"),
        ],
        "",
    );
    assert_eq!(answer.status, 403);
    assert!(
        !answer
            .head
            .iter()
            .any(|line| line.starts_with("access-control"))
    );
}

#[test]
fn a_flood_of_bad_tokens_is_slowed_down_and_a_good_one_gets_through() {
    let world = World::start(Allowance {
        burst: 5,
        every: Duration::from_secs(60),
    });
    world.token("good", &[Scope::Read], None, None);
    for number in 0..5 {
        let answer = world.ask("GET", "/api/v1/status", &format!("bad{number}"), "");
        assert_eq!(answer.status, 401);
    }
    let refused = world.ask("GET", "/api/v1/status", "bad", "");
    assert_eq!(refused.status, 429);
    let wait = refused
        .head
        .iter()
        .find_map(|line| line.strip_prefix("retry-after: "))
        .unwrap();
    assert!((1..=60).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    assert_eq!(world.ask("GET", "/api/v1/status", "good", "").status, 200);
    assert_eq!(world.ask("GET", "/api/v1/status", "bad", "").status, 429);
}

#[test]
fn a_removed_token_takes_its_open_connections_along() {
    let world = World::start(GENEROUS);
    world.token("t", &[Scope::Read], None, None);
    let mut stream = TcpStream::connect(world.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let request = format!(
        "GET /api/v1/settings HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer t\r\n\r\n",
        world.address
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut buffer = [0; 4096];
    assert!(stream.read(&mut buffer).unwrap() > 0);
    world.change(Change::RemoveToken("t".into()));
    // Before the 10 s after which an idle connection is closed.
    assert_eq!(stream.read(&mut buffer).unwrap(), 0, "it is open still");
}

#[test]
fn requests_have_bounds() {
    let world = World::start(GENEROUS);
    world.token("t", &Scope::ALL, None, None);
    let large = "x".repeat(LARGEST_REQUEST + 1);
    let answer = world.ask("POST", "/api/v1/devices", "t", &large);
    assert_eq!(answer.status, 413, "{answer:?}");
    let long = "x".repeat(20 << 10);
    let answer = world.send("GET", "/api/v1/status", &[("X-Long", &long)], "");
    assert_eq!(answer.status, 431, "{answer:?}");
    let many = [("X-Many", "1"); 70];
    let answer = world.send("GET", "/api/v1/status", &many, "");
    assert_eq!(answer.status, 431, "{answer:?}");
}

#[tokio::test]
async fn the_administrators_socket_takes_nothing_from_browsers() {
    let request = Request::builder()
        .uri("/api/v1/settings")
        .header("Origin", "http://localhost")
        .extension(Caller::User { uid: Some(0) })
        .body(Body::empty())
        .unwrap();
    let answer = router(stopped()).oneshot(request).await.unwrap();
    assert_eq!(answer.status().as_u16(), 403);
}
