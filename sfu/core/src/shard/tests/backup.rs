//! Second codecs of tracks.

use zynk_protocol::{BackupUse, SubscriptionFailure};

use super::*;
use crate::connection::{Codec, MediaPacket};

pub(super) const CAROL: ConnectionId = ConnectionId(3);
pub(super) const TRACK: &str = "TR_video";
pub(super) const FIRST: &str = "video sendonly msid:stream_camera";
pub(super) const SECOND: &str = "video sendonly msid:stream_camera-vp8";

impl Rig {
    pub(super) fn expect_backup(&mut self, usage: BackupUse) {
        self.command(NodeAction::ExpectTrack(ExpectedTrack {
            connection: ALICE,
            track: TRACK.parse().unwrap(),
            cids: vec!["camera-vp8".into()],
            kind: MediaKind::Video,
            source: TrackSource::Camera,
            codec: Some(MimeType::new("video/VP8")),
            red: false,
            dtx: false,
            stereo: false,
            muted: false,
            encrypted: false,
            backup: Some(usage),
        }));
    }

    /// Somebody who subscribes, and whose offer has VP8 alone or VP9 too.
    pub(super) fn viewer(&mut self, connection: ConnectionId, with_vp9: bool) {
        self.open(connection, ConnectionRole::Single, false);
        self.subscribe(connection, TRACK);
        self.offer_again(connection, with_vp9);
    }

    pub(super) fn offer_again(&mut self, connection: ConnectionId, with_vp9: bool) {
        let mut sdp = offer(&["video recvonly"]);
        if !with_vp9 {
            let of_vp9 = |line: &&str| [":98", ":99"].iter().any(|format| line.contains(format));
            let kept: Vec<&str> = sdp.split("\r\n").filter(|line| !of_vp9(line)).collect();
            sdp = kept.join("\r\n").replace("96 97 98 99", "96 97");
            assert!(!sdp.contains("VP9"), "{sdp}");
        }
        self.command(NodeAction::RemoteOffer { connection, offer_id: 1, sdp });
    }

    /// What became of a viewer's subscription, in order: its codec, or none where it was refused.
    pub(super) fn outcomes(&mut self, of: ConnectionId) -> Vec<Option<bool>> {
        let outcome = |event: &NodeEvent| match event {
            NodeEvent::Subscribed { connection, backup, .. } if *connection == of => Some(Some(*backup)),
            NodeEvent::SubscriptionFailed {
                connection,
                reason: SubscriptionFailure::CodecUnsupported,
                ..
            } if *connection == of => Some(None),
            _ => None,
        };
        self.events.iter().filter_map(outcome).collect()
    }

    /// The codec in which a viewer's track is sent to it.
    pub(super) fn source(&self, connection: ConnectionId) -> Option<MimeType> {
        let endpoint = &self.shard.endpoints[self.shard.by_id[&connection].0];
        let subscription = &self.shard.subscriptions[endpoint.order[0].0];
        assert!(self.shard.tracks[subscription.source?.0].subscribers.contains(&endpoint.order[0]));
        subscription.negotiated.then(|| self.shard.tracks[subscription.source?.0].codec.clone()).flatten()
    }

    /// Media of every track comes.
    fn receive_media(&mut self) {
        for (_, track) in &mut self.shard.tracks {
            track.observe(self.now, 0, &MediaPacket::unreceived(Codec::Vp8, 1, 1, &[0x10, 0]));
        }
    }
}

#[test]
fn who_lacks_the_codec_waits_for_the_second_and_goes_back_to_waiting_without_it() {
    let mut rig = with_publisher();
    rig.viewer(BOB, false);
    rig.viewer(CAROL, true);
    assert_eq!((rig.outcomes(BOB), rig.outcomes(CAROL)), (vec![None], vec![Some(false)]));
    assert_eq!(rig.source(BOB), None, "nothing flows");
    rig.expect_backup(BackupUse::WhereNeeded);
    rig.offer(ALICE, 6, &[FIRST, SECOND]);
    let started = rig.events.iter().rev().find_map(|event| match event {
        NodeEvent::TrackStarted(started) => Some(started.clone()),
        _ => None,
    });
    let started = started.unwrap();
    assert_eq!((started.track.as_str(), started.mid.as_str(), started.backup), (TRACK, "1", true));
    assert_eq!(started.codec.as_str(), "video/VP8");
    rig.receive_media();
    rig.advance(Duration::from_millis(300));
    assert_eq!((rig.outcomes(BOB), rig.outcomes(CAROL)), (vec![None, Some(true)], vec![Some(false)]));
    assert_eq!(rig.source(BOB), Some(MimeType::new("video/VP8")));
    assert_eq!(rig.source(CAROL), Some(MimeType::new("video/VP9")));

    rig.offer(ALICE, 7, &[FIRST, "video inactive msid:stream_camera-vp8"]);
    assert_eq!(rig.outcomes(BOB), [None, Some(true), None]);
    assert_eq!(rig.source(BOB), None);
    let stopped = |event: &NodeEvent| matches!(event, NodeEvent::TrackStopped { .. });
    assert!(!rig.events.iter().any(stopped), "the track goes on in its first codec");
    assert_eq!(rig.shard.stats().tracks, 1);
}

