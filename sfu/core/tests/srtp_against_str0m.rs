//! The media plane's SRTP, RTP and RTCP against str0m's, over a real ICE and DTLS handshake in virtual time: what
//! one side protects the other must open, in both directions and with every profile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, DtlsVersion, KeyingMaterial as Exported,
    ProtocolVersion, SrtpProfile,
};
use str0m::crypto::{CryptoError, CryptoProvider};
use str0m::media::{KeyframeRequestKind, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc};
use zynk_sfu_core::media::{
    egress::{EgressConfig, EgressStream, Outgoing, RtxConfig, buffer_bytes},
    extensions::{ExtensionKind, ExtensionMap, SendTime},
    rtcp::{Packet, Packets, RtcpWriter},
    srtp::{DtlsRole, KeyingMaterial, Opener, Profile, SRTCP_INDEX_SHARED, Sealer},
    store::{FrameInfo, PacketInfo, PacketStore, StoreConfig},
};

const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 3478);
const CLIENT: ([u8; 4], u16) = ([10, 1, 0, 1], 5000);
/// What the server sends to the client with, and the client to the server.
const DOWN: u32 = 10_000;
const UP: u32 = 20_000;

thread_local! {
    /// The profile that both sides are made to believe in, with the front of the exported octets as its keys.
    static FORCED: RefCell<Option<(Profile, SrtpProfile)>> = const { RefCell::new(None) };
    /// What was exported last.
    static SEEN: RefCell<Option<KeyingMaterial>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Tap;
#[derive(Debug)]
struct TappedDtls(Box<dyn DtlsInstance>);

fn provider() -> &'static CryptoProvider {
    static PROVIDER: OnceLock<CryptoProvider> = OnceLock::new();
    PROVIDER.get_or_init(str0m::crypto::from_feature_flags)
}

impl DtlsProvider for Tap {
    fn generate_certificate(&self) -> Option<str0m::config::DtlsCert> {
        provider().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &str0m::config::DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = provider().dtls_provider.new_dtls(certificate, now, version, mtu)?;
        Ok(Box::new(TappedDtls(inner)))
    }
}

impl DtlsInstance for TappedDtls {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        match self.0.poll_output(buffer) {
            DtlsOutput::KeyingMaterial(exported, negotiated) => {
                let (profile, named) = FORCED.with_borrow(|forced| *forced).unwrap();
                let octets = &exported[..profile.keying_material_bytes()];
                assert!(negotiated == named || octets.len() < exported.len(), "nothing was negotiated away");
                SEEN.set(Some(KeyingMaterial::new(profile, octets).unwrap()));
                DtlsOutput::KeyingMaterial(Exported::new(octets), named)
            }
            other => other,
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}

/// A str0m client, connected to a str0m server whose media we take over.
struct Session {
    now: Instant,
    server: Rtc,
    client: Rtc,
    connected: usize,
    /// What the client sent, of RTP and RTCP.
    from_client: Vec<Vec<u8>>,
    /// Payload and extended sequence number of what the client received.
    received: Vec<(u64, Vec<u8>)>,
    keyframes_asked: usize,
}

fn mid(name: &str) -> Mid {
    Mid::from(name)
}

impl Session {
    fn connect(profile: Profile, named: SrtpProfile, server_is_active: bool) -> (Self, Opener, Sealer) {
        static TAP: Tap = Tap;
        FORCED.set(Some((profile, named)));
        SEEN.set(None);
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let build = |lite: bool| {
            let provider = CryptoProvider { dtls_provider: &TAP, ..provider().clone() };
            let builder = Rtc::builder().set_rtp_mode(true).set_ice_lite(lite);
            builder.set_crypto_provider(Arc::new(provider)).build(now)
        };
        let (mut server, mut client) = (build(true), build(false));
        let server_host = Candidate::host(SERVER.into(), "udp").unwrap();
        let client_host = Candidate::host(CLIENT.into(), "udp").unwrap();
        server.add_local_candidate(server_host.clone());
        server.add_remote_candidate(client_host.clone());
        client.add_local_candidate(client_host);
        client.add_remote_candidate(server_host);
        for (this, other, active, controlling) in
            [(0, 1, server_is_active, false), (1, 0, !server_is_active, true)]
        {
            let peers = [&mut server, &mut client];
            let fingerprint = peers[other].direct_api().local_dtls_fingerprint().clone();
            let credentials = peers[other].direct_api().local_ice_credentials();
            let mut api = peers[this].direct_api();
            api.set_remote_fingerprint(fingerprint);
            api.set_remote_ice_credentials(credentials);
            api.set_ice_controlling(controlling);
            api.start_dtls(active).unwrap();
        }
        let mut api = client.direct_api();
        api.declare_media(mid("down"), MediaKind::Video);
        api.expect_stream_rx(Ssrc::from(DOWN), Some(Ssrc::from(DOWN + 1)), mid("down"), None);
        api.enable_twcc_feedback();
        api.declare_media(mid("up"), MediaKind::Video);
        api.declare_stream_tx(Ssrc::from(UP), Some(Ssrc::from(UP + 1)), mid("up"), None);
        let mut session = Self {
            now,
            server,
            client,
            connected: 0,
            from_client: Vec::new(),
            received: Vec::new(),
            keyframes_asked: 0,
        };
        for _ in 0..1000 {
            if session.connected == 2 {
                break;
            }
            session.step(true);
        }
        assert_eq!(session.connected, 2, "no connection");
        let role = if server_is_active { DtlsRole::Client } else { DtlsRole::Server };
        let material = SEEN.take().unwrap();
        let (opener, sealer) = material.session(role, SRTCP_INDEX_SHARED).unwrap();
        (session, opener, sealer)
    }

