//! Answers to requests.

use std::time::Instant;

use super::TurnServer;
use crate::io::{FiveTuple, Transport};
use crate::outbox::Route;
use crate::stun::attribute::{
    ALTERNATE_SERVER, CHANNEL_NUMBER, LIFETIME, NONCE, PASSWORD_ALGORITHMS, REALM, UNKNOWN_ATTRIBUTES,
    XOR_MAPPED_ADDRESS,
};
use crate::stun::{Class, ErrorCode, IntegrityKey, IntegrityKind, Message, Writer, attribute};

/// Attributes that must be understood and are. Which of them a request should have is its method's to say; what
/// another method's attribute says is ignored.
pub(super) const UNDERSTOOD: [u16; 19] = [
    attribute::USERNAME,
    attribute::MESSAGE_INTEGRITY,
    attribute::MESSAGE_INTEGRITY_SHA256,
    attribute::PASSWORD_ALGORITHM,
    attribute::ERROR_CODE,
    UNKNOWN_ATTRIBUTES,
    REALM,
    NONCE,
    XOR_MAPPED_ADDRESS,
    CHANNEL_NUMBER,
    LIFETIME,
    attribute::XOR_PEER_ADDRESS,
    attribute::DATA,
    attribute::REQUESTED_ADDRESS_FAMILY,
    attribute::EVEN_PORT,
    attribute::REQUESTED_TRANSPORT,
    attribute::DONT_FRAGMENT,
    attribute::RESERVATION_TOKEN,
    attribute::CONNECTION_ID,
];

/// MD5 and SHA-256 without parameters, the stronger first (RFC 8489, section 14.11).
pub(super) const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// A request and who sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) message: Message<'a>,
    pub(super) five_tuple: FiveTuple,
    pub(super) now: Instant,
}

/// A request whose sender is known.
#[derive(Clone, Debug)]
pub(super) struct Proven<'a> {
    pub(super) request: Request<'a>,
    pub(super) username: &'a str,
    pub(super) key: IntegrityKey,
    pub(super) integrity: IntegrityKind,
}

impl TurnServer {
    /// Answers a Binding request (RFC 8489, section 3): anybody's, so that it is throttled as well.
    pub(super) fn handle_binding(&mut self, request: &Request<'_>) {
        self.stats.binding_requests += 1;
        if !self.may_answer(request) || self.refuse_unknown(request, None) {
            return;
        }
        let client = request.five_tuple.client;
        self.answer(request, Class::Success, None, |writer| writer.xor_address(XOR_MAPPED_ADDRESS, client));
    }

    /// Answers 401 or 438 with a nonce, unless the address had too many answers.
    pub(super) fn challenge(&mut self, request: &Request<'_>, code: ErrorCode) {
        if self.may_answer(request) {
            self.send_challenge(request, code);
        }
    }

    /// Asks for credentials, or for a new nonce, however many answers the address has had.
    pub(super) fn send_challenge(&mut self, request: &Request<'_>, code: ErrorCode) {
        self.stats.challenges += 1;
        let nonce = self.nonces.make(self.unix_s(request.now), request.five_tuple.client);
        let realm = std::mem::take(&mut self.config.realm);
        self.answer(request, Class::Error, None, |writer| {
            writer
                .error(code)
                .attribute(REALM, realm.as_bytes())
                .attribute(NONCE, &nonce)
                .attribute(PASSWORD_ALGORITHMS, &ALGORITHMS)
        });
        self.config.realm = realm;
    }

    /// Refuses a request of somebody unknown, unless the address had too many answers.
    pub(super) fn refuse_unproven(&mut self, request: &Request<'_>, code: ErrorCode) {
        if self.may_answer(request) {
            self.answer(request, Class::Error, None, |writer| writer.error(code));
        }
    }

    /// Refuses a request.
    pub(super) fn refuse(&mut self, proven: &Proven<'_>, code: ErrorCode) {
        self.answer(&proven.request, Class::Error, Some((&proven.key, proven.integrity)), |writer| {
            writer.error(code)
        });
    }

    /// Sends a client elsewhere (RFC 8489, section 10), or tells it that there is no room.
    pub(super) fn send_elsewhere(&mut self, proven: &Proven<'_>) {
        let is_v4 = proven.request.five_tuple.server.is_ipv4();
        // Where the other server takes TLS is not known: such clients have other URLs to try.
        let is_secure = matches!(proven.request.five_tuple.transport, Transport::Tls | Transport::Dtls);
        let fits = |server: &&std::net::SocketAddr| !is_secure && server.is_ipv4() == is_v4;
        let Some(server) = self.config.alternate_servers.iter().find(fits).copied() else {
            return self.refuse(proven, ErrorCode::InsufficientCapacity);
        };
        self.answer(&proven.request, Class::Error, Some((&proven.key, proven.integrity)), |writer| {
            writer.error(ErrorCode::TryAlternate).address(ALTERNATE_SERVER, server)
        });
    }

    /// Answers 420 if there is something in the request that must be understood and is not.
    pub(super) fn refuse_unknown(
        &mut self,
        request: &Request<'_>,
        signed: Option<(&IntegrityKey, IntegrityKind)>,
    ) -> bool {
        let mut list = [0; 16];
        let mut length = 0;
        for kind in request.message.unknown(&UNDERSTOOD) {
            if let Some(at) = list.get_mut(length..length + 2) {
                at.copy_from_slice(&kind.to_be_bytes());
                length += 2;
            }
        }
        if length == 0 {
            return false;
        }
        self.answer(request, Class::Error, signed, |writer| {
            writer
                .error(ErrorCode::UnknownAttribute)
                .attribute(UNKNOWN_ATTRIBUTES, list.get(..length).unwrap_or_default())
        });
        true
    }

    /// Answers with success.
    pub(super) fn succeed(
        &mut self,
        proven: &Proven<'_>,
        write: impl for<'b> FnOnce(Writer<'b>) -> Writer<'b>,
    ) {
        self.answer(&proven.request, Class::Success, Some((&proven.key, proven.integrity)), write);
    }

    /// Sends an answer, signed if a key is given, with a fingerprint if the request has one.
    fn answer(
        &mut self,
        request: &Request<'_>,
        class: Class,
        signed: Option<(&IntegrityKey, IntegrityKind)>,
        write: impl for<'b> FnOnce(Writer<'b>) -> Writer<'b>,
    ) {
        let Request { message, five_tuple, .. } = *request;
        let route = Route::Client { five_tuple, is_control: true };
        self.outbox.push_with(route, |buffer| {
            let mut writer = write(Writer::response(buffer, class, &message));
            if let Some((key, kind)) = signed {
                writer = writer.sign(kind, key);
            }
            if message.has_fingerprint() {
                writer.fingerprint();
            }
        });
    }

    fn may_answer(&mut self, request: &Request<'_>) -> bool {
        // Behind a stream or DTLS there is somebody who had to answer to get there.
        let is_forgeable = request.five_tuple.transport == Transport::Udp;
        let may = !is_forgeable || self.throttle.take(request.five_tuple.client, request.now);
        self.stats.throttled += u64::from(!may);
        may
    }
}
