//! What receivers are sent when much comes at once, when sections change hands, and when the way to them is gone.

use super::{attacks::*, media::*, *};
use crate::media::nack::NackPair;

impl Rig {
    /// So many packets of Alice come in one turn, numbered from `first`, each with its number as its payload.
    fn burst(&mut self, alice: &mut Client, first: u16, count: u16, bytes: usize) {
        for number in first..first + count {
            let head = if number == first { &KEYFRAME } else { &DELTA };
            let mut payload = head.to_vec();
            payload.extend_from_slice(&number.to_be_bytes());
            payload.resize(bytes, 0);
            let mut payload = alice.rtp(1, VP8, number, &payload);
            let (transport, source, destination) = (Transport::Udp, alice.address, SERVER.into());
            let arrived = self.now;
            let input = Input::Datagram { transport, source, destination, arrived, payload: &mut payload };
            self.shard.handle_input(self.now, input);
            // As a worker does.
            if number % 256 == 0 {
                self.drain();
            }
        }
        self.drain();
    }

    /// How often the shard wants to be called within a time, if it is called whenever it asks for it.
    fn calls_within(&mut self, time: Duration) -> usize {
        let end = self.now + time;
        let mut calls = 0;
        loop {
            let at = match self.shard.poll_output() {
                Output::Timeout(at) => at.max(self.now + Duration::from_millis(1)),
                _ => continue,
            };
            if at > end {
                self.now = end;
                return calls;
            }
            self.now = at;
            calls += 1;
            self.shard.handle_input(at, Input::Timeout);
        }
    }
}

/// The numbers in the payloads of packets of one source.
fn numbers(received: &Received, ssrc: u32) -> Vec<u16> {
    let of_source = received.rtp.iter().filter(|(source, _, _)| *source == ssrc);
    of_source.map(|(_, _, payload)| u16::from_be_bytes([payload[6], payload[7]])).collect()
}

#[test]
fn what_finds_no_room_in_the_pacer_can_be_asked_for() {
    let (mut rig, mut alice, mut bob) = (Rig::call(&[BOB]), Client::of(ALICE), Client::of(BOB));
    let count = 1000;
    rig.burst(&mut alice, 1, count, 1000);
    let mut came = Vec::new();
    let mut last = (0, 0);
    for _ in 0..20 {
        let received = bob.received(&mut rig);
        last = received.rtp.last().map_or(last, |(ssrc, index, _)| (*ssrc, *index));
        came.extend(numbers(&received, last.0));
        rig.advance(Duration::from_millis(10));
    }
    assert!(came.len() < usize::from(count), "some found no room: {}", came.len());
    let missing: Vec<u16> = (1..=count).filter(|number| !came.contains(number)).collect();
    // The next packet shows the receiver that there is a gap.
    rig.burst(&mut alice, count + 1, 1, 100);
    let (ssrc, index) = bob.received(&mut rig).rtp.first().map(|(ssrc, index, _)| (*ssrc, *index)).unwrap();
    assert_eq!(index - last.1, missing.len() as u64 + 1, "their numbers are taken");
    let pair = NackPair { pid: index as u16 - 4, blp: 0b111 };
    let nack = bob.rtcp(|writer| writer.nack(7, ssrc, &[pair]).unwrap());
    rig.datagram(bob.address, nack);
    rig.advance(Duration::from_millis(10));
    let again: Vec<Vec<u8>> = bob.received(&mut rig).rtp.into_iter().map(|(_, _, payload)| payload).collect();
    let expected: Vec<u16> = missing[missing.len() - 4..].to_vec();
    // The original number comes first (RFC 4588).
    let repaired: Vec<u16> =
        again.iter().map(|payload| u16::from_be_bytes([payload[8], payload[9]])).collect();
    assert_eq!(repaired, expected);
}

