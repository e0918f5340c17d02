//! A server's configuration for `wg-quick`, with the comments by which PiVPN, wg-easy and others remember names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Address, ImportError, KEY, Peer, Server, prefix, preshared_key, value};
use crate::key::{PrivateKey, PublicKey};

/// PiVPN puts it before every line of a client that is switched off.
const DISABLED: &str = "#[disabled]";

const MEND: &str = "mend the file, and read it again";

#[derive(Default)]
struct Interface {
    private_key: Option<PrivateKey>,
    listen_port: Option<u16>,
    mtu: Option<u16>,
    addresses: Vec<Address>,
    key_hook: Option<String>,
}

#[derive(Default)]
struct PeerSection {
    line: usize,
    name: Option<String>,
    public_key: Option<PublicKey>,
    preshared_key: Option<crate::key::PresharedKey>,
    allowed_ips: Vec<(IpNet, String)>,
    enabled: bool,
}

enum Section {
    None,
    Interface,
    Peer(PeerSection),
}

/// `line 12, Address`
struct Place<'a> {
    line: usize,
    field: &'a str,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "line {}, {}", self.line, self.field)
    }
}

pub(super) fn read(text: &str, clients: Option<&str>) -> Result<Server, ImportError> {
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        reader.line(index + 1, line)?;
    }
    reader.finish(clients)
}

#[derive(Default)]
struct Reader {
    interface: Interface,
    has_interface: bool,
    peers: Vec<PeerSection>,
    section: Option<Section>,
    /// What a comment since the last section calls what follows.
    name: Option<Comment>,
    notes: Vec<String>,
}

/// What a comment says.
enum Comment {
    /// It is surely a name.
    Name(String),
    /// It may be one.
    Text(String),
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), ImportError> {
        let line = line.trim();
        let (line, enabled) = match line.strip_prefix(DISABLED) {
            Some(rest) => (rest.trim(), false),
            None => (line, true),
        };
        let (content, comment) = match line.split_once('#') {
            Some((content, comment)) => (content.trim(), Some(comment)),
            None => (line, None),
        };
        if !content.is_empty() {
            self.content(number, content, enabled)?;
        }
        if let Some(comment) = comment {
            self.comment(comment, content.is_empty());
        }
        Ok(())
    }

    fn content(&mut self, number: usize, content: &str, enabled: bool) -> Result<(), ImportError> {
        if let Some(header) = content.strip_prefix('[') {
            return self.header(number, header.trim_end_matches(']'), enabled);
        }
        let Some((field, text)) = content.split_once('=') else {
            let reason = "it is neither a section nor `Key = value`";
            return Err(ImportError::new(
                format!("line {number}"),
                reason,
                super::OTHER_FILE,
            ));
        };
        let (field, text) = (field.trim(), text.trim());
        let place = Place {
            line: number,
            field,
        };
        let mut section = self.section.take().unwrap_or(Section::None);
        let read = match &mut section {
            Section::None => Err(ImportError::new(
                &place,
                "it stands before `[Interface]`",
                super::OTHER_FILE,
            )),
            Section::Interface => self.interface_field(&place, text),
            Section::Peer(peer) => {
                if let Some(Comment::Name(name)) = self.name.take() {
                    peer.name = Some(name);
                }
                peer_field(peer, &place, text, &mut self.notes)
            }
        };
        self.section = Some(section);
        read
    }

    fn comment(&mut self, text: &str, whole_line: bool) {
        let Some(comment) = Comment::read(text) else {
            return;
        };
        // Between `[Peer]` and its fields, or behind one, it is about that peer.
        if let Some(Section::Peer(peer)) = &mut self.section
            && (!whole_line || peer.public_key.is_none())
        {
            if peer.name.is_none() {
                let (Comment::Name(name) | Comment::Text(name)) = comment;
                peer.name = Some(name);
            }
            return;
        }
        let keep = matches!(
            (&self.name, &comment),
            (Some(Comment::Name(_)), Comment::Text(_))
        );
        if !keep {
            self.name = Some(comment);
        }
    }

    fn header(&mut self, number: usize, header: &str, enabled: bool) -> Result<(), ImportError> {
        self.end_section();
        self.section = Some(if header.eq_ignore_ascii_case("interface") {
            if self.has_interface {
                let place = format!("line {number}");
                return Err(ImportError::new(
                    place,
                    "it is a second `[Interface]`",
                    MEND,
                ));
            }
            self.has_interface = true;
            self.name = None;
            Section::Interface
        } else if header.eq_ignore_ascii_case("peer") {
            let name = self
                .name
                .take()
                .map(|(Comment::Name(name) | Comment::Text(name))| name);
            Section::Peer(PeerSection {
                line: number,
                name,
                enabled,
                ..PeerSection::default()
            })
        } else {
            let shown: String = header.chars().take(40).collect();
            return Err(ImportError::new(
                format!("line {number}"),
                format!("there is no section `[{shown}]` in a WireGuard configuration"),
                super::OTHER_FILE,
            ));
        });
        Ok(())
    }

    fn end_section(&mut self) {
        if let Some(Section::Peer(peer)) = self.section.take() {
            self.peers.push(peer);
        }
    }

    fn interface_field(&mut self, place: &Place<'_>, text: &str) -> Result<(), ImportError> {
        let interface = &mut self.interface;
        match place.field.to_ascii_lowercase().as_str() {
            "privatekey" => interface.private_key = Some(value(text, place, KEY)?),
            "listenport" => interface.listen_port = Some(value(text, place, "a port")?),
            "mtu" => interface.mtu = Some(value(text, place, "a number of bytes")?),
            "address" => {
                for part in parts(text) {
                    interface.addresses.push(Address {
                        net: prefix(part, place)?,
                        name: None,
                        place: place.to_string(),
                    });
                }
            }
            "postup" | "preup" | "postdown" | "predown" => {
                if text.contains("private-key") {
                    interface.key_hook = Some(place.to_string());
                }
                let shown: String = text.chars().take(200).collect();
                self.notes.push(format!(
                    "{place} is left out: {shown}. Translation, forwarding and the firewall are the gateway's; a port that it forwarded becomes \
                     `adit forward add`"
                ));
            }
            "dns" | "table" | "fwmark" | "saveconfig" => {
                self.notes
                    .push(format!("{place} is left out: the gateway does without"));
            }
            _ => return Err(unknown(place, "[Interface]")),
        }
        Ok(())
    }

    fn finish(mut self, clients: Option<&str>) -> Result<Server, ImportError> {
        self.end_section();
        let interface = self.interface;
        let Some(private_key) = interface.private_key else {
            let (place, hint) = match interface.key_hook {
                Some(place) => (
                    place,
                    "the key is in a file of its own: write it into a copy of this file as `PrivateKey = …`, and read that",
                ),
                None => ("[Interface]".to_owned(), super::OTHER_FILE),
            };
            let reason = "there is no `PrivateKey`, by which every device knows the server";
            return Err(ImportError::new(place, reason, hint));
        };
        let names = clients.map(client_names).unwrap_or_default();
        let mut peers = Vec::new();
        for peer in self.peers {
            let place = format!("line {}, [Peer]", peer.line);
            let Some(public_key) = peer.public_key else {
                return Err(ImportError::new(place, "there is no `PublicKey`", MEND));
            };
            peers.push(Peer {
                name: names.get(&public_key).cloned().or(peer.name),
                public_key,
                preshared_key: peer.preshared_key,
                allowed_ips: peer.allowed_ips,
                enabled: peer.enabled,
                expires: None,
                place,
            });
        }
        Ok(Server {
            private_key,
            listen_port: interface.listen_port,
            mtu: interface.mtu,
            endpoint: None,
            dns_servers: Vec::<IpAddr>::new(),
            addresses: interface.addresses,
            peers,
            forwards: Vec::new(),
            notes: self.notes,
        })
    }
}

