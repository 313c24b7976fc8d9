//! Data in both directions: the way of every packet.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;

use super::TurnServer;
use super::answer::{Request, UNDERSTOOD};
use crate::channel_data::{channel_header, parse_channel_data};
use crate::io::{FiveTuple, RelayKey, RelayProtocol};
use crate::outbox::Route;
use crate::quota::Budget;
use crate::stun::attribute::{DATA, DONT_FRAGMENT, XOR_PEER_ADDRESS};
use crate::stun::{Class, Message, Method, Writer};

/// The most data that a Data indication carries beside a peer's IPv6 address. No datagram over IPv4 has much more.
const INDICATION_DATA_BYTES_MAX: usize = 65_504;

/// The most data that a ChannelData message carries.
const CHANNEL_DATA_BYTES_MAX: usize = 65_535;

impl TurnServer {
    pub(super) fn handle_client(&mut self, now: Instant, five_tuple: FiveTuple, payload: &[u8]) {
        match payload.first() {
            Some(0x40..=0x7f) => self.handle_channel_data(now, five_tuple, payload),
            _ => match Message::parse(payload) {
                Ok(message) => self.handle_message(Request { message, five_tuple, now }),
                Err(_) => self.stats.malformed += 1,
            },
        }
    }

    fn handle_message(&mut self, request: Request<'_>) {
        let Some(method) = request.message.method() else { return self.stats.malformed += 1 };
        match (request.message.class(), method) {
            (Class::Request, Method::Binding) => self.handle_binding(&request),
            (Class::Indication, Method::Send) => self.handle_send(&request),
            // Keeps a NAT's binding open.
            (Class::Indication, Method::Binding) => {}
            (Class::Request, Method::Send | Method::Data | Method::ConnectionAttempt)
            | (Class::Indication | Class::Success | Class::Error, _) => self.stats.malformed += 1,
            (Class::Request, method) => {
                let Some(proven) = self.authenticate(request, method) else { return };
                match method {
                    Method::Allocate => self.handle_allocate(&proven),
                    Method::Refresh => self.handle_refresh(&proven),
                    Method::CreatePermission => self.handle_create_permission(&proven),
                    Method::ChannelBind => self.handle_channel_bind(&proven),
                    Method::Connect => self.handle_connect(&proven),
                    Method::ConnectionBind => self.handle_connection_bind(&proven),
                    Method::Binding | Method::Send | Method::Data | Method::ConnectionAttempt => {}
                }
            }
        }
    }

    fn handle_channel_data(&mut self, now: Instant, five_tuple: FiveTuple, payload: &[u8]) {
        let Some((number, data)) = parse_channel_data(payload) else { return self.stats.malformed += 1 };
        let Some(key) = self.clients.get(&five_tuple).copied() else {
            return self.stats.without_allocation += 1;
        };
        let channel = self.allocations.get(key).and_then(|allocation| allocation.channel(number));
        let Some(channel) = channel.filter(|channel| channel.is_usable(now)).copied() else {
            return self.stats.without_permission += 1;
        };
        self.relay_to_peer(now, key, channel.peer, channel.ports_only, data, false);
    }

