//! The message ClientHello (RFC 8446 §4.1.2) and the two extensions that say where to.

use super::{TlsError, host_name};
use crate::octets::Octets;

/// The type and the length of a handshake message (RFC 8446 §4).
pub(crate) const HEADER: usize = 4;

pub(super) const CLIENT_HELLO: u8 = 1;
const RANDOM: usize = 32;
const SESSION_ID: usize = 32;

const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const PROTOCOL_NEGOTIATION: u16 = 16;

/// What a client says before it knows with whom it talks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host's name in lower case, without a dot at the end (RFC 6066 §3).
    pub server_name: Option<String>,
    /// What it would speak inside, the best first (RFC 7301 §3.1).
    pub protocols: Vec<Vec<u8>>,
}

impl ClientHello {
    /// Reads a whole handshake message, header included.
    pub fn read(message: &[u8]) -> Result<Self, TlsError> {
        let mut cursor = Octets::new(message);
        let kind = cursor.take_u8().ok_or(TlsError::Malformed("it is empty"))?;
        if kind != CLIENT_HELLO {
            return Err(TlsError::NotClientHello);
        }
        let length = cursor.take_u24();
        if length.and_then(|length| usize::try_from(length).ok()) != Some(cursor.rest().len()) {
            return Err(TlsError::Malformed("another length than it says"));
        }
        let fields = fields(&mut cursor).ok_or(TlsError::Malformed("its fields are cut off"))?;
        if fields.session_id > SESSION_ID {
            return Err(TlsError::Malformed("the session id is too long"));
        }
        if fields.cipher_suites < 2 || fields.cipher_suites % 2 == 1 || fields.compressions == 0 {
            return Err(TlsError::Malformed("nothing to choose from"));
        }
        let mut hello = Self::default();
        if cursor.is_empty() {
            // TLS 1.2 and older may come without (RFC 5246 §7.4.1.2).
            return Ok(hello);
        }
        let mut extensions = cursor
            .take_vector16()
            .filter(|_| cursor.is_empty())
            .ok_or(TlsError::Malformed("the extensions are cut off"))?;
        let twice = TlsError::Malformed("an extension comes twice");
        while !extensions.is_empty() {
            let kind = extensions.take_u16();
            let (Some(kind), Some(content)) = (kind, extensions.take_vector16()) else {
                return Err(TlsError::Malformed("an extension is cut off"));
            };
            match kind {
                SERVER_NAME if hello.server_name.is_some() => return Err(twice),
                SERVER_NAME => hello.server_name = Some(server_name(content)?),
                PROTOCOL_NEGOTIATION if !hello.protocols.is_empty() => return Err(twice),
                PROTOCOL_NEGOTIATION => {
                    hello.protocols = protocols(content)
                        .ok_or(TlsError::Malformed("the list of protocols is malformed"))?;
                }
                _ => {}
            }
        }
        Ok(hello)
    }
}

/// The lengths of what comes before the extensions.
struct Fields {
    session_id: usize,
    cipher_suites: usize,
    compressions: usize,
}

fn fields(cursor: &mut Octets<'_>) -> Option<Fields> {
    let _version = cursor.take_u16()?;
    cursor.take_slice(RANDOM)?;
    Some(Fields {
        session_id: cursor.take_vector8()?.rest().len(),
        cipher_suites: cursor.take_vector16()?.rest().len(),
        compressions: cursor.take_vector8()?.rest().len(),
    })
}

/// RFC 6066 §3: a list with at most one name of each type.
fn server_name(mut content: Octets<'_>) -> Result<String, TlsError> {
    let malformed = TlsError::Malformed("the server name is malformed");
    let mut list = content.take_vector16().ok_or(malformed)?;
    let mut name = None;
    while !list.is_empty() {
        let kind = list.take_u8().ok_or(malformed)?;
        let entry = list.take_vector16().ok_or(malformed)?;
        if kind == HOST_NAME {
            let host = host_name(entry.rest()).ok_or(malformed)?;
            if name.replace(host).is_some() {
                return Err(malformed);
            }
        }
    }
    name.filter(|_| content.is_empty()).ok_or(malformed)
}

fn protocols(mut content: Octets<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = content.take_vector16().filter(|_| content.is_empty())?;
    let mut names = Vec::new();
    while !list.is_empty() {
        let name = list.take_vector8().filter(|name| !name.is_empty())?;
        names.push(name.rest().to_vec());
    }
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ClientHello with these names, protocols, and so many bytes of a key share.
    pub(crate) fn hello(names: &[&[u8]], protocols: &[&[u8]], share: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        if !names.is_empty() {
            let list: Vec<u8> = names
                .iter()
                .flat_map(|name| [&[HOST_NAME][..], &vector16(name)].concat())
                .collect();
            extensions.extend(SERVER_NAME.to_be_bytes());
            extensions.extend(vector16(&vector16(&list)));
        }
        // X25519MLKEM768 has a share of 1216 bytes.
        extensions.extend(51_u16.to_be_bytes());
        let share = [&0x11ec_u16.to_be_bytes()[..], &vector16(&vec![7; share])].concat();
        extensions.extend(vector16(&vector16(&share)));
        if !protocols.is_empty() {
            let list: Vec<u8> = protocols
                .iter()
                .flat_map(|name| [&[name.len() as u8][..], name].concat())
                .collect();
            extensions.extend(PROTOCOL_NEGOTIATION.to_be_bytes());
            extensions.extend(vector16(&vector16(&list)));
        }
        let mut body = vec![3, 3];
        body.extend([9; RANDOM]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(vector16(&extensions));
        message(&body)
    }

    pub(crate) fn message(body: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO][..], &length, body].concat()
    }

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    #[test]
    fn name_and_protocols_are_read() {
        let read = ClientHello::read(&hello(&[b"Blog.example.org"], &[b"h2", b"http/1.1"], 1216));
        let expected = ClientHello {
            server_name: Some("blog.example.org".into()),
            protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        assert_eq!(read, Ok(expected));
        assert_eq!(
            ClientHello::read(&hello(&[], &[], 32)),
            Ok(ClientHello::default())
        );
    }

    #[test]
    fn a_client_without_extensions_is_heard() {
        let mut body = vec![3, 1];
        body.extend([9; RANDOM]);
        body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
        assert_eq!(
            ClientHello::read(&message(&body)),
            Ok(ClientHello::default())
        );
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        assert!(ClientHello::read(&hello(&[b"a.example", b"b.example"], &[], 32)).is_err());
        assert!(ClientHello::read(&hello(&[b"a\0.example"], &[], 32)).is_err());
        assert!(ClientHello::read(&hello(&[b""], &[], 32)).is_err());
        let mut message = hello(&[b"a.example"], &[], 32);
        message[0] = 2;
        assert_eq!(ClientHello::read(&message), Err(TlsError::NotClientHello));
    }

    #[test]
    fn one_that_is_cut_off_anywhere_is_refused() {
        let whole = hello(&[b"a.example"], &[b"h2"], 32);
        let body = &whole[HEADER..];
        // Without any extension it is whole again.
        let without = 2 + RANDOM + 7;
        for end in (0..body.len()).filter(|end| *end != without) {
            assert!(ClientHello::read(&message(&body[..end])).is_err(), "{end}");
            assert!(ClientHello::read(&whole[..end]).is_err(), "{end}");
        }
    }
}
