//! What both forwarders have to do.

use std::time::Instant;

use crate::link::Datagram;

/// Where forwarders are.
pub(crate) const ADDRESS: ([u8; 4], u16) = ([10, 255, 0, 1], 7882);

/// Forwards one publisher's media to one receiver; tells them apart by their addresses.
pub(crate) trait Forwarder {
    /// Answers the publisher's offer, which comes first.
    fn publish(&mut self, now: Instant, offer: &str) -> String;
    /// Answers the receiver's offer.
    fn subscribe(&mut self, now: Instant, offer: &str) -> String;
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram);
    fn handle_timeout(&mut self, now: Instant);
    fn deadline(&self) -> Instant;
    fn take_sent(&mut self) -> Vec<Datagram>;
    /// What is thought to reach the receiver, in bit/s.
    fn estimate_bps(&self) -> Option<u64>;
}
