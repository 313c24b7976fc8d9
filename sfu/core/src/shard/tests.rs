//! Negotiation and bookkeeping; media in flight is tested with real clients in the whole-system tests.

use std::time::Duration;

use zynk_protocol::{
    ConnectionRole, ExpectedTrack, MediaKind, MimeType, NegotiationFailure, NodeAction, NodeEvent,
    OpenConnection, ParticipantSid, SectionCount, SubscribeTrack, SubscriptionSettings, TrackSource,
};

use super::*;
use crate::{
    Certificate, RelayBatch, ShardIndex,
    media::srtp::{DtlsRole, KeyingMaterial, Profile},
};

mod adopt;
mod attacks;
mod backup;
mod begin;
mod flows;
mod loudest;
mod measure;
mod media;
mod protection;
mod relay;
mod room_report;
mod sending;
mod silence;

const ROOM: &str = "RM_test";
const ALICE: ConnectionId = ConnectionId(1);
const BOB: ConnectionId = ConnectionId(2);
const SERVER: ([u8; 4], u16) = ([127, 0, 0, 1], 7882);

struct Rig {
    shard: Shard,
    now: Instant,
    events: Vec<NodeEvent>,
    /// Datagrams that went out, with where to.
    sent: Vec<(SocketAddr, Vec<u8>)>,
    /// What it had to say to other shards.
    relayed: Vec<(ShardIndex, RelayBatch)>,
}

impl Rig {
    fn new() -> Self {
        Self::with_index(3)
    }

    fn with_index(index: u8) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let config = ShardConfig {
            index: ShardIndex(index),
            udp: vec![SERVER.into()],
            tcp: vec![([127, 0, 0, 1], 7881).into()],
            certificate: Certificate::generate().unwrap(),
            unix_time: Duration::from_secs(1_750_000_000),
            protect_audio: false,
            seed: 7,
        };
        let shard = Shard::new(config, now).unwrap();
        Self { shard, now, events: Vec::new(), sent: Vec::new(), relayed: Vec::new() }
    }

    fn command(&mut self, action: NodeAction) {
        self.shard.handle_input(self.now, Input::Command { room: ROOM.parse().unwrap(), action });
        self.drain();
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while self.now < end {
            self.now += Duration::from_millis(10);
            self.shard.handle_input(self.now, Input::Timeout);
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            match self.shard.poll_output() {
                Output::Event { event, .. } => self.events.push(event),
                Output::Transmit(transmit) => {
                    let to = transmit.destination;
                    self.sent.extend(transmit.datagrams().map(|datagram| (to, datagram.to_vec())));
                }
                Output::Relay { to, batch } => self.relayed.push((to, batch)),
                Output::Timeout(_) => return,
            }
        }
    }

    fn open(&mut self, connection: ConnectionId, role: ConnectionRole, late_binding: bool) {
        let participant = ParticipantSid::from_random(u128::from(connection.0));
        let candidates = zynk_protocol::CandidatePolicy::All;
        self.command(NodeAction::OpenConnection(OpenConnection {
            connection,
            participant,
            role,
            late_binding,
            candidates,
        }));
    }

    fn expect(&mut self, connection: ConnectionId, track: &str, kind: MediaKind, cid: &str) {
        self.command(NodeAction::ExpectTrack(ExpectedTrack {
            connection,
            track: track.parse().unwrap(),
            cids: vec![cid.to_owned()],
            kind,
            source: TrackSource::Camera,
            codec: Some(MimeType::new("video/VP9")).filter(|_| kind == MediaKind::Video),
            red: true,
            dtx: true,
            stereo: false,
            muted: false,
            encrypted: false,
            backup: None,
        }));
    }

    /// As if ICE and DTLS were up; `faulty` makes its session panic when it is to forward something.
    fn pretend_connected(&mut self, id: ConnectionId, faulty: bool) {
        let key = self.shard.by_id[&id];
        let path = Path { transport: Transport::Udp, local: SERVER.into(), remote: address(id) };
        self.shard.pretend_connected(key, path, keying_material(id)).unwrap();
        self.shard.endpoints[key.0].connection.set_faulty(faulty);
    }

    fn subscribe(&mut self, connection: ConnectionId, track: &str) {
        self.command(NodeAction::Subscribe(SubscribeTrack {
            connection,
            track: track.parse().unwrap(),
            stream_id: format!("PA_x|{track}"),
            settings: SubscriptionSettings::default(),
        }));
    }

    fn offer(&mut self, connection: ConnectionId, offer_id: u32, sections: &[&str]) {
        let sdp = offer(sections);
        self.command(NodeAction::RemoteOffer { connection, offer_id, sdp });
    }

    fn answer(&mut self) -> (String, Vec<zynk_protocol::MidTrack>, SectionCount) {
        let position = self.events.iter().position(|event| matches!(event, NodeEvent::Answer { .. }));
        match self.events.remove(position.unwrap_or_else(|| panic!("no answer in {:?}", self.events))) {
            NodeEvent::Answer { sdp, mid_tracks, missing, .. } => (sdp, mid_tracks, missing),
            _ => unreachable!(),
        }
    }
}

