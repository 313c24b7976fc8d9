//! Whose audio is forwarded in a room where not everybody's is.

use std::collections::BTreeMap;

use super::{attacks::Client, relay::Node, *};
use crate::{
    connection::{Codec, MediaPacket},
    media::extensions::{AudioLevel, Extensions},
};

const PACKET: Duration = Duration::from_millis(20);
const SECOND: u32 = 50;
/// 20 ms of Opus.
const TICKS: u32 = 960;
/// In −dBov.
const QUIET: Option<u8> = Some(100);

/// Some publish, and Bob is to receive all.
struct Hall {
    rig: Rig,
    bob: Client,
    packets: u32,
    /// What Bob got of each, by number and timestamp of the publisher and as it came.
    got: BTreeMap<usize, Vec<(u32, u64, u32)>>,
}

fn publisher(index: usize) -> ConnectionId {
    ConnectionId(10 + index as u64)
}

fn track(index: usize) -> String {
    format!("TR_{index}")
}

impl Rig {
    /// Somebody publishes a microphone.
    fn talker(&mut self, index: usize) {
        let id = publisher(index);
        self.open(id, ConnectionRole::Publisher, false);
        self.command(NodeAction::ExpectTrack(ExpectedTrack { red: false, ..microphone(id, &track(index)) }));
        self.offer(id, 1, &["audio sendonly msid:stream_mic"]);
        self.pretend_connected(id, false);
    }

    /// Bob, who is to receive so many.
    fn listener(&mut self, talkers: usize) {
        self.open(BOB, ConnectionRole::Single, false);
        (0..talkers).for_each(|index| self.subscribe(BOB, &track(index)));
        self.offer(BOB, 1, &vec!["audio recvonly"; talkers]);
        self.pretend_connected(BOB, false);
    }

    /// A publisher's packet, with who it is from and its number as its payload.
    fn talk(&mut self, index: usize, number: u32, level: Option<u8>) {
        let key = self.shard.by_id[&publisher(index)];
        let format = self.shard.endpoints[key.0].connection.preferred_format("0".into(), None).unwrap();
        let mut payload = vec![index as u8];
        payload.extend(number.to_be_bytes());
        let unreceived = MediaPacket::unreceived(Codec::Opus, number.into(), number * TICKS, &payload);
        let audio_level = level.map(|attenuation| AudioLevel { attenuation, voice: true });
        let extensions = Extensions { audio_level, ..Extensions::default() };
        let packet = MediaPacket { format, source: 100 + index as u32, extensions, ..unreceived };
        self.shard.forward(key, 0, packet);
    }
}

impl Hall {
    fn new(loudest: u32, talkers: usize) -> Self {
        let mut rig = Rig::new();
        (0..talkers).for_each(|index| rig.talker(index));
        rig.listener(talkers);
        if loudest > 0 {
            rig.command(NodeAction::LimitAudio { loudest });
        }
        Self { rig, bob: Client::of(BOB), packets: 0, got: BTreeMap::new() }
    }

    /// A packet of each with a level comes, 20 ms after the last. Returns whom Bob hears.
    fn packet(&mut self, levels: &[Option<u8>]) -> Vec<usize> {
        self.packets += 1;
        for (index, level) in levels.iter().enumerate() {
            self.rig.talk(index, self.packets, *level);
        }
        self.rig.advance(PACKET);
        let received = self.bob.received(&mut self.rig);
        let mut heard = Vec::new();
        for ((_, sequence, payload), timestamp) in received.rtp.iter().zip(received.timestamps) {
            let index = usize::from(payload[0]);
            let number = u32::from_be_bytes(payload[1..].try_into().unwrap());
            self.got.entry(index).or_default().push((number, *sequence, timestamp));
            heard.push(index);
        }
        heard.sort_unstable();
        heard
    }

    fn packets(&mut self, count: u32, levels: &[Option<u8>]) -> Vec<usize> {
        (0..count).map(|_| self.packet(levels)).last().unwrap_or_default()
    }

    /// For a receiver there are no holes, and the time that passes is the publisher's.
    fn check_numbers(&self) {
        for (index, got) in &self.got {
            for pair in got.windows(2) {
                let [(number, sequence, timestamp), (next, next_sequence, next_timestamp)] = pair else {
                    panic!()
                };
                assert_eq!(*next_sequence, sequence + 1, "of {index}, after {number}");
                assert_eq!(next_timestamp.wrapping_sub(*timestamp), (next - number) * TICKS, "of {index}");
            }
        }
    }
}

