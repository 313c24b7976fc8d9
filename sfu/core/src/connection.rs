//! One peer connection: ICE-lite, DTLS, SDP and data channels, on str0m.
//!
//! The only module of the crate that names str0m. Everything else speaks in the types declared here. RTP and RTCP
//! do not pass through: the keys of DTLS go to the media plane, which opens and seals packets itself.

mod keys;
mod negotiated;
mod packet;
mod streams;

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::{
    Candidate, Event, IceConnectionState, IceCreds, Input, Output as RtcOutput, Rtc, RtcConfig, RtcError,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    channel::{ChannelConfig, ChannelId, Reliability},
    config::{CryptoProvider, DtlsCert},
    media::{Direction, MediaKind as RtcMediaKind},
    net::{Protocol, Receive, TcpType},
    rtp::{Extension, ExtensionMap},
};
use zynk_protocol::{DataKind, MediaKind, MimeType, NegotiationFailure};

use crate::{Certificate, ShardError, Transport, sdp::RemoteDescription};

use keys::KeySlot;
use str0m::media::Pt;

use packet::{NegotiatedOnly, payload_format};
use streams::{DescribedStreams, SendingStream};

pub(crate) use keys::SessionKeys;
pub(crate) use negotiated::{NegotiatedFormats, PayloadTypes};
pub(crate) use packet::{Codec, MediaPacket, PacketHead, PayloadFormat, PictureIds};
pub(crate) use str0m::media::{Mid, Rid};

/// str0m's own reports are about streams that it does not carry, and are dropped: they are set out of the way.
const REPORT_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// What LiveKit's clients send at most in one data channel message, with room to spare; announced as
/// `a=max-message-size`, and larger messages end the association.
const DATA_MESSAGE_BYTES_MAX: u32 = 65_535;
/// Data channel bytes that wait for the network, per connection; beyond it messages are refused.
const DATA_BUFFER_BYTES_MAX: usize = 1 << 20;
/// URI of AV1's dependency descriptor, also sent with VP9 (AV1 RTP specification, appendix A).
const DEPENDENCY_DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

impl Certificate {
    /// Makes a new one. Costs milliseconds: once a process, not once a connection.
    pub fn generate() -> Result<Self, ShardError> {
        let provider = str0m::crypto::from_feature_flags();
        let certificate = provider
            .dtls_provider
            .generate_certificate()
            .ok_or_else(|| ShardError::Certificate("no key could be generated".into()))?;
        let provider = Arc::new(keys::tapped(provider));
        Ok(Self(Arc::new(CertificateInner { certificate, provider })))
    }
}

/// Certificate and the library that made it, shared by all connections of a node.
pub(crate) struct CertificateInner {
    certificate: DtlsCert,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for CertificateInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateInner")
    }
}

/// ICE user fragment and password of our side.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `a=ice-ufrag`.
    pub(crate) ufrag: String,
    /// `a=ice-pwd`.
    pub(crate) password: String,
}

/// Why a media section cannot carry a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsendable {
    /// The other side does not accept the codec.
    Codec,
}

/// What a connection wants done or noticed.
#[derive(Debug)]
pub(crate) enum ConnectionOutput {
    Transmit(OwnedTransmit),
    Event(ConnectionEvent),
    Timeout(Instant),
}

/// A datagram of ICE, DTLS or SCTP.
#[derive(Debug)]
pub(crate) struct OwnedTransmit {
    pub(crate) path: Path,
    pub(crate) payload: Vec<u8>,
}

/// The way between us and the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Theirs.
    pub(crate) remote: SocketAddr,
    /// Ours.
    pub(crate) local: SocketAddr,
    pub(crate) transport: Transport,
}

#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// ICE and DTLS are up.
    Connected,
    /// ICE lost its path.
    Disconnected,
    /// ICE found a path again.
    Reconnected,
    /// The other side ended DTLS.
    Closed,
    DataChannelOpen {
        kind: DataKind,
    },
    Data {
        kind: DataKind,
        payload: Vec<u8>,
    },
}

