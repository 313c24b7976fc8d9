//! Second codecs of tracks.

use std::time::Duration;

use zynk_protocol::livekit::request_response::Reason;
use zynk_protocol::livekit::{self, BackupCodecPolicy, SubscriptionError};
use zynk_protocol::{
    BackupUse, ExpectedTrack, MediaKind, MimeType, NodeAction, NodeEvent, StartedTrack, StreamEncoding,
    SubscriptionFailure, TrackSid,
};

use super::world::{Request, Response, add_track, refusal};
use super::{Peer, World};

/// Alice publishes a camera in VP9 and can send VP8.
fn publish(world: &mut World, alice: &Peer, policy: BackupCodecPolicy) -> TrackSid {
    let codec = |codec: &str, cid: &str| livekit::SimulcastCodec {
        codec: codec.into(),
        cid: cid.into(),
        ..Default::default()
    };
    let track = world.announce(
        alice,
        livekit::AddTrackRequest {
            simulcast_codecs: vec![codec("vp9", "cam"), codec("vp8", "")],
            backup_codec_policy: policy.into(),
            ..add_track(MediaKind::Video, "cam")
        },
    );
    start(world, alice, &track, "video/VP9", false);
    world.inbox(alice);
    track
}

fn start(world: &mut World, alice: &Peer, track: &TrackSid, codec: &str, backup: bool) {
    let (mid, sdp_cid) = if backup { ("1", "cam-vp8") } else { ("0", "cam") };
    world.node(NodeEvent::TrackStarted(StartedTrack {
        track: track.clone(),
        connection: alice.publisher,
        mid: mid.into(),
        sdp_cid: sdp_cid.into(),
        codec: MimeType::new(codec),
        encodings: vec![StreamEncoding { rid: "q".into() }],
        backup,
    }));
}

fn refuse(world: &mut World, peer: &Peer, track: &TrackSid) {
    world.node(NodeEvent::SubscriptionFailed {
        connection: peer.downstream(),
        track: track.clone(),
        reason: SubscriptionFailure::CodecUnsupported,
    });
}

fn receives(world: &mut World, peer: &Peer, track: &TrackSid, backup: bool) {
    world.node(NodeEvent::Subscribed { connection: peer.downstream(), track: track.clone(), backup });
}

/// The codecs and how many qualities of each the publisher is to send.
fn wanted(message: Response) -> Option<Vec<(String, usize)>> {
    let Response::SubscribedQualityUpdate(update) = message else { return None };
    assert_eq!(update.subscribed_qualities, update.subscribed_codecs[0].qualities, "for old clients");
    let enabled = |codec: &livekit::SubscribedCodec| codec.qualities.iter().filter(|q| q.enabled).count();
    Some(update.subscribed_codecs.iter().map(|codec| (codec.codec.clone(), enabled(codec))).collect())
}

fn codecs(vp9: usize, vp8: usize) -> Vec<(String, usize)> {
    vec![("vp9".into(), vp9), ("vp8".into(), vp8)]
}

fn backup_request(track: &TrackSid, codec: &str) -> Request {
    let codec = livekit::SimulcastCodec { codec: codec.into(), cid: "cam-vp8".into(), ..Default::default() };
    Request::AddTrack(livekit::AddTrackRequest {
        sid: track.as_str().into(),
        simulcast_codecs: vec![codec],
        ..add_track(MediaKind::Video, "cam-vp8")
    })
}

fn expected(world: &mut World) -> ExpectedTrack {
    let found = world.actions().into_iter().find_map(|action| match action {
        NodeAction::ExpectTrack(expected) => Some(expected),
        _ => None,
    });
    found.expect("nothing is expected")
}