    /// Ten milliseconds pass, and what both send arrives; once connected, the server's str0m sends and gets no
    /// media.
    fn step(&mut self, handshake: bool) {
        self.now += Duration::from_millis(10);
        self.server.handle_input(Input::Timeout(self.now)).unwrap();
        self.client.handle_input(Input::Timeout(self.now)).unwrap();
        loop {
            let down = self.drain_server();
            let up = self.drain_client();
            if down.is_empty() && up.is_empty() {
                break;
            }
            if handshake {
                for packet in down {
                    deliver(&mut self.client, self.now, SERVER.into(), CLIENT.into(), &packet);
                    self.poll_client_events();
                }
            }
            for packet in up {
                deliver(&mut self.server, self.now, CLIENT.into(), SERVER.into(), &packet);
            }
        }
    }

    fn drain_server(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        loop {
            match self.server.poll_output().unwrap() {
                Output::Timeout(_) => return sent,
                Output::Transmit(transmit) => sent.push(transmit.contents.to_vec()),
                Output::Event(Event::Connected) => self.connected += 1,
                Output::Event(_) => {}
            }
        }
    }

    /// What the client sends that is neither RTP nor RTCP.
    fn drain_client(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        loop {
            match self.client.poll_output().unwrap() {
                Output::Timeout(_) => return sent,
                Output::Transmit(transmit) => {
                    let packet = transmit.contents.to_vec();
                    let is_media = packet[0] >> 6 == 2;
                    if is_media { self.from_client.push(packet) } else { sent.push(packet) }
                }
                Output::Event(event) => match event {
                    Event::Connected => self.connected += 1,
                    Event::RtpPacket(packet) => self.received.push((*packet.seq_no, packet.payload.to_vec())),
                    Event::KeyframeRequest(request) => {
                        assert_eq!((request.mid, request.kind), (mid("up"), KeyframeRequestKind::Pli));
                        self.keyframes_asked += 1;
                    }
                    _ => {}
                },
            }
        }
    }

    fn poll_client_events(&mut self) {
        let sent = self.drain_client();
        for packet in sent {
            deliver(&mut self.server, self.now, CLIENT.into(), SERVER.into(), &packet);
            self.drain_server().into_iter().for_each(|packet| {
                deliver(&mut self.client, self.now, SERVER.into(), CLIENT.into(), &packet);
            });
        }
    }

