//! A share of the SFU: the rooms of one worker thread.

use std::time::{Duration, Instant};

use crate::{Input, Output, ShardConfig, ShardError, ShardIndex};

/// All rooms, connections and tracks of one worker. Feed it with [`Shard::handle_input`] and, after each
/// input or batch of inputs, call [`Shard::poll_output`] until it returns [`Output::Timeout`].
#[derive(Debug)]
pub struct Shard {
    now: Instant,
}

/// Counters since the shard was made, and sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Rooms now.
    pub rooms: u64,
    /// Connections now.
    pub connections: u64,
    /// Published tracks now.
    pub tracks: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// RTP packets received and forwarded into tracks.
    pub rtp_packets_received: u64,
    /// Payload bytes of those.
    pub rtp_bytes_received: u64,
    /// RTP packets sent to subscribers.
    pub rtp_packets_sent: u64,
    /// Payload bytes of those.
    pub rtp_bytes_sent: u64,
    /// Keyframe requests (PLI, FIR) received from subscribers.
    pub keyframe_requests_received: u64,
    /// Keyframe requests sent to publishers.
    pub keyframe_requests_sent: u64,
    /// Datagrams that belong to no connection, or that its connection refused.
    pub datagrams_dropped: u64,
    /// Sessions that ended because their own state machine failed.
    pub sessions_panicked: u64,
    /// Data channel messages received.
    pub data_messages_received: u64,
    /// Data channel messages sent.
    pub data_messages_sent: u64,
}

impl Shard {
    /// An empty shard.
    pub fn new(config: ShardConfig, now: Instant) -> Result<Self, ShardError> {
        let _ = config;
        Ok(Self { now })
    }

    /// Takes one input. Never blocks, never panics on what the network sends.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        let _ = input;
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output {
        Output::Timeout(self.now + Duration::from_secs(3600))
    }

    /// Counters and sizes.
    pub fn stats(&self) -> ShardStats {
        ShardStats::default()
    }
}

/// Which shard of this node a first datagram belongs to: the number in the user fragment of an ICE binding
/// request (RFC 8445, section 7.2.2). Nothing is authenticated here; the shard does that.
pub fn shard_of(datagram: &[u8]) -> Option<ShardIndex> {
    let _ = datagram;
    None
}
