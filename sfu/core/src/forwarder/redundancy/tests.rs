//! What a subscriber gets of a microphone.

use std::time::Instant;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use slab::Slab;
use zynk_protocol::{MediaKind, ParticipantSid, SubscriptionSettings, TrackSource};

use super::*;
use crate::{
    Certificate,
    connection::{Connection, Credentials, MediaPacket, PayloadTypes},
    downstream::Queued,
    forwarder::{Arrival, Subscription, WriteTo, Written},
    media::{
        egress::{EgressConfig, EgressStream, RtxConfig},
        extensions::{ExtensionMap, SendTime},
        receiver::LayerActivity,
        srtp::{DtlsRole, KeyingMaterial, Opener, Profile, Sealer},
        store::{FrameInfo, PacketInfo},
    },
    rewriter::Rewriter,
    shard::{EndpointKey, SubscriptionKey, TrackKey},
    track::{Encoding, Origin, Track},
};

/// The subscriber's payload types.
const OPUS: u8 = 109;
const RED: u8 = 62;
const RTX: u8 = 110;
/// Of a packet of 20 ms, at 48 kHz.
const TICKS: u32 = 960;

struct Rig {
    now: Instant,
    codec: Codec,
    subscription: Subscription,
    connection: Connection,
    tracks: Slab<Track>,
    stream: EgressStream,
    sealer: Sealer,
    opener: Opener,
}

/// What came of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    payload_type: u8,
    payload: Vec<u8>,
    redundant_bytes: usize,
}

impl Rig {
    /// A publisher sends `codec` to somebody who takes redundancy.
    fn new(codec: Codec) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let mut subscription = Subscription::new(
            EndpointKey(0),
            "TR_microphone".parse().unwrap(),
            "stream".to_owned(),
            SubscriptionSettings::default(),
            1,
        );
        let rewriter = Box::new(Rewriter::new(&mut Pcg64Mcg::seed_from_u64(1)));
        subscription.assign("0".into(), 0, rewriter, 1);
        subscription.source = Some(TrackKey(0));
        subscription.negotiated = true;
        subscription.forwarder.output = Some(super::super::OutputFormat {
            of: (0, codec as u32),
            codec,
            clock_rate_hz: 48_000,
            payload_types: PayloadTypes {
                media: if codec == Codec::Red { RED } else { OPUS },
                rtx: Some(RTX),
            },
            unwrap_red: false,
            red: Some(RedTypes { red: RED, own: OPUS }),
        });
        let track = Track {
            sid: "TR_microphone".parse().unwrap(),
            serial: 0,
            origin: Origin::Publisher { endpoint: EndpointKey(1), mid: "0".into() },
            kind: MediaKind::Audio,
            source: TrackSource::Microphone,
            participant: ParticipantSid::from_random(1),
            encodings: vec![Encoding::new(MediaKind::Audio, None)],
            activity: LayerActivity::default(),
            subscribers: Vec::new(),
            relays: Vec::new(),
            muted: false,
            loudness: None,
            encrypted: false,
            codec: None,
            backup: None,
            usage: None,
        };
        let certificate = Certificate::generate().unwrap();
        let credentials = Credentials { ufrag: "ufrag".into(), password: "p".repeat(24) };
        let address = ([127, 0, 0, 1], 1).into();
        let material = KeyingMaterial::new(Profile::AeadAes128Gcm, &[7; 56]).unwrap();
        let (_, mut sealer) = material.session(DtlsRole::Server, 0).unwrap();
        let (opener, _) = material.session(DtlsRole::Client, 0).unwrap();
        let config = EgressConfig {
            mid: "0",
            extensions: &ExtensionMap::default(),
            mixed_forms: false,
            ssrc: 1,
            rtx: Some((2, 1)),
            rtx_config: RtxConfig::default(),
        };
        let stream = EgressStream::new(&mut sealer, config).unwrap();
        Self {
            now,
            codec,
            subscription,
            connection: Connection::new(&certificate, &credentials, &[address], &[], now),
            tracks: [(0, track)].into_iter().collect(),
            stream,
            sealer,
            opener,
        }
    }

    /// A packet comes that is to go out with so many earlier ones.
    fn queue(&mut self, number: u64, timestamp: u32, payload: &[u8], earlier_payloads: u8) -> Queued {
        let info = PacketInfo {
            sequence: number,
            timestamp,
            marker: false,
            frame: FrameInfo::default(),
            arrived: self.now,
            audio_level: None,
            orientation: None,
            playout_delay: None,
            capture_time: None,
        };
        let handle = self.tracks[0].encodings[0].store.insert(info, &[], payload).unwrap();
        let packet = MediaPacket::unreceived(self.codec, number, timestamp, payload).head();
        let arrival = Arrival {
            kind: MediaKind::Audio,
            packet: &packet,
            handle,
            encoding: 0,
            active: &[true],
            highest_layer: 0,
            track_serial: 0,
            live_from: None,
            earlier_payloads,
        };
        let forwarded = self.subscription.forward(self.now, SubscriptionKey(0), arrival, &self.connection);
        forwarded.queued.unwrap()
    }

    fn write(&mut self, queued: &Queued, again: bool) -> Option<Came> {
        let mut buffer = vec![0; 1500];
        let mut output = WriteTo {
            now: self.now,
            sealer: &self.sealer,
            buffer: &mut buffer,
            transport_sequence: 0,
            send_time: SendTime(0),
        };
        let Written { bytes, payload_bytes, redundant_bytes } =
            self.subscription.write(queued, again, &self.tracks, &mut self.stream, &mut output)?;
        buffer.truncate(bytes);
        let opened = self.opener.open_rtp(&mut buffer).unwrap();
        let payload = buffer[opened.payload].to_vec();
        assert_eq!(payload.len() - if again { 2 } else { 0 }, payload_bytes);
        Some(Came { payload_type: opened.header.payload_type, payload, redundant_bytes })
    }

    /// A packet, 20 ms after the one before, comes and goes.
    fn pass(&mut self, number: u64, payload: &[u8], earlier_payloads: u8) -> Came {
        let timestamp = u32::try_from(number).unwrap().wrapping_mul(TICKS);
        let queued = self.queue(number, timestamp, payload, earlier_payloads);
        self.write(&queued, false).unwrap()
    }
}

