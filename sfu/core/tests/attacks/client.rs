//! A client: str0m does ICE and DTLS, and hands out the keys; media is sealed and opened here, so that it can be what
//! no honest client would send.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion, Fingerprint};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc};
use zynk_protocol::ConnectionId;
use zynk_sfu_core::Transport;
use zynk_sfu_core::media::{
    rtcp::{Packet, Packets, RtcpWriter},
    rtp::HeaderFields,
    srtp::{DtlsRole, KeyingMaterial, Opener, SealStream, Sealer},
};

use crate::call::{Datagram, SERVER, SERVER_OTHER};
use crate::dtls::{Tap, provider, take_exported};

pub const VP8: u8 = 96;
pub const VP8_RTX: u8 = 97;
/// Header extensions, by their number in [`Offer`].
pub const MID: u8 = 3;
pub const RID: u8 = 4;
pub const TRANSPORT_SEQUENCE: u8 = 5;
/// A VP8 payload with which decoding can start, and one with which it cannot (RFC 7741, section 4).
pub const KEYFRAME: [u8; 6] = [0x10, 0x00, 0x9d, 0x01, 0x2a, 0x00];
pub const DELTA: [u8; 6] = [0x10, 0x01, 0x9d, 0x01, 0x2a, 0x00];

/// What a client's description says, and what it does.
#[derive(Clone)]
pub struct Offer {
    /// One line for each section: direction and further attributes, separated by `|`.
    pub sections: Vec<String>,
    pub setup: &'static str,
    /// What is told of the certificate; else the truth.
    pub fingerprint: Option<String>,
    pub certificate: DtlsCert,
    pub version: DtlsVersion,
    pub extensions: [(u8, &'static str); 3],
    /// Whether there is a section for data channels.
    pub data: bool,
    /// Further lines for each section.
    pub lines: Vec<String>,
}

impl Offer {
    pub fn of(sections: &[&str]) -> Self {
        static CERTIFICATE: OnceLock<DtlsCert> = OnceLock::new();
        Self {
            sections: sections.iter().map(|section| (*section).to_owned()).collect(),
            setup: "actpass",
            fingerprint: None,
            certificate: CERTIFICATE.get_or_init(new_certificate).clone(),
            version: DtlsVersion::Dtls12,
            extensions: [
                (MID, "urn:ietf:params:rtp-hdrext:sdes:mid"),
                (RID, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"),
                (
                    TRANSPORT_SEQUENCE,
                    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
                ),
            ],
            data: false,
            lines: Vec::new(),
        }
    }

    /// One section that sends a camera.
    pub fn sending() -> Self {
        Self::of(&["sendonly|msid:stream camera"])
    }

    /// One section that receives video.
    pub fn receiving() -> Self {
        Self::of(&["recvonly"])
    }

    pub fn with_data(self) -> Self {
        Self { data: true, ..self }
    }

    pub fn with_setup(self, setup: &'static str) -> Self {
        Self { setup, ..self }
    }
}

pub fn new_certificate() -> DtlsCert {
    provider().dtls_provider.generate_certificate().unwrap()
}

/// As in `a=fingerprint`.
pub fn fingerprint_of(certificate: &DtlsCert) -> String {
    let digest = provider().sha256_provider.sha256(&certificate.certificate);
    let octets: Vec<String> = digest.iter().map(|octet| format!("{octet:02X}")).collect();
    octets.join(":")
}

pub struct Client {
    pub id: ConnectionId,
    pub address: SocketAddr,
    pub rtc: Rtc,
    pub connected: bool,
    /// What its DTLS exported, which may be before it takes itself for connected.
    pub keys: Option<(Opener, Sealer)>,
    /// Whether it answers the server's DTLS handshake instead of beginning it.
    pub passive: bool,
    /// ICE user fragment and password of the server.
    pub server: IceCreds,
    /// Media from the server that nobody has looked at.
    pub media: Vec<Datagram>,
    /// SRTCP indices that the server has used.
    rtcp_indices: HashSet<u32>,
    streams: HashMap<u32, SealStream>,
    data: bool,
}

impl Client {
    pub fn new(id: ConnectionId, offer: &Offer, now: Instant) -> Self {
        static TAP: Tap = Tap;
        let tapped = CryptoProvider { dtls_provider: &TAP, ..provider().clone() };
        let address: SocketAddr = ([10, 1, 0, id.0 as u8], 40_000 + id.0 as u16).into();
        let mut rtc = Rtc::builder()
            .set_rtp_mode(true)
            .set_crypto_provider(Arc::new(tapped))
            .set_dtls_cert(offer.certificate.clone())
            .set_dtls_version(offer.version)
            .build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        Self {
            id,
            address,
            rtc,
            connected: false,
            keys: None,
            passive: false,
            server: IceCreds { ufrag: String::new(), pass: String::new() },
            media: Vec::new(),
            rtcp_indices: HashSet::new(),
            streams: HashMap::new(),
            data: offer.data,
        }
    }

    pub fn offer(&mut self, offer: &Offer) -> String {
        let credentials = self.rtc.direct_api().local_ice_credentials();
        let fingerprint = offer.fingerprint.clone().unwrap_or_else(|| fingerprint_of(&offer.certificate));
        let count = offer.sections.len() + usize::from(offer.data);
        let mids: Vec<String> = (0..count).map(|index| index.to_string()).collect();
        let mut sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS\r\n",
            mids.join(" ")
        );
        for (mid, section) in mids.iter().enumerate() {
            let media = offer.sections.get(mid);
            let line = match media {
                Some(_) => "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
                None => "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            };
            sdp.push_str(&format!(
                "{line}\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 {fingerprint}\r\n\
                 a=setup:{}\r\na=mid:{section}\r\n",
                credentials.ufrag, credentials.pass, offer.setup,
            ));
            for line in &offer.lines {
                sdp.push_str(&format!("{line}\r\n"));
            }
            let Some(media) = media else {
                sdp.push_str("a=sctp-port:5000\r\n");
                continue;
            };
            sdp.push_str(
                "a=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
                 a=rtcp-fb:96 transport-cc\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n",
            );
            for (number, uri) in &offer.extensions {
                sdp.push_str(&format!("a=extmap:{number} {uri}\r\n"));
            }
            for attribute in media.split('|') {
                sdp.push_str(&format!("a={attribute}\r\n"));
            }
        }
        sdp
    }

    pub fn accept_answer(&mut self, sdp: &str) {
        let value = |name: &str| {
            let line = sdp.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(':')).unwrap_or_else(|| panic!("no {name} in {sdp}"))
        };
        self.server = IceCreds { ufrag: value("ice-ufrag").into(), pass: value("ice-pwd").into() };
        let digest = value("fingerprint").strip_prefix("sha-256 ").unwrap();
        let bytes = digest.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
        let fingerprint = Fingerprint { hash_func: "sha-256".into(), bytes };
        self.passive = value("setup") == "active";
        for address in [SERVER, SERVER_OTHER] {
            self.rtc.add_remote_candidate(Candidate::host(address.into(), "udp").unwrap());
        }
        let mut api = self.rtc.direct_api();
        api.set_remote_ice_credentials(self.server.clone());
        api.set_remote_fingerprint(fingerprint);
        api.set_ice_controlling(true);
        api.start_dtls(!self.passive).unwrap();
        if self.data {
            api.start_sctp(!self.passive);
        }
    }

    pub fn tick(&mut self, now: Instant, wire: &mut VecDeque<Datagram>) {
        // An error ends the session, which tests look at.
        let _ = self.rtc.handle_input(Input::Timeout(now));
        self.drain(wire);
    }

    pub fn receive(&mut self, now: Instant, datagram: Datagram, wire: &mut VecDeque<Datagram>) {
        if datagram.is_media() || datagram.transport == Transport::Tcp {
            self.media.push(datagram);
            return;
        }
        let Datagram { source, destination, payload, .. } = &datagram;
        let Ok(receive) = Receive::new(Protocol::Udp, *source, *destination, payload) else { return };
        let _ = self.rtc.handle_input(Input::Receive(now, receive));
        self.drain(wire);
    }

    /// Takes what str0m has to say. Its media is not sent: it has no keys for it.
    fn drain(&mut self, wire: &mut VecDeque<Datagram>) {
        while let Ok(output) = self.rtc.poll_output() {
            match output {
                Output::Timeout(_) => break,
                Output::Transmit(transmit) => {
                    let datagram = Datagram {
                        transport: Transport::Udp,
                        source: transmit.source,
                        destination: transmit.destination,
                        payload: transmit.contents.to_vec(),
                    };
                    if !datagram.is_media() {
                        wire.push_back(datagram);
                    }
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(_) => {}
            }
        }
        if let Some((profile, octets)) = take_exported() {
            let role = if self.passive { DtlsRole::Server } else { DtlsRole::Client };
            let material = KeyingMaterial::new(profile, &octets).unwrap();
            self.keys = Some(material.session(role, 0).unwrap());
        }
    }

    /// A sealed packet, with header extensions in the one-byte form (RFC 8285, section 4.2).
    pub fn rtp(
        &mut self,
        ssrc: u32,
        payload_type: u8,
        sequence: u16,
        extensions: &[(u8, &[u8])],
        payload: &[u8],
    ) -> Vec<u8> {
        self.rtp_padded(ssrc, payload_type, sequence, extensions, payload, false)
    }

    /// Same; `padded` says that the last octet counts octets of padding.
    pub fn rtp_padded(
        &mut self,
        ssrc: u32,
        payload_type: u8,
        sequence: u16,
        extensions: &[(u8, &[u8])],
        payload: &[u8],
        padded: bool,
    ) -> Vec<u8> {
        let mut packet = plain_rtp(ssrc, payload_type, sequence, extensions, payload, padded);
        let (end, header) = (packet.len(), packet.len() - payload.len());
        packet.resize(end + 16, 0);
        let (_, sealer) = self.keys.as_mut().expect("its DTLS is through");
        let stream = self.streams.entry(ssrc).or_insert_with(|| sealer.stream(ssrc).unwrap());
        let length = sealer.seal_rtp(stream, &mut packet, header, end, u64::from(sequence)).unwrap();
        packet.truncate(length);
        packet
    }

    pub fn rtcp(&mut self, write: impl FnOnce(&mut RtcpWriter<'_>)) -> Vec<u8> {
        let mut buffer = vec![0; 1400];
        let mut writer = RtcpWriter::new(&mut buffer);
        write(&mut writer);
        let end = writer.bytes();
        self.seal_rtcp(buffer, end)
    }

    /// Seals what may be no RTCP at all.
    pub fn seal_rtcp(&mut self, mut buffer: Vec<u8>, end: usize) -> Vec<u8> {
        buffer.resize(end + 20, 0);
        let (_, sealer) = self.keys.as_mut().expect("its DTLS is through");
        let bytes = sealer.seal_rtcp(&mut buffer, end).unwrap();
        buffer.truncate(bytes);
        buffer
    }

    /// What came since the last time; each index of SRTP and SRTCP comes once in the whole session.
    pub fn received(&mut self) -> Received {
        let mut received = Received::default();
        let (opener, _) = self.keys.as_mut().expect("its DTLS is through");
        for Datagram { mut payload, .. } in self.media.drain(..) {
            received.bytes += payload.len();
            if (192..=223).contains(&payload[1]) {
                let opened = opener.open_rtcp(&mut payload).expect("authentic, and of an index of its own");
                assert!(self.rtcp_indices.insert(opened.index), "an SRTCP index is used twice");
                payload.truncate(opened.bytes);
                received.rtcp.push(payload);
            } else {
                let opened = opener.open_rtp(&mut payload).expect("authentic, and of an index of its own");
                let media = payload[opened.payload].to_vec();
                received.rtp.push((opened.header.ssrc, opened.index, media));
            }
        }
        received
    }

    /// How many SRTCP packets have come in the session.
    pub fn rtcp_received(&self) -> usize {
        self.rtcp_indices.len()
    }
}

/// A packet in the clear.
pub fn plain_rtp(
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
    extensions: &[(u8, &[u8])],
    payload: &[u8],
    padded: bool,
) -> Vec<u8> {
    let fields = HeaderFields {
        payload_type,
        marker: true,
        sequence,
        timestamp: u32::from(sequence) * 3000,
        ssrc,
        extended: !extensions.is_empty(),
        padded,
    };
    let mut packet = fields.to_octets().to_vec();
    if !extensions.is_empty() {
        let mut block = Vec::new();
        for (number, value) in extensions {
            block.push(number << 4 | (value.len() - 1) as u8);
            block.extend_from_slice(value);
        }
        block.resize(block.len().next_multiple_of(4), 0);
        packet.extend_from_slice(&[0xbe, 0xde, 0, (block.len() / 4) as u8]);
        packet.extend_from_slice(&block);
    }
    packet.extend_from_slice(payload);
    packet
}

/// Media that came, opened.
#[derive(Default)]
pub struct Received {
    /// Source, index, payload.
    pub rtp: Vec<(u32, u64, Vec<u8>)>,
    pub rtcp: Vec<Vec<u8>>,
    /// Of all datagrams, as they came.
    pub bytes: usize,
}

impl Received {
    /// Payloads that are not padding alone, of the first source.
    pub fn media(&self) -> Vec<&[u8]> {
        let main = self.rtp.first().map(|(ssrc, ..)| *ssrc);
        let media = self.rtp.iter().filter(|(ssrc, _, payload)| Some(*ssrc) == main && !payload.is_empty());
        media.map(|(.., payload)| payload.as_slice()).collect()
    }

    pub fn count(&self, kind: impl Fn(&Packet<'_>) -> bool) -> usize {
        let packets = self.rtcp.iter().flat_map(|compound| Packets::new(compound));
        packets.filter(|packet| packet.as_ref().is_ok_and(&kind)).count()
    }
}
