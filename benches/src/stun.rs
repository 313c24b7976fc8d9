//! The few messages of STUN and TURN (RFC 8489, RFC 8656) that a client of the load needs, written down a second time:
//! the generator shares no code with the server that it measures.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, bail};
use aws_lc_rs::hmac;
use md5::{Digest as _, Md5};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER_BYTES: usize = 20;
/// A message's integrity: type, length, HMAC-SHA1.
const INTEGRITY_BYTES: usize = 24;
/// RFC 8656 section 14: the number of UDP among the protocols of IP.
const UDP: u8 = 17;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const CHANNEL_NUMBER: u16 = 0x000c;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_TRANSPORT: u16 = 0x0019;

/// What ties an answer to its request.
pub type Transaction = [u8; 12];

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To be told its address.
    Binding,
    /// A relayed UDP address.
    Allocate,
    /// The same for longer.
    Refresh,
    /// Short headers to and from a peer.
    ChannelBind {
        /// The channel's number.
        channel: u16,
        /// Where it leads.
        peer: SocketAddrV4,
    },
}

impl Request {
    fn method(self) -> u16 {
        match self {
            Self::Binding => 0x001,
            Self::Allocate => 0x003,
            Self::Refresh => 0x004,
            Self::ChannelBind { .. } => 0x009,
        }
    }

    /// The message; what is signed goes with a login.
    pub fn write(self, transaction: Transaction, login: Option<&Login>) -> Vec<u8> {
        let mut message = Vec::with_capacity(256);
        // Bits of the method and of the class, of which a request's are 0, alternate above the lowest four; the
        // methods here have no others.
        message.extend(self.method().to_be_bytes());
        message.extend([0, 0]);
        message.extend(COOKIE);
        message.extend(transaction);
        match self {
            Self::Binding | Self::Refresh => {}
            Self::Allocate => put(&mut message, REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]),
            Self::ChannelBind { channel, peer } => {
                let [high, low] = channel.to_be_bytes();
                put(&mut message, CHANNEL_NUMBER, &[high, low, 0, 0]);
                put(&mut message, XOR_PEER_ADDRESS, &xor_address(peer));
            }
        }
        if let Some(login) = login {
            put(&mut message, USERNAME, login.user.as_bytes());
            put(&mut message, REALM, &login.realm);
            put(&mut message, NONCE, &login.nonce);
            // The HMAC is of all before it, and of a length that counts it in (RFC 8489 section 14.5).
            set_length(&mut message, INTEGRITY_BYTES);
            let signature = hmac::sign(&login.key, &message);
            put(&mut message, MESSAGE_INTEGRITY, signature.as_ref());
        }
        set_length(&mut message, 0);
        message
    }
}

/// The length of what follows the header, and of so much that is still to come.
fn set_length(message: &mut [u8], further: usize) {
    let length = u16::try_from(message.len() - HEADER_BYTES + further).unwrap_or(u16::MAX);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// IPv4 only. Masks the address with the cookie, or takes the mask off.
fn xor_address(address: SocketAddrV4) -> [u8; 8] {
    let [c0, c1, c2, c3] = COOKIE;
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [0, 1, high ^ c0, low ^ c1, a ^ c0, b ^ c1, c ^ c2, d ^ c3]
}

/// A user of the server.
#[derive(Clone, Debug)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

/// What a user signs requests with once the server has refused the first one (RFC 8489 section 9.2).
#[derive(Clone, Debug)]
pub struct Login {
    user: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: hmac::Key,
}

impl Login {
    /// From an answer 401 or 438.
    pub fn new(user: &User, refusal: &Answer<'_>) -> Result<Self> {
        let realm = refusal.attribute(REALM).context("a refusal without a realm")?;
        let nonce = refusal.attribute(NONCE).context("a refusal without a nonce")?;
        let mut key = Md5::new();
        key.update(&user.name);
        key.update(":");
        key.update(realm);
        key.update(":");
        key.update(&user.password);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key.finalize());
        Ok(Self { user: user.name.clone(), realm: realm.to_vec(), nonce: nonce.to_vec(), key })
    }
}

/// A client's side of its requests to one server.
#[derive(Debug)]
pub struct Conversation {
    user: User,
    login: Option<Login>,
    transactions: u32,
}

/// What an answer means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success, with the relayed address if there is one in it.
    Success(Option<SocketAddr>),
    /// It is to be asked again, as a user that has logged in.
    Again,
}

impl Conversation {
    /// With nothing said yet.
    pub fn new(user: User) -> Self {
        Self { user, login: None, transactions: 0 }
    }

    /// The next message, and what its answer has in common with it.
    pub fn ask(&mut self, request: Request) -> (Transaction, Vec<u8>) {
        self.transactions += 1;
        let mut transaction = Transaction::default();
        if let Some((_, number)) = transaction.split_last_chunk_mut() {
            *number = self.transactions.to_be_bytes();
        }
        (transaction, request.write(transaction, self.login.as_ref()))
    }