#[test]
fn l56_who_lacks_the_codec_gets_the_backup_and_the_publisher_is_asked_for_it() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let carol = world.join_active(World::params("carol"));
    let track = publish(&mut world, &alice, BackupCodecPolicy::Simulcast);
    receives(&mut world, &carol, &track, false);
    world.inbox(&alice);
    world.inbox(&bob);
    refuse(&mut world, &bob, &track);
    assert_eq!(world.told(&alice, wanted), codecs(3, 3));
    assert_eq!(world.inbox(&bob), [], "it may be served yet");

    world.actions();
    world.signal(&alice, backup_request(&track, "vp8"));
    let confirmed = world.told(&alice, |message| match message {
        Response::TrackPublished(published) => Some(published),
        _ => None,
    });
    let info = confirmed.track.unwrap();
    assert_eq!((confirmed.cid.as_str(), info.sid.as_str()), ("cam-vp8", track.as_str()));
    assert_eq!(info.codecs[1].cid, "cam-vp8");
    let announced = expected(&mut world);
    assert_eq!((&announced.track, announced.connection), (&track, alice.publisher));
    assert_eq!((announced.cids, announced.codec), (vec!["cam-vp8".into()], Some(MimeType::new("video/VP8"))));
    assert_eq!(announced.backup, Some(BackupUse::WhereNeeded));

    world.inbox(&carol);
    start(&mut world, &alice, &track, "video/VP8", true);
    let info = world.updates(&carol).remove(0).tracks.remove(0);
    assert_eq!(
        (info.mime_type.as_str(), info.mid.as_str()),
        ("video/VP9", "0"),
        "the track stays what it was"
    );
    assert_eq!(info.codecs[1].mid, "1");
    receives(&mut world, &bob, &track, true);
    world.inbox(&alice);

    // The last one who needs it goes.
    world.signal(&bob, Request::Leave(livekit::LeaveRequest::default()));
    world.advance(Duration::from_secs(5));
    assert_eq!(world.told(&alice, wanted), codecs(3, 0));
}

#[test]
fn l56_everybody_goes_over_to_the_backup_in_small_rooms_that_prefer_it() {
    for (policy, participants, usage) in [
        (BackupCodecPolicy::PreferRegression, 2, BackupUse::Everywhere),
        (BackupCodecPolicy::PreferRegression, 5, BackupUse::WhereNeeded),
        (BackupCodecPolicy::Regression, 5, BackupUse::Everywhere),
        (BackupCodecPolicy::Simulcast, 2, BackupUse::WhereNeeded),
    ] {
        let mut world = World::new();
        let alice = world.join_active(World::params("alice"));
        for number in 1..participants {
            world.join_active(World::params(&format!("peer{number}")));
        }
        let track = publish(&mut world, &alice, policy);
        world.actions();
        world.signal(&alice, backup_request(&track, "vp8"));
        assert_eq!(expected(&mut world).backup, Some(usage), "{policy:?} with {participants}");
    }
}

#[test]
fn l56_the_first_codec_rests_when_nobody_receives_it_any_more() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let carol = world.join_active(World::params("carol"));
    let track = publish(&mut world, &alice, BackupCodecPolicy::PreferRegression);
    receives(&mut world, &carol, &track, false);
    refuse(&mut world, &bob, &track);
    world.signal(&alice, backup_request(&track, "vp8"));
    start(&mut world, &alice, &track, "video/VP8", true);
    receives(&mut world, &bob, &track, true);
    world.inbox(&alice);
    receives(&mut world, &carol, &track, true);
    assert_eq!(world.inbox(&alice), [], "lowering waits");
    world.advance(Duration::from_secs(5));
    assert_eq!(world.told(&alice, wanted), codecs(0, 3));
    // Who comes later is expected to take the second, too.
    world.join_active(World::params("dave"));
    assert!(world.inbox(&alice).into_iter().all(|message| wanted(message).is_none()));
}

#[test]
fn l68_who_decodes_neither_codec_is_told() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = publish(&mut world, &alice, BackupCodecPolicy::Simulcast);
    refuse(&mut world, &bob, &track);
    world.signal(&alice, backup_request(&track, "vp8"));
    start(&mut world, &alice, &track, "video/VP8", true);
    world.inbox(&bob);
    world.actions();
    refuse(&mut world, &bob, &track);
    let response = world.told(&bob, |message| match message {
        Response::SubscriptionResponse(response) => Some(response),
        _ => None,
    });
    assert_eq!(response.err(), SubscriptionError::SeCodecUnsupported);
    let connection = bob.downstream();
    assert_eq!(world.actions(), [NodeAction::Unsubscribe { connection, track }]);
}

#[test]
fn only_the_announced_codec_may_be_added() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let track = publish(&mut world, &alice, BackupCodecPolicy::Simulcast);
    for codec in ["h264", "vp9"] {
        world.signal(&alice, backup_request(&track, codec));
        assert_eq!(world.told(&alice, refusal).reason(), Reason::InvalidRequest, "{codec}");
    }
}
