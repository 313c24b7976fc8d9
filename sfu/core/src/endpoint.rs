//! A client's peer connection with everything that signaling attached to it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::Rng;
use rustc_hash::FxHashMap;
use zynk_protocol::{
    ConnectionId, ConnectionRole, DataKind, ExpectedTrack, MediaKind, ParticipantSid, RoomSid,
    SubscriptionSettings, TrackSid,
};

use crate::{
    connection::{Connection, Credentials, DataSent, Mid},
    media::{egress::EgressStream, keyframes::KeyframeAllowance},
    media_session::MediaSession,
    rewriter::Rewriter,
    shard::{Allocation, CaughtUp, Lacked, SubscriptionKey, TrackKey},
    silence::Silence,
};

/// Tracks that a client announced but does not send yet; further announcements are ignored.
const EXPECTED_TRACKS_MAX: usize = 64;
/// Settings kept for subscriptions that do not exist yet; further ones are ignored.
const EARLY_SETTINGS_MAX: usize = 1024;
/// Reliable messages that wait for a slow receiver; when either bound is reached, new ones are dropped.
const DATA_QUEUE_MESSAGES_MAX: usize = 4096;
const DATA_QUEUE_BYTES_MAX: usize = 4 << 20;
/// A connection without a path for so long has failed.
pub(crate) const DISCONNECTED_MAX: Duration = Duration::from_secs(15);
/// A connection that has not come up so long after it was opened has failed.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(90);

/// One peer connection and its bookkeeping.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: ConnectionId,
    pub(crate) room: RoomSid,
    pub(crate) participant: ParticipantSid,
    pub(crate) role: ConnectionRole,
    pub(crate) late_binding: bool,
    /// On its own: it is large, and media passes it by.
    pub(crate) connection: Box<Connection>,
    pub(crate) media: MediaSession,
    pub(crate) allocation: Allocation,
    pub(crate) caught_up: CaughtUp,
    pub(crate) credentials: CredentialsNow,
    pub(crate) sections: Vec<Section>,
    pub(crate) expected: Vec<ExpectedTrack>,
    pub(crate) subscriptions: FxHashMap<TrackSid, SubscriptionKey>,
    /// Subscriptions in the order in which they were made.
    pub(crate) order: Vec<SubscriptionKey>,
    pub(crate) early_settings: FxHashMap<TrackSid, SubscriptionSettings>,
    pub(crate) negotiation: Negotiation,
    pub(crate) data: DataQueue,
    pub(crate) opened_at: Instant,
    pub(crate) connected_once: bool,
    pub(crate) disconnected_at: Option<Instant>,
    pub(crate) silence: Silence,
    /// When the connection wants to be woken; mirrors the shard's timer.
    pub(crate) wake_at: Option<Instant>,
    pub(crate) dirty: bool,
    pub(crate) traffic: Traffic,
    /// When figures of the interval that began then are told.
    pub(crate) stats_at: Instant,
    /// What of the wanted pictures was not there at that time.
    pub(crate) lacked: Lacked,
    /// How often a source that it publishes gave way to another.
    pub(crate) sources_replaced: u32,
}

/// ICE credentials of our side: those in use and, during a restart that we offered, the next ones.
#[derive(Clone)]
pub(crate) struct CredentialsNow {
    pub(crate) current: Credentials,
    pub(crate) offered: Option<Credentials>,
    /// How often they were replaced.
    pub(crate) restarts: u32,
}

impl std::fmt::Debug for CredentialsNow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialsNow")
    }
}

/// Packets of one report interval.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) packets_received: u64,
    pub(crate) bytes_received: u64,
    pub(crate) packets_sent: u64,
    pub(crate) bytes_sent: u64,
}

/// Where the offers and answers of a connection stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Negotiation {
    /// Our offer that has no answer yet.
    pub(crate) outstanding: Option<(u32, Instant)>,
    pub(crate) last_offer_id: u32,
    /// Something changed: negotiate at this time.
    pub(crate) due_at: Option<Instant>,
    pub(crate) restart_ice: bool,
    pub(crate) offered_data_channels: bool,
    /// The client has offered at least once (roles where it does).
    pub(crate) answered: bool,
}

