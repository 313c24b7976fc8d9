//! Receiving tracks: by itself, on demand, by permission, and at which quality.

use std::time::Duration;

use zynk_protocol::livekit::{self, SubscriptionError, VideoQuality};
use zynk_protocol::{
    Bitrate, ConnectionState, ConnectionStats, Identity, MediaKind, NodeAction, NodeEvent, SpeakerLevel,
    SubscribeTrack, SubscriptionFailure, TrackQuality, TrackSid,
};

use super::world::{Request, Response, add_track};
use super::{Peer, World};
use crate::join::{JoinParams, SubscribeScope};

fn subscribes(world: &mut World) -> Vec<SubscribeTrack> {
    let pick = |action| match action {
        NodeAction::Subscribe(subscribe) => Some(subscribe),
        _ => None,
    };
    world.actions().into_iter().filter_map(pick).collect()
}

fn manual(identity: &str) -> JoinParams {
    JoinParams { subscribe: SubscribeScope::None, ..World::params(identity) }
}

fn wish(track: &TrackSid, subscribe: bool) -> Request {
    Request::Subscription(livekit::UpdateSubscription {
        track_sids: vec![track.as_str().into()],
        subscribe,
        ..Default::default()
    })
}

fn settings(track: &TrackSid, change: impl FnOnce(&mut livekit::UpdateTrackSettings)) -> Request {
    let mut settings = livekit::UpdateTrackSettings {
        track_sids: vec![track.as_str().into()],
        quality: VideoQuality::High.into(),
        ..Default::default()
    };
    change(&mut settings);
    Request::TrackSetting(settings)
}

fn subscription_error(message: Response) -> Option<livekit::SubscriptionResponse> {
    match message {
        Response::SubscriptionResponse(response) => Some(response),
        _ => None,
    }
}

fn qualities(message: Response) -> Option<Vec<bool>> {
    match message {
        Response::SubscribedQualityUpdate(update) => {
            assert_eq!(update.subscribed_codecs[0].qualities, update.subscribed_qualities);
            assert_eq!(update.subscribed_codecs[0].codec, "vp8");
            Some(update.subscribed_qualities.iter().map(|quality| quality.enabled).collect())
        }
        _ => None,
    }
}

#[test]
fn l64_streams_are_named_after_participant_and_track() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    let subscribed = subscribes(&mut world).remove(0);
    assert_eq!(subscribed.connection, bob.downstream());
    assert_eq!(subscribed.stream_id, format!("{}|{track}", alice.sid));

    let mut world = World::with(|_, record| record.sync_streams = true);
    let alice = world.join_active(World::params("alice"));
    world.join_active(World::params("bob"));
    let mut firefox = World::params("carol");
    firefox.client.browser = "Firefox".into();
    let firefox = world.join_active(firefox);
    let track = world.publish(&alice, MediaKind::Video);
    for subscribed in subscribes(&mut world) {
        let own = subscribed.connection == firefox.downstream();
        let stream = if own { track.as_str() } else { "camera" };
        assert_eq!(subscribed.stream_id, format!("{}|{stream}", alice.sid));
    }
}

#[test]
fn l65_the_publisher_is_known_before_its_track_comes() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    let bob = world.join(World::params("bob"));
    world.connect(&bob);
    world.inbox(&bob);
    world.inbox(&alice);
    let track = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    world.start(&alice, &track, MediaKind::Video, "cam", &[]);
    // The update is in the inbox before the node is even told to send the track.
    let info = world.updates(&bob).remove(0);
    assert_eq!((info.sid.as_str(), info.tracks.len()), (alice.sid.as_str(), 1));
}

#[test]
fn l66_manual_subscribers_get_what_they_ask_for() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(manual("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    assert_eq!(subscribes(&mut world), []);
    world.signal(&bob, wish(&track, true));
    world.signal(&bob, wish(&track, true));
    assert_eq!(subscribes(&mut world).len(), 1);
    world.signal(&bob, wish(&track, false));
    let connection = bob.downstream();
    assert_eq!(world.actions(), [NodeAction::Unsubscribe { connection, track }]);
}

#[test]
fn unsubscribed_tracks_stay_away_from_automatic_subscribers() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let track = world.publish(&alice, MediaKind::Video);
    let bob = world.join(World::params("bob"));
    world.signal(&bob, wish(&track, false));
    world.actions();
    // Becoming active goes through all tracks again.
    world.connect(&bob);
    assert_eq!(subscribes(&mut world), []);
}

