//! What shards agree on, however their words are delayed and joined.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use zynk_protocol::BackupUse;

use super::{
    backup::{CAROL, FIRST, SECOND, TRACK},
    *,
};
use crate::{
    connection::{Codec, MediaPacket},
    relay::{RelayWord, RelayedTrack, TrackLink},
    shard::relay::WANTS_MAX,
    track::Origin,
};

/// Shards of one node, and what is under way between them.
pub(super) struct Node {
    pub(super) shards: Vec<Rig>,
    wires: BTreeMap<(usize, usize), VecDeque<RelayBatch>>,
}

impl Node {
    pub(super) fn new(shards: u8) -> Self {
        Self { shards: (0..shards).map(Rig::with_index).collect(), wires: BTreeMap::new() }
    }

    /// Alice publishes on the first of two shards of a room.
    pub(super) fn with_publisher() -> Self {
        let mut node = Self::new(2);
        node.tell_siblings(&[0, 1], &[0, 1]);
        let rig = &mut node.shards[0];
        rig.open(ALICE, ConnectionRole::Publisher, false);
        rig.expect(ALICE, TRACK, MediaKind::Video, "camera");
        rig.offer(ALICE, 5, &[FIRST]);
        node.settle();
        node
    }

    pub(super) fn tell_siblings(&mut self, whom: &[usize], room: &[usize]) {
        for index in whom {
            let shards = room.iter().map(|shard| ShardIndex(*shard as u8)).collect();
            let rig = &mut self.shards[*index];
            rig.shard.handle_input(rig.now, Input::Siblings { room: ROOM.parse().unwrap(), shards });
            rig.drain();
        }
    }

    /// Who is sent the packets of a track of the first shard.
    pub(super) fn relays_of(&self, sid: &str) -> &[ShardIndex] {
        let shard = &self.shards[0].shard;
        let key = shard.published(&sid.parse().unwrap()).unwrap();
        &shard.tracks[key.0].relays
    }

    /// Takes what the shards had to say onto the wires.
    fn collect(&mut self) {
        for (from, rig) in self.shards.iter_mut().enumerate() {
            for (to, batch) in rig.relayed.drain(..) {
                self.wires.entry((from, usize::from(to.0))).or_default().push_back(batch);
            }
        }
    }

    /// Delivers the first batch of a wire.
    fn deliver(&mut self, wire: (usize, usize)) {
        self.collect();
        let Some(batch) = self.wires.get_mut(&wire).and_then(VecDeque::pop_front) else { return };
        self.say(wire, batch);
    }

    fn say(&mut self, (from, to): (usize, usize), batch: RelayBatch) {
        let rig = &mut self.shards[to];
        rig.shard.handle_input(rig.now, Input::Relay { from: ShardIndex(from as u8), batch });
        rig.drain();
    }

    pub(super) fn settle(&mut self) {
        loop {
            self.collect();
            let waiting = self.wires.iter().find(|(_, batches)| !batches.is_empty());
            let Some(wire) = waiting.map(|(wire, _)| *wire) else { return };
            self.deliver(wire);
        }
    }

    /// A packet of what Alice sends in a section.
    pub(super) fn publish_packet(&mut self, section: usize, sequence: u64) {
        let packet =
            MediaPacket::unreceived(Codec::Vp8, sequence, sequence as u32 * 3000, &[0x10, 0, 0, 0x9d]);
        let rig = &mut self.shards[0];
        let alice = rig.shard.by_id[&ALICE];
        rig.shard.forward(alice, section, packet);
        rig.drain();
        self.settle();
    }
}

fn word(word: RelayWord) -> RelayBatch {
    let mut batch = RelayBatch::default();
    batch.say(word);
    batch
}

