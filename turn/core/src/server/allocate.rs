//! Making, refreshing and ending allocations (RFC 8656, sections 7 and 8; RFC 8016).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::answer::{Proven, Request};
use super::{RESERVATION_LIFETIME, RESERVATIONS_MAX, Relay, Reservation, TurnServer, User};
use crate::allocation::{Allocation, Answered, State, Traffic};
use crate::credentials::user_of;
use crate::io::{
    AllocationId, EndReason, Event, FiveTuple, RefusalReason, RelayKey, RelayProtocol, Transport,
};
use crate::ports::Parity;
use crate::quota::Budget;
use crate::stun::attribute::{
    ADDITIONAL_ADDRESS_FAMILY, ADDITIONAL_ADDRESS_FAMILY_DRAFT, ADDRESS_ERROR_CODE, EVEN_PORT, LIFETIME,
    MOBILITY_TICKET, REQUESTED_ADDRESS_FAMILY, REQUESTED_TRANSPORT, RESERVATION_TOKEN, XOR_MAPPED_ADDRESS,
    XOR_RELAYED_ADDRESS,
};
use crate::stun::{AddressFamily, ErrorCode, Method, Writer};

/// Ports that are tried for an allocation before it is refused: each was found to be another program's.
const PORT_TRIES_MAX: u8 = 8;

/// The protocols of REQUESTED-TRANSPORT, as IANA numbers them.
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_TCP: u8 = 6;

/// What an Allocate request asks for.
struct Wishes {
    protocol: RelayProtocol,
    /// The families in the order of asking; the second may be missing in the answer.
    families: [Option<AddressFamily>; 2],
    parity: Parity,
    reservation: Option<[u8; 8]>,
    lifetime: Duration,
    mobile: bool,
}

impl TurnServer {
    pub(super) fn handle_allocate(&mut self, proven: &Proven<'_>) {
        let Request { message, five_tuple, .. } = proven.request;
        if let Some(allocation) = self.clients.get(&five_tuple).and_then(|key| self.allocations.get(*key)) {
            // The answer was lost; or it is not given yet.
            let is_repeated = allocation.answered.transaction == *message.transaction()
                && *allocation.username == *proven.username;
            match is_repeated {
                true if allocation.is_open() => self.answer_allocate(self.clients.get(&five_tuple).copied()),
                true => {}
                false => self.refuse(proven, ErrorCode::AllocationMismatch),
            }
            return;
        }
        let wishes = match self.wishes(proven) {
            Ok(wishes) => wishes,
            Err(code) => return self.refuse(proven, code),
        };
        let user = user_of(proven.username);
        if self.draining {
            self.refused(five_tuple, Some(user), RefusalReason::Draining);
            return self.send_elsewhere(proven);
        }
        if self.config.quotas.allocations.is_some_and(|most| self.allocations.len() >= most as usize) {
            self.refused(five_tuple, Some(user), RefusalReason::TotalQuota);
            return self.send_elsewhere(proven);
        }
        let has =
            self.user_keys.get(user).and_then(|key| self.users.get(*key)).map_or(0, |user| user.allocations);
        if self.config.quotas.user_allocations.is_some_and(|most| has >= most) {
            self.refused(five_tuple, Some(user), RefusalReason::UserQuota);
            return self.refuse(proven, ErrorCode::AllocationQuotaReached);
        }
        let key = self.insert(proven, &wishes);
        let mut relays = [None, None];
        let mut missing_family = None;
        for (family, at) in wishes.families.into_iter().zip(&mut relays) {
            let Some(family) = family else { continue };
            *at = self.take_port(key, family, &wishes);
            if at.is_none() {
                let has_none = !self.relays_family(family);
                let code = if has_none {
                    ErrorCode::AddressFamilyNotSupported
                } else {
                    ErrorCode::InsufficientCapacity
                };
                missing_family = Some((family, code));
            }
        }
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        allocation.relays = relays;
        allocation.missing_family = missing_family;
        // One of two is better than nothing (RFC 8656, section 7.2, check 9).
        if relays.iter().all(Option::is_none) {
            self.refused(five_tuple, Some(user), RefusalReason::NoPort);
            self.refuse(proven, ErrorCode::InsufficientCapacity);
            self.end(key, EndReason::NoPort);
        }
    }