#[test]
fn a_receiver_is_sent_no_more_in_a_turn_than_its_share() {
    let (mut rig, mut alice, mut bob) = (Rig::call(&[BOB]), Client::of(ALICE), Client::of(BOB));
    rig.burst(&mut alice, 1, 1000, 100);
    let first = bob.received(&mut rig).rtp.len();
    // All of it is due.
    rig.now += Duration::from_millis(6);
    let mut shares = Vec::new();
    while shares.iter().sum::<usize>() + first < 1000 {
        rig.shard.handle_input(rig.now, Input::Timeout);
        rig.drain();
        shares.push(bob.received(&mut rig).rtp.len());
        assert!(shares.len() < 10, "{shares:?}");
        let Output::Timeout(at) = rig.shard.poll_output() else { panic!("something is left") };
        assert!(shares.iter().sum::<usize>() + first == 1000 || at == rig.now, "it goes on at once");
    }
    assert!(shares.len() >= 2 && shares.iter().all(|share| *share <= 512), "{shares:?}");
}

#[test]
fn a_connection_without_a_path_is_left_alone_until_it_has_one() {
    let (mut rig, mut alice, mut bob) = (Rig::call(&[BOB]), Client::of(ALICE), Client::of(BOB));
    rig.burst(&mut alice, 1, 200, 1000);
    let key = rig.shard.by_id[&BOB];
    rig.shard.endpoints[key.0].media.forget_path(Transport::Udp, bob.address);
    assert!(rig.shard.endpoints[key.0].media.downstream.is_idle(), "nothing waits any more");
    rig.calls_within(Duration::from_secs(2));
    rig.sent.clear();
    let calls = rig.calls_within(Duration::from_secs(1));
    assert!(calls <= 25, "{calls} calls in a second, for nothing");
    rig.advance(Duration::from_secs(1));
    assert!(rig.sent.iter().all(|(to, _)| *to != bob.address));
    // What waited is not sent seconds later.
    let path = Path { transport: Transport::Udp, local: SERVER.into(), remote: bob.address };
    assert!(rig.shard.endpoints[key.0].media.nominate(rig.now, path, 1));
    rig.advance(Duration::from_millis(20));
    assert!(bob.received(&mut rig).rtp.is_empty());
    rig.burst(&mut alice, 201, 1, 1000);
    assert_eq!(bob.received(&mut rig).rtp.len(), 1);
}

/// Bob receives Alice's camera and screen, in two sections. Their SSRCs.
fn two_tracks(rig: &mut Rig, alice: &mut Client, bob: &mut Client) -> (u32, u32) {
    rig.expect(ALICE, "TR_screen", MediaKind::Video, "screen");
    let both = ["video sendonly msid:stream_camera", "video sendonly msid:s_screen"];
    rig.offer(ALICE, 6, &both);
    let extension = |section: u16| -> u32 { 100 + u32::from(section) };
    // Without MIDs in the packets, sources are told by their declarations.
    let mut sdp = offer(&both);
    for (section, cid) in [(0, "camera"), (1, "screen")] {
        let line = format!(" {cid}\r\n");
        let declared = format!("a=ssrc:{} cname:alice\r\n", extension(section));
        sdp = sdp.replacen(&line, &format!("{line}{declared}"), 1);
    }
    rig.command(NodeAction::RemoteOffer { connection: ALICE, offer_id: 7, sdp });
    rig.subscribe(BOB, "TR_screen");
    rig.offer(BOB, 2, &["video recvonly", "video recvonly"]);
    rig.pretend_connected(BOB, false);
    let mut sources = Vec::new();
    for section in [0, 1] {
        let packet = alice.rtp(extension(section), VP8, 1, &KEYFRAME);
        rig.datagram(alice.address, packet);
        rig.advance(Duration::from_millis(10));
        sources.extend(bob.received(rig).rtp.first().map(|(ssrc, _, _)| *ssrc));
    }
    let [camera, screen] = sources[..] else { panic!("{sources:?}") };
    assert_ne!(camera, screen);
    (camera, screen)
}

