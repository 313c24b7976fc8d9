//! Where sources belong, and what becomes of their packets.

use std::time::Duration;

use zynk_protocol::MediaKind;

use super::*;
use crate::{
    connection::{Codec, PayloadFormat},
    media::{
        extensions::{Element, ExtensionKind, write_elements},
        rtp::{HeaderFields, RtpHeader},
    },
};

const VP8: u8 = 96;
const VP8_RTX: u8 = 97;
const OPUS: u8 = 111;
const MID: u8 = 4;
const RID: u8 = 10;
const RRID: u8 = 11;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    Instant::now()
}

fn section(name: &str, kind: MediaKind, rids: &[&str]) -> Section {
    Section {
        client_sends: true,
        rids: rids.iter().map(|rid| (*rid).to_owned()).collect(),
        ..Section::new(name, kind)
    }
}

struct Client {
    upstream: Upstream,
    sections: Vec<Section>,
    now: Instant,
}

/// What came of a packet: section, RID, source, number and payload.
type Received = (usize, Option<String>, u32, u64, Vec<u8>);

impl Client {
    fn new(sections: Vec<Section>, declared: &[(usize, DeclaredSource)]) -> Self {
        let mut extensions = ExtensionMap::default();
        for (id, kind) in
            [(MID, ExtensionKind::Mid), (RID, ExtensionKind::Rid), (RRID, ExtensionKind::RepairedRid)]
        {
            extensions.set(id, kind);
        }
        let mut formats = NegotiatedFormats::default();
        formats.set(VP8, PayloadFormat::unnegotiated(Codec::Vp8, 90_000), false);
        formats.set(VP8_RTX, PayloadFormat::unnegotiated(Codec::Vp8, 90_000), true);
        formats.set(OPUS, PayloadFormat::unnegotiated(Codec::Opus, 48_000), false);
        let mut upstream = Upstream::default();
        upstream.negotiated(extensions, formats, declared.iter().copied());
        Self { upstream, sections, now: start() }
    }

    fn take(
        &mut self,
        ssrc: u32,
        payload_type: u8,
        sequence: u16,
        extensions: &[(u8, &str)],
        payload: &[u8],
    ) -> Option<Received> {
        self.now += Duration::from_millis(10);
        let fields = HeaderFields {
            payload_type,
            marker: false,
            sequence,
            timestamp: u32::from(sequence) * 900,
            ssrc,
            extended: !extensions.is_empty(),
            padded: false,
        };
        let mut datagram = fields.to_octets().to_vec();
        let elements: Vec<_> =
            extensions.iter().map(|(id, value)| Element { id: *id, value: value.as_bytes() }).collect();
        let mut block = [0; 64];
        let bytes = write_elements(&mut block, &elements).unwrap();
        datagram.extend_from_slice(&block[..bytes]);
        let header = RtpHeader::parse(&datagram).unwrap();
        let at = datagram.len();
        datagram.extend_from_slice(payload);
        let opened = OpenedRtp { header, index: u64::from(sequence), payload: at..datagram.len() };
        let (section, packet) =
            self.upstream.receive(self.now, self.now, &datagram, &opened, &self.sections)?;
        let rid = packet.rid.map(|rid| rid.to_string());
        Some((section, rid, packet.source, packet.sequence, packet.payload.to_vec()))
    }

    /// What is asked for again now.
    fn nacks(&mut self) -> Vec<u16> {
        let mut asked = Vec::new();
        self.upstream.poll_nacks(self.now, &mut Vec::new(), |_, pairs| {
            asked.extend(pairs.iter().flat_map(|pair| pair.seqs()));
        });
        asked
    }
}

fn camera_and_microphone() -> Vec<Section> {
    vec![section("0", MediaKind::Audio, &[]), section("1", MediaKind::Video, &[])]
}

#[test]
fn a_source_is_known_by_its_mid_its_declaration_or_its_kind() {
    let by_mid = |mid: &str| {
        let sections = vec![section("a", MediaKind::Video, &[]), section("b", MediaKind::Video, &[])];
        Client::new(sections, &[]).take(1, VP8, 1, &[(MID, mid)], b"x").map(|received| received.0)
    };
    assert_eq!((by_mid("a"), by_mid("b"), by_mid("c")), (Some(0), Some(1), None));

    let sections = vec![section("a", MediaKind::Video, &[]), section("b", MediaKind::Video, &[])];
    let declared = [(1, DeclaredSource { ssrc: 7, repairs: None })];
    let mut client = Client::new(sections, &declared);
    assert_eq!(client.take(7, VP8, 1, &[], b"x").unwrap().0, 1);
    assert_eq!(client.take(8, VP8, 1, &[], b"x"), None, "two sections may have sent it");

    let mut client = Client::new(camera_and_microphone(), &[]);
    assert_eq!(client.take(9, VP8, 1, &[], b"x").unwrap().0, 1);
    assert_eq!(client.take(10, OPUS, 1, &[], b"x").unwrap().0, 0);
    assert_eq!(client.take(11, 98, 1, &[], b"x"), None, "a payload type that means nothing");
}

