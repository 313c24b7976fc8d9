//! Permissions and channels (RFC 8656, sections 9, 10 and 12).

use std::net::{IpAddr, SocketAddr};

use super::TurnServer;
use super::answer::{Proven, Request};
use crate::allocation::BindError;
use crate::channel_data::ChannelNumber;
use crate::credentials::user_of;
use crate::io::{RefusalReason, RelayKey, RelayProtocol};
use crate::policy::Verdict;
use crate::stun::attribute::{CHANNEL_NUMBER, XOR_PEER_ADDRESS};
use crate::stun::{AddressFamily, ErrorCode};

/// Peers that one CreatePermission request may name; one with more gets 508.
const PEERS_PER_REQUEST_MAX: usize = 128;

impl TurnServer {
    pub(super) fn handle_create_permission(&mut self, proven: &Proven<'_>) {
        let Request { message, now, .. } = proven.request;
        let Some(key) = self.open_allocation(proven) else { return };
        let mut ips: Vec<(IpAddr, bool)> = Vec::new();
        for peer in message.xor_addresses(XOR_PEER_ADDRESS) {
            let Some(peer) = peer else { return self.refuse(proven, ErrorCode::BadRequest) };
            match self.peer_ip(key, peer.ip()) {
                // A port that is not known yet is checked with the data.
                Ok((ip, ports_only)) => ips.push((ip, ports_only)),
                Err(code) => return self.refuse_peer(proven, code),
            }
            if ips.len() > PEERS_PER_REQUEST_MAX {
                return self.refuse_peer(proven, ErrorCode::InsufficientCapacity);
            }
        }
        if ips.is_empty() {
            return self.refuse(proven, ErrorCode::BadRequest);
        }
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        // All or none (RFC 8656, section 10.2).
        let mut new: Vec<IpAddr> =
            ips.iter().map(|(ip, _)| *ip).filter(|ip| allocation.permission(*ip, now).is_none()).collect();
        new.sort_unstable();
        new.dedup();
        if new.len() > allocation.permissions_left(now) {
            return self.refuse_peer(proven, ErrorCode::InsufficientCapacity);
        }
        for (ip, ports_only) in ips {
            let _ = allocation.permit(ip, ports_only, now);
        }
        self.succeed(proven, |writer| writer);
    }

    pub(super) fn handle_channel_bind(&mut self, proven: &Proven<'_>) {
        let Request { message, now, .. } = proven.request;
        let Some(key) = self.open_allocation(proven) else { return };
        let number = message.attribute(CHANNEL_NUMBER).and_then(ChannelNumber::from_value);
        let (Some(number), Some(peer)) = (number, message.xor_address(XOR_PEER_ADDRESS)) else {
            return self.refuse(proven, ErrorCode::BadRequest);
        };
        let is_udp = self.allocations.get(key).is_some_and(|known| known.protocol == RelayProtocol::Udp);
        // RFC 6062, section 5: no channels there.
        if !is_udp || peer.port() == 0 {
            return self.refuse(proven, ErrorCode::BadRequest);
        }
        let (ip, ports_only) = match self.peer_ip(key, peer.ip()) {
            Ok(found) => found,
            Err(code) => return self.refuse_peer(proven, code),
        };
        let peer = SocketAddr::new(ip, peer.port());
        if ports_only && !self.is_reachable_here(peer) {
            return self.refuse_peer(proven, ErrorCode::Forbidden);
        }
        let Some(allocation) = self.allocations.get_mut(key) else { return };
        match allocation.bind(number, peer, ports_only, now) {
            Ok(()) => self.succeed(proven, |writer| writer),
            Err(BindError::Conflict) => self.refuse(proven, ErrorCode::BadRequest),
            Err(BindError::Full) => self.refuse_peer(proven, ErrorCode::InsufficientCapacity),
        }
    }

    /// The allocation that a request is about, or 437.
    pub(super) fn open_allocation(&mut self, proven: &Proven<'_>) -> Option<usize> {
        let key = self.clients.get(&proven.request.five_tuple).copied();
        let key = key.filter(|key| self.allocations.get(*key).is_some_and(|known| known.is_open()));
        if key.is_none() {
            self.refuse(proven, ErrorCode::AllocationMismatch);
        }
        key
    }

    /// Whether an allocation may reach a peer's address: the address to use, and whether only some ports of it count.
    pub(super) fn peer_ip(&self, key: usize, ip: IpAddr) -> Result<(IpAddr, bool), ErrorCode> {
        let verdict = self.config.peers.verdict(ip);
        let ip = ip.to_canonical();
        // Denied first: whoever may not go somewhere learns nothing else.
        if verdict == Verdict::Denied {
            return Err(ErrorCode::Forbidden);
        }
        match self.relay_to(key, ip) {
            Some(_) => Ok((ip, verdict == Verdict::PortsOnly)),
            None => Err(ErrorCode::PeerAddressFamilyMismatch),
        }
    }

    /// The relay of an allocation that can reach a peer: of its family.
    pub(super) fn relay_to(&self, key: usize, ip: IpAddr) -> Option<RelayKey> {
        let family = AddressFamily::of(ip);
        let relays = self.allocations.get(key)?.relays;
        relays
            .into_iter()
            .flatten()
            .find(|relay| self.relay(*relay).is_some_and(|relay| relay.family == family))
    }

    /// Whether a port of this machine is one that clients may reach: a relay's, or a service's.
    pub(super) fn is_reachable_here(&self, peer: SocketAddr) -> bool {
        let in_range = (self.config.port_first..=self.config.port_last).contains(&peer.port());
        // Which ports other workers use is not known here; theirs are for nothing else.
        let others = self.config.workers > 1 && in_range && self.config.peers.own.contains(&peer.ip());
        self.announced.contains_key(&peer) || self.config.peers.is_service(peer) || others
    }

    pub(super) fn refuse_peer(&mut self, proven: &Proven<'_>, code: ErrorCode) {
        let reason = match code {
            ErrorCode::Forbidden => Some(RefusalReason::PeerDenied),
            ErrorCode::InsufficientCapacity => Some(RefusalReason::PeerQuota),
            _ => None,
        };
        if let Some(reason) = reason {
            self.refused(proven.request.five_tuple, Some(user_of(proven.username)), reason);
        }
        self.refuse(proven, code);
    }
}
