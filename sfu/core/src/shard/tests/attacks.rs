//! Attacks on the media of a call, by number of the list of known attacks. Clients pretend to have done their
//! handshakes; every datagram is sealed, or not, as a client or an attacker would.

use super::{media::*, *};
use crate::media::{
    nack::NackPair,
    rtcp::{Packet, Packets, RtcpWriter},
    rtp::HeaderFields,
    srtp::{Opener, SealStream, Sealer},
};

pub(super) const VP8: u8 = 96;
const VP8_RTX: u8 = 97;
const MALLORY: ConnectionId = ConnectionId(9);

/// The other end of a connection.
pub(super) struct Client {
    pub(super) address: SocketAddr,
    opener: Opener,
    sealer: Sealer,
    streams: FxHashMap<u32, SealStream>,
    /// SRTCP indices that the shard has used in the session.
    rtcp_indices: BTreeSet<u32>,
}

impl Client {
    pub(super) fn of(id: ConnectionId) -> Self {
        let (opener, sealer) = keying_material(id).session(DtlsRole::Client, 0).unwrap();
        Self {
            address: address(id),
            opener,
            sealer,
            streams: FxHashMap::default(),
            rtcp_indices: BTreeSet::new(),
        }
    }

    pub(super) fn rtp(&mut self, ssrc: u32, payload_type: u8, sequence: u16, payload: &[u8]) -> Vec<u8> {
        let fields = HeaderFields {
            payload_type,
            marker: true,
            sequence,
            timestamp: u32::from(sequence) * 3000,
            ssrc,
            extended: false,
            padded: false,
        };
        let mut packet = fields.to_octets().to_vec();
        packet.extend_from_slice(payload);
        let end = packet.len();
        packet.resize(end + 16, 0);
        let stream = self.streams.entry(ssrc).or_insert_with(|| self.sealer.stream(ssrc).unwrap());
        self.sealer.seal_rtp(stream, &mut packet, 12, end, u64::from(sequence)).unwrap();
        packet
    }

    pub(super) fn rtcp(&mut self, write: impl FnOnce(&mut RtcpWriter<'_>)) -> Vec<u8> {
        let mut buffer = vec![0; 1400];
        let mut writer = RtcpWriter::new(&mut buffer);
        write(&mut writer);
        let end = writer.bytes();
        let bytes = self.sealer.seal_rtcp(&mut buffer, end).unwrap();
        buffer.truncate(bytes);
        buffer
    }

    /// What the shard sent to this client since the last time: media by source and number, and RTCP.
    pub(super) fn received(&mut self, rig: &mut Rig) -> Received {
        let mut received = Received::default();
        for (_, mut datagram) in rig.sent.extract_if(.., |(to, _)| *to == self.address).collect::<Vec<_>>() {
            if (192..=223).contains(&datagram[1]) {
                let opened = self.opener.open_rtcp(&mut datagram).unwrap();
                assert!(self.rtcp_indices.insert(opened.index), "a nonce is used twice");
                datagram.truncate(opened.bytes);
                received.rtcp.push(datagram);
            } else {
                let opened =
                    self.opener.open_rtp(&mut datagram).expect("each index is sent once, and authentic");
                received.timestamps.push(opened.header.timestamp);
                received.rtp.push((opened.header.ssrc, opened.index, datagram[opened.payload].to_vec()));
            }
        }
        received
    }
}

#[derive(Default)]
pub(super) struct Received {
    pub(super) rtp: Vec<(u32, u64, Vec<u8>)>,
    /// Of each of those.
    pub(super) timestamps: Vec<u32>,
    rtcp: Vec<Vec<u8>>,
}

impl Received {
    pub(super) fn keyframe_requests(&self) -> usize {
        let packets = self.rtcp.iter().flat_map(|compound| Packets::new(compound));
        packets.filter(|packet| matches!(packet, Ok(Packet::PictureLoss { .. }))).count()
    }
}

impl Rig {
    pub(super) fn datagram(&mut self, source: SocketAddr, mut payload: Vec<u8>) {
        let (transport, destination) = (Transport::Udp, SERVER.into());
        let arrived = self.now;
        let input = Input::Datagram { transport, source, destination, arrived, payload: &mut payload };
        self.shard.handle_input(self.now, input);
        self.drain();
    }