    /// Reads a request and checks it against what there is, or says what is wrong (RFC 8656, section 7.2).
    fn wishes(&mut self, proven: &Proven<'_>) -> Result<Wishes, ErrorCode> {
        let Request { message, five_tuple, .. } = proven.request;
        let protocol = match message.attribute(REQUESTED_TRANSPORT) {
            Some([PROTOCOL_UDP, _, _, _]) => RelayProtocol::Udp,
            Some([PROTOCOL_TCP, _, _, _]) if self.config.tcp_relays && five_tuple.transport.is_stream() => {
                RelayProtocol::Tcp
            }
            // RFC 6062, section 5.1.
            Some([PROTOCOL_TCP, _, _, _]) if self.config.tcp_relays => return Err(ErrorCode::BadRequest),
            Some([_, _, _, _]) => return Err(ErrorCode::UnsupportedTransport),
            _ => return Err(ErrorCode::BadRequest),
        };
        let family = |kind| match message.attribute(kind) {
            None => Ok(None),
            Some(value) if value.len() == 4 => {
                AddressFamily::from_value(value).map(Some).ok_or(ErrorCode::AddressFamilyNotSupported)
            }
            Some(_) => Err(ErrorCode::BadRequest),
        };
        let requested = family(REQUESTED_ADDRESS_FAMILY)?;
        let additional = match family(ADDITIONAL_ADDRESS_FAMILY)? {
            None => family(ADDITIONAL_ADDRESS_FAMILY_DRAFT)?,
            some => some,
        };
        let parity = match message.attribute(EVEN_PORT) {
            None => Parity::Any,
            Some([bits]) if bits & 0x80 != 0 => Parity::Pair,
            Some([_]) => Parity::Even,
            Some(_) => return Err(ErrorCode::BadRequest),
        };
        let reservation = match message.attribute(RESERVATION_TOKEN) {
            None => None,
            Some(token) => Some(token.try_into().map_err(|_| ErrorCode::BadRequest)?),
        };
        let contradicts = (reservation.is_some()
            && (requested.is_some() || additional.is_some() || parity != Parity::Any))
            || (requested.is_some() && additional.is_some())
            || (additional.is_some() && parity == Parity::Pair)
            || additional == Some(AddressFamily::V4)
            || (protocol == RelayProtocol::Tcp && (reservation.is_some() || parity != Parity::Any));
        if contradicts {
            return Err(ErrorCode::BadRequest);
        }
        let first = match reservation {
            None => requested.unwrap_or(AddressFamily::V4),
            Some(token) => {
                let known = self.reservations.iter().find(|reservation| reservation.token == token);
                known.ok_or(ErrorCode::InsufficientCapacity)?.family
            }
        };
        if !self.relays_family(first) {
            return Err(ErrorCode::AddressFamilyNotSupported);
        }
        if parity == Parity::Pair && self.reservations.len() >= RESERVATIONS_MAX {
            return Err(ErrorCode::InsufficientCapacity);
        }
        let mobile = match message.attribute(MOBILITY_TICKET) {
            None => false,
            Some(_) if !self.config.mobility => return Err(ErrorCode::MobilityForbidden),
            Some([]) => true,
            Some(_) => return Err(ErrorCode::BadRequest),
        };
        let asked = message.number(LIFETIME).unwrap_or(0);
        let lifetime = self.lifetime(asked);
        Ok(Wishes { protocol, families: [Some(first), additional], parity, reservation, lifetime, mobile })
    }

    /// How long an allocation lasts whose client asks for so many seconds.
    fn lifetime(&self, asked_s: u32) -> Duration {
        Duration::from_secs(asked_s.into()).min(self.config.lifetime_max).max(self.config.lifetime)
    }

    fn relays_family(&self, family: AddressFamily) -> bool {
        self.config.relay_addresses.iter().any(|address| AddressFamily::of(address.bind) == family)
    }