    /// Takes the answer.
    ///
    /// # Errors
    /// When the server refuses the request for good.
    pub fn take(&mut self, answer: &Answer<'_>) -> Result<Outcome> {
        match answer.error() {
            None => Ok(Outcome::Success(answer.relayed_address())),
            Some(401 | 438) => {
                self.login = Some(Login::new(&self.user, answer)?);
                Ok(Outcome::Again)
            }
            Some(error) => bail!("the server answers {error}"),
        }
    }
}

/// What a server answers.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// That of the request.
    pub transaction: Transaction,
    is_success: bool,
    attributes: &'a [u8],
}

impl<'a> Answer<'a> {
    /// None if it is no answer of STUN.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, attributes) = datagram.split_at_checked(HEADER_BYTES)?;
        let [kind_high, kind_low, ..] = *header else { return None };
        // The class: 0x0100 success, 0x0110 error.
        let class = u16::from_be_bytes([kind_high, kind_low]) & 0x0110;
        if header.get(4..8)? != COOKIE || class & 0x0100 == 0 || kind_high >> 6 != 0 {
            return None;
        }
        Some(Self { transaction: header.get(8..)?.try_into().ok()?, is_success: class == 0x0100, attributes })
    }

    /// None of a success, otherwise the error's number, 0 if it has none.
    pub fn error(&self) -> Option<u16> {
        let code = || {
            let value = self.attribute(ERROR_CODE)?;
            Some(u16::from(*value.get(2)? & 7) * 100 + u16::from(*value.get(3)?))
        };
        (!self.is_success).then(|| code().unwrap_or(0))
    }

    /// The address that an Allocate was for.
    pub fn relayed_address(&self) -> Option<SocketAddr> {
        let &[_, 1, high, low, a, b, c, d] = self.attribute(XOR_RELAYED_ADDRESS)? else { return None };
        let masked = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
        let [_, _, high, low, a, b, c, d] = xor_address(masked);
        Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
    }

    fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut rest = self.attributes;
        while let [k0, k1, l0, l1, after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            if u16::from_be_bytes([*k0, *k1]) == wanted {
                return after.get(..length);
            }
            rest = after.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}

/// The header of ChannelData (RFC 8656 section 12.4). Over UDP nothing is padded.
pub fn channel_header(channel: u16, length: usize) -> [u8; 4] {
    let [c0, c1] = channel.to_be_bytes();
    let [l0, l1] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [c0, c1, l0, l1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 section 2.4: a request with long-term credentials, up to the attribute's order.
    #[test]
    fn the_key_and_the_signature_are_those_of_the_rfc() {
        let sample = b"\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
            \x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00\
            \x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\
            \x00\x14\x00\x0bexample.org\x00\
            \x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66";
        let (signed, signature) = sample.split_at(sample.len() - INTEGRITY_BYTES);
        let user = User {
            name: "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}".into(),
            password: "TheMatrIX".into(),
        };
        let mut refusal = b"\x01\x11\x00\x00".to_vec();
        refusal.extend(COOKIE);
        refusal.extend([0; 12]);
        put(&mut refusal, REALM, b"example.org");
        put(&mut refusal, NONCE, b"f//499k954d6OL34oL9FSTvy64sA");
        let login = Login::new(&user, &Answer::parse(&refusal).unwrap()).unwrap();
        assert_eq!(hmac::sign(&login.key, signed).as_ref(), &signature[4..]);

        // Its USERNAME, NONCE, REALM are ours in another order, hence the same length.
        let transaction = *b"\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e";
        let written = Request::Binding.write(transaction, Some(&login));
        assert_eq!(written.len(), sample.len());
        assert_eq!(written[..20], sample[..20]);
    }

    /// RFC 5769 section 2.2: a response whose address is 192.0.2.1:32853.
    #[test]
    fn addresses_are_masked_as_in_the_rfc() {
        let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 32_853);
        assert_eq!(xor_address(address), *b"\x00\x01\xa1\x47\xe1\x12\xa6\x43");
    }

    #[test]
    fn answers_of_any_length_are_read_without_a_panic() {
        let mut message = b"\x01\x13\x00\x00".to_vec();
        message.extend(COOKIE);
        message.extend([7; 12]);
        put(&mut message, ERROR_CODE, b"\x00\x00\x04\x01Unauthorized");
        put(&mut message, XOR_RELAYED_ADDRESS, b"\x00\x01\xa1\x47\xe1\x12\xa6\x43");
        for length in 0..message.len() {
            if let Some(answer) = Answer::parse(&message[..length]) {
                let _ = (answer.error(), answer.relayed_address());
            }
        }
        let answer = Answer::parse(&message).unwrap();
        assert_eq!(answer.error(), Some(401));
        assert_eq!(answer.relayed_address(), Some("192.0.2.1:32853".parse().unwrap()));
    }
}