#[test]
fn a_mid_of_another_kind_is_not_believed() {
    let mut client = Client::new(camera_and_microphone(), &[]);
    assert_eq!(client.take(1, OPUS, 1, &[(MID, "1")], b"x"), None, "sound in the picture's section");
    client.sections[1].client_sends = false;
    assert_eq!(client.take(2, VP8, 1, &[(MID, "1")], b"x"), None, "nothing is to be sent there");
}

#[test]
fn encodings_are_told_apart_by_their_rid_which_later_packets_leave_out() {
    let mut client = Client::new(vec![section("v", MediaKind::Video, &["q", "h"])], &[]);
    let rid = |received: Option<Received>| received.and_then(|received| received.1);
    assert_eq!(rid(client.take(1, VP8, 1, &[(MID, "v"), (RID, "q")], b"x")).as_deref(), Some("q"));
    assert_eq!(rid(client.take(2, VP8, 1, &[(MID, "v"), (RID, "h")], b"x")).as_deref(), Some("h"));
    assert_eq!(rid(client.take(1, VP8, 2, &[], b"x")).as_deref(), Some("q"));
    assert_eq!(client.take(3, VP8, 1, &[(MID, "v"), (RID, "f")], b"x"), None, "never announced");
    assert_eq!(client.take(4, VP8, 1, &[(MID, "v")], b"x"), None, "one of them, but which?");
    assert_eq!(client.upstream.source_of(0, Some("h".into())), Some(2));
}

#[test]
fn a_retransmission_becomes_the_packet_that_was_lost() {
    let declared =
        [(1, DeclaredSource { ssrc: 1, repairs: None }), (1, DeclaredSource { ssrc: 2, repairs: Some(1) })];
    let mut client = Client::new(camera_and_microphone(), &declared);
    let first = client.take(1, VP8, 10, &[], b"ten").unwrap().3;
    assert!(client.take(1, VP8, 12, &[], b"twelve").is_some());
    assert_eq!(client.nacks(), [11]);
    let recovered = client.take(2, VP8_RTX, 500, &[], b"\x00\x0beleven").unwrap();
    assert_eq!(recovered, (1, None, 1, first + 1, b"eleven".to_vec()));
    assert_eq!(client.take(2, VP8_RTX, 501, &[], b"\x00\x0beleven"), None, "once is enough");
    assert_eq!(client.take(1, VP8, 11, &[], b"eleven"), None, "the lost one was only late");
    assert_eq!(client.take(2, VP8_RTX, 502, &[], b""), None, "padding");
    assert!(client.nacks().is_empty());
}

#[test]
fn a_repair_stream_of_a_simulcast_is_found_by_its_repaired_rid() {
    let mut client = Client::new(vec![section("v", MediaKind::Video, &["q", "h"])], &[]);
    assert!(client.take(1, VP8, 1, &[(MID, "v"), (RID, "q")], b"x").is_some());
    assert!(client.take(2, VP8, 101, &[(MID, "v"), (RID, "h")], b"x").is_some());
    let recovered = client.take(3, VP8_RTX, 7, &[(MID, "v"), (RRID, "h")], b"\x00\x66y").unwrap();
    assert_eq!(
        (recovered.1.as_deref(), recovered.2, recovered.4.as_slice()),
        (Some("h"), 2, b"y".as_slice())
    );
}

#[test]
fn duplicates_are_dropped_and_late_packets_are_not() {
    let mut client = Client::new(camera_and_microphone(), &[]);
    assert!(client.take(1, VP8, 5, &[], b"x").is_some());
    assert!(client.take(1, VP8, 7, &[], b"x").is_some());
    assert!(client.take(1, VP8, 6, &[], b"x").is_some());
    assert_eq!(client.take(1, VP8, 6, &[], b"x"), None);
}

#[test]
fn sources_without_end_are_bounded() {
    let mut client = Client::new(camera_and_microphone(), &[]);
    let taken = (0..1000).filter(|ssrc| client.take(*ssrc, VP8, 1, &[], b"x").is_some()).count();
    assert_eq!(taken, SOURCES_MAX);
    client.upstream.forget_section(1);
    assert!(client.take(5000, VP8, 1, &[], b"x").is_some(), "a track that ends makes room");
}

#[test]
fn sound_is_not_asked_for_again() {
    let mut client = Client::new(camera_and_microphone(), &[]);
    assert!(client.take(1, OPUS, 1, &[], b"x").is_some());
    assert!(client.take(1, OPUS, 5, &[], b"x").is_some());
    assert!(client.nacks().is_empty());
    let mut blocks = Vec::new();
    client.upstream.report(client.now, &mut blocks);
    assert_eq!((blocks[0].ssrc, blocks[0].cumulative_lost), (1, 3));
    let mut lost = |section| {
        let reception = client.upstream.take_reception(|index| index == section);
        (reception.expected, reception.lost)
    };
    assert_eq!((lost(0), lost(1)), ((5, 3), (0, 0)));
    assert_eq!(lost(0), (0, 0));
}