#[test]
fn who_lacks_the_codec_gets_the_second_from_the_other_shard() {
    let mut node = Node::with_publisher();
    node.shards[1].viewer(BOB, false);
    node.shards[1].viewer(CAROL, true);
    node.settle();
    // The track came after their offers.
    for (viewer, sdp) in [(BOB, false), (CAROL, true)] {
        node.shards[1].offer_again(viewer, sdp);
    }
    let outcomes = |node: &mut Node| (node.shards[1].outcomes(BOB), node.shards[1].outcomes(CAROL));
    assert_eq!(outcomes(&mut node), (vec![None], vec![Some(false)]));
    node.shards[0].expect_backup(BackupUse::WhereNeeded);
    node.shards[0].offer(ALICE, 6, &[FIRST, SECOND]);
    node.settle();
    assert_eq!(outcomes(&mut node), (vec![None, Some(true)], vec![Some(false)]));
    assert_eq!(node.shards[1].source(BOB), Some(MimeType::new("video/VP8")));
    node.publish_packet(0, 1);
    node.publish_packet(1, 1);
    assert_eq!(node.shards[1].shard.stats().relay_packets_received, 2);
    // Nobody receives the first any more: it does not cross.
    node.shards[1].command(NodeAction::CloseConnection { connection: CAROL });
    node.settle();
    node.publish_packet(0, 2);
    node.publish_packet(1, 2);
    assert_eq!(node.shards[1].shard.stats().relay_packets_received, 3);

    node.shards[0].offer(ALICE, 7, &[FIRST, "video inactive msid:stream_camera-vp8"]);
    node.settle();
    assert_eq!(node.shards[1].outcomes(BOB), [None, Some(true), None]);
    assert_eq!(node.shards[1].shard.relay.tracks(), 1);
    let stopped = |event: &NodeEvent| matches!(event, NodeEvent::TrackStopped { .. });
    assert!(node.shards.iter().all(|rig| !rig.events.iter().any(stopped)));
}

#[test]
fn all_go_over_to_the_second_codec_when_its_media_comes_from_the_other_shard() {
    let mut node = Node::with_publisher();
    node.shards[1].viewer(CAROL, true);
    node.settle();
    node.shards[1].offer_again(CAROL, true);
    node.shards[0].expect_backup(BackupUse::Everywhere);
    node.shards[0].offer(ALICE, 6, &[FIRST, SECOND]);
    node.settle();
    node.shards[1].advance(Duration::from_millis(300));
    assert_eq!(node.shards[1].outcomes(CAROL), [Some(false)], "the picture would stand still until then");
    node.publish_packet(1, 1);
    node.shards[1].advance(Duration::from_millis(300));
    assert_eq!(node.shards[1].outcomes(CAROL), [Some(false), Some(true)]);
}

#[test]
fn a_receiver_that_fails_at_a_packet_of_another_shard_ends_alone() {
    let mut node = Node::with_publisher();
    for viewer in [BOB, CAROL] {
        node.shards[1].viewer(viewer, true);
        node.settle();
        node.shards[1].offer_again(viewer, true);
        node.shards[1].pretend_connected(viewer, viewer == BOB);
    }
    node.settle();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    node.publish_packet(0, 1);
    std::panic::set_hook(hook);
    let stats = node.shards[1].shard.stats();
    assert_eq!((stats.sessions_panicked, stats.connections, stats.rtp_packets_sent), (1, 1, 1));
    assert_eq!(node.shards[0].shard.stats().sessions_panicked, 0);
    node.publish_packet(0, 2);
    assert_eq!(node.shards[1].shard.stats().rtp_packets_sent, 2);
}

#[test]
fn every_shard_knows_what_is_encrypted_from_end_to_end() {
    for encrypted in [false, true] {
        let mut node = Node::new(2);
        node.tell_siblings(&[0, 1], &[0, 1]);
        let rig = &mut node.shards[0];
        rig.open(ALICE, ConnectionRole::Publisher, false);
        rig.command(NodeAction::ExpectTrack(ExpectedTrack { encrypted, ..microphone(ALICE, "TR_audio") }));
        rig.offer(ALICE, 1, &["audio sendonly msid:stream_mic"]);
        let rig = &mut node.shards[1];
        rig.open(BOB, ConnectionRole::Single, false);
        rig.subscribe(BOB, "TR_audio");
        node.settle();
        let known = node.shards.iter().map(|rig| rig.shard.tracks.iter().map(|(_, track)| track.encrypted));
        assert_eq!(known.flatten().collect::<Vec<_>>(), [encrypted; 2]);
    }
}

