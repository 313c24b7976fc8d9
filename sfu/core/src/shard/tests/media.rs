//! Media through the shard, with connections that take packets as if they were up.

use super::*;
use crate::connection::{Codec, Connection, MediaPacket, PayloadFormat};

const TRACK: &str = "TR_video";
pub(super) const CAROL: ConnectionId = ConnectionId(3);
/// A VP8 payload with which decoding can start, and one with which it cannot (RFC 7741, section 4).
pub(super) const KEYFRAME: [u8; 6] = [0x10, 0x00, 0x9d, 0x01, 0x2a, 0x00];
pub(super) const DELTA: [u8; 6] = [0x10, 0x01, 0x9d, 0x01, 0x2a, 0x00];

impl Rig {
    /// Alice publishes, the others receive.
    pub(super) fn call(viewers: &[ConnectionId]) -> Self {
        let mut rig = with_publisher();
        for viewer in viewers {
            rig.open(*viewer, ConnectionRole::Single, false);
            rig.subscribe(*viewer, TRACK);
            rig.offer(*viewer, 1, &["video recvonly"]);
            rig.pretend_connected(*viewer, false);
        }
        rig.pretend_connected(ALICE, false);
        rig
    }

    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        let key = self.shard.by_id[&id];
        &mut self.shard.endpoints[key.0].connection
    }

    /// Alice's next packet. Returns how many were sent on.
    pub(super) fn publish(&mut self, source: u32, sequence: u64, payload: &[u8]) -> u64 {
        let alice = self.shard.by_id[&ALICE];
        let format: PayloadFormat = self.connection(ALICE).preferred_format("0".into(), None).unwrap();
        let packet = MediaPacket {
            format,
            source,
            ..MediaPacket::unreceived(
                Codec::Vp8,
                sequence,
                90 * u32::try_from(sequence % 1_000_000).unwrap(),
                payload,
            )
        };
        let before = self.shard.stats().rtp_packets_sent;
        self.shard.forward(alice, 0, packet);
        // The pacer spreads what it is given.
        self.advance(Duration::from_millis(10));
        self.shard.stats().rtp_packets_sent - before
    }

    fn mute(&mut self, muted: bool) {
        self.command(NodeAction::MuteTrack { track: TRACK.parse().unwrap(), muted });
    }
}

#[test]
fn what_is_muted_is_not_sent_on_and_starts_again_at_a_keyframe() {
    let mut rig = Rig::call(&[BOB]);
    assert_eq!(rig.publish(1, 100, &DELTA), 0, "decoding cannot start with it");
    assert_eq!(rig.publish(1, 101, &KEYFRAME), 1);
    assert_eq!(rig.publish(1, 102, &DELTA), 1);
    rig.mute(true);
    assert_eq!((rig.publish(1, 103, &DELTA), rig.publish(1, 104, &KEYFRAME)), (0, 0));
    rig.mute(false);
    assert_eq!(rig.publish(1, 105, &DELTA), 0);
    assert_eq!((rig.publish(1, 106, &KEYFRAME), rig.publish(1, 107, &DELTA)), (1, 1));
}

/// Alice publishes audio, Bob is to receive it; neither is connected.
fn audio_call() -> Rig {
    let mut rig = Rig::new();
    rig.open(ALICE, ConnectionRole::Publisher, false);
    rig.expect(ALICE, "TR_audio", MediaKind::Audio, "mic");
    rig.offer(ALICE, 1, &["audio sendonly msid:stream_mic"]);
    rig.pretend_connected(ALICE, false);
    rig.open(BOB, ConnectionRole::Single, false);
    rig.subscribe(BOB, "TR_audio");
    rig.offer(BOB, 1, &["audio recvonly"]);
    rig
}

#[test]
fn who_comes_up_begins_with_the_audio_that_came_last() {
    for (age_ms, expected) in [(0, 1), (20, 1), (60, 1), (70, 0)] {
        let mut rig = audio_call();
        for sequence in 1..5 {
            rig.publish(1, sequence, &[1, 2, 3]);
        }
        // Publishing took ten milliseconds.
        rig.advance(Duration::from_millis(age_ms.max(10) - 10));
        let before = rig.shard.stats().rtp_packets_sent;
        rig.pretend_connected(BOB, false);
        let bob = rig.shard.by_id[&BOB];
        rig.shard.handle_event(bob, ConnectionEvent::Connected);
        rig.drain();
        assert_eq!(rig.shard.stats().rtp_packets_sent - before, expected, "{age_ms} ms");
        // Once; and the next ones come after it.
        rig.shard.start_all(bob);
        rig.drain();
        assert_eq!(rig.shard.stats().rtp_packets_sent - before, expected, "{age_ms} ms");
        assert_eq!(rig.publish(1, 5, &[1, 2, 3]), 1);
        assert_eq!(rig.publish(1, 6, &[1, 2, 3]), 1);
    }
}

#[test]
fn muted_audio_is_nothing_to_begin_with() {
    let mut rig = audio_call();
    rig.publish(1, 1, &[1, 2, 3]);
    rig.command(NodeAction::MuteTrack { track: "TR_audio".parse().unwrap(), muted: true });
    rig.pretend_connected(BOB, false);
    let bob = rig.shard.by_id[&BOB];
    rig.shard.handle_event(bob, ConnectionEvent::Connected);
    rig.drain();
    assert_eq!(rig.shard.stats().rtp_packets_sent, 0);
}

#[test]
fn a_publisher_that_begins_anew_is_followed_from_its_next_keyframe() {
    for (source, sequence) in [(2, 50_000), (2, 70_001), (2, 200_000), (1, 100)] {
        let mut rig = Rig::call(&[BOB]);
        assert_eq!((rig.publish(1, 69_999, &KEYFRAME), rig.publish(1, 70_000, &DELTA)), (1, 1));
        assert_eq!(rig.publish(source, sequence, &DELTA), 0, "a delta of a picture that nobody has");
        assert_eq!(rig.publish(source, sequence + 1, &KEYFRAME), 1, "source {source} from {sequence}");
        assert_eq!(rig.publish(source, sequence + 2, &DELTA), 1);
    }
}

#[test]
fn a_publisher_that_changes_its_source_without_end_is_ended() {
    let mut rig = Rig::call(&[BOB]);
    for source in 0..1000 {
        if !rig.shard.by_id.contains_key(&ALICE) {
            assert!(source > 100, "ended after {source}");
            assert!(rig.shard.by_id.contains_key(&BOB));
            return;
        }
        rig.publish(source, 7, &KEYFRAME);
    }
    panic!("never ended");
}

#[test]
fn a_receiver_whose_session_panics_ends_alone() {
    let mut rig = Rig::call(&[BOB, CAROL]);
    assert_eq!(rig.publish(1, 1, &KEYFRAME), 2);
    rig.pretend_connected(BOB, true);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let sent = rig.publish(1, 2, &DELTA);
    std::panic::set_hook(hook);
    assert_eq!(sent, 1, "Carol gets it");
    let failed = NodeEvent::ConnectionState { connection: BOB, state: ConnectionState::Failed };
    assert!(rig.events.contains(&failed), "{:?}", rig.events);
    assert_eq!((rig.shard.stats().sessions_panicked, rig.shard.stats().connections), (1, 2));
    assert_eq!(rig.publish(1, 3, &DELTA), 1);
}