    /// Makes an allocation without relays.
    fn insert(&mut self, proven: &Proven<'_>, wishes: &Wishes) -> usize {
        let Request { message, five_tuple, now } = proven.request;
        let user = self.enlist(user_of(proven.username), now);
        let ticket = wishes.mobile.then(|| self.draw_ticket());
        let expires_at = now + wishes.lifetime;
        let answered = Answered {
            transaction: *message.transaction(),
            integrity: proven.integrity,
            fingerprint: message.has_fingerprint(),
            lifetime_s: u32::try_from(wishes.lifetime.as_secs()).unwrap_or(u32::MAX),
        };
        let key = self.allocations.insert(Allocation {
            id: AllocationId(self.random.next_u64()),
            five_tuple,
            is_attached: true,
            username: proven.username.into(),
            key: proven.key.clone(),
            user,
            protocol: wishes.protocol,
            state: State::Opening { tries: 0 },
            answered,
            relays: [None, None],
            missing_family: None,
            reservation: None,
            ticket,
            created_at: now,
            expires_at,
            permissions: Vec::new(),
            channels: Vec::new(),
            traffic: Traffic::default(),
        });
        self.clients.insert(five_tuple, key);
        self.expiries.insert((expires_at, key));
        if let Some(ticket) = ticket {
            self.tickets.insert(ticket, key);
        }
        key
    }

    fn enlist(&mut self, name: &str, now: Instant) -> usize {
        let key = self.user_keys.get(name).copied().unwrap_or_else(|| {
            let budget = Budget::new(self.config.quotas.user_rate, now);
            let key = self.users.insert(User { name: name.into(), allocations: 0, budget });
            self.user_keys.insert(name.into(), key);
            key
        });
        if let Some(user) = self.users.get_mut(key) {
            user.allocations += 1;
        }
        key
    }

    fn draw_ticket(&mut self) -> [u8; 16] {
        let mut ticket = [0; 16];
        self.random.fill_bytes(&mut ticket);
        // Any worker can tell whose it is.
        let [first, ..] = &mut ticket;
        *first = self.config.worker;
        ticket
    }

    /// Takes a port for a relay and asks for its socket.
    fn take_port(&mut self, allocation: usize, family: AddressFamily, wishes: &Wishes) -> Option<RelayKey> {
        let address =
            *self.config.relay_addresses.iter().find(|address| AddressFamily::of(address.bind) == family)?;
        let port = match wishes.reservation {
            Some(token) => {
                let at = self.reservations.iter().position(|reservation| reservation.token == token)?;
                self.reservations.remove(at)?.port
            }
            None => {
                let [v4, v6] = &mut self.ports;
                let ports = if family == AddressFamily::V4 { v4 } else { v6 };
                ports.take(wishes.parity, &mut self.random)?
            }
        };
        if wishes.parity == Parity::Pair {
            let token = self.random.random();
            let expires_at = self.allocations.get(allocation)?.created_at + RESERVATION_LIFETIME;
            self.reservations.push_back(Reservation { token, family, port: port + 1, expires_at });
            self.allocations.get_mut(allocation)?.reservation = Some(token);
        }
        let relay = Relay {
            allocation,
            bind: SocketAddr::new(address.bind, port),
            announced: SocketAddr::new(address.announce, port),
            family,
            is_open: false,
            is_reserved: wishes.reservation.is_some() || wishes.parity == Parity::Pair,
        };
        let bind = relay.bind;
        let key = RelayKey(u32::try_from(self.relays.insert(relay)).unwrap_or(u32::MAX));
        self.events.push_back(Event::OpenRelay { relay: key, address: bind, protocol: wishes.protocol });
        Some(key)
    }

    pub(super) fn handle_relay_opened(&mut self, key: RelayKey) {
        let Some(relay) = self.relays.get_mut(key.0 as usize) else { return };
        relay.is_open = true;
        self.announced.insert(relay.announced, key);
        let allocation = relay.allocation;
        self.open_if_complete(allocation);
    }