#[test]
fn who_comes_when_the_second_codec_is_there_begins_with_it() {
    let mut rig = with_publisher();
    rig.expect_backup(BackupUse::WhereNeeded);
    rig.offer(ALICE, 6, &[FIRST, SECOND]);
    rig.viewer(BOB, false);
    rig.viewer(CAROL, true);
    assert_eq!((rig.outcomes(BOB), rig.outcomes(CAROL)), (vec![Some(true)], vec![Some(false)]));
}

#[test]
fn all_go_over_to_the_second_codec_when_its_media_comes() {
    let mut rig = with_publisher();
    rig.viewer(CAROL, true);
    rig.expect_backup(BackupUse::Everywhere);
    rig.offer(ALICE, 6, &[FIRST, SECOND]);
    rig.advance(Duration::from_millis(300));
    assert_eq!(rig.outcomes(CAROL), [Some(false)], "the picture would stand still until then");
    rig.receive_media();
    rig.advance(Duration::from_millis(300));
    assert_eq!(rig.outcomes(CAROL), [Some(false), Some(true)]);
    assert_eq!(rig.source(CAROL), Some(MimeType::new("video/VP8")));
    rig.viewer(BOB, true);
    assert_eq!(rig.outcomes(BOB), [Some(true)]);
}

#[test]
fn a_track_ends_with_both_of_its_codecs() {
    let end_track = |rig: &mut Rig| rig.offer(ALICE, 7, &["video inactive msid:s_c", SECOND]);
    let close = |rig: &mut Rig| rig.command(NodeAction::CloseConnection { connection: ALICE });
    let remove = |rig: &mut Rig| rig.command(NodeAction::RemoveTrack { track: TRACK.parse().unwrap() });
    for end in [end_track, close, remove] {
        let mut rig = with_publisher();
        rig.expect_backup(BackupUse::WhereNeeded);
        rig.offer(ALICE, 6, &[FIRST, SECOND]);
        rig.viewer(BOB, false);
        rig.viewer(CAROL, true);
        end(&mut rig);
        assert_eq!(rig.shard.stats().tracks, 0);
        assert_eq!((rig.outcomes(BOB), rig.outcomes(CAROL)), (vec![Some(true)], vec![Some(false)]));
        assert_eq!(rig.shard.waiting[&TRACK.parse().unwrap()].len(), 2);
        for connection in [BOB, CAROL] {
            rig.command(NodeAction::CloseConnection { connection });
        }
        assert!(rig.shard.waiting.is_empty());
    }
}

#[test]
fn a_second_codec_of_an_unknown_track_or_of_another_connection_is_nothing() {
    let mut rig = Rig::new();
    rig.open(ALICE, ConnectionRole::Publisher, false);
    rig.expect_backup(BackupUse::Everywhere);
    rig.offer(ALICE, 1, &[SECOND]);
    assert_eq!(rig.shard.stats().tracks, 0);
    assert!(!rig.events.iter().any(|event| matches!(event, NodeEvent::TrackStarted(_))));
}

/// The publisher sends in a codec that a viewer lacks: several packets of it may come before the viewer is seen to.
#[test]
fn a_viewer_is_moved_once_however_many_packets_it_cannot_decode() {
    let mut rig = with_publisher();
    rig.viewer(BOB, false);
    rig.expect_backup(BackupUse::WhereNeeded);
    rig.offer(ALICE, 6, &[FIRST, SECOND]);
    rig.pretend_connected(BOB, false);
    rig.pretend_connected(ALICE, false);
    let alice = rig.shard.by_id[&ALICE];
    // VP8 was promised, VP9 comes.
    let vp9 = rig.shard.endpoints[alice.0]
        .connection
        .preferred_format("0".into(), Some(&MimeType::new("video/VP9")))
        .unwrap();
    assert_eq!(vp9.codec, Codec::Vp9);
    rig.events.clear();
    for sequence in 1..=4 {
        let packet = MediaPacket::unreceived(Codec::Vp9, sequence, 1, &[0x0c, 0]);
        let packet = MediaPacket { format: vp9, keyframe: true, ..packet };
        rig.shard.forward(alice, 1, packet);
    }
    rig.drain();
    assert_eq!(rig.outcomes(BOB), [None]);
    assert_eq!(rig.source(BOB), None);
}

#[test]
fn a_track_that_another_connection_publishes_too_is_the_later_one_and_leaves_nothing() {
    let mut rig = Rig::new();
    for publisher in [BOB, ALICE] {
        rig.open(publisher, ConnectionRole::Publisher, false);
        rig.expect(publisher, TRACK, MediaKind::Video, "camera");
        rig.offer(publisher, 5, &[FIRST]);
        assert_eq!(rig.shard.stats().tracks, 1);
    }
    rig.expect_backup(BackupUse::WhereNeeded);
    rig.offer(ALICE, 6, &[FIRST, SECOND]);
    rig.viewer(CAROL, true);
    rig.command(NodeAction::CloseConnection { connection: BOB });
    assert_eq!(rig.shard.stats().tracks, 2);
    assert!(rig.source(CAROL).is_some(), "Alice's goes on");
    rig.command(NodeAction::CloseConnection { connection: ALICE });
    assert!(rig.shard.tracks.is_empty() && rig.shard.by_sid.is_empty());
}