#[test]
fn wants_are_bounded_and_go_with_the_shard_and_the_room() {
    let mut node = Node::with_publisher();
    let wants = |node: &Node| {
        let spread = node.shards[0].shard.relay.spread(&ROOM.parse().unwrap());
        spread.map_or(0, |spread| spread.wants.len())
    };
    let want = |number: usize| RelayWord::Want {
        room: ROOM.parse().unwrap(),
        track: TrackSid::from_random(number as u128),
    };
    let mut batch = RelayBatch::default();
    (0..WANTS_MAX + 100).for_each(|number| batch.say(want(number)));
    node.say((1, 0), batch);
    assert_eq!(wants(&node), WANTS_MAX);
    node.tell_siblings(&[0], &[0, 2]);
    assert_eq!(wants(&node), 0, "they go with who had them");
    node.say((1, 0), word(want(1)));
    assert_eq!(wants(&node), 0, "from a shard without a share of the room");
    node.say((2, 0), word(want(1)));
    assert_eq!(wants(&node), 1);
    node.shards[0].command(NodeAction::CloseRoom);
    node.say((2, 0), word(want(2)));
    assert!(node.shards[0].shard.relay.spread(&ROOM.parse().unwrap()).is_none());
}

#[test]
fn words_about_what_is_not_there_change_nothing() {
    let mut node = Node::with_publisher();
    node.shards[1].viewer(BOB, true);
    node.settle();
    let room = || ROOM.parse().unwrap();
    let (index, serial) = {
        let (index, track) = node.shards[0].shard.tracks.iter().next().unwrap();
        (index as u32, track.serial)
    };
    let real = TrackLink { index, serial };
    let clock = crate::track::PublisherClock { source: 1, ntp: NtpTime(1), rtp: 1 };
    for link in [
        TrackLink { index, serial: serial + 1 },
        TrackLink { index: index + 1, serial },
        TrackLink { index: u32::MAX, serial },
    ] {
        for to in [0, 1] {
            let from = 1 - to;
            node.say((from, to), word(RelayWord::Flow { link, on: true }));
            node.say((from, to), word(RelayWord::Stopped { link }));
            node.say((from, to), word(RelayWord::Muted { link, muted: true }));
            node.say((from, to), word(RelayWord::Clock { link, encoding: 0, clock }));
            let sent_before = Duration::ZERO;
            node.say((from, to), word(RelayWord::Keyframe { link, encoding: 0, sent_before }));
        }
    }
    for encoding in [1, u8::MAX] {
        let sent_before = Duration::ZERO;
        node.say((1, 0), word(RelayWord::Keyframe { link: real, encoding, sent_before }));
        node.say((0, 1), word(RelayWord::Clock { link: real, encoding, clock }));
        let mut batch = RelayBatch::default();
        batch.push(real, encoding, &MediaPacket::unreceived(Codec::Vp8, 1, 1, &[0x10, 0]));
        node.say((0, 1), batch);
    }
    // From a shard that has no share of the room, and for a track that nobody asked for.
    node.say((7, 0), word(RelayWord::Flow { link: real, on: true }));
    let started = |sid: &str, usage| {
        word(RelayWord::Started(Box::new(RelayedTrack {
            room: room(),
            sid: sid.parse().unwrap(),
            link: TrackLink { index: 70, serial: 70 },
            kind: MediaKind::Video,
            source: TrackSource::Camera,
            participant: ParticipantSid::from_random(7),
            rids: vec![None],
            codec: None,
            format: None,
            muted: false,
            encrypted: false,
            usage,
        })))
    };
    node.say((7, 1), started(TRACK, None));
    node.say((0, 1), started("TR_other", None));
    node.say((0, 1), started("TR_other", Some(BackupUse::Everywhere)));
    node.settle();
    let relays: Vec<_> = node.shards[0].shard.tracks.iter().map(|(_, track)| track.relays.clone()).collect();
    assert_eq!(relays, [vec![ShardIndex(1)]]);
    let remote: Vec<_> = node.shards[1].shard.tracks.iter().map(|(_, track)| track.muted).collect();
    assert_eq!(remote, [false]);
    assert_eq!(node.shards[1].shard.stats().relay_packets_received, 0);
}