/// One str0m session.
pub(crate) struct Connection {
    rtc: Rtc,
    pending: Option<SdpPendingOffer>,
    channels: [Option<ChannelId>; DataKind::ALL.len()],
    connected: bool,
    /// Counts what both sides agreed on, see [`PayloadFormat::number`].
    negotiations: u32,
    streams: DescribedStreams,
    keys: KeySlot,
    #[cfg(test)]
    faulty: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("connected", &self.connected).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(
        certificate: &Certificate,
        credentials: &Credentials,
        udp: &[SocketAddr],
        tcp: &[SocketAddr],
        now: Instant,
    ) -> Self {
        let keys = KeySlot::default();
        let config = configuration(certificate).set_local_ice_credentials(ice_creds(credentials));
        let mut rtc = keys::with_slot(&keys, || config.build(now));
        for address in udp {
            if let Ok(candidate) = Candidate::host(*address, Protocol::Udp) {
                rtc.add_local_candidate(candidate);
            }
        }
        for address in tcp {
            if let Ok(candidate) = Candidate::builder().tcp().host(*address).tcptype(TcpType::Passive).build()
            {
                rtc.add_local_candidate(candidate);
            }
        }
        Self {
            rtc,
            pending: None,
            channels: [None; DataKind::ALL.len()],
            connected: false,
            negotiations: 0,
            streams: DescribedStreams::default(),
            keys,
            #[cfg(test)]
            faulty: false,
        }
    }

