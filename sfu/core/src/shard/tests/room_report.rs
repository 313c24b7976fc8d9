//! What a shard tells of a room.

use zynk_protocol::{RoomReport, SubscriptionSettings};

use crate::{allocator::Layers, forwarder::Allotment, temporal::TOP_TEMPORAL};

use super::{
    media::{CAROL, DELTA, KEYFRAME},
    *,
};

impl Rig {
    fn report(&mut self, request: u64) -> RoomReport {
        self.events.clear();
        self.command(NodeAction::ReportRoom { request, shares: 1 });
        match self.events.pop() {
            Some(NodeEvent::RoomReport(report)) => *report,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_sent_and_to_whom_is_told() {
    let mut rig = Rig::call(&[BOB, CAROL]);
    rig.command(NodeAction::ConfigureSubscription {
        connection: CAROL,
        track: "TR_video".parse().unwrap(),
        settings: SubscriptionSettings { paused: true, ..SubscriptionSettings::default() },
    });
    rig.publish(1, 100, &KEYFRAME);
    for sequence in 101..130 {
        rig.publish(1, sequence, &DELTA);
    }
    let report = rig.report(9);
    assert_eq!((report.request, report.shares, report.truncated), (9, 1, false));
    let ids: Vec<_> = report.connections.iter().map(|connection| connection.connection).collect();
    assert_eq!(ids, [ALICE, BOB, CAROL]);
    let [alice, bob, carol] = &report.connections[..] else { panic!("{report:?}") };
    let [track] = &alice.tracks[..] else { panic!("{alice:?}") };
    let [encoding] = &track.encodings[..] else { panic!("{track:?}") };
    assert_eq!((track.track.as_str(), track.backup, track.muted), ("TR_video", false, false));
    assert_eq!((encoding.active, encoding.frame_rate), (true, Some(30)));
    assert_eq!(encoding.bitrate.as_bps(), 30 * 6 * 8);
    let [received] = &bob.subscriptions[..] else { panic!("{bob:?}") };
    assert_eq!((received.packets, received.bytes, received.resent), (30, 30 * 6, 0));
    assert!(received.negotiated && !received.starved && received.given.is_some(), "{received:?}");
    let [paused] = &carol.subscriptions[..] else { panic!("{carol:?}") };
    assert!(paused.settings.paused && paused.given.is_none(), "{paused:?}");
    assert_eq!(paused.packets, 0);

    rig.advance(Duration::from_secs(2));
    let later = rig.report(10);
    let encoding = &later.connections[0].tracks[0].encodings[0];
    assert_eq!((encoding.active, encoding.bitrate.as_bps()), (false, 0), "nothing comes any more");
}

#[test]
fn what_there_is_no_room_for_is_told() {
    let mut rig = Rig::call(&[BOB]);
    rig.publish(1, 100, &KEYFRAME);
    let given = |report: &RoomReport| {
        let subscription = &report.connections[1].subscriptions[0];
        (subscription.starved, subscription.given.and_then(|given| given.spatial))
    };
    let (_, subscription) = rig.shard.subscriptions.iter_mut().next().unwrap();
    subscription.allotment = Allotment::UpTo(Layers { encoding: 0, spatial: 1, temporal: TOP_TEMPORAL });
    assert_eq!(given(&rig.report(1)), (false, Some(1)));
    let (_, subscription) = rig.shard.subscriptions.iter_mut().next().unwrap();
    subscription.allotment = Allotment::Nothing;
    assert_eq!(given(&rig.report(2)), (true, None));
}

#[test]
fn of_an_unknown_room_nothing_is_told() {
    let mut rig = Rig::new();
    let report = rig.report(1);
    assert_eq!(report, RoomReport { request: 1, shares: 1, ..RoomReport::default() });
}