const TRACKS: usize = 3;
const ROOM_SHARDS: usize = 3;

/// What signaling did, and has to see in the end.
#[derive(Default)]
struct Model {
    /// The shard in which each track is published.
    published: [Option<usize>; TRACKS],
    /// Shard and track.
    subscribed: BTreeSet<(usize, usize)>,
    spread: BTreeSet<usize>,
}

fn track_name(track: usize) -> String {
    format!("TR_{track}")
}

fn publisher(shard: usize) -> ConnectionId {
    ConnectionId(10 + shard as u64)
}

fn viewer(shard: usize) -> ConnectionId {
    ConnectionId(20 + shard as u64)
}

impl Model {
    /// The publisher of a shard offers what it sends now.
    fn offer(&self, node: &mut Node, shard: usize) {
        let section = |track: usize| {
            let direction = if self.published[track] == Some(shard) { "sendonly" } else { "inactive" };
            format!("video {direction} msid:s_c{track}")
        };
        let sections: Vec<String> = (0..TRACKS).map(section).collect();
        let sections: Vec<&str> = sections.iter().map(String::as_str).collect();
        node.shards[shard].offer(publisher(shard), 1, &sections);
    }

    fn toggle_track(&mut self, node: &mut Node, track: usize, shard: usize) {
        match self.published[track].take() {
            Some(before) => self.offer(node, before),
            None => {
                self.published[track] = Some(shard);
                let cid = format!("c{track}");
                node.shards[shard].expect(publisher(shard), &track_name(track), MediaKind::Video, &cid);
                self.offer(node, shard);
            }
        }
    }

    fn toggle_subscription(&mut self, node: &mut Node, track: usize, shard: usize) {
        if self.subscribed.remove(&(shard, track)) {
            let (connection, track) = (viewer(shard), track_name(track).parse().unwrap());
            node.shards[shard].command(NodeAction::Unsubscribe { connection, track });
        } else {
            self.subscribed.insert((shard, track));
            node.shards[shard].subscribe(viewer(shard), &track_name(track));
        }
    }

    fn check(&self, node: &Node, seed: u64) {
        for (index, Rig { shard, .. }) in node.shards.iter().enumerate() {
            let mut links = 0;
            for track in 0..TRACKS {
                let sid: TrackSid = track_name(track).parse().unwrap();
                let key = shard.by_sid.get(&sid).copied();
                let reachable =
                    |at: usize| at == index || (self.spread.contains(&at) && self.spread.contains(&index));
                let home = self.published[track].filter(|at| reachable(*at));
                let subscribed = self.subscribed.contains(&(index, track));
                let context = format!("seed {seed}, shard {index}, track {track}");
                match (home, key) {
                    (Some(home), Some(key)) if home == index => {
                        let relays: BTreeSet<usize> =
                            shard.tracks[key.0].relays.iter().map(|shard| usize::from(shard.0)).collect();
                        let expected = (0..ROOM_SHARDS).filter(|other| {
                            *other != index
                                && self.spread.contains(other)
                                && self.spread.contains(&index)
                                && self.subscribed.contains(&(*other, track))
                        });
                        assert_eq!(relays, expected.collect(), "{context}");
                    }
                    (Some(home), Some(key)) => {
                        assert!(subscribed, "{context}: nobody wants it");
                        let Origin::Relay(origin) = &shard.tracks[key.0].origin else { panic!("{context}") };
                        assert_eq!((usize::from(origin.shard.0), origin.flowing), (home, true), "{context}");
                        links += 1;
                    }
                    (home, None) => {
                        assert!(home.is_none_or(|home| home != index && !subscribed), "{context}: not there");
                        assert_eq!(shard.waiting.contains_key(&sid), subscribed, "{context}");
                    }
                    (None, Some(_)) => panic!("{context}: still there"),
                }
            }
            assert_eq!(shard.relay.tracks(), links, "seed {seed}, shard {index}");
        }
    }
}