#[test]
fn a_scope_of_one_publisher_covers_nobody_else() {
    let mut world = World::new();
    let scope = SubscribeScope::Participant(Identity::new("alice"));
    let player = world.join_active(JoinParams { subscribe: scope, ..World::single("player") });
    let bob = world.join_active(World::params("bob"));
    let alice = world.join_active(manual("alice"));
    world.publish(&bob, MediaKind::Video);
    let track = world.publish(&alice, MediaKind::Video);
    let to_player: Vec<TrackSid> = subscribes(&mut world)
        .into_iter()
        .filter(|subscribed| subscribed.connection == player.downstream())
        .map(|subscribed| subscribed.track)
        .collect();
    assert_eq!(to_player, [track]);
}

#[test]
fn late_joiners_get_tracks_in_the_order_of_publication() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let order = [&alice, &bob, &alice, &bob].map(|peer| world.publish(peer, MediaKind::Audio));
    world.actions();
    world.join(World::single("carol"));
    let tracks: Vec<TrackSid> =
        subscribes(&mut world).into_iter().map(|subscribed| subscribed.track).collect();
    assert_eq!(tracks, order);
}

#[test]
fn l67_a_track_that_never_comes_is_reported() {
    let mut world = World::new();
    let bob = world.join_active(manual("bob"));
    let unknown: TrackSid = "TR_VCnowhere".parse().unwrap();
    world.signal(&bob, wish(&unknown, true));
    world.advance(Duration::from_secs(59));
    assert_eq!(world.inbox(&bob).into_iter().filter_map(subscription_error).count(), 0);
    world.advance(Duration::from_secs(1));
    let response = world.told(&bob, subscription_error);
    assert_eq!(
        (response.track_sid.as_str(), response.err()),
        (unknown.as_str(), SubscriptionError::SeTrackNotfound)
    );
}

#[test]
fn a_track_that_comes_late_is_subscribed() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(manual("bob"));
    let track = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    world.signal(&bob, wish(&track, true));
    assert_eq!(subscribes(&mut world), []);
    world.start(&alice, &track, MediaKind::Video, "cam", &[]);
    assert_eq!(subscribes(&mut world).len(), 1);
    world.advance(Duration::from_secs(120));
    assert_eq!(world.inbox(&bob).into_iter().filter_map(subscription_error).count(), 0);
}

#[test]
fn l68_an_unusable_codec_is_reported() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    world.inbox(&bob);
    world.node(NodeEvent::SubscriptionFailed {
        connection: bob.downstream(),
        track: track.clone(),
        reason: SubscriptionFailure::CodecUnsupported,
    });
    let response = world.told(&bob, subscription_error);
    assert_eq!(response.err(), SubscriptionError::SeCodecUnsupported);
}

#[test]
fn l69_settings_reach_the_node_and_are_kept_before_the_subscription() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    world.signal(&bob, settings(&track, |settings| settings.quality = VideoQuality::Medium.into()));
    world.start(&alice, &track, MediaKind::Video, "cam", &[]);
    assert_eq!(subscribes(&mut world)[0].settings.quality, TrackQuality::Medium);
    let mut configured = |change: fn(&mut livekit::UpdateTrackSettings)| {
        world.signal(&bob, settings(&track, change));
        match &world.actions()[..] {
            [NodeAction::ConfigureSubscription { settings, .. }] => *settings,
            other => panic!("{other:?}"),
        }
    };
    assert!(configured(|settings| settings.disabled = true).paused);
    assert_eq!(configured(|settings| settings.quality = VideoQuality::Low.into()).quality, TrackQuality::Low);
    let sized = configured(|settings| {
        settings.width = 640;
        settings.height = 360;
        settings.fps = 15;
        settings.priority = 2;
    });
    assert_eq!((sized.size, sized.fps, sized.paused), (Some((640, 360)), 15, false));
    assert_eq!(sized.priority, 2);
}

#[test]
fn l70_adaptive_streams_start_low() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let adaptive = world.join_active(JoinParams { adaptive_stream: true, ..World::params("bob") });
    world.join_active(World::params("carol"));
    world.publish(&alice, MediaKind::Video);
    for subscribed in subscribes(&mut world) {
        let low = subscribed.connection == adaptive.downstream();
        let expected = if low { TrackQuality::Low } else { TrackQuality::High };
        assert_eq!(subscribed.settings.quality, expected);
    }
}

