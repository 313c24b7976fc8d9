//! What connection quality is made of.

use zynk_protocol::{FlowDirection, FlowStats};

use super::{
    media::{DELTA, KEYFRAME},
    *,
};
use crate::{
    connection::{Codec, MediaPacket},
    forwarder::Allotment,
    track::Encoding,
};

/// What of pictures a connection lacks, by two reports five seconds apart: layers, and percent of the rate.
fn lacks(rig: &mut Rig, connection: ConnectionId, direction: FlowDirection) -> Option<(u8, u8)> {
    let key = rig.shard.by_id[&connection];
    let flows = rig.shard.take_flows(key);
    let flow: Option<&FlowStats> = flows.iter().find(|flow| flow.direction == direction);
    flow.map(|flow| (flow.layers_missing, flow.rate_percent))
}

#[test]
fn a_picture_that_pauses_lacks_most_once_it_lasts() {
    let mut rig = Rig::call(&[BOB]);
    rig.publish(1, 100, &KEYFRAME);
    rig.publish(1, 101, &DELTA);
    let downstream = FlowDirection::Downstream;
    assert_eq!(lacks(&mut rig, BOB, downstream), None, "nothing is known, and nothing lacking");
    let allot = |rig: &mut Rig, allotment| {
        rig.shard.subscriptions.iter_mut().for_each(|(_, subscription)| subscription.allotment = allotment);
    };
    allot(&mut rig, Allotment::Nothing);
    assert_eq!(lacks(&mut rig, BOB, downstream), None, "it may be back in a moment");
    assert_eq!(lacks(&mut rig, BOB, downstream), Some((2, 1)));
    rig.command(NodeAction::MuteTrack { track: "TR_video".parse().unwrap(), muted: true });
    assert_eq!(lacks(&mut rig, BOB, downstream), None, "there is nothing to be sent");
    rig.command(NodeAction::MuteTrack { track: "TR_video".parse().unwrap(), muted: false });
    allot(&mut rig, Allotment::All);
    assert_eq!(lacks(&mut rig, BOB, downstream), None);
    assert_eq!(lacks(&mut rig, ALICE, downstream), None, "she receives nothing");
}

#[test]
fn a_publisher_that_stops_sending_wanted_encodings_lacks_them() {
    let mut rig = Rig::call(&[BOB]);
    let now = rig.now;
    let (key, track) = rig.shard.tracks.iter_mut().next().unwrap();
    track.encodings = ["q", "h", "f"].map(|rid| Encoding::new(MediaKind::Video, Some(rid.into()))).into();
    for sequence in 1..100 {
        let at = now + Duration::from_millis(33) * sequence;
        let timestamp = 3000 * sequence;
        track.observe(at, 0, &MediaPacket::unreceived(Codec::Vp8, sequence.into(), timestamp, &DELTA));
    }
    assert_eq!(track.active()[..], [true, false, false]);
    let missing = |rig: &Rig| rig.shard.missing_encodings(TrackKey(key));
    assert_eq!(missing(&rig), 2);
    let track_sid = "TR_video".parse().unwrap();
    let settings =
        SubscriptionSettings { quality: zynk_protocol::TrackQuality::Low, ..SubscriptionSettings::default() };
    rig.command(NodeAction::ConfigureSubscription { connection: BOB, track: track_sid, settings });
    assert_eq!(missing(&rig), 0, "nobody wants more");
}