fn plain(payload: &[u8]) -> Came {
    Came { payload_type: OPUS, payload: payload.to_vec(), redundant_bytes: 0 }
}

/// What RFC 2198, section 3, makes of payloads, the oldest first, each with how long before the last it was.
fn blocks(payload_type: u8, earlier: &[(u32, &[u8])], own: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (offset, block) in earlier {
        let fields = 1 << 31 | u32::from(payload_type) << 24 | offset << 10 | block.len() as u32;
        payload.extend(fields.to_be_bytes());
    }
    payload.push(payload_type);
    earlier.iter().for_each(|(_, block)| payload.extend(*block));
    payload.extend(own);
    payload
}

fn red(earlier: &[(u32, &[u8])], own: &[u8]) -> Came {
    let payload = blocks(OPUS, earlier, own);
    Came { payload_type: RED, redundant_bytes: payload.len() - own.len(), payload }
}

#[test]
fn a_packet_goes_out_with_those_before_it() {
    let mut rig = Rig::new(Codec::Opus);
    assert_eq!(rig.pass(10, b"a", 2), plain(b"a"), "there is none before it");
    assert_eq!(rig.pass(11, b"bb", 2), red(&[(960, b"a")], b"bb"));
    assert_eq!(rig.pass(12, b"ccc", 2), red(&[(1920, b"a"), (960, b"bb")], b"ccc"));
    assert_eq!(rig.pass(13, b"d", 1), red(&[(960, b"ccc")], b"d"));
    assert_eq!(rig.pass(14, b"e", 0), plain(b"e"));
    assert_eq!(rig.pass(15, b"f", 2), red(&[(1920, b"d"), (960, b"e")], b"f"));
}