/// A track of Opus that nothing else is asked for.
fn microphone(connection: ConnectionId, track: &str) -> ExpectedTrack {
    ExpectedTrack {
        connection,
        track: track.parse().unwrap(),
        cids: vec!["mic".to_owned()],
        kind: MediaKind::Audio,
        source: TrackSource::Microphone,
        codec: None,
        red: true,
        dtx: false,
        stereo: false,
        muted: false,
        encrypted: false,
        backup: None,
    }
}

/// Where a client is that only pretends to be connected.
fn address(id: ConnectionId) -> SocketAddr {
    ([127, 0, 0, 1], 40_000 + id.0 as u16).into()
}

/// What its handshake would have yielded.
fn keying_material(id: ConnectionId) -> KeyingMaterial {
    KeyingMaterial::new(Profile::AeadAes128Gcm, &[id.0 as u8; 56]).unwrap()
}

fn offer(sections: &[&str]) -> String {
    let mids: Vec<String> = (0..sections.len()).map(|index| index.to_string()).collect();
    let mut sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS\r\n",
        mids.join(" ")
    );
    for (mid, section) in mids.iter().zip(sections) {
        let (kind, rest) = section.split_once(' ').unwrap();
        let codecs = match kind {
            "audio" => {
                "m=audio 9 UDP/TLS/RTP/SAVPF 63 111\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n\
                 a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n"
            }
            _ => {
                "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99\r\na=rtpmap:96 VP8/90000\r\n\
                 a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\n\
                 a=rtpmap:99 rtx/90000\r\na=fmtp:99 apt=98\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:98 nack\r\n"
            }
        };
        let (media_line, attributes) = codecs.split_once("\r\n").unwrap();
        sdp.push_str(&format!(
            "{media_line}\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
             a=fingerprint:sha-256 {}\r\na=setup:actpass\r\na=mid:{mid}\r\na=rtcp-mux\r\n{attributes}",
            ["AB"; 32].join(":")
        ));
        for attribute in rest.split(' ') {
            sdp.push_str(&format!("a={}\r\n", attribute.replace('_', " ")));
        }
    }
    sdp
}

/// Alice publishes `TR_video` on her publisher connection.
fn with_publisher() -> Rig {
    let mut rig = Rig::new();
    rig.open(ALICE, ConnectionRole::Publisher, false);
    rig.expect(ALICE, "TR_video", MediaKind::Video, "camera");
    rig.offer(ALICE, 5, &["video sendonly msid:stream_camera"]);
    rig
}