    /// Whether ICE and DTLS came up; media and data can be sent.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected && self.rtc.is_alive()
    }

    /// Whether a STUN message proves knowledge of our ICE password, whoever sent it: str0m takes anything for its own
    /// that comes from the nominated address, so it is not told of one.
    pub(crate) fn authenticates(
        &self,
        now: Instant,
        transport: Transport,
        destination: SocketAddr,
        datagram: &[u8],
    ) -> bool {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Receive::new(protocol(transport), nowhere, destination, datagram)
            .is_ok_and(|receive| self.rtc.accepts(&Input::Receive(now, receive)))
    }

    /// Takes a datagram. [`Self::poll`] must be drained before the next one.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), RtcError> {
        match Receive::new(protocol(transport), source, destination, datagram) {
            Ok(receive) => self.rtc.handle_input(Input::Receive(now, receive)),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), RtcError> {
        self.rtc.handle_input(Input::Timeout(now))
    }

    pub(crate) fn poll(&mut self) -> Result<ConnectionOutput, RtcError> {
        loop {
            match self.rtc.poll_output()? {
                RtcOutput::Timeout(at) => return Ok(ConnectionOutput::Timeout(at)),
                // Whatever str0m has to say in RTP or RTCP is about streams that the media plane carries.
                RtcOutput::Transmit(transmit) if is_media(&transmit.contents) => {}
                RtcOutput::Transmit(transmit) => {
                    let path = Path {
                        transport: match transmit.proto {
                            Protocol::Udp => Transport::Udp,
                            _ => Transport::Tcp,
                        },
                        local: transmit.source,
                        remote: transmit.destination,
                    };
                    let payload = transmit.contents.into();
                    return Ok(ConnectionOutput::Transmit(OwnedTransmit { path, payload }));
                }
                RtcOutput::Event(event) => {
                    if let Some(event) = self.event(event) {
                        return Ok(ConnectionOutput::Event(event));
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event) -> Option<ConnectionEvent> {
        match event {
            Event::Connected => {
                self.connected = true;
                Some(ConnectionEvent::Connected)
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                Some(ConnectionEvent::Disconnected)
            }
            Event::IceConnectionStateChange(
                IceConnectionState::Connected | IceConnectionState::Completed,
            ) => self.connected.then_some(ConnectionEvent::Reconnected),
            Event::Closed => Some(ConnectionEvent::Closed),
            Event::ChannelOpen(id, label) => {
                let kind = DataKind::from_label(&label)?;
                *self.channels.get_mut(channel_index(kind))? = Some(id);
                Some(ConnectionEvent::DataChannelOpen { kind })
            }
            Event::ChannelData(data) => {
                let index = self.channels.iter().position(|id| *id == Some(data.id))?;
                let kind = *DataKind::ALL.get(index)?;
                Some(ConnectionEvent::Data { kind, payload: data.data })
            }
            Event::ChannelClose(id) => {
                for slot in self.channels.iter_mut().filter(|slot| **slot == Some(id)) {
                    *slot = None;
                }
                None
            }
            _ => None,
        }
    }

    /// The keys of the session, once, after the handshake.
    pub(crate) fn take_keys(&mut self) -> Option<SessionKeys> {
        self.keys.take()
    }

    fn format_of(&self, payload_type: Pt) -> Option<PayloadFormat> {
        let params = self
            .rtc
            .codec_config()
            .params()
            .iter()
            .find(|params| params.pt() == payload_type || params.red() == Some(payload_type))?;
        Some(payload_format(*params, params.red() == Some(payload_type), self.negotiations))
    }

    /// The payload format that the other side is going to send in a section: the one that our answer put
    /// first, if it accepts that, else its own first.
    pub(crate) fn preferred_format(&self, mid: Mid, wished: Option<&MimeType>) -> Option<PayloadFormat> {
        let media = self.rtc.media(mid)?;
        let mut formats = media.remote_pts().iter().filter_map(|payload_type| self.format_of(*payload_type));
        let first = formats.clone().next()?;
        Some(formats.find(|format| wished == Some(&format.mime())).unwrap_or(first))
    }

    /// The payload types with which `format` can be sent in section `mid`.
    pub(crate) fn payload_types(&self, mid: Mid, format: &PayloadFormat) -> Result<PayloadTypes, Unsendable> {
        let media = self.rtc.media(mid).ok_or(Unsendable::Codec)?;
        let accepted = self
            .rtc
            .codec_config()
            .match_params(format.params)
            .filter(|params| media.remote_pts().contains(&params.pt()))
            .ok_or(Unsendable::Codec)?;
        let media = match format.codec {
            Codec::Red => accepted.red().ok_or(Unsendable::Codec)?,
            _ => accepted.pt(),
        };
        Ok(PayloadTypes { media: *media, rtx: accepted.resend().map(|rtx| *rtx) })
    }

    /// Plain Opus of the same connection, for receivers that do not take redundancy.
    pub(crate) fn without_red(format: &PayloadFormat) -> PayloadFormat {
        PayloadFormat { codec: Codec::Opus, ..*format }
    }

    /// The same with redundancy, for receivers that take it.
    pub(crate) fn with_red(format: &PayloadFormat) -> PayloadFormat {
        PayloadFormat { codec: Codec::Red, ..*format }
    }

    /// Sends a data channel message.
    pub(crate) fn send_data(&mut self, kind: DataKind, payload: &[u8]) -> DataSent {
        let channel = self.channels.get(channel_index(kind)).copied().flatten();
        match channel.and_then(|id| self.rtc.channel(id)) {
            None => DataSent::Full,
            Some(mut channel) => match channel.write(true, payload) {
                Ok(true) => DataSent::Sent,
                Ok(false) if payload.len() < DATA_BUFFER_BYTES_MAX => DataSent::Full,
                Ok(false) | Err(_) => DataSent::Impossible,
            },
        }
    }

    /// Whether the channel is open.
    pub(crate) fn has_channel(&self, kind: DataKind) -> bool {
        self.channels.get(channel_index(kind)).is_some_and(Option::is_some)
    }

    /// Ends DTLS; what is left to send comes out of [`Self::poll`].
    pub(crate) fn close(&mut self) {
        let _ = self.rtc.close();
    }

    /// Answers a client's offer, whose contents are `description`. Returns our SDP.
    pub(crate) fn accept_offer(
        &mut self,
        sdp: &str,
        description: &RemoteDescription,
    ) -> Result<String, NegotiationFailure> {
        let offer = SdpOffer::from_sdp_string(sdp).map_err(unparsable)?;
        let answer =
            self.with_streams(description, |rtc| rtc.sdp_api().accept_offer(offer).map_err(invalid))?;
        self.pending = None;
        Ok(answer.to_sdp_string())
    }

    /// Runs `negotiate` while str0m knows our streams.
    fn with_streams<T>(
        &mut self,
        description: &RemoteDescription,
        negotiate: impl FnOnce(&mut Rtc) -> T,
    ) -> T {
        self.streams.declare(&mut self.rtc);
        let outcome = negotiate(&mut self.rtc);
        self.streams.withdraw(&mut self.rtc);
        self.streams.adopt(&mut self.rtc, description);
        outcome
    }

    /// The stream that we send in a section.
    pub(crate) fn sending_stream(&self, mid: Mid) -> Option<SendingStream> {
        let (ssrc, rtx) = self.streams.get(mid)?;
        Some(SendingStream { ssrc, rtx, cname: self.rtc.media(mid)?.cname().to_owned() })
    }

    /// Makes an offer with the given changes. None when there is nothing to negotiate.
    pub(crate) fn create_offer(&mut self, changes: &OfferChanges) -> Option<Offer> {
        self.streams.declare(&mut self.rtc);
        let mut api = self.rtc.sdp_api();
        if changes.data_channels {
            for kind in DataKind::ALL {
                let reliable = kind == DataKind::Reliable;
                api.add_channel_with_config(ChannelConfig {
                    label: kind.label().to_owned(),
                    ordered: reliable,
                    reliability: if reliable {
                        Reliability::Reliable
                    } else {
                        Reliability::MaxRetransmits { retransmits: 0 }
                    },
                    ..ChannelConfig::default()
                });
            }
        }
        for (mid, active) in &changes.directions {
            api.set_direction(*mid, if *active { Direction::SendOnly } else { Direction::Inactive });
        }
        let added = changes
            .sections
            .iter()
            .map(|kind| api.add_media(media_kind(*kind), Direction::SendOnly, None, None, None))
            .collect();
        if changes.restart_ice {
            api.ice_restart(true);
        }
        let applied = api.apply();
        self.streams.withdraw(&mut self.rtc);
        let (offer, pending) = applied?;
        self.pending = Some(pending);
        Some(Offer { sdp: offer.to_sdp_string(), added })
    }

    /// Takes the client's answer to the outstanding offer, whose contents are `description`.
    pub(crate) fn accept_answer(
        &mut self,
        sdp: &str,
        description: &RemoteDescription,
    ) -> Result<(), NegotiationFailure> {
        let pending = self.pending.take().ok_or_else(|| NegotiationFailure::InvalidSdp {
            detail: "an answer without an outstanding offer".into(),
        })?;
        let answer = SdpAnswer::from_sdp_string(sdp).map_err(unparsable)?;
        self.with_streams(description, |rtc| rtc.sdp_api().accept_answer(pending, answer).map_err(invalid))
    }

    /// Our ICE credentials now.
    pub(crate) fn credentials(&mut self) -> Credentials {
        let creds = self.rtc.direct_api().local_ice_credentials();
        Credentials { ufrag: creds.ufrag, password: creds.pass }
    }

    /// Replaces credentials that an ICE restart drew, so that the user fragment names our shard.
    pub(crate) fn set_credentials(&mut self, credentials: &Credentials) {
        self.rtc.direct_api().set_local_ice_credentials(ice_creds(credentials));
    }

    /// Whether section `mid` may carry media to the client.
    pub(crate) fn may_send(&self, mid: Mid) -> bool {
        self.rtc.media(mid).is_some_and(|media| !media.disabled() && media.direction().is_sending())
    }
}

#[cfg(any(test, feature = "test-keys"))]
impl Connection {
    /// Says that ICE and DTLS are up.
    pub(crate) fn pretend_connected(&mut self) {
        self.connected = true;
    }
}

#[cfg(test)]
impl Connection {
    /// Has [`Self::fail_if_faulty`] panic, or not any more.
    pub(crate) fn set_faulty(&mut self, faulty: bool) {
        self.faulty = faulty;
    }

    pub(crate) fn fail_if_faulty(&self) {
        assert!(!self.faulty, "a fault that a test asked for");
    }
}

/// What became of a data channel message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataSent {
    /// It is on its way.
    Sent,
    /// The channel is not open, or its buffer is full: later it may go.
    Full,
    /// The other side takes no message of this size.
    Impossible,
}

/// What to change with an offer.
#[derive(Debug, Default)]
pub(crate) struct OfferChanges {
    /// Open the three data channels.
    pub(crate) data_channels: bool,
    /// Sections to switch to sending (`true`) or inactive.
    pub(crate) directions: Vec<(Mid, bool)>,
    /// Sections to add, for sending.
    pub(crate) sections: Vec<MediaKind>,
    /// Draw new ICE credentials.
    pub(crate) restart_ice: bool,
}

/// An offer and the sections it added, in the order of [`OfferChanges::sections`].
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) sdp: String,
    pub(crate) added: Vec<Mid>,
}

