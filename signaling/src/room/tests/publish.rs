//! Announcing, publishing, muting and ending tracks.

use zynk_protocol::livekit::request_response::{Reason, Request as Echo};
use zynk_protocol::livekit::{self, VideoQuality};
use zynk_protocol::{EndReason, MediaKind, NodeAction, NodeEvent, ParticipantSid, TrackSid};

use super::World;
use super::world::{Request, Response, add_track, refusal};
use crate::admin::AdminRequest;

fn published(message: Response) -> Option<livekit::TrackPublishedResponse> {
    match message {
        Response::TrackPublished(published) => Some(published),
        _ => None,
    }
}

fn stopped(track: &TrackSid) -> NodeEvent {
    NodeEvent::TrackStopped { track: track.clone(), reason: EndReason::Unpublished }
}

fn layer(quality: VideoQuality) -> livekit::VideoLayer {
    livekit::VideoLayer { quality: quality.into(), width: 320, height: 180, ..Default::default() }
}

#[test]
fn l47_an_announced_track_is_confirmed_at_once() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.signal(&alice, Request::AddTrack(add_track(MediaKind::Video, "cam")));
    let confirmed = world.told(&alice, published);
    let track = confirmed.track.unwrap();
    assert_eq!(confirmed.cid, "cam");
    assert!(track.sid.starts_with("TR_VC") && track.sid.len() == 17, "{}", track.sid);
    assert_eq!(track.stream, "camera");
    let mut screen = add_track(MediaKind::Audio, "tab");
    screen.source = livekit::TrackSource::ScreenShareAudio.into();
    assert!(world.announce(&alice, screen).as_str().starts_with("TR_As"));
    let [NodeAction::ExpectTrack(expected), _] = &world.actions()[..] else { panic!() };
    assert_eq!((expected.track.as_str(), &expected.cids[..]), (track.sid.as_str(), &["cam".to_owned()][..]));
    assert_eq!(expected.connection, alice.publisher);
}

#[test]
fn l48_add_track_without_permission_is_refused_with_echo() {
    let mut world = World::new();
    let mut claims = World::claims("alice");
    claims.video.can_publish = Some(false);
    let alice = world.join_active(World::params_of(claims));
    let request = add_track(MediaKind::Video, "cam");
    world.signal(&alice, Request::AddTrack(request.clone()));
    let refused = world.told(&alice, refusal);
    assert_eq!(refused.reason(), Reason::NotAllowed);
    assert_eq!(refused.request, Some(Echo::AddTrack(request)));
    assert_eq!(world.actions(), []);
}

#[test]
fn l49_only_granted_sources_may_be_published() {
    let mut world = World::new();
    let mut claims = World::claims("alice");
    claims.video.can_publish_sources = vec!["microphone".into()];
    let alice = world.join_active(World::params_of(claims));
    world.signal(&alice, Request::AddTrack(add_track(MediaKind::Video, "cam")));
    assert_eq!(world.told(&alice, refusal).reason(), Reason::NotAllowed);
    assert!(world.announce(&alice, add_track(MediaKind::Audio, "mic")).as_str().starts_with("TR_AM"));
}

#[test]
fn sources_that_nobody_knows_allow_nothing() {
    let mut world = World::new();
    let mut claims = World::claims("alice");
    claims.video.can_publish_sources = vec!["kamera".into()];
    let alice = world.join(World::params_of(claims));
    let token = world.told(&alice, |message| match message {
        Response::RefreshToken(token) => Some(token),
        _ => None,
    });
    for source in 0..=5 {
        let request = livekit::AddTrackRequest { source, ..add_track(MediaKind::Video, "cam") };
        world.signal(&alice, Request::AddTrack(request));
        assert_eq!(world.told(&alice, refusal).reason(), Reason::NotAllowed, "{source}");
    }
    // Nor does the fresh token.
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let claims = world.keys.verify(&token, at).unwrap();
    let bob = world.join_active(World::params_of(claims));
    world.signal(&bob, Request::AddTrack(add_track(MediaKind::Video, "cam")));
    assert_eq!(world.told(&bob, refusal).reason(), Reason::NotAllowed);
}