    pub(super) fn dropped(&self) -> u64 {
        self.shard.stats().datagrams_dropped
    }

    pub(super) fn forwarded(&self) -> u64 {
        self.shard.stats().rtp_packets_sent
    }
}

#[test]
fn t04_a_flood_of_bad_tags_is_dropped_and_the_call_goes_on() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    let first = alice.rtp(1, VP8, 1, &KEYFRAME);
    rig.datagram(alice.address, first);
    let before = rig.dropped();
    for number in 0..10_000_u16 {
        let mut forged = alice.rtp(1, VP8, 100, &DELTA);
        alice.streams.clear();
        alice.sealer = Client::of(ALICE).sealer;
        let last = forged.len() - 1 - usize::from(number % 16);
        forged[last] ^= 1 + number.to_be_bytes()[1] % 255;
        rig.datagram(alice.address, forged);
    }
    assert_eq!(rig.dropped() - before, 10_000);
    let second = alice.rtp(1, VP8, 2, &DELTA);
    rig.datagram(alice.address, second);
    assert_eq!((rig.forwarded(), rig.shard.stats().connections), (2, 2));
}

/// A worker hands its shard some hundred datagrams before it takes what is to be sent. Whatever is invalid among them,
/// the rest leaves in the same turn, and nothing remains to be done for it.
#[test]
fn flood_of_invalid_packets_puts_off_nobody_elses() {
    let (mut rig, mut alice, mut bob) = (Rig::call(&[BOB]), Client::of(ALICE), Client::of(BOB));
    let participant = ParticipantSid::from_random(9);
    let open = NodeAction::OpenConnection(OpenConnection {
        connection: MALLORY,
        participant,
        role: ConnectionRole::Publisher,
        late_binding: false,
        candidates: zynk_protocol::CandidatePolicy::All,
    });
    let input = Input::Command { room: "RM_other".parse().unwrap(), action: open };
    rig.shard.handle_input(rig.now, input);
    rig.expect(MALLORY, "TR_other", MediaKind::Video, "camera");
    rig.offer(MALLORY, 1, &["video sendonly msid:stream_camera"]);
    rig.pretend_connected(MALLORY, false);
    rig.advance(Duration::from_secs(1));
    rig.sent.clear();
    let (own, elsewhere) = (address(MALLORY), SocketAddr::from(([127, 0, 0, 1], 55_555)));
    let feed = |rig: &mut Rig, source, mut payload: Vec<u8>| {
        let (transport, destination) = (Transport::Udp, SERVER.into());
        let arrived = rig.now;
        let input = Input::Datagram { transport, source, destination, arrived, payload: &mut payload };
        rig.shard.handle_input(rig.now, input);
    };
    let wake = |rig: &mut Rig| match rig.shard.poll_output() {
        Output::Timeout(at) => at,
        other => panic!("{other:?} of an invalid packet"),
    };
    let mut number = 0_u16;
    for round in 1..=40 {
        let (before, dropped) = (wake(&mut rig), rig.dropped());
        for _ in 0..500 {
            number += 1;
            let mut forged = Client::of(MALLORY).rtp(7, VP8, number, &[0x10; 1000]);
            if let Some(last) = forged.last_mut() {
                *last ^= 1;
            }
            feed(&mut rig, [own, elsewhere][usize::from(number % 2)], forged);
        }
        assert_eq!(rig.dropped() - dropped, 500);
        assert_eq!(wake(&mut rig), before, "nothing is to be done for them");
        let packet = alice.rtp(1, VP8, round, if round == 1 { &KEYFRAME } else { &DELTA });
        feed(&mut rig, alice.address, packet);
        rig.drain();
        assert!(rig.sent.iter().all(|(to, _)| ![own, elsewhere].contains(to)));
        assert_eq!(bob.received(&mut rig).rtp.len(), 1, "in the same turn");
        rig.advance(Duration::from_millis(20));
        bob.received(&mut rig);
        rig.sent.clear();
    }
    assert_eq!(rig.shard.stats().sessions_panicked, 0);
}

