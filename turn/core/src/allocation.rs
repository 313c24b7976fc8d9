//! One client's allocation: its relayed addresses, and the peers that it may talk to (RFC 8656, section 2).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::channel_data::ChannelNumber;
use crate::io::{AllocationId, FiveTuple, RelayKey, RelayProtocol};
use crate::stun::{AddressFamily, ErrorCode, IntegrityKey, IntegrityKind, TransactionId};

/// How long a permission lasts (RFC 8656, section 9).
pub(crate) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);

/// How long a channel stays bound (RFC 8656, section 12).
pub(crate) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// Addresses that one allocation may have permissions for. A request for more gets 508.
const PERMISSIONS_MAX: usize = 128;

/// Channels that one allocation may have. A request for more gets 508.
const CHANNELS_MAX: usize = 128;

/// A peer's address with which data may be exchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permission {
    pub(crate) ip: IpAddr,
    /// At this address, only relays and services may be reached.
    pub(crate) ports_only: bool,
    expires_at: Instant,
}

/// A peer for which there is a short header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) number: ChannelNumber,
    pub(crate) peer: SocketAddr,
    pub(crate) ports_only: bool,
    expires_at: Instant,
    /// When the permission for the peer's address ends: kept here, so that data needs one look only.
    permitted_until: Instant,
}

impl Channel {
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        now < self.expires_at && now < self.permitted_until
    }
}

/// How far an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its sockets are being opened; so many ports were tried.
    Opening {
        tries: u8,
    },
    Open,
}

/// How the last answer to Allocate or Refresh was given, so that a request that comes again gets the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) transaction: TransactionId,
    pub(crate) integrity: IntegrityKind,
    pub(crate) fingerprint: bool,
    pub(crate) lifetime_s: u32,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) id: AllocationId,
    pub(crate) five_tuple: FiveTuple,
    /// Whether the client is there: not between the end of its stream and its return from elsewhere (RFC 8016).
    pub(crate) is_attached: bool,
    pub(crate) username: Box<str>,
    pub(crate) key: IntegrityKey,
    pub(crate) user: usize,
    pub(crate) protocol: RelayProtocol,
    pub(crate) state: State,
    pub(crate) answered: Answered,
    pub(crate) relays: [Option<RelayKey>; 2],
    /// The one of two families that was not to be had, and why.
    pub(crate) missing_family: Option<(AddressFamily, ErrorCode)>,
    pub(crate) reservation: Option<[u8; 8]>,
    pub(crate) ticket: Option<[u8; 16]>,
    pub(crate) created_at: Instant,
    pub(crate) expires_at: Instant,
    pub(crate) permissions: Vec<Permission>,
    pub(crate) channels: Vec<Channel>,
    pub(crate) traffic: Traffic,
}

/// What an allocation has relayed: data without TURN's own headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from the client to peers.
    pub to_peers_packets: u64,
    /// Their bytes.
    pub to_peers_bytes: u64,
    /// Packets from peers to the client.
    pub to_client_packets: u64,
    /// Their bytes.
    pub to_client_bytes: u64,
}

/// There may be no more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A channel cannot be bound as asked (RFC 8656, section 12.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindError {
    /// The number is another peer's, or the peer has another number.
    Conflict,
    Full,
}

impl Allocation {
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Allows a peer's address, from now on for [`PERMISSION_LIFETIME`].
    pub(crate) fn permit(&mut self, ip: IpAddr, ports_only: bool, now: Instant) -> Result<(), Full> {
        let expires_at = now + PERMISSION_LIFETIME;
        match self.permissions.iter_mut().find(|permission| permission.ip == ip) {
            Some(permission) => *permission = Permission { ip, ports_only, expires_at },
            None => {
                if self.permissions.len() >= PERMISSIONS_MAX {
                    self.permissions.retain(|permission| now < permission.expires_at);
                }
                if self.permissions.len() >= PERMISSIONS_MAX {
                    return Err(Full);
                }
                self.permissions.push(Permission { ip, ports_only, expires_at });
            }
        }
        for channel in self.channels.iter_mut().filter(|channel| channel.peer.ip() == ip) {
            channel.permitted_until = expires_at;
        }
        Ok(())
    }

