//! Clients over DTLS.
//!
//! A client is forgotten until it has shown the cookie that it was sent, and so that it is where it says ([`cookie`]).
//! Handshakes that are not over are few all the same, and the oldest makes room for the newest.

mod cookie;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use zynk_turn_core::{FiveTuple, Transport};

use cookie::{Cookies, FIRST_HELLO, Hello, Proof};

/// Clients that have not finished their handshakes. When there are more, the oldest is forgotten.
const HANDSHAKES_MAX: usize = 256;

/// Of those, from one IPv4 address or IPv6 /64 network. Further ones are not answered.
const HANDSHAKES_PER_SOURCE_MAX: usize = 32;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may be silent. Clients refresh their permissions every five minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a client may stay that has no allocation.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of one record at most: what a datagram holds.
const RECORD_BYTES_MAX: usize = 65_535;

/// All DTLS clients of one worker.
pub(crate) struct DtlsClients {
    config: Arc<dimpl::Config>,
    certificate: Option<dimpl::DtlsCertificate>,
    cookies: Cookies,
    clients: FxHashMap<FiveTuple, Client>,
    /// Clients in handshakes, in the order of coming; some may have finished or gone.
    handshakes: VecDeque<FiveTuple>,
    clients_max: usize,
    per_source: FxHashMap<IpAddr, usize>,
    per_source_max: usize,
    buffer: Vec<u8>,
    closed: Vec<FiveTuple>,
}

struct Client {
    dtls: dimpl::Dtls,
    proof: Proof,
    is_connected: bool,
    came_at: Instant,
    heard_at: Instant,
    /// Since when no allocation hangs on it.
    unproven_since: Option<Instant>,
    deadline: Option<Instant>,
}

impl DtlsClients {
    pub(crate) fn new(
        certificate: Option<dimpl::DtlsCertificate>,
        clients_max: usize,
        now: Instant,
    ) -> Result<Self, dimpl::Error> {
        let config = dimpl::Config::builder()
            .require_client_certificate(false)
            .use_server_cookie(true)
            .with_crypto_provider(cookie::provider())
            .handshake_timeout(HANDSHAKE_TIMEOUT)
            .build()?;
        Ok(Self {
            config: Arc::new(config),
            certificate,
            cookies: Cookies::new(&rand::random(), now),
            clients: FxHashMap::default(),
            handshakes: VecDeque::new(),
            clients_max,
            per_source: FxHashMap::default(),
            per_source_max: usize::MAX,
            buffer: vec![0; RECORD_BYTES_MAX],
            closed: Vec::new(),
        })
    }

    /// How many clients there may be, in all and from one address. Those that are there stay.
    pub(crate) fn set_limits(&mut self, clients_max: usize, per_source_max: usize) {
        self.clients_max = clients_max;
        self.per_source_max = per_source_max;
    }

    /// An allocation hangs on a client, or none any more.
    pub(crate) fn set_proven(&mut self, five_tuple: FiveTuple, is_proven: bool, now: Instant) {
        if let Some(client) = self.clients.get_mut(&five_tuple) {
            client.unproven_since = (!is_proven).then_some(now);
        }
    }

    pub(crate) fn set_certificate(&mut self, certificate: Option<dimpl::DtlsCertificate>) {
        self.certificate = certificate;
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Takes a datagram of a client. `send` sends records, `on_data` gets messages.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        five_tuple: FiveTuple,
        datagram: &[u8],
        mut send: impl FnMut(FiveTuple, &[u8]),
        mut on_data: impl FnMut(FiveTuple, &[u8]),
    ) {
        if !self.clients.contains_key(&five_tuple) && !self.admit(now, five_tuple, datagram, &mut send) {
            return;
        }
        let Some(client) = self.clients.get_mut(&five_tuple) else { return };
        let result = match client.is_connected {
            true => client.dtls.handle_packet(datagram),
            false => client.proof.with(|| client.dtls.handle_packet(datagram)),
        };
        let mut is_authentic = false;
        let ended = client.drain(five_tuple, &mut self.buffer, &mut send, &mut |five_tuple, data| {
            is_authentic = true;
            on_data(five_tuple, data);
        });
        // Anybody can send what cannot be read.
        if is_authentic {
            client.heard_at = now;
        }
        if result.is_err() || ended {
            self.remove(&five_tuple);
        }
    }

