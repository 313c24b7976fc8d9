//! Audio that goes out with earlier payloads to who loses packets.

use super::{attacks::*, *};
use crate::media::receiver::ReportBlock;

const OPUS: u8 = 111;

struct Call {
    rig: Rig,
    alice: Client,
    bob: Client,
    packets: u16,
    /// What Bob's last report said.
    reported: Option<ReportBlock>,
}

impl Call {
    /// Alice's microphone, in plain Opus, is sent to Bob.
    fn new(protect_audio: bool, encrypted: bool) -> Self {
        let mut rig = Rig::new();
        rig.shard.config.protect_audio = protect_audio;
        rig.open(ALICE, ConnectionRole::Publisher, false);
        rig.command(NodeAction::ExpectTrack(ExpectedTrack {
            encrypted,
            red: false,
            ..microphone(ALICE, "TR_audio")
        }));
        rig.offer(ALICE, 1, &["audio sendonly msid:stream_mic"]);
        rig.open(BOB, ConnectionRole::Single, false);
        rig.subscribe(BOB, "TR_audio");
        rig.offer(BOB, 1, &["audio recvonly"]);
        for id in [ALICE, BOB] {
            rig.pretend_connected(id, false);
        }
        Self { rig, alice: Client::of(ALICE), bob: Client::of(BOB), packets: 0, reported: None }
    }

    /// Alice's next packet, of one octet. Returns the payload that Bob gets.
    fn pass(&mut self) -> Vec<u8> {
        self.packets += 1;
        let [_, octet] = self.packets.to_be_bytes();
        let packet = self.alice.rtp(1, OPUS, self.packets, &[octet]);
        self.rig.datagram(self.alice.address, packet);
        self.rig.advance(Duration::from_millis(20));
        let received = self.bob.received(&mut self.rig);
        let [(ssrc, index, payload)] = received.rtp.as_slice() else { panic!("{:?}", received.rtp) };
        let report = self.reported.get_or_insert(ReportBlock {
            ssrc: *ssrc,
            fraction_lost: 0,
            cumulative_lost: 0,
            highest_seq: 0,
            jitter: 0,
            last_sr: 0,
            delay_since_last_sr: 0,
        });
        report.highest_seq = *index as u32;
        payload.clone()
    }

    /// So many packets pass; Bob reports every tenth that he lost so many of them. Returns the last payload.
    fn pass_many(&mut self, count: u16, lost_of_ten: i32) -> Vec<u8> {
        let mut payload = Vec::new();
        for number in 1..=count {
            payload = self.pass();
            if number % 10 == 0
                && let Some(report) = &mut self.reported
            {
                report.cumulative_lost += lost_of_ten;
                let block = *report;
                let report = self.bob.rtcp(|writer| writer.receiver_report(7, &[block]).unwrap());
                self.rig.datagram(self.bob.address, report);
            }
        }
        payload
    }
}

#[test]
fn who_loses_packets_gets_earlier_ones_along() {
    let mut call = Call::new(true, false);
    assert_eq!(call.pass_many(100, 0), [100]);
    assert_eq!(call.rig.shard.stats().rtp_packets_protected, 0);
    // Bob is sent a step of the timestamp of 3000 a packet, see `Client::rtp`.
    let header = |packets: u32| (1 << 31 | u32::from(OPUS) << 24 | (3000 * packets) << 10 | 1).to_be_bytes();
    let expected = [&header(2)[..], &header(1)[..], &[OPUS, 248, 249, 250]].concat();
    assert_eq!(call.pass_many(150, 2), expected);
    let stats = call.rig.shard.stats();
    assert!((100..=150).contains(&stats.rtp_packets_protected), "{stats:?}");
    let (with_one, with_two) = (5 + 1, 2 * 5 + 1);
    let bytes = stats.rtp_packets_protected * with_one..=stats.rtp_packets_protected * with_two;
    assert!(bytes.contains(&stats.rtp_bytes_redundant), "{stats:?}");
    assert_eq!(stats.rtp_bytes_sent - stats.rtp_bytes_redundant, 250);
    assert_eq!(call.pass_many(20, 0).len(), expected.len(), "it may come back");
    let [_, octet] = (call.packets + 1000).to_be_bytes();
    assert_eq!(call.pass_many(1000, 0), [octet]);
}

#[test]
fn what_is_encrypted_from_end_to_end_goes_as_it_came() {
    for (protect_audio, encrypted) in [(true, true), (false, false)] {
        let mut call = Call::new(protect_audio, encrypted);
        assert_eq!(call.pass_many(200, 2), [200]);
        assert_eq!(call.rig.shard.stats().rtp_packets_protected, 0);
    }
}

#[test]
fn what_audio_is_sent_along_is_taken_off_what_video_gets() {
    let mut rates = [false, true].map(|protect_audio| {
        let mut call = Call::new(protect_audio, false);
        call.pass_many(300, 2);
        let bob = call.rig.shard.by_id[&BOB];
        call.rig.shard.endpoints[bob.0].media.downstream.audio_rate().as_bps()
    });
    let [plain, protected] = &mut rates;
    // Two earlier payloads of an octet with their headers, 50 times a second.
    assert!((3_600..=4_400).contains(&(*protected - *plain)), "{rates:?}");
}

#[test]
fn subscribers_are_offered_redundancy_whatever_the_publisher_sends() {
    let mut rig = Rig::new();
    rig.open(ALICE, ConnectionRole::Publisher, false);
    rig.command(NodeAction::ExpectTrack(ExpectedTrack { red: false, ..microphone(ALICE, "TR_audio") }));
    rig.offer(ALICE, 1, &["audio sendonly msid:stream_mic"]);
    let (sdp, ..) = rig.answer();
    assert!(!sdp.contains("red/48000"), "the publisher may not use it: {sdp}");
    rig.open(BOB, ConnectionRole::Subscriber, false);
    rig.subscribe(BOB, "TR_audio");
    rig.advance(Duration::from_millis(20));
    let offer = rig.events.iter().find_map(|event| match event {
        NodeEvent::Offer { sdp, .. } => Some(sdp),
        _ => None,
    });
    let offer = offer.unwrap();
    assert!(
        offer.contains("a=rtpmap:63 red/48000/2\r\n") && offer.contains("a=fmtp:63 111/111\r\n"),
        "{offer}"
    );
}