    /// Answers an Allocate request once all sockets are there.
    fn open_if_complete(&mut self, key: usize) {
        let Some(allocation) = self.allocations.get(key) else { return };
        let is_waiting = allocation
            .relays
            .iter()
            .flatten()
            .any(|relay| self.relay(*relay).is_some_and(|relay| !relay.is_open));
        if is_waiting || allocation.is_open() {
            return;
        }
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        allocation.state = State::Open;
        let user = self.users.get(allocation.user).map(|user| user.name.clone()).unwrap_or_default();
        self.events.push_back(Event::Allocated {
            allocation: allocation.id,
            user,
            five_tuple: allocation.five_tuple,
        });
        self.stats.allocations_made += 1;
        self.answer_allocate(Some(key));
    }

    pub(super) fn handle_relay_refused(&mut self, key: RelayKey) {
        let Some(relay) = self.relays.get(key.0 as usize).filter(|relay| !relay.is_open) else { return };
        let (at, family, is_reserved) = (relay.allocation, relay.family, relay.is_reserved);
        // The port stays taken for as long as it is tried: the next draw is another one.
        let refused_port = relay.bind.port();
        let Some(allocation) = self.allocations.get_mut(at) else { return };
        let State::Opening { tries } = &mut allocation.state else { return };
        *tries += 1;
        let next = (*tries < PORT_TRIES_MAX && !is_reserved)
            .then(|| {
                let [v4, v6] = &mut self.ports;
                let ports = if family == AddressFamily::V4 { v4 } else { v6 };
                // What was even is to be even.
                let parity = if refused_port.is_multiple_of(2) { Parity::Even } else { Parity::Any };
                ports.take(parity, &mut self.random)
            })
            .flatten();
        let protocol = allocation.protocol;
        self.give_port_back(family, refused_port);
        match next {
            Some(port) => {
                let Some(relay) = self.relays.get_mut(key.0 as usize) else { return };
                relay.bind.set_port(port);
                relay.announced.set_port(port);
                self.events.push_back(Event::OpenRelay { relay: key, address: relay.bind, protocol });
            }
            None => self.give_up(at, key, family),
        }
    }

    /// Goes on with the other relay, or refuses the allocation if there is none.
    fn give_up(&mut self, at: usize, key: RelayKey, family: AddressFamily) {
        self.relays.try_remove(key.0 as usize);
        let Some(allocation) = self.allocations.get_mut(at) else { return };
        let ours = allocation.relays.iter_mut().filter(|relay| **relay == Some(key));
        ours.for_each(|relay| *relay = None);
        if allocation.relays.iter().any(Option::is_some) {
            allocation.missing_family = Some((family, ErrorCode::InsufficientCapacity));
            return self.open_if_complete(at);
        }
        let (answered, five_tuple, key) =
            (allocation.answered, allocation.five_tuple, allocation.key.clone());
        // Nobody will ever be told its token.
        if let Some(token) = allocation.reservation
            && let Some(place) = self.reservations.iter().position(|known| known.token == token)
            && let Some(Reservation { family, port, .. }) = self.reservations.remove(place)
        {
            self.give_port_back(family, port);
        }
        let Some(allocation) = self.allocations.get(at) else { return };
        let user = self.users.get(allocation.user).map(|user| user.name.clone());
        self.refused(five_tuple, user.as_deref(), RefusalReason::NoPort);
        self.answer_later(
            five_tuple,
            Method::Allocate,
            crate::stun::Class::Error,
            &answered,
            &key,
            |writer| writer.error(ErrorCode::InsufficientCapacity),
        );
        self.end(at, EndReason::NoPort);
    }