#[test]
fn what_everybody_is_told_of_a_track_is_bounded() {
    let mut world = World::new();
    let mut params = World::params("alice");
    params.client.capabilities = (0..10_000).map(|number| number % 100).collect();
    let alice = world.join_active(params);
    let bob = world.join(World::params("bob"));
    let told = world.told(&bob, |message| match message {
        Response::Join(join) => Some(join),
        _ => None,
    });
    let capabilities = &told.other_participants[0].capabilities;
    assert!(capabilities.len() < 20, "{} capabilities", capabilities.len());
    let many = livekit::AddTrackRequest {
        layers: (0..10_000)
            .map(|quality| livekit::VideoLayer { quality, rid: "r".repeat(1_000), ..Default::default() })
            .collect(),
        packet_trailer_features: (0..10_000).map(|number| number % 100).collect(),
        ..add_track(MediaKind::Video, "cam")
    };
    world.signal(&alice, Request::AddTrack(many));
    let info = world.told(&alice, published).track.unwrap();
    assert_eq!(info.layers.len(), 4);
    assert!(prost::Message::encoded_len(&info) < 1_024, "{info:?}");
    let codec = |cid: usize| livekit::SimulcastCodec {
        codec: "vp8".into(),
        cid: "c".repeat(cid),
        ..Default::default()
    };
    for codecs in [vec![codec(1_025)], vec![codec(1); 9]] {
        let request =
            livekit::AddTrackRequest { simulcast_codecs: codecs, ..add_track(MediaKind::Video, "other") };
        world.signal(&alice, Request::AddTrack(request));
        assert_eq!(world.told(&alice, refusal).reason(), Reason::InvalidRequest);
    }
}

#[test]
fn unknown_types_unknown_backups_and_too_many_tracks_are_refused() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let mut data = add_track(MediaKind::Video, "d");
    data.r#type = livekit::TrackType::Data.into();
    world.signal(&alice, Request::AddTrack(data));
    assert_eq!(world.told(&alice, refusal).reason(), Reason::UnsupportedType);
    let mut backup = add_track(MediaKind::Video, "b");
    backup.sid = "TR_VCnowhere".into();
    world.signal(&alice, Request::AddTrack(backup));
    assert_eq!(world.told(&alice, refusal).reason(), Reason::NotFound);
    for number in 0..20 {
        world.announce(&alice, add_track(MediaKind::Video, &format!("cam{number}")));
    }
    world.signal(&alice, Request::AddTrack(add_track(MediaKind::Video, "one too many")));
    assert_eq!(world.told(&alice, refusal).reason(), Reason::LimitExceeded);
}

#[test]
fn l50_l51_a_track_appears_when_the_node_has_found_it() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    assert_eq!(world.updates(&bob), []);
    // Browsers may name the track anew in their SDP.
    world.start(&alice, &track, MediaKind::Video, "other-name", &[]);
    let info = world.updates(&bob).remove(0);
    assert!(info.is_publisher);
    assert_eq!(info.tracks[0].sid, track.as_str());
    assert_eq!(info.tracks[0].mime_type, "video/VP8");
    assert_eq!(
        (info.tracks[0].codecs[0].cid.as_str(), info.tracks[0].codecs[0].sdp_cid.as_str()),
        ("cam", "other-name")
    );
}

#[test]
fn l52_a_cid_in_use_is_queued_until_it_is_free() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let first = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    world.start(&alice, &first, MediaKind::Video, "cam", &[]);
    for _ in 0..3 {
        world.signal(&alice, Request::AddTrack(add_track(MediaKind::Video, "cam")));
        assert_eq!(world.told(&alice, refusal).reason(), Reason::Queued);
    }
    world.signal(&alice, Request::AddTrack(add_track(MediaKind::Video, "cam")));
    assert_eq!(world.told(&alice, refusal).reason(), Reason::LimitExceeded);
    world.node(stopped(&first));
    let second = world.told(&alice, published).track.unwrap().sid;
    assert_ne!(second, first.as_str());
}

