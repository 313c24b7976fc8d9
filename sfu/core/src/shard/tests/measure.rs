//! What is measured for operators.

use zynk_protocol::Bitrate;

use super::{
    media::{DELTA, KEYFRAME},
    *,
};
use crate::{allocator::Layers, connection::ConnectionEvent, forwarder::Allotment};

fn first_media(rig: &mut Rig) -> Vec<Duration> {
    let of = |measurement| match measurement {
        Measurement::FirstMedia { kind: MediaKind::Video, waited } => Some(waited),
        _ => None,
    };
    rig.shard.take_measurements().into_iter().filter_map(of).collect()
}

/// Bob receives what Alice publishes, and has just come up.
fn connected() -> Rig {
    let mut rig = Rig::call(&[BOB]);
    let bob = rig.shard.by_id[&BOB];
    rig.shard.handle_event(bob, ConnectionEvent::Connected);
    rig
}

#[test]
fn a_subscriptions_first_packet_is_timed_once() {
    let mut rig = connected();
    rig.advance(Duration::from_millis(200));
    assert_eq!(rig.publish(1, 100, &DELTA), 0, "nothing to begin with");
    assert_eq!(first_media(&mut rig), [Duration::ZERO; 0]);
    rig.publish(1, 101, &KEYFRAME);
    rig.publish(1, 102, &DELTA);
    assert_eq!(first_media(&mut rig), [Duration::from_millis(220)]);
    rig.command(NodeAction::MuteTrack { track: "TR_video".parse().unwrap(), muted: true });
    rig.command(NodeAction::MuteTrack { track: "TR_video".parse().unwrap(), muted: false });
    rig.publish(1, 103, &KEYFRAME);
    assert_eq!(first_media(&mut rig), [Duration::ZERO; 0], "it is not the first any more");
}

#[test]
fn what_is_muted_is_not_waited_for() {
    let mut rig = Rig::call(&[BOB]);
    let mute = |muted| NodeAction::MuteTrack { track: "TR_video".parse().unwrap(), muted };
    rig.command(mute(true));
    let bob = rig.shard.by_id[&BOB];
    rig.shard.handle_event(bob, ConnectionEvent::Connected);
    rig.advance(Duration::from_secs(60));
    rig.command(mute(false));
    assert_eq!(rig.publish(1, 100, &KEYFRAME), 1);
    assert_eq!(first_media(&mut rig), [Duration::ZERO; 0]);
}

#[test]
fn larger_and_smaller_pictures_are_counted() {
    let layers = |encoding, temporal| Allotment::UpTo(Layers { encoding, spatial: 7, temporal });
    let mut stats = ShardStats::default();
    let course = [
        Allotment::All,
        layers(2, 3),
        layers(2, 1),
        layers(0, 3),
        Allotment::Nothing,
        layers(0, 0),
        layers(1, 3),
        Allotment::All,
    ];
    for (before, after) in course.iter().zip(course.iter().skip(1)) {
        stats.count_switch(*before, *after);
    }
    assert_eq!((stats.layer_switches_up, stats.layer_switches_down), (2, 2));
}

#[test]
fn measurements_that_nobody_takes_do_not_pile_up() {
    let mut rig = connected();
    for _ in 0..5_000 {
        rig.shard.measurements.push(Measurement::DownlinkEstimate(Bitrate::from_kbps(1)));
    }
    assert_eq!(rig.shard.take_measurements().len(), 1024);
    assert_eq!(rig.shard.take_measurements(), []);
}