#[test]
fn only_adjoining_packets_of_a_stream_go_along() {
    let mut rig = Rig::new(Codec::Opus);
    rig.pass(10, b"a", 2);
    assert_eq!(rig.pass(12, b"c", 2), plain(b"c"), "the one before is missing");
    assert_eq!(rig.pass(11, b"b", 2), red(&[(960, b"a")], b"b"), "it was late");
    assert_eq!(rig.pass(13, b"d", 2), red(&[(1920, b"b"), (960, b"c")], b"d"));
    // Silence: the next packet comes 400 ms later.
    let queued = rig.queue(14, 13 * TICKS + 19_200, b"e", 2);
    assert_eq!(rig.write(&queued, false).unwrap(), plain(b"e"));
    rig.subscription.restart();
    let queued = rig.queue(15, 13 * TICKS + 20_160, b"f", 2);
    assert_eq!(rig.write(&queued, false).unwrap(), plain(b"f"), "what came before is of another stream");
    let queued = rig.queue(16, 13 * TICKS + 21_120, b"g", 2);
    assert_eq!(rig.write(&queued, false).unwrap(), red(&[(960, b"f")], b"g"));
}

#[test]
fn what_is_sent_again_is_what_was_sent() {
    let mut rig = Rig::new(Codec::Opus);
    rig.pass(10, b"a", 2);
    rig.pass(11, b"b", 2);
    let timestamp = 13 * TICKS;
    let queued = rig.queue(13, timestamp, b"d", 2);
    let first = rig.write(&queued, false).unwrap();
    assert_eq!(first, plain(b"d"));
    rig.pass(12, b"c", 2);
    let later = rig.queue(14, timestamp + TICKS, b"e", 2);
    let second = rig.write(&later, false).unwrap();
    assert_eq!(second, red(&[(1920, b"c"), (960, b"d")], b"e"));
    for (number, first) in [(queued.sequence, first), (later.sequence, second)] {
        let sent = rig.stream.resend(rig.now, number as u16, std::time::Duration::ZERO).unwrap();
        let again = Queued { handle: sent.handle, sequence: number, tag: sent.tag, ..queued };
        let came = rig.write(&again, true).unwrap();
        // The number that it had comes first (RFC 4588).
        assert_eq!(came.payload[..2], (number as u16).to_be_bytes());
        assert_eq!(came.payload[2..], first.payload);
    }
    // Of the packets that it went out with one is gone, it itself is not.
    let sent = rig.stream.resend(rig.now, later.sequence as u16, std::time::Duration::ZERO);
    assert_eq!(sent, None, "not so soon");
    let again =
        Queued { tag: Treatment { earlier_payloads: 2, ..Treatment::from_tag(later.tag) }.to_tag(), ..later };
    assert!(rig.write(&again, true).is_some());
    (15..15 + 510).for_each(|number| drop(rig.pass(number, b"x", 0)));
    assert_eq!(rig.write(&again, true), None);
}

#[test]
fn redundancy_that_a_packet_came_with_is_replaced_by_more() {
    let publisher = 111;
    let mut rig = Rig::new(Codec::Red);
    let sent = |number: u8| blocks(publisher, &[(960, &[number - 1])], &[number]);
    let as_it_came =
        |payload: &[u8]| Came { payload_type: RED, payload: payload.to_vec(), redundant_bytes: 0 };
    let with_two = |number: u8| {
        let payload = blocks(OPUS, &[(1920, &[number - 2]), (960, &[number - 1])], &[number]);
        Came { payload_type: RED, redundant_bytes: payload.len() - sent(number).len(), payload }
    };
    assert_eq!(rig.pass(10, &sent(10), 2), as_it_came(&sent(10)));
    assert_eq!(rig.pass(11, &sent(11), 2), as_it_came(&sent(11)), "one is what it came with");
    assert_eq!(rig.pass(12, &sent(12), 2), with_two(12));
    assert_eq!(rig.pass(13, &sent(13), 1), as_it_came(&sent(13)));
    assert_eq!(rig.pass(15, &sent(15), 2), as_it_came(&sent(15)), "it alone has the one that is missing");
    assert_eq!(rig.pass(16, &[0x80 | publisher, 0], 2), as_it_came(&[0x80 | publisher, 0]), "malformed");
}

#[test]
fn who_takes_no_redundancy_gets_none() {
    let mut rig = Rig::new(Codec::Opus);
    if let Some(output) = &mut rig.subscription.forwarder.output {
        output.red = None;
    }
    rig.pass(10, b"a", 2);
    assert_eq!(rig.pass(11, b"b", 2), plain(b"b"));
}