fn peer_field(
    peer: &mut PeerSection,
    place: &Place<'_>,
    text: &str,
    notes: &mut Vec<String>,
) -> Result<(), ImportError> {
    match place.field.to_ascii_lowercase().as_str() {
        "publickey" => peer.public_key = Some(value(text, place, KEY)?),
        "presharedkey" => peer.preshared_key = preshared_key(text, place)?,
        "allowedips" => {
            for part in parts(text) {
                peer.allowed_ips.push((prefix(part, place)?, place.to_string()));
            }
        }
        "endpoint" => notes.push(format!(
            "{place} is left out: a gateway waits for its devices; this one has to connect by itself, with a `PersistentKeepalive`"
        )),
        "persistentkeepalive" => {}
        _ => return Err(unknown(place, "[Peer]")),
    }
    Ok(())
}

fn unknown(place: &Place<'_>, section: &str) -> ImportError {
    ImportError::new(
        place,
        format!("WireGuard knows no such key in `{section}`"),
        "remove the line if it does nothing; other protocols, such as AmneziaWG, cannot be taken over",
    )
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// `NAME KEY TIME ADDRESS` on each line.
fn client_names(text: &str) -> BTreeMap<PublicKey, String> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let key = words.next()?.parse().ok()?;
        Some((key, name))
    };
    text.lines().filter_map(line).collect()
}

impl Comment {
    /// The forms in which programs and people write a peer's name.
    fn read(text: &str) -> Option<Self> {
        let text = text.trim().trim_matches('#').trim();
        let first_word = |text: &str| text.split_whitespace().next().map(str::to_owned);
        let lower = text.to_ascii_lowercase();
        let after = |length: usize| text.get(length..).unwrap_or_default().trim();
        if lower.starts_with("begin ") {
            return first_word(after(6)).map(Self::Name);
        }
        if lower.starts_with("end ") {
            return None;
        }
        // wg-easy writes the client's id behind its name.
        if lower.starts_with("client:") {
            let name = after(7)
                .rsplit_once(" (")
                .map_or(after(7), |(name, _)| name);
            return Some(Self::Name(name.trim().to_owned()));
        }
        for key in ["friendly_name", "name", "client", "peer", "device"] {
            let Some(rest) = lower.strip_prefix(key) else {
                continue;
            };
            let rest = rest.trim_start();
            let start = text.len() - rest.len();
            if let Some(sign) = rest.chars().next().filter(|sign| matches!(sign, '=' | ':')) {
                return Some(Self::Name(after(start + sign.len_utf8()).to_owned()));
            }
            if key == "client" && rest.len() < lower.len() - key.len() {
                return Some(Self::Name(after(start).to_owned()));
            }
        }
        // A field that was switched off is no name.
        (!text.is_empty() && text.len() <= 63 && !text.contains('='))
            .then(|| Self::Text(text.to_owned()))
    }
}