#[test]
fn l53_a_disabled_codec_falls_back() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let mut request = add_track(MediaKind::Video, "cam");
    request.simulcast_codecs =
        vec![livekit::SimulcastCodec { codec: "h265".into(), cid: "cam".into(), ..Default::default() }];
    world.signal(&alice, Request::AddTrack(request));
    let track = world.told(&alice, published).track.unwrap();
    assert_eq!(track.codecs[0].mime_type, "video/VP8");
}

#[test]
fn l54_encodings_are_given_to_layers_from_the_lowest() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let cases: [(&[VideoQuality], &[&str]); 2] = [
        (&[VideoQuality::High, VideoQuality::Low, VideoQuality::Medium], &["q", "h", "f"]),
        (&[VideoQuality::Low, VideoQuality::High], &["q", "h"]),
    ];
    for (qualities, rids) in cases {
        let mut request = add_track(MediaKind::Video, rids.last().unwrap());
        request.layers = qualities.iter().copied().map(layer).collect();
        let cid = request.cid.clone();
        let track = world.announce(&alice, request);
        world.start(&alice, &track, MediaKind::Video, &cid, rids);
        let info = world.updates(&bob).remove(0);
        let info = info.tracks.iter().find(|info| info.sid == track.as_str()).unwrap();
        assert!(info.simulcast);
        let layers = &info.codecs[0].layers;
        let found: Vec<(&str, i32)> =
            layers.iter().map(|layer| (layer.rid.as_str(), layer.spatial_layer)).collect();
        let expected: Vec<(&str, i32)> = rids.iter().copied().zip(0..).collect();
        assert_eq!(found, expected);
        assert!(layers.windows(2).all(|pair| pair[0].quality < pair[1].quality));
    }
}

#[test]
fn l57_audio_wishes_reach_the_node() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let mut request = add_track(MediaKind::Audio, "mic");
    world.announce(&alice, request.clone());
    request.cid = "music".into();
    request.disable_red = true;
    request.disable_dtx = true;
    request.stereo = true;
    request.set_encryption(livekit::encryption::Type::Gcm);
    world.announce(&alice, request);
    let actions = world.actions();
    let [NodeAction::ExpectTrack(voice), NodeAction::ExpectTrack(music)] = &actions[..] else { panic!() };
    assert_eq!((voice.red, voice.dtx, voice.stereo), (true, true, false));
    assert_eq!((music.red, music.dtx, music.stereo), (false, false, true));
    assert_eq!((voice.encrypted, music.encrypted), (false, true));
}

#[test]
fn l58_a_mute_is_told_to_others_alone() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Audio);
    world.inbox(&alice);
    world.inbox(&bob);
    world.actions();
    let mute = livekit::MuteTrackRequest { sid: track.as_str().into(), muted: true };
    world.signal(&alice, Request::Mute(mute));
    assert_eq!(world.inbox(&alice), []);
    assert!(world.updates(&bob)[0].tracks[0].muted);
    assert_eq!(world.actions(), [NodeAction::MuteTrack { track, muted: true }]);
    let mute = livekit::MuteTrackRequest { sid: "TR_AMnowhere".into(), muted: true };
    world.signal(&alice, Request::Mute(mute.clone()));
    let refused = world.told(&alice, refusal);
    assert_eq!((refused.reason(), refused.request), (Reason::NotFound, Some(Echo::Mute(mute))));
}

#[test]
fn l60_an_ended_track_disappears_and_its_section_gets_a_new_id() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let first = world.publish(&alice, MediaKind::Video);
    world.inbox(&bob);
    world.node(stopped(&first));
    let info = world.updates(&bob).remove(0);
    assert_eq!(info.tracks, []);
    assert!(info.is_publisher);
    let second = world.publish(&alice, MediaKind::Video);
    assert_ne!(first, second);
    assert_eq!(world.updates(&bob)[0].tracks[0].sid, second.as_str());
    let names: Vec<String> = world.webhooks().into_iter().map(|event| event.event).collect();
    assert_eq!(names, ["track_published", "track_unpublished", "track_published"]);
}