/// Tracks, subscriptions and the share of shards in the room come and go in any order, words are delayed by any time and
/// joined as by a link that is full, and in the end all shards agree.
#[test]
fn shards_agree_in_the_end() {
    // The last ones found: an answer to a wish that had been taken back, and one that came after the track had moved on.
    for seed in (0..150).chain([3488, 3833]) {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut node = Node::new(ROOM_SHARDS as u8);
        for shard in 0..ROOM_SHARDS {
            node.shards[shard].open(publisher(shard), ConnectionRole::Publisher, false);
            node.shards[shard].open(viewer(shard), ConnectionRole::Subscriber, false);
        }
        let mut model = Model::default();
        // Shards hear of the room's spread in their own time, in order.
        let mut untold: [VecDeque<BTreeSet<usize>>; ROOM_SHARDS] = Default::default();
        for _ in 0..random.random_range(5..120) {
            let (track, shard) = (random.random_range(0..TRACKS), random.random_range(0..ROOM_SHARDS));
            match random.random_range(0..10) {
                0 => model.toggle_track(&mut node, track, shard),
                1 | 2 => model.toggle_subscription(&mut node, track, shard),
                3 => {
                    if !model.spread.remove(&shard) {
                        model.spread.insert(shard);
                    }
                    untold.iter_mut().for_each(|queue| queue.push_back(model.spread.clone()));
                }
                4 | 5 => tell(&mut node, &mut untold[shard], shard),
                6 => {
                    // The link was full: media is dropped, and what is left goes with what comes next.
                    node.collect();
                    let to = (shard + random.random_range(1..ROOM_SHARDS)) % ROOM_SHARDS;
                    let wire = node.wires.entry((shard, to)).or_default();
                    let joined = wire.drain(..).reduce(|mut kept, later| {
                        kept.append(later);
                        kept.drop_media();
                        kept
                    });
                    wire.extend(joined);
                }
                _ => {
                    let to = (shard + random.random_range(1..ROOM_SHARDS)) % ROOM_SHARDS;
                    node.deliver((shard, to));
                }
            }
        }
        for (shard, queue) in untold.iter_mut().enumerate() {
            while !queue.is_empty() {
                tell(&mut node, queue, shard);
            }
        }
        node.settle();
        model.check(&node, seed);
        for rig in &mut node.shards {
            rig.command(NodeAction::CloseRoom);
        }
        node.settle();
        for Rig { shard, .. } in &node.shards {
            assert!(
                shard.tracks.is_empty() && shard.waiting.is_empty() && shard.by_sid.is_empty(),
                "seed {seed}"
            );
            assert!(shard.relay.is_empty(), "seed {seed}: {:?}", shard.relay);
        }
    }
}

/// A shard hears who has a share of the room: nobody, if it has none itself.
fn tell(node: &mut Node, queue: &mut VecDeque<BTreeSet<usize>>, shard: usize) {
    let Some(spread) = queue.pop_front() else { return };
    let room: Vec<usize> = if spread.contains(&shard) { spread.into_iter().collect() } else { Vec::new() };
    node.tell_siblings(&[shard], &room);
}
