//! The other end of a connection: seals what it is told to send, and opens all that it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use zynk_sfu_core::{
    Transport,
    media::{
        egress::{NtpTime, SenderInfo},
        extensions::{Element, ExtensionKind, ExtensionMap, Extensions, write_elements},
        nack::NackPair,
        receiver::ReportBlock,
        rtcp::{Packet, Packets, RtcpWriter},
        rtp::{FIXED_HEADER_BYTES, HeaderFields, RtpHeader},
        srtp::{DtlsRole, KeyingMaterial, OpenError, Opener, Profile, SealStream, Sealer},
        twcc::ArrivalRecorder,
    },
};

use crate::shard_sdp::{AV1, EXTENSIONS, H264, OPUS, RED, RIDS, SIMULCAST_SOURCE, SOURCES, VP8, VP9};

const PROFILES: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];
/// Octets of a compound that is sent at most.
const RTCP_BYTES_MAX: usize = 1200;
/// Of header extensions that are made here: a descriptor of up to 127, and a few short ones.
const EXTENSION_BYTES_MAX: usize = 256;
/// The source of the client's reports.
const REPORTER: u32 = 7;

/// What payloads begin with: decoding can start at the first of each pair and not at the second.
const VP8_HEADS: [&[u8]; 2] =
    [&[0x90, 0xe0, 0x80, 1, 1, 0, 0, 0, 0, 0x9d, 0x01, 0x2a], &[0x90, 0xe0, 0x80, 2, 1, 0, 1]];
const VP9_HEADS: [&[u8]; 2] = [&[0xac, 0x80, 1, 0, 0], &[0xec, 0x80, 2, 0x10, 1]];
const H264_HEADS: [&[u8]; 2] = [&[0x67, 0x42], &[0x41, 0x9a]];
const AV1_HEADS: [&[u8]; 2] = [&[0x18, 0x0a, 0x0b], &[0x10, 0x32]];
const RED_HEADS: [&[u8]; 2] = [&[111, 1], &[0x80 | 111, 0, 0, 2, 111, 9, 9]];

pub(crate) struct Client {
    /// On which it sends.
    pub(crate) path: (Transport, SocketAddr),
    /// Where it may be sent to: all paths that it has shown.
    shown: BTreeSet<(u8, SocketAddr)>,
    opener: Opener,
    sealer: Sealer,
    /// What it sends: the right to, and the newest number.
    sending: BTreeMap<u32, (SealStream, u64)>,
    /// Of packets that are made here, the next number of each source; and of all of them.
    next: BTreeMap<u32, u16>,
    transport_next: u16,
    extensions: ExtensionMap,
    /// Its last packet, sealed.
    last: Vec<u8>,
    /// The newest packet of each source that it was sent.
    received: BTreeMap<u32, u64>,
    arrivals: ArrivalRecorder,
    /// One in so many of the packets is not acknowledged, if any.
    loses: u8,
    rtp_received: u64,
    rtcp_index_last: Option<u32>,
    /// The middle of the NTP time of the last report that it was sent.
    reported: u32,
}

/// How packets are made of a few octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making {
    /// Source and payload type.
    pub(crate) stream: u8,
    /// How it begins, how its number follows from the last one, and whether it is marked or padded.
    pub(crate) flags: u8,
}

impl Client {
    /// `number` makes the keys, which no two clients have.
    pub(crate) fn new(number: u32, path: (Transport, SocketAddr)) -> Option<(Self, KeyingMaterial)> {
        let profile = *PROFILES.get(number as usize % PROFILES.len())?;
        let mut exported = number.to_be_bytes().repeat(32);
        exported.truncate(profile.keying_material_bytes());
        let (opener, sealer) =
            KeyingMaterial::new(profile, &exported).ok()?.session(DtlsRole::Client, 0).ok()?;
        let mut extensions = ExtensionMap::default();
        for (id, kind) in EXTENSIONS {
            extensions.set(id, kind);
        }
        let client = Self {
            path,
            shown: BTreeSet::from([place(path)]),
            opener,
            sealer,
            sending: BTreeMap::new(),
            next: BTreeMap::new(),
            transport_next: 0,
            extensions,
            last: Vec::new(),
            received: BTreeMap::new(),
            arrivals: ArrivalRecorder::new(),
            loses: 0,
            rtp_received: 0,
            rtcp_index_last: None,
            reported: 0,
        };
        Some((client, KeyingMaterial::new(profile, &exported).ok()?))
    }

    /// RTP packets that it was sent.
    pub(crate) fn rtp_received(&self) -> u64 {
        self.rtp_received
    }

    /// It can be reached on another path; if it `moves`, it sends from there.
    pub(crate) fn show(&mut self, path: (Transport, SocketAddr), moves: bool) {
        self.shown.insert(place(path));
        if moves {
            self.path = path;
        }
    }