    /// How many more addresses may be allowed.
    pub(crate) fn permissions_left(&mut self, now: Instant) -> usize {
        self.permissions.retain(|permission| now < permission.expires_at);
        PERMISSIONS_MAX.saturating_sub(self.permissions.len())
    }

    /// The permission for a peer, if there is one.
    pub(crate) fn permission(&self, ip: IpAddr, now: Instant) -> Option<&Permission> {
        self.permissions.iter().find(|permission| permission.ip == ip && now < permission.expires_at)
    }

    /// Brings permissions and channels in line with a new policy: `verdict` says of an address whether only some ports
    /// count there, and none if it is denied.
    pub(crate) fn review(&mut self, verdict: impl Fn(IpAddr) -> Option<bool>) {
        let hold = |ip, ports_only: &mut bool| verdict(ip).inspect(|new| *ports_only = *new).is_some();
        self.permissions.retain_mut(|permission| hold(permission.ip, &mut permission.ports_only));
        self.channels.retain_mut(|channel| hold(channel.peer.ip(), &mut channel.ports_only));
    }

    /// Forgets all peers of a family, whose relayed address is given back (RFC 8656, section 8.1).
    pub(crate) fn forget_family(&mut self, family: AddressFamily) {
        self.permissions.retain(|permission| AddressFamily::of(permission.ip) != family);
        self.channels.retain(|channel| AddressFamily::of(channel.peer.ip()) != family);
    }

    /// Binds a channel to a peer, or binds it for longer, and allows the peer's address.
    pub(crate) fn bind(
        &mut self,
        number: ChannelNumber,
        peer: SocketAddr,
        ports_only: bool,
        now: Instant,
    ) -> Result<(), BindError> {
        // Expired bindings are no conflict. (RFC 8656, section 12, asks clients to wait five minutes before they use a
        // number for another peer; data that is late is worth less than that.)
        self.channels.retain(|channel| now < channel.expires_at);
        let known = self.channels.iter().position(|channel| channel.number == number || channel.peer == peer);
        let known = match known.map(|at| (at, self.channels.get(at))) {
            Some((at, Some(channel))) if channel.number == number && channel.peer == peer => Some(at),
            Some(_) => return Err(BindError::Conflict),
            None if self.channels.len() >= CHANNELS_MAX => return Err(BindError::Full),
            None => None,
        };
        self.permit(peer.ip(), ports_only, now).map_err(|Full| BindError::Full)?;
        let expires_at = now + CHANNEL_LIFETIME;
        let channel =
            Channel { number, peer, ports_only, expires_at, permitted_until: now + PERMISSION_LIFETIME };
        match known.and_then(|at| self.channels.get_mut(at)) {
            Some(known) => *known = channel,
            None => self.channels.push(channel),
        }
        Ok(())
    }

    /// The channel of a number, whether it may be used or not.
    pub(crate) fn channel(&self, number: ChannelNumber) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.number == number)
    }

    /// The channel that is bound to a peer.
    pub(crate) fn channel_to(&self, peer: SocketAddr) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.peer == peer)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Allocation {
    /// Panics if there is more of something than there may be, or one thing twice.
    pub(crate) fn check_invariants(&self) {
        assert!(self.permissions.len() <= PERMISSIONS_MAX && self.channels.len() <= CHANNELS_MAX);
        let ips: std::collections::BTreeSet<_> = self.permissions.iter().map(|known| known.ip).collect();
        assert_eq!(ips.len(), self.permissions.len(), "an address twice");
        let numbers: std::collections::BTreeSet<_> =
            self.channels.iter().map(|known| known.number.get()).collect();
        assert_eq!(numbers.len(), self.channels.len(), "a channel twice");
        let peers: std::collections::BTreeSet<_> = self.channels.iter().map(|known| known.peer).collect();
        assert_eq!(peers.len(), self.channels.len(), "a peer twice");
        for channel in self.channels.iter() {
            let permission = self.permissions.iter().find(|known| known.ip == channel.peer.ip());
            let until = permission.map(|known| known.expires_at);
            assert!(until.is_none_or(|until| until == channel.permitted_until), "{channel:?}");
        }
    }
}
