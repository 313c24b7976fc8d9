//! STUN messages (RFC 8489) as TURN uses them (RFC 8656, RFC 6062, RFC 8016): read in place, written into a buffer.
//!
//! ```text
//!   0                   1                   2                   3
//!  |0 0|  class and method  |     length     |  magic cookie  |  transaction id (12)  |  attributes …
//!                                                                                       kind, length, value, padding
//! ```

pub mod attribute;
mod integrity;
mod parse;
mod write;

pub use attribute::AddressFamily;
pub(crate) use integrity::IntegrityKind;
pub use integrity::{IntegrityKey, PasswordAlgorithm};
pub use parse::{Message, ParseError};
pub use write::Writer;

/// Second word of every message (RFC 8489, section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_a442;

/// Bytes before the attributes.
pub const HEADER_BYTES: usize = 20;

/// What pairs a response with its request.
pub type TransactionId = [u8; 12];

/// What kind of message it is (RFC 8489, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wants a response.
    Request,
    /// Wants none.
    Indication,
    /// All is well.
    Success,
    /// It is not.
    Error,
}

/// What a message is about: the methods that a relay knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// RFC 8489, section 3.
    Binding = 0x001,
    /// RFC 8656, section 7.
    Allocate = 0x003,
    /// RFC 8656, section 8.
    Refresh = 0x004,
    /// RFC 8656, section 11.
    Send = 0x006,
    /// RFC 8656, section 11.
    Data = 0x007,
    /// RFC 8656, section 10.
    CreatePermission = 0x008,
    /// RFC 8656, section 12.
    ChannelBind = 0x009,
    /// RFC 6062, section 4.3.
    Connect = 0x00a,
    /// RFC 6062, section 4.4.
    ConnectionBind = 0x00b,
    /// RFC 6062, section 4.4.
    ConnectionAttempt = 0x00c,
}

impl Method {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0x001 => Self::Binding,
            0x003 => Self::Allocate,
            0x004 => Self::Refresh,
            0x006 => Self::Send,
            0x007 => Self::Data,
            0x008 => Self::CreatePermission,
            0x009 => Self::ChannelBind,
            0x00a => Self::Connect,
            0x00b => Self::ConnectionBind,
            0x00c => Self::ConnectionAttempt,
            _ => return None,
        })
    }
}

/// Why a request is refused (RFC 8489, section 14.8; RFC 8656, section 18.13; RFC 6062, section 6.3; RFC 8016,
/// section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// There is another server for it.
    TryAlternate = 300,
    /// The request makes no sense.
    BadRequest = 400,
    /// Credentials are missing or wrong.
    Unauthorized = 401,
    /// The peer is one that nobody may reach.
    Forbidden = 403,
    /// Mobility is not offered.
    MobilityForbidden = 405,
    /// It has an attribute that must be understood and is not.
    UnknownAttribute = 420,
    /// There is no allocation, or there is one already.
    AllocationMismatch = 437,
    /// The nonce is too old; the answer has a new one.
    StaleNonce = 438,
    /// Addresses of this family are not relayed.
    AddressFamilyNotSupported = 440,
    /// The allocation is another user's.
    WrongCredentials = 441,
    /// This transport is not relayed.
    UnsupportedTransport = 442,
    /// The peer's address is of another family than the relayed one.
    PeerAddressFamilyMismatch = 443,
    /// There is a connection to this peer already.
    ConnectionAlreadyExists = 446,
    /// The peer does not answer.
    ConnectionTimeoutOrFailure = 447,
    /// The user has as much as anybody may have.
    AllocationQuotaReached = 486,
    /// The server failed.
    ServerError = 500,
    /// There is no room.
    InsufficientCapacity = 508,
}

/// Splits the first two bytes of a message into class and method's number (RFC 8489, section 5: the bits of both are
/// interleaved).
fn split_type(bits: u16) -> (Class, u16) {
    let class = match (bits >> 7 & 2) | (bits >> 4 & 1) {
        0 => Class::Request,
        1 => Class::Indication,
        2 => Class::Success,
        _ => Class::Error,
    };
    (class, (bits & 0x000f) | (bits & 0x00e0) >> 1 | (bits & 0x3e00) >> 2)
}

fn join_type(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x0000,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    let method = method as u16;
    class | (method & 0x000f) | (method & 0x0070) << 1 | (method & 0x0f80) << 2
}

#[cfg(test)]
mod tests;