    pub(crate) fn is_reached(&self, transport: Transport, address: SocketAddr) -> bool {
        self.shown.contains(&place((transport, address)))
    }

    /// Takes a datagram of RTP or RTCP. False if it is not authentic; if it is, its index must never have been used
    /// before.
    pub(crate) fn receive(&mut self, now: Instant, datagram: &[u8]) -> bool {
        let mut datagram = datagram.to_vec();
        if matches!(datagram.get(1), Some(192..=223)) {
            let opened = match self.opener.open_rtcp(&mut datagram) {
                Ok(opened) => opened,
                Err(OpenError::Authentication) => return false,
                Err(error) => panic!("RTCP that cannot be opened: {error}"),
            };
            assert!(self.rtcp_index_last.is_none_or(|last| opened.index > last), "an SRTCP index again");
            self.rtcp_index_last = Some(opened.index);
            for packet in Packets::new(datagram.get(..opened.bytes).unwrap_or_default()) {
                match packet {
                    Ok(Packet::SenderReport { info, .. }) => self.reported = (info.ntp.0 >> 16) as u32,
                    Ok(_) => {}
                    Err(error) => panic!("malformed RTCP: {error}"),
                }
            }
            return true;
        }
        let opened = match self.opener.open_rtp(&mut datagram) {
            Ok(opened) => opened,
            Err(OpenError::Authentication) => return false,
            Err(error) => panic!("RTP that cannot be opened: {error}"),
        };
        self.rtp_received += 1;
        let newest = self.received.entry(opened.header.ssrc).or_insert(opened.index);
        *newest = opened.index.max(*newest);
        let values = Extensions::read(&self.extensions, opened.header.extensions(&datagram));
        if let Some(number) = values.transport_sequence
            && (self.loses == 0 || !number.is_multiple_of(self.loses.into()))
        {
            self.arrivals.on_packet(now, number);
        }
        true
    }

    /// Seals an RTP packet under the number that is nearest to what its source sent last. None if it is no RTP packet,
    /// or its number was used.
    pub(crate) fn seal_rtp(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let header = RtpHeader::parse(packet).ok()?;
        if !self.sending.contains_key(&header.ssrc) {
            let stream = self.sealer.stream(header.ssrc).ok()?;
            self.sending.insert(header.ssrc, (stream, header.sequence.into()));
        }
        let (stream, newest) = self.sending.get_mut(&header.ssrc)?;
        let ahead = i64::from(header.sequence.wrapping_sub(*newest as u16) as i16);
        let index = newest.checked_add_signed(ahead)?;
        let mut sealed = packet.to_vec();
        sealed.resize(packet.len() + self.sealer.profile().rtp_overhead_bytes(), 0);
        self.sealer.seal_rtp(stream, &mut sealed, header.bytes(), packet.len(), index).ok()?;
        *newest = index.max(*newest);
        self.last.clone_from(&sealed);
        Some(sealed)
    }

    /// The last packet again.
    pub(crate) fn replay(&self) -> Vec<u8> {
        self.last.clone()
    }