/// One media section.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) mid: Mid,
    pub(crate) name: String,
    pub(crate) kind: MediaKind,
    /// What the client's last description said.
    pub(crate) client_sends: bool,
    pub(crate) client_receives: bool,
    pub(crate) track_id: Option<String>,
    pub(crate) rids: Vec<String>,
    /// The track that the client sends here.
    pub(crate) track: Option<TrackKey>,
    /// What that track was announced with.
    pub(crate) announced: Option<Box<ExpectedTrack>>,
    /// The subscription that we send here.
    pub(crate) subscription: Option<SubscriptionKey>,
    /// Where its outgoing numbers stopped, while no subscription carries them on. A section keeps its SSRC, and
    /// a receiver drops packets whose numbers go back (RFC 3711, section 3.3.2).
    pub(crate) rewriter: Option<Box<Rewriter>>,
    /// Both sides agreed that it carries nothing to the client: it can be given to another track.
    pub(crate) reusable: bool,
    /// What we send here, once it is negotiated and there are keys.
    pub(crate) stream: Option<Box<EgressStream>>,
    /// Of that stream, in source descriptions.
    pub(crate) cname: String,
    /// How many more keyframes the client may wish for here.
    pub(crate) allowance: KeyframeAllowance,
    /// Packets that the stream had sent at its last report.
    pub(crate) reported_packets: u64,
}

impl Section {
    pub(crate) fn new(name: &str, kind: MediaKind) -> Self {
        Self {
            mid: Mid::from(name),
            name: name.to_owned(),
            kind,
            client_sends: false,
            client_receives: false,
            track_id: None,
            rids: Vec::new(),
            track: None,
            announced: None,
            subscription: None,
            rewriter: None,
            reusable: false,
            stream: None,
            cname: String::new(),
            allowance: KeyframeAllowance::default(),
            reported_packets: 0,
        }
    }

    /// For the section's next subscription: it goes on where the last one's numbers stopped.
    pub(crate) fn take_rewriter(&mut self, random: &mut impl Rng) -> Box<Rewriter> {
        self.rewriter.take().unwrap_or_else(|| Box::new(Rewriter::new(random)))
    }
}

impl Endpoint {
    pub(crate) fn section(&mut self, mid: Mid) -> Option<&mut Section> {
        self.sections.iter_mut().find(|section| section.mid == mid)
    }

    /// Remembers an announced track. False if there are too many.
    pub(crate) fn expect(&mut self, track: ExpectedTrack) -> bool {
        if self.expected.len() >= EXPECTED_TRACKS_MAX {
            return false;
        }
        self.expected.push(track);
        true
    }

    /// Keeps settings until the subscription is made.
    pub(crate) fn keep_settings(&mut self, track: TrackSid, settings: SubscriptionSettings) {
        if self.early_settings.len() < EARLY_SETTINGS_MAX {
            self.early_settings.insert(track, settings);
        }
    }
}

/// Reliable messages that did not fit into the channel's buffer.
#[derive(Debug, Default)]
pub(crate) struct DataQueue {
    messages: VecDeque<(DataKind, Bytes)>,
    bytes: usize,
}

impl DataQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Keeps a message for later. False when the queue is full and the message is lost.
    pub(crate) fn push(&mut self, kind: DataKind, payload: Bytes) -> bool {
        let full = self.messages.len() >= DATA_QUEUE_MESSAGES_MAX
            || self.bytes.saturating_add(payload.len()) > DATA_QUEUE_BYTES_MAX;
        if !full {
            self.bytes += payload.len();
            self.messages.push_back((kind, payload));
        }
        !full
    }

    /// Hands messages to `send` until there is no room for one. Returns how many it took, and how many it
    /// will never take.
    pub(crate) fn drain(&mut self, mut send: impl FnMut(DataKind, &[u8]) -> DataSent) -> (u64, u64) {
        let (mut sent, mut lost) = (0, 0);
        while let Some((kind, payload)) = self.messages.front() {
            match send(*kind, payload) {
                DataSent::Sent => sent += 1,
                DataSent::Impossible => lost += 1,
                DataSent::Full => break,
            }
            self.bytes = self.bytes.saturating_sub(payload.len());
            self.messages.pop_front();
        }
        (sent, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_can_never_go_does_not_hold_up_the_next() {
        let mut queue = DataQueue::default();
        for text in ["first", "far too long", "second", "third"] {
            assert!(queue.push(DataKind::Reliable, Bytes::from_static(text.as_bytes())));
        }
        let mut went = Vec::new();
        let outcome = queue.drain(|_, payload| match payload {
            b"far too long" => DataSent::Impossible,
            b"third" => DataSent::Full,
            _ => {
                went.push(payload.to_vec());
                DataSent::Sent
            }
        });
        assert_eq!(outcome, (2, 1));
        assert_eq!(went, [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!((queue.messages.len(), queue.bytes), (1, "third".len()));
    }
}