    /// Begins a handshake with a client that has shown a cookie, and sends one to any other that wants a handshake.
    fn admit(
        &mut self,
        now: Instant,
        five_tuple: FiveTuple,
        datagram: &[u8],
        send: &mut impl FnMut(FiveTuple, &[u8]),
    ) -> bool {
        let Some(certificate) = self.certificate.clone() else { return false };
        let Some(hello) = Hello::parse(datagram) else { return false };
        if let Some(refusal) = hello.refusal() {
            send(five_tuple, &refusal);
            return false;
        }
        let Some(proof) = self.cookies.check(&hello, five_tuple.client, now) else {
            send(five_tuple, &self.cookies.answer(&hello, five_tuple.client, now));
            return false;
        };
        let source = source_key(five_tuple.client);
        let from_source = self.per_source.get(&source).copied().unwrap_or(0);
        if self.clients.len() >= self.clients_max || from_source >= self.per_source_max {
            return false;
        }
        self.handshakes.retain(|known| self.clients.get(known).is_some_and(|client| !client.is_connected));
        let handshakes = self.handshakes.iter().filter(|known| source_key(known.client) == source).count();
        if handshakes >= HANDSHAKES_PER_SOURCE_MAX {
            return false;
        }
        if self.handshakes.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.handshakes.pop_front()
        {
            self.remove(&oldest);
        }
        let dtls = dimpl::Dtls::new_12(self.config.clone(), certificate, now);
        let mut client = Client {
            dtls,
            proof,
            is_connected: false,
            came_at: now,
            heard_at: now,
            unproven_since: Some(now),
            deadline: None,
        };
        if client.dtls.handle_timeout(now).is_err() || client.dtls.handle_packet(&FIRST_HELLO).is_err() {
            return false;
        }
        client.drain(five_tuple, &mut self.buffer, &mut |_, _| {}, &mut |_, _| {});
        self.handshakes.push_back(five_tuple);
        self.clients.insert(five_tuple, client);
        *self.per_source.entry(source).or_insert(0) += 1;
        true
    }

    /// Sends a message to a client.
    pub(crate) fn send(
        &mut self,
        five_tuple: FiveTuple,
        message: &[u8],
        mut send: impl FnMut(FiveTuple, &[u8]),
    ) {
        let Some(client) = self.clients.get_mut(&five_tuple) else { return };
        let result = client.dtls.send_application_data(message);
        let ended = client.drain(five_tuple, &mut self.buffer, &mut send, &mut |_, _| {});
        if result.is_err() || ended {
            self.remove(&five_tuple);
        }
    }

    /// Lets retransmissions happen, and ends what is over.
    pub(crate) fn on_time(&mut self, now: Instant, mut send: impl FnMut(FiveTuple, &[u8])) {
        let mut over = Vec::new();
        for (five_tuple, client) in &mut self.clients {
            let silent = now.saturating_duration_since(client.heard_at) >= IDLE_TIMEOUT;
            let slow =
                !client.is_connected && now.saturating_duration_since(client.came_at) >= HANDSHAKE_TIMEOUT;
            let nobodys = client
                .unproven_since
                .is_some_and(|since| now.saturating_duration_since(since) >= UNPROVEN_TIMEOUT);
            let failed = client.deadline.is_some_and(|deadline| deadline <= now)
                && (client.dtls.handle_timeout(now).is_err()
                    || client.drain(*five_tuple, &mut self.buffer, &mut send, &mut |_, _| {}));
            if silent || slow || nobodys || failed {
                over.push(*five_tuple);
            }
        }
        over.iter().for_each(|five_tuple| self.remove(five_tuple));
    }

    /// Says goodbye to a client.
    pub(crate) fn close(&mut self, five_tuple: FiveTuple, mut send: impl FnMut(FiveTuple, &[u8])) {
        if let Some(client) = self.clients.get_mut(&five_tuple) {
            let _ = client.dtls.close();
            client.drain(five_tuple, &mut self.buffer, &mut send, &mut |_, _| {});
            self.remove(&five_tuple);
        }
    }

    /// When [`DtlsClients::on_time`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.handshakes.iter().filter_map(|known| self.clients.get(known)?.deadline).min()
    }

    /// A client that has gone, once each.
    pub(crate) fn next_closed(&mut self) -> Option<FiveTuple> {
        self.closed.pop()
    }

    fn remove(&mut self, five_tuple: &FiveTuple) {
        let Some(client) = self.clients.remove(five_tuple) else { return };
        let source = source_key(five_tuple.client);
        if let Some(count) = self.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
        if client.is_connected {
            self.closed.push(*five_tuple);
        }
    }
}

impl Client {
    /// Takes all that there is to send and to say. Returns whether the client has gone.
    fn drain(
        &mut self,
        five_tuple: FiveTuple,
        buffer: &mut Vec<u8>,
        send: &mut impl FnMut(FiveTuple, &[u8]),
        on_data: &mut impl FnMut(FiveTuple, &[u8]),
    ) -> bool {
        debug_assert_eq!(five_tuple.transport, Transport::Dtls);
        loop {
            match self.dtls.poll_output(buffer) {
                dimpl::Output::Packet(record) => send(five_tuple, record),
                dimpl::Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                dimpl::Output::Connected => self.is_connected = true,
                dimpl::Output::ApplicationData(data) => on_data(five_tuple, data),
                dimpl::Output::CloseNotify => return true,
                dimpl::Output::Timeout(deadline) => {
                    self.deadline = Some(deadline);
                    return false;
                }
                _ => {}
            }
        }
    }
}

/// Shows how many there are.
impl std::fmt::Debug for DtlsClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsClients").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}

/// An address without its port, as limits count it: a network of IPv6 is one customer's.
pub(crate) fn source_key(address: SocketAddr) -> std::net::IpAddr {
    match address.ip().to_canonical() {
        std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests;