#[test]
fn l61_revoked_tracks_end() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    let mic = world.publish(&alice, MediaKind::Audio);
    world.inbox(&bob);
    world.actions();
    let permission = livekit::ParticipantPermission {
        can_publish: true,
        can_subscribe: true,
        can_publish_sources: vec![livekit::TrackSource::Microphone.into()],
        ..Default::default()
    };
    let request = livekit::UpdateParticipantRequest {
        identity: "alice".into(),
        permission: Some(permission.clone()),
        ..Default::default()
    };
    world.admin(AdminRequest::UpdateParticipant(request)).unwrap();
    let inbox = world.inbox(&alice);
    let unpublished = inbox.iter().any(
        |message| matches!(message, Response::TrackUnpublished(gone) if gone.track_sid == track.as_str()),
    );
    assert!(unpublished, "{inbox:?}");
    assert!(inbox.iter().any(|message| matches!(message, Response::RefreshToken(_))));
    assert!(world.actions().contains(&NodeAction::RemoveTrack { track }));
    let info = world.updates(&bob).pop().unwrap();
    assert_eq!(info.tracks.iter().map(|info| info.sid.as_str()).collect::<Vec<_>>(), [mic.as_str()]);
    assert_eq!(info.permission, Some(permission));
}

#[test]
fn l75_versions_grow_and_lists_are_whole() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    world.publish(&alice, MediaKind::Video);
    world.publish(&alice, MediaKind::Audio);
    let infos = world.updates(&bob);
    assert_eq!(infos.iter().map(|info| info.tracks.len()).collect::<Vec<_>>(), [1, 2]);
    assert!(infos[0].version < infos[1].version);
}

#[test]
fn a_track_that_was_withdrawn_is_not_published_late() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    world.node(stopped(&track));
    world.actions();
    world.start(&alice, &track, MediaKind::Video, "cam", &[]);
    assert_eq!(world.actions(), [NodeAction::RemoveTrack { track }]);
    assert_eq!(world.updates(&bob), []);
}

#[test]
fn features_and_sizes_can_change_later() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let mic = world.publish(&alice, MediaKind::Audio);
    let cam = world.publish(&alice, MediaKind::Video);
    world.inbox(&bob);
    world.signal(
        &alice,
        Request::UpdateAudioTrack(livekit::UpdateLocalAudioTrack {
            track_sid: mic.as_str().into(),
            features: vec![livekit::AudioTrackFeature::TfStereo.into(), 4_000],
        }),
    );
    let video = livekit::UpdateLocalVideoTrack { track_sid: cam.as_str().into(), width: 640, height: 360 };
    world.signal(&alice, Request::UpdateVideoTrack(video));
    let info = world.updates(&bob).pop().unwrap();
    assert_eq!(info.tracks[0].audio_features, [i32::from(livekit::AudioTrackFeature::TfStereo)]);
    assert_eq!((info.tracks[1].width, info.tracks[1].height), (640, 360));
    let video = livekit::UpdateLocalVideoTrack { track_sid: "TR_x".into(), width: 1, height: 1 };
    world.inbox(&alice);
    world.signal(&alice, Request::UpdateVideoTrack(video));
    assert_eq!(world.told(&alice, refusal).reason(), Reason::NotFound);
}

#[test]
fn a_bar_in_a_stream_name_does_not_split_the_stream_id() {
    let mut world = World::with(|_, record| record.sync_streams = true);
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let mut request = add_track(MediaKind::Video, "cam");
    request.stream = "a|b".into();
    let track = world.announce(&alice, request);
    world.actions();
    world.start(&alice, &track, MediaKind::Video, "cam", &[]);
    let stream_id = world.actions().into_iter().find_map(|action| match action {
        NodeAction::Subscribe(subscribe) => Some(subscribe.stream_id),
        _ => None,
    });
    assert_eq!(stream_id.unwrap(), format!("{}|ab", alice.sid));
    let _: &ParticipantSid = &bob.sid;
}
