//! The four kinds of messages between peers, as bytes.

pub(crate) const INITIATION_LEN: usize = 148;
pub(crate) const RESPONSE_LEN: usize = 92;
pub(crate) const COOKIE_REPLY_LEN: usize = 64;
/// Type, receiver's index and counter before a sealed packet.
pub(crate) const HEADER_LEN: usize = 16;
pub(crate) const TAG_LEN: usize = 16;
/// Both MACs at the end of a handshake message.
pub(crate) const MACS_LEN: usize = 32;

const INITIATION: u32 = 1;
const RESPONSE: u32 = 2;
const COOKIE_REPLY: u32 = 3;
const TRANSPORT: u32 = 4;

pub(crate) type Initiation = [u8; INITIATION_LEN];
pub(crate) type Response = [u8; RESPONSE_LEN];
pub(crate) type CookieReply = [u8; COOKIE_REPLY_LEN];

/// What a datagram claims to be. Nothing of it is authenticated yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Initiation(&'a Initiation),
    Response(&'a Response),
    CookieReply(&'a CookieReply),
    Transport { receiver: u32, counter: u64 },
}

impl<'a> Message<'a> {
    /// None for what is no message: other lengths and other types.
    #[inline]
    pub(crate) fn read(datagram: &'a [u8]) -> Option<Self> {
        let kind = u32_at(datagram, 0)?;
        match kind {
            TRANSPORT if datagram.len() >= HEADER_LEN + TAG_LEN => Some(Self::Transport {
                receiver: u32_at(datagram, 4)?,
                counter: u64::from_le_bytes(array(datagram, 8)?),
            }),
            INITIATION => datagram.try_into().ok().map(Self::Initiation),
            RESPONSE => datagram.try_into().ok().map(Self::Response),
            COOKIE_REPLY => datagram.try_into().ok().map(Self::CookieReply),
            _ => None,
        }
    }
}

/// The header of a transport message.
#[inline]
pub(crate) fn write_header(header: &mut [u8; HEADER_LEN], receiver: u32, counter: u64) {
    header[..4].copy_from_slice(&TRANSPORT.to_le_bytes());
    header[4..8].copy_from_slice(&receiver.to_le_bytes());
    header[8..].copy_from_slice(&counter.to_le_bytes());
}

/// An initiation without its MACs.
pub(crate) fn initiation(sender: u32, noise: &[u8; 108]) -> Initiation {
    let mut message = [0; INITIATION_LEN];
    message[..4].copy_from_slice(&INITIATION.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..116].copy_from_slice(noise);
    message
}

/// A response without its MACs.
pub(crate) fn response(sender: u32, receiver: u32, noise: &[u8; 48]) -> Response {
    let mut message = [0; RESPONSE_LEN];
    message[..4].copy_from_slice(&RESPONSE.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..12].copy_from_slice(&receiver.to_le_bytes());
    message[12..60].copy_from_slice(noise);
    message
}

pub(crate) fn cookie_reply(receiver: u32, nonce: &[u8; 24], sealed: &[u8; 32]) -> CookieReply {
    let mut message = [0; COOKIE_REPLY_LEN];
    message[..4].copy_from_slice(&COOKIE_REPLY.to_le_bytes());
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    message[8..32].copy_from_slice(nonce);
    message[32..].copy_from_slice(sealed);
    message
}

/// The index that the sender of a handshake message or the addressee of a cookie reply goes by.
pub(crate) fn first_index<const LEN: usize>(message: &[u8; LEN]) -> u32 {
    u32_at(message, 4).unwrap_or_default()
}

/// The index in a response that says which initiation it answers.
pub(crate) fn response_receiver(message: &Response) -> u32 {
    u32_at(message, 8).unwrap_or_default()
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

#[inline]
fn array<const LEN: usize>(bytes: &[u8], at: usize) -> Option<[u8; LEN]> {
    bytes.get(at..at + LEN)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_lengths_are_messages() {
        let noise = [7; 108];
        let initiation = initiation(5, &noise);
        assert_eq!(
            Message::read(&initiation),
            Some(Message::Initiation(&initiation))
        );
        assert_eq!(Message::read(&initiation[..147]), None);
        let mut longer = initiation.to_vec();
        longer.push(0);
        assert_eq!(Message::read(&longer), None);
        let mut reserved = initiation;
        reserved[2] = 1;
        assert_eq!(Message::read(&reserved), None);
        let mut header = [0; HEADER_LEN];
        write_header(&mut header, 9, u64::MAX);
        let mut keepalive = header.to_vec();
        keepalive.resize(32, 0);
        let expected = Message::Transport {
            receiver: 9,
            counter: u64::MAX,
        };
        assert_eq!(Message::read(&keepalive), Some(expected));
        assert_eq!(Message::read(&keepalive[..31]), None);
        for length in 0..8 {
            assert_eq!(Message::read(&[0; 8][..length]), None);
        }
    }
}