#[test]
fn announced_tracks_start_with_the_offer_and_the_wished_codec() {
    let mut rig = with_publisher();
    let (sdp, mid_tracks, _) = rig.answer();
    assert!(sdp.contains("m=video 9 UDP/TLS/RTP/SAVPF 98 99 96 97"), "{sdp}");
    assert!(sdp.contains("a=ice-lite") && sdp.contains("127.0.0.1 7882 typ host"), "{sdp}");
    assert!(sdp.contains("127.0.0.1 7881 typ host tcptype passive"), "{sdp}");
    assert!(sdp.contains("a=ice-ufrag:03"), "the user fragment names shard 3: {sdp}");
    assert!(mid_tracks.is_empty());
    let started = rig.events.iter().find_map(|event| match event {
        NodeEvent::TrackStarted(started) => Some(started),
        _ => None,
    });
    let started = started.unwrap();
    assert_eq!((started.mid.as_str(), started.sdp_cid.as_str()), ("0", "camera"));
    assert_eq!(started.codec.as_str(), "video/VP9");
}

#[test]
fn tracks_match_by_kind_when_renamed_and_when_announced_late() {
    let mut rig = Rig::new();
    rig.open(ALICE, ConnectionRole::Publisher, false);
    rig.offer(ALICE, 1, &["audio sendonly msid:s_renamed", "video sendonly msid:s_camera"]);
    assert!(!rig.events.iter().any(|event| matches!(event, NodeEvent::TrackStarted(_))));
    rig.expect(ALICE, "TR_video", MediaKind::Video, "camera");
    rig.expect(ALICE, "TR_audio", MediaKind::Audio, "microphone");
    let mids: Vec<(String, String)> = rig
        .events
        .iter()
        .filter_map(|event| match event {
            NodeEvent::TrackStarted(started) => Some((started.track.to_string(), started.mid.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(mids, [("TR_video".into(), "1".into()), ("TR_audio".into(), "0".into())]);
}

#[test]
fn a_section_that_stops_or_changes_its_track_ends_the_old_one() {
    let mut rig = with_publisher();
    rig.offer(ALICE, 6, &["video sendonly msid:stream_other"]);
    let stopped =
        |rig: &Rig| rig.events.iter().filter(|event| matches!(event, NodeEvent::TrackStopped { .. })).count();
    assert_eq!(stopped(&rig), 1);
    rig.expect(ALICE, "TR_second", MediaKind::Video, "other");
    rig.offer(ALICE, 7, &["video inactive msid:stream_other"]);
    assert_eq!(stopped(&rig), 2);
    assert_eq!(rig.shard.stats().tracks, 0);
}

#[test]
fn offers_are_numbered_and_answers_need_not_be() {
    let mut rig = with_publisher();
    rig.open(BOB, ConnectionRole::Subscriber, false);
    rig.subscribe(BOB, "TR_video");
    rig.advance(Duration::from_millis(50));
    let offers = |rig: &Rig| -> Vec<(u32, String)> {
        let offer = |event: &NodeEvent| match event {
            NodeEvent::Offer { offer_id, sdp, .. } => Some((*offer_id, sdp.clone())),
            _ => None,
        };
        rig.events.iter().filter_map(offer).collect()
    };
    for (round, answers) in [0, 2, 0].into_iter().enumerate() {
        let number = u32::try_from(round).unwrap() + 1;
        let offers = offers(&rig);
        let (id, sdp) = offers.last().unwrap();
        assert_eq!((offers.len(), *id), (round + 1, number));
        let sdp = sdp.replace("a=sendonly", "a=recvonly").replace("a=setup:actpass", "a=setup:active");
        let sdp = sdp.replace("a=ice-lite\r\n", "");
        rig.command(NodeAction::RemoteAnswer { connection: BOB, offer_id: answers, sdp });
        let failed = rig.events.iter().find(|event| matches!(event, NodeEvent::NegotiationFailed { .. }));
        assert_eq!(failed, None);
        let (track, cid) = (format!("TR_{round}"), format!("cid{round}"));
        rig.expect(ALICE, &track, MediaKind::Audio, &cid);
        rig.subscribe(BOB, &track);
        let mut sections = vec!["video sendonly msid:stream_camera".to_owned()];
        sections.extend((0..=round).map(|round| format!("audio sendonly msid:stream_cid{round}")));
        rig.offer(ALICE, 10 + number, &sections.iter().map(String::as_str).collect::<Vec<_>>());
        rig.advance(Duration::from_millis(100));
    }
}

#[test]
fn a_subscriber_connection_is_offered_channels_and_tracks_one_offer_at_a_time() {
    let mut rig = with_publisher();
    rig.open(BOB, ConnectionRole::Subscriber, false);
    rig.subscribe(BOB, "TR_video");
    rig.advance(Duration::from_millis(50));
    rig.subscribe(BOB, "TR_later");
    rig.expect(ALICE, "TR_later", MediaKind::Audio, "microphone");
    rig.offer(ALICE, 6, &["video sendonly msid:stream_camera", "audio sendonly msid:s_microphone"]);
    rig.advance(Duration::from_millis(100));
    let offers: Vec<(u32, &String)> = rig
        .events
        .iter()
        .filter_map(|event| match event {
            NodeEvent::Offer { offer_id, sdp, .. } => Some((*offer_id, sdp)),
            _ => None,
        })
        .collect();
    assert_eq!(offers.len(), 1, "the second waits for the answer");
    let (id, sdp) = offers[0];
    assert_eq!(id, 1);
    assert!(sdp.contains("m=application") && sdp.contains("a=msid:PA_x|TR_video TR_video"), "{sdp}");
    rig.advance(Duration::from_secs(15));
    let timed_out = |event: &NodeEvent| {
        matches!(
            event,
            NodeEvent::NegotiationFailed { failure: NegotiationFailure::Timeout { seconds: 15 }, .. }
        )
    };
    assert!(rig.events.iter().any(timed_out));
}

#[test]
fn a_single_connection_gets_tracks_in_free_sections_and_asks_for_more() {
    let mut rig = with_publisher();
    rig.open(BOB, ConnectionRole::Single, false);
    rig.subscribe(BOB, "TR_video");
    rig.answer();
    rig.offer(BOB, 1, &["audio recvonly", "video recvonly"]);
    let (sdp, mid_tracks, missing) = rig.answer();
    assert_eq!(mid_tracks.len(), 1);
    assert_eq!((mid_tracks[0].mid.as_str(), mid_tracks[0].track.as_str()), ("1", "TR_video"));
    assert_eq!(missing, SectionCount::default());
    assert!(sdp.contains("a=inactive"), "the free section is idle: {sdp}");
    assert!(sdp.contains("a=msid:PA_x|TR_video TR_video"), "{sdp}");
    rig.expect(ALICE, "TR_screen", MediaKind::Video, "screen");
    rig.offer(ALICE, 6, &["video sendonly msid:stream_camera", "video sendonly msid:s_screen"]);
    rig.subscribe(BOB, "TR_screen");
    rig.advance(Duration::from_millis(50));
    let needed = rig.events.iter().find_map(|event| match event {
        NodeEvent::NegotiationNeeded { missing, .. } => Some(*missing),
        _ => None,
    });
    assert_eq!(needed, Some(SectionCount { audio: 0, video: 1 }));
    assert!(!rig.events.iter().any(|event| matches!(event, NodeEvent::Offer { .. })));
    rig.answer();
    rig.offer(BOB, 2, &["audio recvonly", "video recvonly", "video recvonly"]);
    assert_eq!(rig.answer().1.len(), 2, "the map is complete each time");
}

#[test]
fn late_binding_fills_a_section_without_another_negotiation() {
    let mut rig = Rig::new();
    rig.open(BOB, ConnectionRole::Single, true);
    rig.subscribe(BOB, "TR_video");
    rig.offer(BOB, 0, &["video recvonly"]);
    let (sdp, mid_tracks, _) = rig.answer();
    assert!(sdp.contains("a=sendonly") && mid_tracks.is_empty(), "{sdp}");
    rig.open(ALICE, ConnectionRole::Publisher, false);
    rig.expect(ALICE, "TR_video", MediaKind::Video, "camera");
    rig.offer(ALICE, 0, &["video sendonly msid:stream_camera"]);
    let subscribed =
        |event: &NodeEvent| matches!(event, NodeEvent::Subscribed { connection, .. } if *connection == BOB);
    assert!(rig.events.iter().any(subscribed), "{:?}", rig.events);
}

#[test]
fn a_section_goes_on_with_its_numbers_under_the_next_subscription() {
    let mut rig = with_publisher();
    rig.open(BOB, ConnectionRole::Single, false);
    let mut numbers = Vec::new();
    for round in 0..4 {
        rig.subscribe(BOB, "TR_video");
        rig.offer(BOB, round, &["video recvonly"]);
        let (_, subscription) = rig.shard.subscriptions.iter().next().unwrap();
        let state = format!("{subscription:?}");
        numbers.push(state.split_once("next_sequence: ").unwrap().1.split_once(',').unwrap().0.to_owned());
        let track = "TR_video".parse().unwrap();
        rig.command(NodeAction::Unsubscribe { connection: BOB, track });
    }
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
}

#[test]
fn settings_that_come_before_the_subscription_are_kept() {
    let mut rig = with_publisher();
    rig.open(BOB, ConnectionRole::Single, false);
    let settings = SubscriptionSettings { paused: true, ..SubscriptionSettings::default() };
    let track: TrackSid = "TR_video".parse().unwrap();
    rig.command(NodeAction::ConfigureSubscription { connection: BOB, track, settings });
    rig.subscribe(BOB, "TR_video");
    assert!(rig.shard.subscriptions.iter().all(|(_, subscription)| subscription.settings.paused));
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    let mut rig = with_publisher();
    for sdp in ["", "garbage", "v=0\r\n", &offer(&["video sendonly"]).replace("ice-ufrag", "x-ufrag")] {
        rig.events.clear();
        rig.command(NodeAction::RemoteOffer { connection: ALICE, offer_id: 9, sdp: sdp.to_owned() });
        let refused = |event: &NodeEvent| matches!(event, NodeEvent::NegotiationFailed { offer_id: 9, .. });
        assert!(rig.events.iter().any(refused), "{sdp:?}: {:?}", rig.events);
    }
    assert_eq!(rig.shard.stats().tracks, 1);
}

#[test]
fn a_session_that_panics_ends_alone() {
    let mut rig = with_publisher();
    rig.open(BOB, ConnectionRole::Single, false);
    rig.subscribe(BOB, "TR_video");
    rig.events.clear();
    let alice = rig.shard.by_id[&ALICE];
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let worked: Option<()> = rig.shard.guard(alice, |_| panic!("a defect in this session's state machine"));
    std::panic::set_hook(hook);
    rig.drain();
    assert!(worked.is_none());
    assert_eq!(rig.shard.stats().sessions_panicked, 1);
    let failed = ConnectionState::Failed;
    assert!(rig.events.contains(&NodeEvent::ConnectionState { connection: ALICE, state: failed }));
    assert!(matches!(rig.events[0], NodeEvent::TrackStopped { .. }), "{:?}", rig.events);
    rig.offer(BOB, 1, &["video recvonly"]);
    rig.answer();
    assert_eq!(rig.shard.stats().connections, 1);
}

#[test]
fn everything_of_a_closed_room_is_forgotten() {
    let mut rig = with_publisher();
    rig.open(BOB, ConnectionRole::Single, false);
    rig.subscribe(BOB, "TR_video");
    rig.subscribe(BOB, "TR_never");
    rig.command(NodeAction::CloseRoom);
    let stats = rig.shard.stats();
    assert_eq!((stats.rooms, stats.connections, stats.tracks, stats.subscriptions), (0, 0, 0, 0));
    assert!(rig.shard.waiting.is_empty() && rig.shard.timers.is_empty() && rig.shard.by_sid.is_empty());
}