    fn answer_allocate(&mut self, key: Option<usize>) {
        let Some(allocation) = key.and_then(|key| self.allocations.get(key)) else { return };
        let Allocation { five_tuple, answered, reservation, ticket, missing_family, .. } = *allocation;
        let relayed = allocation.relays.map(|relay| Some(self.relay(relay?)?.announced));
        let key = allocation.key.clone();
        self.answer_later(
            five_tuple,
            Method::Allocate,
            crate::stun::Class::Success,
            &answered,
            &key,
            |writer| {
                let mut writer = relayed
                    .into_iter()
                    .flatten()
                    .fold(writer, |writer, address| writer.xor_address(XOR_RELAYED_ADDRESS, address));
                if let Some((family, code)) = missing_family {
                    let code = code as u16;
                    let [hundreds, rest] = [(code / 100) as u8, (code % 100) as u8];
                    writer = writer.attribute(ADDRESS_ERROR_CODE, &[family as u8, 0, hundreds, rest]);
                }
                writer = writer.number(LIFETIME, answered.lifetime_s);
                if let Some(token) = reservation {
                    writer = writer.attribute(RESERVATION_TOKEN, &token);
                }
                if let Some(ticket) = ticket {
                    writer = writer.attribute(MOBILITY_TICKET, &ticket);
                }
                writer.xor_address(XOR_MAPPED_ADDRESS, five_tuple.client)
            },
        );
    }

    /// The allocation that a request is about: that of its 5-tuple, the one whose ticket it brings, or the one whose
    /// connection it names.
    pub(super) fn allocation_of_request(&self, request: &Request<'_>, method: Method) -> Option<usize> {
        let here = self.clients.get(&request.five_tuple).copied();
        here.or_else(|| match method {
            Method::Refresh => self.tickets.get(request.message.attribute(MOBILITY_TICKET)?).copied(),
            Method::ConnectionBind => self.allocation_of_connection(&request.message),
            _ => None,
        })
    }

    pub(super) fn handle_refresh(&mut self, proven: &Proven<'_>) {
        let Request { message, five_tuple, now } = proven.request;
        let found = self.allocation_of_request(&proven.request, Method::Refresh);
        let found = found.filter(|key| self.allocations.get(*key).is_some_and(Allocation::is_open));
        let Some(key) = found else { return self.refuse(proven, ErrorCode::AllocationMismatch) };
        let family = match message.attribute(REQUESTED_ADDRESS_FAMILY) {
            None => None,
            Some(value) => match AddressFamily::from_value(value) {
                Some(family) => Some(family),
                None => return self.refuse(proven, ErrorCode::BadRequest),
            },
        };
        let Some(allocation) = self.allocations.get(key) else { return };
        let of_family = |family| {
            let mut relays = allocation.relays.iter().copied().flatten();
            relays.find(|relay| self.relay(*relay).is_some_and(|relay| relay.family == family))
        };
        let relay = family.map(of_family);
        if relay == Some(None) {
            return self.refuse(proven, ErrorCode::PeerAddressFamilyMismatch);
        }
        let is_repeated = allocation.answered.transaction == *message.transaction();
        let ticket = message.attribute(MOBILITY_TICKET);
        let has_ticket = ticket.is_some();
        if has_ticket && allocation.ticket.is_none() {
            return self.refuse(proven, ErrorCode::MobilityForbidden);
        }
        let is_current = ticket.is_none() || ticket == allocation.ticket.as_ref().map(|ticket| &ticket[..]);
        // RFC 6062, section 4.1: the control connection of TCP relays is a stream.
        let is_stream_missing =
            allocation.protocol == RelayProtocol::Tcp && !five_tuple.transport.is_stream();
        if !(is_current || is_repeated) || is_stream_missing {
            return self.refuse(proven, ErrorCode::BadRequest);
        }
        let is_last = allocation.relays.iter().flatten().count() <= 1;
        if message.number(LIFETIME) == Some(0) {
            self.succeed(proven, |writer| writer.number(LIFETIME, 0));
            return match relay.flatten() {
                Some(relay) if !is_last => self.close_relay(key, relay),
                _ => self.end(key, EndReason::Released),
            };
        }
        let lifetime = self.lifetime(message.number(LIFETIME).unwrap_or(0));
        let next_ticket = (has_ticket && !is_repeated).then(|| self.draw_ticket());
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        if let Some(next) = next_ticket {
            if let Some(last) = allocation.ticket.replace(next) {
                self.tickets.remove(&last);
            }
            self.tickets.insert(next, key);
        }
        if allocation.five_tuple != five_tuple || !allocation.is_attached {
            // Where a client was that is gone, there may be another one's allocation.
            if allocation.is_attached {
                self.clients.remove(&allocation.five_tuple);
            }
            self.clients.insert(five_tuple, key);
            let from = std::mem::replace(&mut allocation.five_tuple, five_tuple);
            allocation.is_attached = true;
            let allocation = allocation.id;
            self.events.push_back(Event::Moved { allocation, from, to: five_tuple });
        }
        allocation.answered.transaction = *message.transaction();
        let ticket = allocation.ticket.filter(|_| has_ticket);
        self.expiries.remove(&(allocation.expires_at, key));
        allocation.expires_at = now + lifetime;
        self.expiries.insert((allocation.expires_at, key));
        let lifetime_s = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        self.succeed(proven, |writer| {
            let writer = writer.number(LIFETIME, lifetime_s);
            match ticket {
                Some(ticket) => writer.attribute(MOBILITY_TICKET, &ticket),
                None => writer,
            }
        });
    }

