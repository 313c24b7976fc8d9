//! What a server counts.

use crate::io::RefusalReason;

/// What happened since a server was made, and what there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Allocations that there are, those being opened included.
    pub allocations: u64,
    /// Relayed addresses that there are.
    pub relays: u64,
    /// Users with allocations.
    pub users: u64,
    /// Allocations that were made.
    pub allocations_made: u64,
    /// Data packets from clients to peers.
    pub to_peers_packets: u64,
    /// Their bytes.
    pub to_peers_bytes: u64,
    /// Data packets from peers to clients.
    pub to_clients_packets: u64,
    /// Their bytes.
    pub to_clients_bytes: u64,
    /// Binding requests.
    pub binding_requests: u64,
    /// Answers 401 and 438 that were given.
    pub challenges: u64,
    /// Answers that were not given because the address had had too many.
    pub throttled: u64,
    /// Bytes of clients that are no message.
    pub malformed: u64,
    /// Messages and data of clients without an allocation.
    pub without_allocation: u64,
    /// Data for which there is no channel or permission, from either side.
    pub without_permission: u64,
    /// Data that was over a quota.
    pub over_quota: u64,
    /// Data for clients that was longer than the message that would carry it.
    pub oversized: u64,
    /// Requests that were refused, by reason.
    pub(crate) refusals: [u64; RefusalReason::ALL.len()],
}

impl ServerStats {
    /// Requests that were refused for a reason.
    pub fn refusals(&self, reason: RefusalReason) -> u64 {
        self.refusals.get(reason as usize).copied().unwrap_or_default()
    }

    pub(crate) fn refuse(&mut self, reason: RefusalReason) {
        if let Some(count) = self.refusals.get_mut(reason as usize) {
            *count += 1;
        }
    }
}