#[test]
fn l71_publishers_choose_who_receives() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let carol = world.join_active(World::params("carol"));
    let track = world.publish(&alice, MediaKind::Video);
    world.actions();
    let only = |identity: &str, tracks: Vec<String>| {
        Request::SubscriptionPermission(livekit::SubscriptionPermission {
            all_participants: false,
            track_permissions: vec![livekit::TrackPermission {
                participant_identity: identity.into(),
                all_tracks: tracks.is_empty(),
                track_sids: tracks,
                ..Default::default()
            }],
        })
    };
    let told = |message| match message {
        Response::SubscriptionPermissionUpdate(update) => Some((update.track_sid, update.allowed)),
        _ => None,
    };
    world.signal(&alice, only("bob", vec![]));
    assert_eq!(
        world.actions(),
        [NodeAction::Unsubscribe { connection: carol.downstream(), track: track.clone() }]
    );
    assert_eq!(world.told(&carol, told), (track.as_str().into(), false));
    assert_eq!(world.inbox(&bob).into_iter().filter_map(told).count(), 0);
    // A track that the list does not name is refused from the start.
    let second = world.publish(&alice, MediaKind::Audio);
    assert_eq!(subscribes(&mut world).len(), 1);
    assert_eq!(world.told(&carol, told), (second.as_str().into(), false));
    world.signal(&alice, only("carol", vec![track.as_str().into()]));
    assert_eq!(world.told(&carol, told), (track.as_str().into(), true));
    let again = subscribes(&mut world).remove(0);
    assert_eq!((again.connection, again.track), (carol.downstream(), track));
}

#[test]
fn l62_the_publisher_learns_which_layers_are_wanted() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(manual("bob"));
    let mut request = add_track(MediaKind::Video, "cam");
    request.layers =
        [(VideoQuality::Low, 320, 180), (VideoQuality::Medium, 640, 360), (VideoQuality::High, 1280, 720)]
            .map(|(quality, width, height)| livekit::VideoLayer {
                quality: quality.into(),
                width,
                height,
                ..Default::default()
            })
            .to_vec();
    let track = world.announce(&alice, request);
    world.start(&alice, &track, MediaKind::Video, "cam", &["q", "h", "f"]);
    world.inbox(&alice);
    world.signal(&bob, wish(&track, true));
    assert_eq!(world.told(&alice, qualities), [true, true, true]);
    let small = |settings: &mut livekit::UpdateTrackSettings| {
        settings.width = 300;
        settings.height = 150;
    };
    world.actions();
    world.signal(&bob, settings(&track, small));
    let [NodeAction::ConfigureSubscription { settings: smaller, .. }] = &world.actions()[..] else {
        panic!()
    };
    assert_eq!(smaller.quality, TrackQuality::Low, "the layer that covers the size");
    assert_eq!(world.inbox(&alice), [], "lowering waits");
    world.advance(Duration::from_secs(5));
    assert_eq!(world.told(&alice, qualities), [true, false, false]);
    world.signal(&bob, settings(&track, |settings| settings.quality = VideoQuality::Medium.into()));
    assert_eq!(world.told(&alice, qualities), [true, true, false]);
    world.signal(&bob, wish(&track, false));
    world.advance(Duration::from_secs(5));
    assert_eq!(world.told(&alice, qualities), [false, false, false]);
}

#[test]
fn a_publisher_who_is_alone_is_told_that_nobody_watches() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let track = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    world.start(&alice, &track, MediaKind::Video, "cam", &["q", "h", "f"]);
    world.inbox(&alice);
    world.advance(Duration::from_millis(2900));
    assert!(
        world.inbox(&alice).into_iter().all(|message| qualities(message).is_none()),
        "somebody may be about to come"
    );
    world.advance(Duration::from_millis(200));
    assert_eq!(world.told(&alice, qualities), [false, false, false]);
    world.join(World::params("bob"));
    assert_eq!(world.told(&alice, qualities), [true, true, true], "at once");
}

#[test]
fn l63_the_first_subscriber_is_told_once() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let carol = world.join_active(World::params("carol"));
    let track = world.publish(&alice, MediaKind::Audio);
    world.inbox(&alice);
    for peer in [&bob, &carol] {
        let (connection, track) = (peer.downstream(), track.clone());
        world.node(NodeEvent::Subscribed { connection, track, backup: false });
    }
    let inbox = world.inbox(&alice);
    assert_eq!(
        inbox,
        [Response::TrackSubscribed(livekit::TrackSubscribed { track_sid: track.as_str().into() })]
    );
}