    /// RFC 8656, section 11.2. Indications are not signed: what counts is the permission.
    fn handle_send(&mut self, request: &Request<'_>) {
        let Request { message, five_tuple, now } = *request;
        // What cannot be understood is not to be acted on (RFC 8489, section 6.3.2).
        let is_understood = message.unknown(&UNDERSTOOD).next().is_none();
        let peer = message.xor_address(XOR_PEER_ADDRESS).filter(|peer| is_understood && peer.port() != 0);
        let (Some(peer), Some(data)) = (peer, message.attribute(DATA)) else {
            return self.stats.malformed += 1;
        };
        let Some(key) = self.clients.get(&five_tuple).copied() else {
            return self.stats.without_allocation += 1;
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let permission =
            self.allocations.get(key).and_then(|allocation| allocation.permission(peer.ip(), now)).copied();
        let Some(permission) = permission else { return self.stats.without_permission += 1 };
        self.relay_to_peer(now, key, peer, permission.ports_only, data, message.has(DONT_FRAGMENT));
    }

    fn relay_to_peer(
        &mut self,
        now: Instant,
        key: usize,
        peer: SocketAddr,
        ports_only: bool,
        data: &[u8],
        dont_fragment: bool,
    ) {
        let relay = self.relay_to(key, peer.ip());
        let Some((relay, relayed)) = relay.and_then(|relay| Some((relay, self.relay(relay)?.announced)))
        else {
            return self.stats.without_permission += 1;
        };
        if ports_only && !self.is_reachable_here(peer) {
            return self.stats.without_permission += 1;
        }
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        if allocation.protocol != RelayProtocol::Udp || !allocation.is_open() {
            return self.stats.without_permission += 1;
        }
        let user = self.users.get_mut(allocation.user).map(|user| &mut user.budget);
        if !Budget::take_both(user, &mut self.budget, data.len(), now) {
            return self.stats.over_quota += 1;
        }
        allocation.traffic.to_peers_packets += 1;
        allocation.traffic.to_peers_bytes += data.len() as u64;
        self.stats.to_peers_packets += 1;
        self.stats.to_peers_bytes += data.len() as u64;
        // From one client of this relay to another: no socket is needed in between.
        if ports_only && let Some(other) = self.announced.get(&peer).copied() {
            return self.handle_peer(now, other, relayed, data);
        }
        self.outbox.push(Route::Peer { relay, relayed, peer, dont_fragment }, &[data]);
    }

    pub(super) fn handle_peer(&mut self, now: Instant, relay: RelayKey, peer: SocketAddr, data: &[u8]) {
        let Some(key) = self.relay(relay).map(|relay| relay.allocation) else { return };
        let Some(allocation) = self.allocations.get(key) else { return };
        let channel = allocation.channel_to(peer).filter(|channel| channel.is_usable(now)).copied();
        let ports_only = match (channel, allocation.permission(peer.ip(), now)) {
            (Some(channel), _) => channel.ports_only,
            (None, Some(permission)) => permission.ports_only,
            (None, None) => return self.stats.without_permission += 1,
        };
        if ports_only && !self.is_reachable_here(peer) {
            return self.stats.without_permission += 1;
        }
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        if !allocation.is_attached || !allocation.is_open() {
            return self.stats.without_allocation += 1;
        }
        let most = if channel.is_some() { CHANNEL_DATA_BYTES_MAX } else { INDICATION_DATA_BYTES_MAX };
        if data.len() > most {
            return self.stats.oversized += 1;
        }
        let user = self.users.get_mut(allocation.user).map(|user| &mut user.budget);
        if !Budget::take_both(user, &mut self.budget, data.len(), now) {
            return self.stats.over_quota += 1;
        }
        allocation.traffic.to_client_packets += 1;
        allocation.traffic.to_client_bytes += data.len() as u64;
        self.stats.to_clients_packets += 1;
        self.stats.to_clients_bytes += data.len() as u64;
        let five_tuple = allocation.five_tuple;
        let route = Route::Client { five_tuple, is_control: false };
        match channel {
            Some(channel) => {
                let header = channel_header(channel.number, data);
                let padding: &[u8] = match five_tuple.transport.is_stream() {
                    true => [0; 3].get(..data.len().next_multiple_of(4) - data.len()).unwrap_or_default(),
                    false => &[],
                };
                self.outbox.push(route, &[&header, data, padding]);
            }
            None => {
                let mut transaction = [0; 12];
                self.random.fill_bytes(&mut transaction);
                self.outbox.push_with(route, |buffer| {
                    Writer::new(buffer, Class::Indication, Method::Data, &transaction)
                        .xor_address(XOR_PEER_ADDRESS, peer)
                        .attribute(DATA, data);
                });
            }
        }
    }
}