    /// Makes a packet and seals it.
    pub(crate) fn make_rtp(&mut self, making: Making, octets: &[u8]) -> Option<Vec<u8>> {
        let Making { stream, flags } = making;
        let (ssrc, payload_type, heads) = source_of(stream);
        let head = heads.get(usize::from(flags & 1 == 0)).copied().unwrap_or_default();
        let step = match flags >> 2 & 3 {
            0 => 1,
            1 => 2,
            2 => 300,
            // The one that was left out.
            _ => u16::MAX,
        };
        let sequence = self.next.get(&ssrc).map_or(1, |last| last.wrapping_add(step));
        self.next.insert(ssrc, sequence);
        self.transport_next = self.transport_next.wrapping_add(1);
        let rid = encoding_of(stream);
        let (described, payload) = octets.split_at(if flags & 2 == 0 { 0 } else { octets.len() / 2 });
        let number = self.transport_next.to_be_bytes();
        let level = [stream];
        let element = |kind, value| self.extensions.id(kind).map(|id| Element { id, value });
        let elements: Vec<Element<'_>> = [
            element(ExtensionKind::TransportSequence, &number),
            rid.and_then(|_| element(ExtensionKind::Mid, b"1")),
            rid.and_then(|rid| element(ExtensionKind::Rid, rid.as_bytes())),
            element(ExtensionKind::AudioLevel, &level).filter(|_| ssrc == 1000),
            element(ExtensionKind::DependencyDescriptor, described).filter(|_| !described.is_empty()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let fields = HeaderFields {
            payload_type,
            marker: flags & 32 != 0,
            sequence,
            timestamp: u32::from(sequence) * 3000,
            ssrc,
            extended: true,
            padded: flags & 64 != 0,
        };
        let mut block = [0; EXTENSION_BYTES_MAX];
        let block_bytes = write_elements(&mut block, &elements).ok()?;
        let mut packet = fields.to_octets().to_vec();
        debug_assert_eq!(packet.len(), FIXED_HEADER_BYTES);
        packet.extend_from_slice(block.get(..block_bytes)?);
        let picture_at = packet.len() + if payload_type == VP8 { 3 } else { 2 };
        packet.extend_from_slice(head);
        if [VP8, VP9].contains(&payload_type)
            && let Some(picture) = packet.get_mut(picture_at)
        {
            *picture = sequence as u8;
        }
        packet.extend_from_slice(payload);
        if fields.padded {
            packet.extend_from_slice(&[0, 0, 3]);
        }
        self.seal_rtp(&packet)
    }

    /// Seals a compound of RTCP.
    pub(crate) fn seal_rtcp(&mut self, compound: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = compound.to_vec();
        sealed.resize(compound.len() + self.sealer.profile().rtcp_overhead_bytes(), 0);
        self.sealer.seal_rtcp(&mut sealed, compound.len()).ok()?;
        Some(sealed)
    }

    /// Makes a compound about what it was sent, and seals it.
    pub(crate) fn make_rtcp(&mut self, now: Instant, kind: u8, [a, b]: [u8; 2]) -> Option<Vec<u8>> {
        let (ssrc, newest) = {
            let at = usize::from(a) % self.received.len().max(1);
            self.received.iter().nth(at).map_or((REPORTER, 0), |(ssrc, newest)| (*ssrc, *newest))
        };
        let block = ReportBlock {
            ssrc,
            fraction_lost: a,
            cumulative_lost: b.into(),
            highest_seq: newest as u32,
            jitter: b.into(),
            last_sr: if b & 1 == 0 { self.reported } else { u32::from(a) << 16 },
            delay_since_last_sr: b.into(),
        };
        let mut buffer = vec![0; RTCP_BYTES_MAX];
        let mut writer = RtcpWriter::new(&mut buffer);
        match kind % 8 {
            0 => writer.picture_loss(REPORTER, ssrc).ok()?,
            1 => writer.full_intra_request(REPORTER, ssrc, b).ok()?,
            2 => {
                let pair =
                    NackPair { pid: (newest as u16).wrapping_sub(u16::from(b)), blp: u16::from(b) * 257 };
                writer.nack(REPORTER, ssrc, &[pair]).ok()?;
            }
            3 => {
                let (mut scratch, mut feedback) = (Vec::new(), Vec::new());
                let later = now + Duration::from_millis(b.into());
                if !self.arrivals.poll(later, REPORTER, ssrc, &mut scratch, &mut feedback) {
                    return None;
                }
                writer.packet(&feedback).ok()?;
            }
            4 => writer.receiver_report(REPORTER, &[block]).ok()?,
            5 => {
                let source = source_of(a).0;
                let ntp = NtpTime(u64::from(b) << 33 | u64::from(a));
                let info = SenderInfo { ntp, rtp: u32::from(a) << 8, packets: 9, octets: 99 };
                writer.sender_report(source, &info, &[block]).ok()?;
                writer.cname(source, "c").ok()?;
            }
            6 => writer.remb(REPORTER, 1000 << (b % 24), &[ssrc]).ok()?,
            _ => {
                self.loses = b;
                writer.goodbye(&[source_of(a).0]).ok()?;
            }
        }
        let bytes = writer.bytes();
        self.seal_rtcp(buffer.get(..bytes)?)
    }
}

/// A path as a set holds it.
fn place((transport, address): (Transport, SocketAddr)) -> (u8, SocketAddr) {
    (u8::from(transport == Transport::Tcp), address)
}

/// SSRC, payload type and how payloads begin.
fn source_of(stream: u8) -> (u32, u8, [&'static [u8]; 2]) {
    let [audio, camera, screen] = SOURCES;
    match stream % 12 {
        0 => (audio, OPUS, [&[], &[]]),
        1 => (audio, RED, RED_HEADS),
        2 => (camera, VP8, VP8_HEADS),
        3 => (camera, VP9, VP9_HEADS),
        4 => (camera, H264, H264_HEADS),
        5 => (camera, AV1, AV1_HEADS),
        6 => (screen, VP8, VP8_HEADS),
        7 => (screen, VP9, VP9_HEADS),
        8 => (camera + 1, VP8 + 1, [&[], &[0, 2]]),
        low => (SIMULCAST_SOURCE + u32::from(low - 9), VP8, VP8_HEADS),
    }
}

/// The encoding of a simulcast.
fn encoding_of(stream: u8) -> Option<&'static str> {
    RIDS.get(usize::from((stream % 12).checked_sub(9)?)).copied()
}