#[test]
fn who_may_not_subscribe_gets_nothing() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let mut claims = World::claims("bob");
    claims.video.can_subscribe = Some(false);
    let bob = world.join_active(World::params_of(claims));
    let track = world.publish(&alice, MediaKind::Video);
    world.signal(&bob, wish(&track, true));
    assert_eq!(subscribes(&mut world), []);
}

fn speaker(track: &TrackSid, of: &Peer, level: f32) -> SpeakerLevel {
    SpeakerLevel { track: track.clone(), participant: of.sid.clone(), level, active: level > 0.0 }
}

#[test]
fn l82_speakers_are_told_to_those_who_hear_them() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let carol = world.join_active(manual("carol"));
    let track = world.publish(&alice, MediaKind::Audio);
    for peer in [&alice, &bob, &carol] {
        world.inbox(peer);
    }
    for level in [0.5, 0.0] {
        world.node(NodeEvent::Speakers { levels: vec![speaker(&track, &alice, level)] });
        for peer in [&alice, &bob] {
            let inbox = world.inbox(peer);
            let [Response::SpeakersChanged(changed)] = &inbox[..] else { panic!("{inbox:?}") };
            let expected =
                livekit::SpeakerInfo { sid: alice.sid.as_str().into(), level, active: level > 0.0 };
            assert_eq!(changed.speakers, [expected]);
        }
        assert_eq!(world.inbox(&carol), []);
    }
}

fn stats(peer: &Peer, lost: u64) -> ConnectionStats {
    ConnectionStats {
        connection: peer.publisher,
        upstream: (100, lost),
        downstream: (0, 0),
        rtt_ms: Some(20.0),
        upstream_bitrate: Bitrate::default(),
        downstream_bitrate: Bitrate::default(),
        flows: Vec::new(),
    }
}

#[test]
fn l83_quality_is_told_every_five_seconds_if_it_changed() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let mut old = World::params("bob");
    old.client.protocol = 10;
    let bob = world.join_active(old);
    world.publish(&alice, MediaKind::Audio);
    world.inbox(&alice);
    world.inbox(&bob);
    let told = |message| match message {
        Response::ConnectionQuality(update) => Some(
            update
                .updates
                .into_iter()
                .map(|info| (info.participant_sid.clone(), info.quality()))
                .collect::<Vec<_>>(),
        ),
        _ => None,
    };
    let round = |world: &mut World, lost| {
        world.node(NodeEvent::Stats { connections: vec![stats(&alice, lost)] });
        world.advance(Duration::from_secs(5));
    };
    let quality = |quality| -> Vec<_> { vec![(alice.sid.as_str().to_owned(), quality)] };
    round(&mut world, 0);
    assert_eq!(world.told(&alice, told), quality(livekit::ConnectionQuality::Excellent));
    assert_eq!(world.told(&bob, told), quality(livekit::ConnectionQuality::Excellent));
    round(&mut world, 0);
    assert_eq!(world.inbox(&alice), []);
    round(&mut world, 50);
    assert_eq!(world.told(&bob, told), quality(livekit::ConnectionQuality::Poor));
    let state = ConnectionState::Disconnected;
    world.inbox(&alice);
    world.node(NodeEvent::ConnectionState { connection: alice.primary(), state });
    round(&mut world, 50);
    assert_eq!(world.told(&alice, told), quality(livekit::ConnectionQuality::Lost));
    assert_eq!(world.inbox(&bob), [], "clients before protocol 11 know no LOST, and were told POOR already");
}

#[test]
fn l72_a_stream_that_pauses_for_lack_of_bandwidth_is_told() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    for peer in [&alice, &bob] {
        world.inbox(peer);
    }
    for (paused, state) in [(true, livekit::StreamState::Paused), (false, livekit::StreamState::Active)] {
        let connection = bob.downstream();
        world.node(NodeEvent::StreamState { connection, track: track.clone(), paused });
        let inbox = world.inbox(&bob);
        let [Response::StreamStateUpdate(update)] = &inbox[..] else { panic!("{inbox:?}") };
        let expected = livekit::StreamStateInfo {
            participant_sid: alice.sid.as_str().into(),
            track_sid: track.as_str().into(),
            state: state.into(),
        };
        assert_eq!(update.stream_states, [expected]);
        assert_eq!(world.inbox(&alice), []);
    }
    // Of another's connection, or of a track that was given up meanwhile.
    let connection = alice.downstream();
    world.node(NodeEvent::StreamState { connection, track, paused: true });
    assert_eq!((world.inbox(&alice), world.inbox(&bob)), (vec![], vec![]));
}