#[test]
fn t05_t06_media_from_another_address_is_neither_forwarded_nor_answered() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    let elsewhere: SocketAddr = ([127, 0, 0, 1], 55_555).into();
    for number in 0..1000 {
        // Even with the right keys: the address has proved nothing.
        let packet = alice.rtp(1, VP8, number, &KEYFRAME);
        rig.datagram(elsewhere, packet);
    }
    rig.advance(Duration::from_secs(2));
    assert_eq!((rig.forwarded(), rig.dropped()), (0, 1000));
    assert!(rig.sent.iter().all(|(to, _)| *to != elsewhere));
    let packet = alice.rtp(1, VP8, 1000, &KEYFRAME);
    rig.datagram(alice.address, packet);
    rig.advance(Duration::from_secs(2));
    assert_eq!(rig.forwarded(), 1);
    assert!(rig.sent.iter().all(|(to, _)| *to != elsewhere), "its address was never learned");
}

#[test]
fn t28_malformed_packets_of_a_client_with_keys_hurt_nobody() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    let mut number = 0;
    let mut send = |rig: &mut Rig, alice: &mut Client, ssrc, payload_type, payload: &[u8]| {
        number += 1;
        let packet = alice.rtp(ssrc, payload_type, number, payload);
        rig.datagram(alice.address, packet);
    };
    send(&mut rig, &mut alice, 1, VP8, &KEYFRAME);
    for length in 0..KEYFRAME.len() {
        send(&mut rig, &mut alice, 1, VP8, &[0xff; 6][..length]);
        send(&mut rig, &mut alice, 2, VP8_RTX, &[0; 6][..length.min(3)]);
    }
    let dropped = rig.dropped();
    send(&mut rig, &mut alice, 1, VP8, &[0x55; 1490]);
    assert_eq!(rig.dropped(), dropped + 1, "larger than a packet can be");
    assert_eq!(rig.shard.stats().sessions_panicked, 0);
    let before = rig.forwarded();
    send(&mut rig, &mut alice, 1, VP8, &DELTA);
    rig.advance(Duration::from_millis(20));
    assert!(rig.forwarded() > before);
    Client::of(BOB).received(&mut rig);
}

#[test]
fn t37_a_packet_that_is_replayed_is_forwarded_once() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    let packet = alice.rtp(1, VP8, 1, &KEYFRAME);
    for _ in 0..100 {
        rig.datagram(alice.address, packet.clone());
    }
    rig.advance(Duration::from_millis(20));
    assert_eq!((rig.forwarded(), rig.dropped()), (1, 99));
}

#[test]
fn t37_the_ssrc_of_another_participant_cannot_be_stolen() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    rig.open(MALLORY, ConnectionRole::Publisher, false);
    rig.expect(MALLORY, "TR_other", MediaKind::Video, "camera");
    rig.offer(MALLORY, 1, &["video sendonly msid:stream_camera"]);
    rig.pretend_connected(MALLORY, false);
    let mut mallory = Client::of(MALLORY);
    let mut bob = Client::of(BOB);
    for number in 1..50 {
        let forged = mallory.rtp(1, VP8, 1000 + number, &[0x10, 0x00, 0x9d, 0x01, 0x2a, 0x66]);
        rig.datagram(mallory.address, forged);
        let packet = alice.rtp(1, VP8, number, if number == 1 { &KEYFRAME } else { &DELTA });
        rig.datagram(alice.address, packet);
        rig.advance(Duration::from_millis(10));
    }
    let received = bob.received(&mut rig).rtp;
    let media: Vec<_> = received.iter().filter(|(_, _, payload)| !payload.is_empty()).collect();
    assert_eq!(media.len(), 49);
    assert!(media.iter().all(|(_, _, payload)| *payload.last().unwrap() == 0), "nothing of the other's");
}

#[test]
fn t38_a_storm_of_keyframe_requests_costs_the_publisher_little() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    let mut bob = Client::of(BOB);
    let packet = alice.rtp(1, VP8, 1, &KEYFRAME);
    rig.datagram(alice.address, packet);
    rig.advance(Duration::from_millis(10));
    let ssrc = bob.received(&mut rig).rtp[0].0;
    alice.received(&mut rig);
    for number in 0..1000_u16 {
        let request = bob.rtcp(|writer| {
            writer.picture_loss(7, ssrc).unwrap();
            writer.full_intra_request(7, ssrc, number.to_be_bytes()[1]).unwrap();
        });
        rig.datagram(bob.address, request);
        let packet = alice.rtp(1, VP8, 2 + number, &KEYFRAME);
        rig.datagram(alice.address, packet);
        rig.advance(Duration::from_millis(10));
    }
    // Ten seconds: a burst of three, then one in two seconds.
    let asked = alice.received(&mut rig).keyframe_requests();
    assert!((3..=8).contains(&asked), "{asked} requests");
}