    fn send(&mut self, packet: &[u8]) {
        deliver(&mut self.client, self.now, SERVER.into(), CLIENT.into(), packet);
        self.poll_client_events();
    }
}

fn deliver(rtc: &mut Rtc, now: Instant, source: SocketAddr, destination: SocketAddr, packet: &[u8]) {
    let contents = packet.try_into().unwrap();
    let receive = Receive { proto: Protocol::Udp, source, destination, contents };
    rtc.handle_input(Input::Receive(now, receive)).unwrap();
}

fn payload(number: u64) -> Vec<u8> {
    (0..900).map(|at| (at * 7 + number) as u8).collect()
}

fn info(now: Instant, number: u64) -> PacketInfo {
    PacketInfo {
        sequence: number,
        timestamp: number as u32 * 900,
        marker: true,
        frame: FrameInfo::default(),
        arrived: now,
        audio_level: None,
        orientation: None,
        playout_delay: None,
        capture_time: None,
    }
}

fn exchange(profile: Profile, named: SrtpProfile, server_is_active: bool) {
    let (mut session, mut opener, mut sealer) = Session::connect(profile, named, server_is_active);
    let vp8 = session
        .client
        .codec_config()
        .iter()
        .find(|params| params.spec().codec == str0m::format::Codec::Vp8)
        .unwrap();
    let (pt, rtx) = (vp8.pt(), vp8.resend().unwrap());
    let mut extensions = ExtensionMap::default();
    extensions.set(3, ExtensionKind::TransportSequence);
    extensions.set(4, ExtensionKind::Mid);
    let config = EgressConfig {
        mid: "down",
        extensions: &extensions,
        mixed_forms: true,
        ssrc: DOWN,
        rtx: Some((DOWN + 1, 100)),
        rtx_config: RtxConfig::default(),
    };
    let mut stream = EgressStream::new(&mut sealer, config).unwrap();
    let mut store = PacketStore::new(StoreConfig::VIDEO);
    let mut buffer = vec![0; buffer_bytes(900)];
    let out = |number: u64, transport_sequence: u64| Outgoing {
        payload_type: *pt,
        rtx_payload_type: Some(*rtx),
        // Across a rollover.
        sequence: 65_400 + number,
        timestamp: number as u32 * 900,
        marker: true,
        patch: None,
        descriptor: None,
        transport_sequence: transport_sequence as u16,
        send_time: SendTime(0),
    };

    let (mut sent, mut opened, mut acknowledged, mut resent) = (0, BTreeSet::new(), 0, Vec::new());
    let mut transport_sequence = 0;
    for number in 0..400u64 {
        // Down: ours to str0m; two packets are lost.
        let handle = store.insert(info(session.now, number), b"", &payload(number)).unwrap();
        let packet = store.get(handle).unwrap();
        let tag = number as u16;
        let bytes = stream
            .write(&sealer, &mut buffer, &packet, handle, tag, &out(number, transport_sequence))
            .unwrap();
        transport_sequence += 1;
        if !(50..52).contains(&number) {
            session.send(&buffer[..bytes]);
        }
        // Up: str0m's to ours, across a rollover as well.
        let mut api = session.client.direct_api();
        let write =
            RtpWrite::new(pt, (65_300 + number).into(), number as u32 * 900, session.now, payload(number));
        api.stream_tx(&Ssrc::from(UP)).unwrap().write_rtp(write.nackable(true));
        session.drain_client();
        session.step(false);

        if number % 100 == 99 {
            let mut feedback = [0; 64];
            let mut writer = RtcpWriter::new(&mut feedback);
            writer.receiver_report(1, &[]).unwrap();
            writer.picture_loss(1, UP).unwrap();
            let end = writer.bytes();
            let bytes = sealer.seal_rtcp(&mut feedback, end).unwrap();
            session.send(&feedback[..bytes]);
        }
        for mut packet in std::mem::take(&mut session.from_client) {
            sent += 1;
            if !(192..=223).contains(&packet[1]) {
                let rtp = opener.open_rtp(&mut packet).unwrap();
                assert!([UP, UP + 1].contains(&rtp.header.ssrc));
                if rtp.header.ssrc == UP && !rtp.payload.is_empty() {
                    let number = rtp.index - 65_300;
                    assert_eq!(packet[rtp.payload], payload(number));
                    assert_eq!(rtp.header.timestamp, number as u32 * 900);
                    opened.insert(number);
                }
                continue;
            }
            let bytes = opener.open_rtcp(&mut packet).unwrap().bytes;
            for part in Packets::new(&packet[..bytes]) {
                match part.unwrap() {
                    Packet::TransportFeedback { .. } => acknowledged += 1,
                    Packet::Nack { media: DOWN, pairs, .. } => {
                        for sequence in pairs.flat_map(|pair| pair.seqs()) {
                            let Some(lost) = stream.resend(session.now, sequence, Duration::ZERO) else {
                                continue;
                            };
                            let number = u64::from(lost.tag);
                            let packet = store.get(lost.handle).unwrap();
                            let out = out(number, transport_sequence);
                            transport_sequence += 1;
                            let bytes = stream.write_rtx(&sealer, &mut buffer, &packet, &out).unwrap();
                            resent.push(number);
                            session.send(&buffer[..bytes]);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(sent > 400, "RTP and RTCP came");
    assert!(opened.len() >= 398, "{} packets opened", opened.len());
    let received: BTreeSet<u64> = session
        .received
        .iter()
        .map(|(sequence, octets)| {
            let number = sequence - 65_400;
            assert_eq!(*octets, payload(number), "packet {number}");
            number
        })
        .collect();
    assert_eq!(received, (0..400).collect(), "every packet, the lost ones by retransmission");
    assert!(resent.contains(&50) && resent.contains(&51), "{resent:?}");
    assert!(acknowledged > 10, "{acknowledged} feedback packets");
    assert_eq!(session.keyframes_asked, 4);
}

#[test]
fn aead_aes_256_gcm() {
    exchange(Profile::AeadAes256Gcm, SrtpProfile::AEAD_AES_256_GCM, false);
}

#[test]
fn aead_aes_128_gcm() {
    exchange(Profile::AeadAes128Gcm, SrtpProfile::AEAD_AES_128_GCM, false);
}

#[test]
fn aes128_cm_hmac_sha1_80() {
    exchange(Profile::Aes128CmHmacSha1_80, SrtpProfile::AES128_CM_SHA1_80, false);
}

#[test]
fn as_the_dtls_client() {
    exchange(Profile::AeadAes256Gcm, SrtpProfile::AEAD_AES_256_GCM, true);
}