fn configuration(certificate: &Certificate) -> RtcConfig {
    let mut extensions = ExtensionMap::standard();
    extensions.set(5, Extension::AbsoluteCaptureTime);
    extensions.set(6, Extension::PlayoutDelay);
    extensions.set(8, Extension::with_serializer(DEPENDENCY_DESCRIPTOR, NegotiatedOnly));
    let Certificate(inner) = certificate;
    RtcConfig::new()
        .set_rtp_mode(true)
        .set_ice_lite(true)
        .set_crypto_provider(Arc::clone(&inner.provider))
        .set_dtls_cert(inner.certificate.clone())
        .set_extension_map(extensions)
        .clear_codecs()
        .enable_opus(true, true)
        .enable_vp8(true)
        .enable_h264(true)
        .enable_vp9(true)
        .enable_av1(true)
        .set_stats_interval(None)
        // It sends nothing, so it has nothing to keep. At least one, it says.
        .set_send_buffer_audio(1)
        .set_send_buffer_video(1)
        .set_rtcp_report_interval_audio(REPORT_INTERVAL)
        .set_rtcp_report_interval_video(REPORT_INTERVAL)
        .set_sctp_max_message_size(DATA_MESSAGE_BYTES_MAX)
        .set_sctp_max_buffered_amount(DATA_BUFFER_BYTES_MAX)
}

/// Whether a datagram is RTP or RTCP (RFC 7983).
fn is_media(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(128..=191))
}

fn invalid(error: impl fmt::Display) -> NegotiationFailure {
    NegotiationFailure::InvalidSdp { detail: error.to_string() }
}

/// The parser's own words name addresses in our memory, so the client gets others.
fn unparsable(error: impl fmt::Display) -> NegotiationFailure {
    tracing::debug!(%error, "unparsable SDP");
    NegotiationFailure::InvalidSdp { detail: "a line cannot be parsed".into() }
}

fn ice_creds(credentials: &Credentials) -> IceCreds {
    IceCreds { ufrag: credentials.ufrag.clone(), pass: credentials.password.clone() }
}

fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    }
}

fn media_kind(kind: MediaKind) -> RtcMediaKind {
    match kind {
        MediaKind::Audio => RtcMediaKind::Audio,
        MediaKind::Video => RtcMediaKind::Video,
    }
}

fn channel_index(kind: DataKind) -> usize {
    match kind {
        DataKind::Reliable => 0,
        DataKind::Lossy => 1,
        DataKind::DataTrack => 2,
    }
}