#[test]
fn t38_a_storm_of_nacks_is_answered_with_a_share_of_what_was_sent() {
    let (mut rig, mut alice) = (Rig::call(&[BOB, CAROL]), Client::of(ALICE));
    let (mut bob, mut carol) = (Client::of(BOB), Client::of(CAROL));
    let payload = [DELTA.as_slice(), &[0; 1000]].concat();
    let (mut sent, mut again, mut ssrc, mut highest) = (0_usize, 0_usize, None, 0);
    for number in 1..=500 {
        let packet = alice.rtp(1, VP8, number, if number == 1 { &KEYFRAME } else { &payload });
        rig.datagram(alice.address, packet);
        rig.advance(Duration::from_millis(10));
        for (source, index, payload) in bob.received(&mut rig).rtp {
            let main = *ssrc.get_or_insert(source);
            if source == main {
                (sent, highest) = (sent + payload.len(), index);
            } else {
                again += payload.len();
            }
        }
        if let Some(ssrc) = ssrc {
            let pairs: Vec<NackPair> = (0..16)
                .map(|run| NackPair { pid: (highest as u16).wrapping_sub(17 * run), blp: u16::MAX })
                .collect();
            let storm = bob.rtcp(|writer| writer.nack(7, ssrc, &pairs).unwrap());
            rig.datagram(bob.address, storm);
        }
    }
    assert!(again > 0, "honest requests are answered");
    // The share of 35 %, and what is saved up for a burst.
    assert!(again < sent * 2 / 5 + 70_000, "{again} of {sent}");
    assert_eq!(carol.received(&mut rig).rtp.len(), 500, "somebody else gets every packet");
}

#[test]
fn who_sends_more_than_anybody_may_is_cut_and_nobody_else() {
    let (mut rig, mut alice, mut mallory) = (Rig::call(&[BOB]), Client::of(ALICE), Client::of(MALLORY));
    rig.open(MALLORY, ConnectionRole::Publisher, false);
    rig.expect(MALLORY, "TR_other", MediaKind::Video, "camera");
    rig.offer(MALLORY, 1, &["video sendonly msid:stream_camera"]);
    rig.pretend_connected(MALLORY, false);
    let before = rig.shard.stats();
    for number in 0..20_000 {
        let packet = mallory.rtp(7, VP8, number, &KEYFRAME);
        rig.datagram(mallory.address, packet);
        if number % 100 == 0 {
            let packet = alice.rtp(1, VP8, 1 + number / 100, &KEYFRAME);
            rig.datagram(alice.address, packet);
            rig.advance(Duration::from_millis(10));
        }
    }
    // In two seconds: a burst of 4,000 and 8,000 in each.
    let stats = rig.shard.stats();
    let (taken, cut) = (
        stats.rtp_packets_received - before.rtp_packets_received,
        stats.rtp_packets_over_budget - before.rtp_packets_over_budget,
    );
    assert_eq!(taken + cut, 20_000 + 200);
    assert!((19_900..=20_200).contains(&taken), "{taken}");
    for number in 20_000..40_000 {
        let packet = mallory.rtp(7, VP8, number, &KEYFRAME);
        rig.datagram(mallory.address, packet);
    }
    assert!(rig.shard.stats().rtp_packets_over_budget - stats.rtp_packets_over_budget >= 16_000);
    let packet = alice.rtp(1, VP8, 500, &KEYFRAME);
    let forwarded = rig.forwarded();
    rig.datagram(alice.address, packet);
    assert_eq!(rig.forwarded(), forwarded + 1);
}

#[test]
fn a_publisher_whose_packet_cannot_be_forwarded_ends_alone() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    rig.pretend_connected(ALICE, true);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let packet = alice.rtp(1, VP8, 1, &KEYFRAME);
    rig.datagram(alice.address, packet);
    std::panic::set_hook(hook);
    assert_eq!((rig.shard.stats().sessions_panicked, rig.shard.stats().connections), (1, 1));
    assert!(rig.shard.by_id.contains_key(&BOB));
}
