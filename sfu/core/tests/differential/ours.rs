//! Our SFU as a forwarder.

use std::time::{Duration, Instant};

use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, ExpectedTrack, MediaKind, NodeAction, NodeEvent,
    OpenConnection, ParticipantSid, SubscribeTrack, SubscriptionSettings, TrackSource,
};
use zynk_sfu_core::{Certificate, Input, Output, Shard, ShardConfig, ShardIndex, Transport};

use crate::{
    forwarder::{ADDRESS, Forwarder},
    link::Datagram,
    traffic::{AUDIO_CID, VIDEO_CID},
};

const ROOM: &str = "RM_differential";
const PUBLISHER: ConnectionId = ConnectionId(1);
const RECEIVER: ConnectionId = ConnectionId(2);

pub(crate) struct Ours {
    shard: Shard,
    deadline: Instant,
    sent: Vec<Datagram>,
    events: Vec<NodeEvent>,
}

impl Ours {
    pub(crate) fn new(now: Instant, seed: u64) -> Self {
        let config = ShardConfig {
            index: ShardIndex(0),
            udp: vec![ADDRESS.into()],
            tcp: Vec::new(),
            certificate: Certificate::generate().unwrap(),
            unix_time: Duration::from_secs(1_750_000_000),
            protect_audio: false,
            seed,
        };
        let shard = Shard::new(config, now).unwrap();
        Self { shard, deadline: now, sent: Vec::new(), events: Vec::new() }
    }

    fn command(&mut self, now: Instant, action: NodeAction) {
        self.shard.handle_input(now, Input::Command { room: ROOM.parse().unwrap(), action });
        self.drain();
    }

    fn open(&mut self, now: Instant, connection: ConnectionId) {
        self.command(
            now,
            NodeAction::OpenConnection(OpenConnection {
                connection,
                participant: ParticipantSid::from_random(u128::from(connection.0)),
                role: ConnectionRole::Single,
                late_binding: false,
                candidates: CandidatePolicy::All,
            }),
        );
    }

    fn negotiate(&mut self, now: Instant, connection: ConnectionId, offer: &str) -> String {
        self.command(now, NodeAction::RemoteOffer { connection, offer_id: 1, sdp: offer.to_owned() });
        let answer = |event| match event {
            NodeEvent::Answer { connection: whose, sdp, .. } if whose == connection => Some(sdp),
            _ => None,
        };
        self.events.drain(..).find_map(answer).expect("an answer")
    }

    fn drain(&mut self) {
        loop {
            match self.shard.poll_output() {
                Output::Relay { .. } => unreachable!("the room is this shard's alone"),
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
                Output::Transmit(transmit) => {
                    let (source, destination) = (transmit.source, transmit.destination);
                    let datagrams = transmit.datagrams().map(<[u8]>::to_vec);
                    self.sent.extend(datagrams.map(|payload| Datagram { source, destination, payload }));
                }
                Output::Event { event, .. } => self.events.push(event),
            }
        }
    }
}

const TRACKS: [(MediaKind, &str, &str); 2] =
    [(MediaKind::Audio, "TR_audio", AUDIO_CID), (MediaKind::Video, "TR_video", VIDEO_CID)];

impl Forwarder for Ours {
    fn publish(&mut self, now: Instant, offer: &str) -> String {
        self.open(now, PUBLISHER);
        for (kind, track, cid) in TRACKS {
            let expected = ExpectedTrack {
                connection: PUBLISHER,
                track: track.parse().unwrap(),
                cids: vec![cid.to_owned()],
                kind,
                source: TrackSource::Camera,
                codec: None,
                red: false,
                dtx: false,
                stereo: false,
                muted: false,
                encrypted: false,
                backup: None,
            };
            self.command(now, NodeAction::ExpectTrack(expected));
        }
        self.negotiate(now, PUBLISHER, offer)
    }

    fn subscribe(&mut self, now: Instant, offer: &str) -> String {
        self.open(now, RECEIVER);
        for (_, track, _) in TRACKS {
            let subscribe = SubscribeTrack {
                connection: RECEIVER,
                track: track.parse().unwrap(),
                stream_id: "PA_publisher".to_owned(),
                settings: SubscriptionSettings::default(),
            };
            self.command(now, NodeAction::Subscribe(subscribe));
        }
        self.negotiate(now, RECEIVER, offer)
    }

    fn handle_datagram(&mut self, now: Instant, mut datagram: Datagram) {
        let input = Input::Datagram {
            transport: Transport::Udp,
            source: datagram.source,
            destination: datagram.destination,
            arrived: now,
            payload: &mut datagram.payload,
        };
        self.shard.handle_input(now, input);
        self.drain();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.shard.handle_input(now, Input::Timeout);
        self.drain();
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn take_sent(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.sent)
    }

    fn estimate_bps(&self) -> Option<u64> {
        self.shard.estimate(RECEIVER).map(|bitrate| bitrate.as_bps())
    }
}
