//! As much of a TURN client as it takes to see whether a relay works (RFC 8656).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout_at;
use zynk_turn_core::stun::attribute::{
    DATA, ERROR_CODE, LIFETIME, NONCE, REALM, REQUESTED_TRANSPORT, USERNAME, XOR_MAPPED_ADDRESS,
    XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS,
};
use zynk_turn_core::stun::{Class, IntegrityKey, Message, Method, PasswordAlgorithm, TransactionId, Writer};

use super::link::{Link, LinkError, STEP_TIMEOUT};

/// UDP as IP numbers it.
const PROTOCOL_UDP: u8 = 17;

/// How long the allocation lasts if it is not ended, in seconds.
const LIFETIME_S: u32 = 60;

/// Data from peers that waits to be read; what comes on top is dropped.
const DATA_MAX: usize = 16;

/// What a relay takes.
#[derive(Clone, Debug)]
pub(super) struct RelayCredentials {
    pub(super) username: String,
    pub(super) credential: SecretString,
}

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnFailure {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The relay refused with this code.
    #[error("the relay refused with {0}")]
    Refused(u16),
    /// The answer makes no sense.
    #[error("the relay's answer lacks {0}")]
    Malformed(&'static str),
}

/// What goes with each request once the relay has asked for it.
struct Authentication {
    username: String,
    realm: String,
    nonce: Vec<u8>,
    key: IntegrityKey,
}

/// One client with at most one allocation.
pub(super) struct TurnClient {
    link: Link,
    authentication: Option<Authentication>,
    received: VecDeque<(SocketAddr, Vec<u8>)>,
}

/// An answer, read.
struct Answer {
    bytes: Vec<u8>,
    took: Duration,
}

impl Answer {
    fn address(&self, kind: u16, name: &'static str) -> Result<SocketAddr, TurnFailure> {
        let message = Message::parse(&self.bytes).ok();
        message.and_then(|message| message.xor_address(kind)).ok_or(TurnFailure::Malformed(name))
    }
}

impl TurnClient {
    pub(super) fn new(link: Link) -> Self {
        Self { link, authentication: None, received: VecDeque::new() }
    }

    /// Our own address, where the socket is bound to one.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.link.local()
    }

    /// Where the relay sees us, and how long it took.
    pub(super) async fn bind(&mut self) -> Result<(SocketAddr, Duration), TurnFailure> {
        let answer = self.request(Method::Binding, |writer| writer).await?;
        Ok((answer.address(XOR_MAPPED_ADDRESS, "the mapped address")?, answer.took))
    }

    /// Asks for an allocation without credentials. What should come is 401, which says what credentials are for.
    pub(super) async fn is_open_to_everybody(&mut self) -> Result<bool, TurnFailure> {
        match self.request(Method::Allocate, allocate_attributes).await {
            Ok(_) => Ok(true),
            Err(TurnFailure::Refused(401)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Asks for an allocation with credentials: the relayed address, and how long it took.
    pub(super) async fn allocate(
        &mut self,
        credentials: &RelayCredentials,
    ) -> Result<(SocketAddr, Duration), TurnFailure> {
        if let Some(authentication) = &mut self.authentication {
            let RelayCredentials { username, credential } = credentials;
            let (realm, password) = (&authentication.realm, credential.expose_secret());
            authentication.key = IntegrityKey::long_term(PasswordAlgorithm::Md5, username, realm, password);
            authentication.username.clone_from(username);
        }
        let answer = self.request(Method::Allocate, allocate_attributes).await?;
        Ok((answer.address(XOR_RELAYED_ADDRESS, "the relayed address")?, answer.took))
    }

    /// Lets a peer's address in and out.
    pub(super) async fn permit(&mut self, peer: SocketAddr) -> Result<(), TurnFailure> {
        let permit =
            self.request(Method::CreatePermission, |writer| writer.xor_address(XOR_PEER_ADDRESS, peer));
        permit.await.map(drop)
    }

    /// Sends data to a peer. Nobody says whether it gets there.
    pub(super) async fn send(&mut self, peer: SocketAddr, data: &[u8]) -> Result<(), TurnFailure> {
        let mut indication = Vec::new();
        Writer::new(&mut indication, Class::Indication, Method::Send, &rand::random())
            .xor_address(XOR_PEER_ADDRESS, peer)
            .attribute(DATA, data);
        Ok(self.link.send(&indication).await.map_err(LinkError::from)?)
    }

    /// The next data of a peer.
    pub(super) async fn receive(&mut self, until: Instant) -> Result<(SocketAddr, Vec<u8>), TurnFailure> {
        loop {
            if let Some(data) = self.received.pop_front() {
                return Ok(data);
            }
            let message = timeout_at(until.into(), self.link.receive()).await;
            let message = message.map_err(|_| LinkError::Silent)?.map_err(LinkError::from)?;
            self.keep_data(&message);
        }
    }

    /// Ends the allocation. That the relay notices is good, but not needed.
    pub(super) async fn release(mut self) {
        let mut refresh = Vec::new();
        self.write(&mut refresh, Method::Refresh, &rand::random(), &|writer| writer.number(LIFETIME, 0));
        let _ = self.link.send(&refresh).await;
    }

    /// Sends a request until it is answered; anew if the relay wants a newer nonce.
    async fn request(
        &mut self,
        method: Method,
        add: impl Fn(Writer<'_>) -> Writer<'_>,
    ) -> Result<Answer, TurnFailure> {
        match self.request_once(method, &add).await {
            Err(TurnFailure::Refused(438)) => self.request_once(method, &add).await,
            other => other,
        }
    }

    async fn request_once(
        &mut self,
        method: Method,
        add: &impl Fn(Writer<'_>) -> Writer<'_>,
    ) -> Result<Answer, TurnFailure> {
        let transaction: TransactionId = rand::random();
        let mut request = Vec::new();
        self.write(&mut request, method, &transaction, add);
        let Self { link, authentication, received } = self;
        let key = authentication.as_ref().map(|authentication| &authentication.key);
        let accept = |bytes: &[u8]| {
            keep_data(received, bytes);
            let message = Message::parse(bytes).ok()?;
            let is_answer = matches!(message.class(), Class::Success | Class::Error);
            if !is_answer || message.transaction() != &transaction {
                return None;
            }
            // Who does not know the password cannot say that all is well.
            let is_proven = message.class() == Class::Error
                || method == Method::Binding
                || key.is_none_or(|key| message.is_signed_with(key));
            is_proven.then(|| bytes.to_vec())
        };
        let (bytes, took) = link.exchange(&request, accept).await?;
        let message = Message::parse(&bytes).map_err(|_| TurnFailure::Malformed("its end"))?;
        if message.class() == Class::Success {
            return Ok(Answer { bytes, took });
        }
        self.note_challenge(&message);
        Err(error_code(&message).map_or(TurnFailure::Malformed("the error's code"), TurnFailure::Refused))
    }

    fn write(
        &self,
        request: &mut Vec<u8>,
        method: Method,
        transaction: &TransactionId,
        add: &impl Fn(Writer<'_>) -> Writer<'_>,
    ) {
        let writer = add(Writer::new(request, Class::Request, method, transaction));
        let Some(Authentication { username, realm, nonce, key }) = &self.authentication else { return };
        if method != Method::Binding && !username.is_empty() {
            writer
                .attribute(USERNAME, username.as_bytes())
                .attribute(REALM, realm.as_bytes())
                .attribute(NONCE, nonce)
                .sign_sha1(key);
        }
    }

    /// What 401 and 438 say of how to come again.
    fn note_challenge(&mut self, message: &Message<'_>) {
        let Some(nonce) = message.attribute(NONCE).map(<[u8]>::to_vec) else { return };
        match (&mut self.authentication, message.text(REALM)) {
            (Some(authentication), _) => authentication.nonce = nonce,
            (None, Some(realm)) => {
                // Without a user name, requests go on without credentials.
                let key = IntegrityKey::long_term(PasswordAlgorithm::Md5, "", realm, "");
                let realm = realm.to_owned();
                self.authentication = Some(Authentication { username: String::new(), realm, nonce, key });
            }
            (None, None) => {}
        }
    }

    fn keep_data(&mut self, bytes: &[u8]) {
        keep_data(&mut self.received, bytes);
    }
}

/// How long an exchange through a relay may take at most.
pub(super) fn step_end() -> Instant {
    Instant::now() + STEP_TIMEOUT
}

fn keep_data(received: &mut VecDeque<(SocketAddr, Vec<u8>)>, bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else { return };
    let is_data = message.class() == Class::Indication && message.method() == Some(Method::Data);
    let found = (message.xor_address(XOR_PEER_ADDRESS), message.attribute(DATA));
    if let (true, (Some(peer), Some(data))) = (is_data && received.len() < DATA_MAX, found) {
        received.push_back((peer, data.to_vec()));
    }
}

fn allocate_attributes(writer: Writer<'_>) -> Writer<'_> {
    writer.attribute(REQUESTED_TRANSPORT, &[PROTOCOL_UDP, 0, 0, 0]).number(LIFETIME, LIFETIME_S)
}

/// RFC 8489, section 14.8.
fn error_code(message: &Message<'_>) -> Option<u16> {
    let [_, _, hundreds, rest, ..] = message.attribute(ERROR_CODE)? else { return None };
    Some(u16::from(hundreds & 7) * 100 + u16::from(*rest))
}
