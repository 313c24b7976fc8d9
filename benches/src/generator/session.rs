//! One peer connection's ICE and DTLS, by str0m; no media passes through it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    media::{Direction, MediaKind},
    net::{Protocol, Receive},
};

use super::{
    keys::{self, KeySlot},
    sdp::Kind,
    socket::Socket,
};

/// A connected session is looked at no more often: it only has to keep its ICE consent.
const CONNECTED_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What a section of the offer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Send,
    Receive,
}

pub(super) struct Session {
    rtc: Rtc,
    slot: KeySlot,
    local: SocketAddr,
    pending: Option<SdpPendingOffer>,
    next_poll: Instant,
    connected: bool,
    ended: bool,
    /// The server has said something.
    heard: bool,
    /// Where the server is: the last address that DTLS was sent to.
    remote: Option<SocketAddr>,
}

impl Session {
    fn new(local: SocketAddr, now: Instant) -> Result<Self> {
        let slot = KeySlot::default();
        let config = Rtc::builder()
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .set_rtp_mode(true)
            .set_stats_interval(None)
            .set_crypto_provider(keys::tapped())
            .set_dtls_cert(keys::certificate().context("no certificate for DTLS")?);
        let mut rtc = keys::with_slot(&slot, || config.build(now));
        rtc.add_local_candidate(Candidate::host(local, Protocol::Udp)?);
        Ok(Self {
            rtc,
            slot,
            local,
            pending: None,
            next_poll: now,
            connected: false,
            ended: false,
            heard: false,
            remote: None,
        })
    }

    /// A session that offers, and its offer.
    pub(super) fn offer(local: SocketAddr, sections: &[(Kind, Way)], now: Instant) -> Result<(Self, String)> {
        let mut session = Self::new(local, now)?;
        let mut changes = session.rtc.sdp_api();
        for (kind, way) in sections {
            let kind = match kind {
                Kind::Audio => MediaKind::Audio,
                Kind::Video => MediaKind::Video,
            };
            let direction = match way {
                Way::Send => Direction::SendOnly,
                Way::Receive => Direction::RecvOnly,
            };
            changes.add_media(kind, direction, Some("stream".to_owned()), None, None);
        }
        let (offer, pending) = changes.apply().context("an offer without sections")?;
        session.pending = Some(pending);
        Ok((session, offer.to_sdp_string()))
    }

    pub(super) fn accept_answer(&mut self, sdp: &str) -> Result<()> {
        let answer = SdpAnswer::from_sdp_string(sdp).context("the server's answer")?;
        let pending = self.pending.take().context("an answer without an offer")?;
        self.rtc.sdp_api().accept_answer(pending, answer).context("the server's answer")
    }

    /// A session that answers, and its answer.
    pub(super) fn answer(local: SocketAddr, offer: &str, now: Instant) -> Result<(Self, String)> {
        let mut session = Self::new(local, now)?;
        let offer = SdpOffer::from_sdp_string(offer).context("the server's offer")?;
        let answer = session.rtc.sdp_api().accept_offer(offer).context("the server's offer")?;
        Ok((session, answer.to_sdp_string()))
    }

    /// A STUN or DTLS datagram.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        socket: &Socket,
        source: SocketAddr,
        datagram: &[u8],
    ) -> Result<()> {
        self.heard = true;
        let Ok(contents) = datagram.try_into() else { return Ok(()) };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
        self.rtc.handle_input(Input::Receive(now, receive))?;
        self.drain(now, socket)
    }

    /// Time has passed.
    pub(super) fn poll(&mut self, now: Instant, socket: &Socket) -> Result<()> {
        if now < self.next_poll || self.ended {
            return Ok(());
        }
        self.rtc.handle_input(Input::Timeout(now))?;
        self.drain(now, socket)
    }

    fn drain(&mut self, now: Instant, socket: &Socket) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    let earliest = if self.connected { now + CONNECTED_POLL_INTERVAL } else { now };
                    self.next_poll = at.max(earliest);
                    return Ok(());
                }
                Output::Transmit(transmit) => {
                    let is_media = transmit.contents.first().is_some_and(|first| first >> 6 == 2);
                    if !is_media && transmit.proto == Protocol::Udp {
                        if transmit.contents.first().is_some_and(|first| (20..64).contains(first)) {
                            self.remote = Some(transmit.destination);
                        }
                        socket.send(transmit.destination, &transmit.contents);
                    }
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::IceConnectionStateChange(IceConnectionState::Disconnected)) => {
                    self.ended = true;
                    bail!("the server does not answer ICE checks any more");
                }
                Output::Event(_) => {}
            }
        }
    }

    /// How far it is, for who waits in vain.
    pub(super) fn progress(&self) -> &'static str {
        match (self.heard, self.remote, self.connected) {
            (false, ..) => "the server answers no ICE check",
            (true, None, _) => "ICE checks are answered, DTLS has not begun",
            (true, Some(_), false) => "DTLS does not come to an end",
            (true, Some(_), true) => "DTLS yielded no keys",
        }
    }

    /// The keys and the server's address, once.
    pub(super) fn take_connected(
        &mut self,
    ) -> Result<Option<(zynk_sfu_core::media::srtp::Opener, zynk_sfu_core::media::srtp::Sealer, SocketAddr)>>
    {
        let Some(remote) = self.remote.filter(|_| self.connected) else { return Ok(None) };
        match self.slot.take() {
            Some(Ok((opener, sealer))) => Ok(Some((opener, sealer, remote))),
            Some(Err(error)) => bail!(error),
            None => Ok(None),
        }
    }
}