    /// The client's stream or DTLS association has ended.
    pub(super) fn handle_client_closed(&mut self, five_tuple: FiveTuple) {
        self.forget_data_stream(five_tuple);
        let Some(key) = self.clients.get(&five_tuple).copied() else { return };
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        if allocation.ticket.is_some() && allocation.is_open() {
            // It may come back from elsewhere, until its time is over (RFC 8016, section 3.2).
            allocation.is_attached = false;
            self.clients.remove(&five_tuple);
        } else {
            self.end(key, EndReason::Disconnected);
        }
    }

    fn close_relay(&mut self, allocation: usize, key: RelayKey) {
        let Some(relay) = self.relays.try_remove(key.0 as usize) else { return };
        self.announced.remove(&relay.announced);
        self.give_port_back(relay.family, relay.bind.port());
        self.events.push_back(Event::CloseRelay { relay: key });
        if let Some(allocation) = self.allocations.get_mut(allocation) {
            allocation.forget_family(relay.family);
            let ours = allocation.relays.iter_mut().filter(|relay| **relay == Some(key));
            ours.for_each(|relay| *relay = None);
        }
    }

    /// Ends an allocation and all that belongs to it.
    pub(super) fn end(&mut self, key: usize, reason: EndReason) {
        let Some(allocation) = self.allocations.try_remove(key) else { return };
        self.close_peer_connections_of(key);
        for relay in allocation.relays.into_iter().flatten() {
            self.close_relay(key, relay);
        }
        if allocation.is_attached {
            self.clients.remove(&allocation.five_tuple);
        }
        if let Some(ticket) = allocation.ticket {
            self.tickets.remove(&ticket);
        }
        self.expiries.remove(&(allocation.expires_at, key));
        if let Some(user) = self.users.get_mut(allocation.user) {
            user.allocations -= 1;
            if user.allocations == 0 {
                let user = self.users.remove(allocation.user);
                self.user_keys.remove(&user.name);
            }
        }
        let is_connection = allocation.five_tuple.transport != Transport::Udp;
        if reason == EndReason::Kicked && allocation.is_attached && is_connection {
            self.events.push_back(Event::CloseClient { five_tuple: allocation.five_tuple });
        }
        if allocation.is_open() {
            let (id, five_tuple) = (allocation.id, allocation.five_tuple);
            self.events.push_back(Event::Deallocated { allocation: id, five_tuple, reason });
        }
    }

    /// Answers a request whose bytes are gone.
    pub(super) fn answer_later(
        &mut self,
        five_tuple: FiveTuple,
        method: Method,
        class: crate::stun::Class,
        answered: &Answered,
        key: &crate::stun::IntegrityKey,
        write: impl for<'b> FnOnce(Writer<'b>) -> Writer<'b>,
    ) {
        let route = crate::outbox::Route::Client { five_tuple, is_control: true };
        self.outbox.push_with(route, |buffer| {
            let writer = write(Writer::new(buffer, class, method, &answered.transaction));
            let writer = writer.sign(answered.integrity, key);
            if answered.fingerprint {
                writer.fingerprint();
            }
        });
    }
}