#[test]
fn a_section_that_changes_hands_repeats_nothing_of_another_track_and_goes_on() {
    // Whichever of the sections has the lower numbers.
    section_changes_hands((100, "TR_video"), (101, "TR_screen"), &["video inactive", "video recvonly"]);
    section_changes_hands((101, "TR_screen"), (100, "TR_video"), &["video recvonly", "video inactive"]);
}

fn section_changes_hands(kept: (u32, &str), given_up: (u32, &str), offer: &[&str]) {
    let (mut rig, mut alice, mut bob) = (Rig::call(&[BOB]), Client::of(ALICE), Client::of(BOB));
    let (camera, screen) = two_tracks(&mut rig, &mut alice, &mut bob);
    let taken = if given_up.0 == 100 { camera } else { screen };
    let mut publish = |rig: &mut Rig, source: u32, numbers: std::ops::RangeInclusive<u16>, head: &[u8]| {
        for number in numbers {
            let payload = [head, &source.to_be_bytes(), &[0; 1000]].concat();
            let mut payload = alice.rtp(source, VP8, number, &payload);
            let (transport, source, destination) = (Transport::Udp, address(ALICE), SERVER.into());
            let arrived = rig.now;
            let input = Input::Datagram { transport, source, destination, arrived, payload: &mut payload };
            rig.shard.handle_input(rig.now, input);
        }
        rig.drain();
    };
    publish(&mut rig, given_up.0, 2..=5, &DELTA);
    // The section that is left has had two sources, as the other is going to have.
    for muted in [true, false] {
        rig.command(NodeAction::MuteTrack { track: kept.1.parse().unwrap(), muted });
    }
    publish(&mut rig, kept.0, 2..=2, &KEYFRAME);
    rig.advance(Duration::from_millis(20));
    let received = bob.received(&mut rig).rtp;
    let last = received.iter().rfind(|(ssrc, _, _)| *ssrc == taken).unwrap().1;
    // Many wait in the pacer when Bob gives up one track, and the section of the other: that takes the first one's. The
    // third is missing, so that it does not begin with the keyframe there was.
    publish(&mut rig, kept.0, 4..=100, &DELTA);
    rig.command(NodeAction::Unsubscribe { connection: BOB, track: given_up.1.parse().unwrap() });
    rig.offer(BOB, 3, offer);
    rig.pretend_connected(BOB, false);
    assert!(bob.received(&mut rig).rtp.len() < 97, "some wait");
    publish(&mut rig, kept.0, 101..=101, &KEYFRAME);
    publish(&mut rig, kept.0, 102..=110, &DELTA);
    // What the section had before cannot be had any more.
    let pair = NackPair { pid: last as u16 - 3, blp: 0b111 };
    let nack = bob.rtcp(|writer| writer.nack(7, taken, &[pair]).unwrap());
    rig.datagram(bob.address, nack);
    rig.advance(Duration::from_millis(20));
    let received = bob.received(&mut rig).rtp;
    assert!(received.iter().all(|(ssrc, _, _)| *ssrc == taken), "no answers");
    let indices: Vec<u64> = received.iter().map(|(_, index, _)| *index).collect();
    assert_eq!(indices, (last + 1..=last + 10).collect::<Vec<_>>(), "its numbers go on");
}

#[test]
fn memory_of_a_rare_turn_is_given_back() {
    let (mut rig, mut alice, mut bob) = (Rig::call(&[BOB]), Client::of(ALICE), Client::of(BOB));
    for number in 0..4000_u16 {
        rig.shard.outbox.push(
            Path { transport: Transport::Udp, local: SERVER.into(), remote: bob.address },
            &[number as u8; 1000],
        );
    }
    let large = rig.shard.outbox.capacity();
    rig.drain();
    rig.sent.clear();
    for number in 1..=50 {
        let packet = alice.rtp(1, VP8, number, &KEYFRAME);
        rig.datagram(alice.address, packet);
        rig.advance(Duration::from_millis(10));
    }
    assert!(rig.shard.outbox.capacity() < large / 8, "{} of {large}", rig.shard.outbox.capacity());
    assert_eq!(bob.received(&mut rig).rtp.len(), 50);
}