#[test]
fn the_loudest_are_heard_and_the_packets_of_the_others_are_saved() {
    let mut hall = Hall::new(3, 6);
    let levels: Vec<Option<u8>> = (0..6).map(|index| Some(50 - 5 * index)).collect();
    assert_eq!(hall.packets(3 * SECOND, &levels), [3, 4, 5]);
    let before = hall.rig.shard.stats();
    hall.packets(SECOND, &levels);
    let after = hall.rig.shard.stats();
    assert_eq!(after.rtp_packets_withheld - before.rtp_packets_withheld, u64::from(3 * SECOND));
    assert_eq!(after.rtp_packets_sent - before.rtp_packets_sent, u64::from(3 * SECOND));
    hall.check_numbers();
}

#[test]
fn without_a_limit_everybody_is_heard() {
    let mut hall = Hall::new(0, 6);
    assert_eq!(hall.packets(SECOND, &[Some(20); 6]), [0, 1, 2, 3, 4, 5]);
    assert_eq!(hall.rig.shard.stats().rtp_packets_withheld, 0);
    hall.rig.command(NodeAction::LimitAudio { loudest: 1 });
    assert_eq!(hall.packets(3 * SECOND, &[Some(50), Some(50), Some(20), Some(50), Some(50), Some(50)]), [2]);
    hall.rig.command(NodeAction::LimitAudio { loudest: 0 });
    assert_eq!(hall.packet(&[Some(50); 6]), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_newcomer_is_heard_within_a_tenth_of_a_second_and_nothing_is_missing_in_its_numbers() {
    let mut hall = Hall::new(2, 4);
    let quiet = [Some(30), Some(35), QUIET, QUIET];
    let loud = [Some(30), Some(35), QUIET, Some(25)];
    for _ in 0..4 {
        assert_eq!(hall.packets(4 * SECOND, &quiet), [0, 1]);
        let packets = (1..).find(|_| hall.packet(&loud).contains(&3)).unwrap();
        assert!(packets <= 5, "{packets} packets of 20 ms");
        assert!(hall.packet(&loud).contains(&1), "nobody is cut in mid-word");
        hall.packets(2 * SECOND, &loud);
    }
    hall.check_numbers();
    assert!(hall.got[&3].len() > 400 && hall.got[&1].len() > 800);
}

#[test]
fn who_has_no_levels_is_always_heard_and_takes_nobodys_place() {
    let mut hall = Hall::new(1, 3);
    assert_eq!(hall.packets(3 * SECOND, &[None, Some(60), Some(30)]), [0, 2]);
    hall.check_numbers();
}

#[test]
fn a_place_is_free_when_its_track_is_muted_or_ends() {
    let mut hall = Hall::new(1, 3);
    let levels = [Some(20), Some(30), Some(40)];
    assert_eq!(hall.packets(3 * SECOND, &levels), [0]);
    hall.rig.command(NodeAction::MuteTrack { track: track(0).parse().unwrap(), muted: true });
    assert!(hall.packet(&levels).contains(&1));
    assert_eq!(hall.packets(3 * SECOND, &levels), [1]);
    hall.rig.command(NodeAction::RemoveTrack { track: track(1).parse().unwrap() });
    assert!(hall.packet(&levels).contains(&2));
}

/// Each shard knows the levels of all that its subscribers could receive.
#[test]
fn in_a_spread_room_the_loudest_of_all_shards_are_heard() {
    let mut node = Node::new(2);
    node.tell_siblings(&[0, 1], &[0, 1]);
    node.shards[0].talker(0);
    node.shards[0].talker(1);
    node.shards[1].talker(2);
    node.shards[1].listener(3);
    for rig in &mut node.shards {
        rig.command(NodeAction::LimitAudio { loudest: 1 });
    }
    node.settle();
    // The tracks came after his offer.
    node.shards[1].offer(BOB, 2, &["audio recvonly"; 3]);
    node.settle();
    let mut bob = Client::of(BOB);
    let mut heard_at_last = |node: &mut Node, from: u32, levels: [u8; 3]| {
        let mut heard = Vec::new();
        for number in from..from + 4 * SECOND {
            for (shard, index) in [(0, 0), (0, 1), (1, 2)] {
                node.shards[shard].talk(index, number, Some(levels[index]));
            }
            node.shards.iter_mut().for_each(|rig| rig.advance(PACKET));
            node.settle();
            let received = bob.received(&mut node.shards[1]);
            heard = received.rtp.iter().map(|(.., payload)| payload[0]).collect();
        }
        heard
    };
    assert_eq!(heard_at_last(&mut node, 1, [50, 20, 40]), [1]);
    assert_eq!(heard_at_last(&mut node, 1_000, [50, 40, 20]), [2]);
}
