//! str0m as the client at the other end, in virtual time.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpPendingOffer},
    media::{Direction, MediaKind, Mid},
    net::{Protocol, Receive},
    rtp::{RtpWrite, SeqNo},
};

/// Of the server.
pub(crate) const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 3478);

pub(crate) struct Client {
    pub(crate) rtc: Rtc,
    pub(crate) address: SocketAddr,
    deadline: Instant,
    pending: Option<SdpPendingOffer>,
    pub(crate) sending: Option<Mid>,
    sequence: u64,
    pub(crate) connected: bool,
    /// Packets of media.
    pub(crate) received: u64,
    /// Datagrams that it sends.
    pub(crate) sent: Vec<Vec<u8>>,
}

pub(crate) fn config() -> RtcConfig {
    RtcConfig::new()
        .clear_codecs()
        .enable_opus(true, false)
        .enable_vp8(true)
        .set_rtp_mode(true)
        .set_stats_interval(None)
}

impl Client {
    pub(crate) fn new(number: usize, now: Instant) -> Result<Self> {
        Self::with(config().build(now), number, now)
    }

    pub(crate) fn with(mut rtc: Rtc, number: usize, now: Instant) -> Result<Self> {
        let (high, low) = (u8::try_from(number / 200)?, u8::try_from(number % 200)?);
        let address = SocketAddr::from(([10, 1, high, low + 1], 5000));
        rtc.add_local_candidate(Candidate::host(address, Protocol::Udp)?);
        Ok(Self {
            rtc,
            address,
            deadline: now,
            pending: None,
            sending: None,
            sequence: 100,
            connected: false,
            received: 0,
            sent: Vec::new(),
        })
    }

    /// An offer of so many sections, half of them audio.
    pub(crate) fn offer(&mut self, sections: usize, direction: Direction) -> Result<String> {
        let mut changes = self.rtc.sdp_api();
        for at in 0..sections {
            let kind = if at % 2 == 0 { MediaKind::Video } else { MediaKind::Audio };
            let mid = changes.add_media(kind, direction, None, None, None);
            if kind == MediaKind::Video && direction == Direction::SendOnly {
                self.sending.get_or_insert(mid);
            }
        }
        let (offer, pending) = changes.apply().context("an offer")?;
        self.pending = Some(pending);
        Ok(offer.to_sdp_string())
    }

    pub(crate) fn answer(&mut self, sdp: &str) -> Result<()> {
        let pending = self.pending.take().context("an offer before the answer")?;
        Ok(self.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(sdp)?)?)
    }

    /// Makes one packet of video, which is then in `sent`.
    pub(crate) fn write(&mut self, now: Instant, payload: &Arc<[u8]>) -> Result<()> {
        let mid = self.sending.context("a section that sends")?;
        let codecs = self.rtc.media(mid).context("a negotiated section")?.remote_pts().to_vec();
        let pt = codecs.first().copied().context("a codec")?;
        self.sequence += 1;
        let timestamp = (self.sequence as u32).wrapping_mul(500);
        let packet = RtpWrite::new(pt, SeqNo::from(self.sequence), timestamp, now, payload.clone())
            .marker(true)
            .nackable(true);
        let mut api = self.rtc.direct_api();
        api.stream_tx_by_mid(mid, None).context("a stream")?.write_rtp(packet);
        self.drain()?;
        self.handle_timeout(now)
    }

    pub(crate) fn receive(&mut self, now: Instant, datagram: &[u8]) -> Result<()> {
        let contents = datagram.try_into()?;
        let (source, destination) = (SERVER.into(), self.address);
        let receive = Receive { proto: Protocol::Udp, source, destination, contents };
        self.rtc.handle_input(Input::Receive(now, receive))?;
        self.drain()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<()> {
        for _ in 0..100 {
            if self.deadline > now {
                return Ok(());
            }
            self.rtc.handle_input(Input::Timeout(now))?;
            self.drain()?;
        }
        anyhow::bail!("a client that never rests")
    }

    pub(crate) fn drain(&mut self) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.deadline = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => self.sent.push(transmit.contents.to_vec()),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::RtpPacket(_)) => self.received += 1,
                Output::Event(_) => {}
            }
        }
    }
}

/// A server that is measured.
pub(crate) trait Server {
    /// Time passes.
    fn handle_timeout(&mut self, now: Instant) -> Result<()>;
    /// A client's datagram comes.
    fn receive(&mut self, now: Instant, source: SocketAddr, datagram: &mut [u8]) -> Result<()>;
    /// Takes what it sent: each datagram with its destination.
    fn take_sent(&mut self, to: &mut dyn FnMut(SocketAddr, &[u8]) -> Result<()>) -> Result<()>;
}

/// Ten milliseconds pass between the clients and the server.
pub(crate) fn exchange(server: &mut impl Server, clients: &mut [Client], now: Instant) -> Result<()> {
    server.handle_timeout(now)?;
    for client in clients.iter_mut() {
        client.handle_timeout(now)?;
    }
    for _ in 0..20 {
        let mut quiet = true;
        for client in clients.iter_mut() {
            for mut datagram in std::mem::take(&mut client.sent) {
                quiet = false;
                server.receive(now, client.address, &mut datagram)?;
            }
        }
        server.take_sent(&mut |to, datagram| {
            quiet = false;
            deliver(clients, now, to, datagram)
        })?;
        if quiet {
            return Ok(());
        }
        for client in clients.iter_mut() {
            client.handle_timeout(now)?;
        }
    }
    Ok(())
}

/// Addresses count up with the clients.
pub(crate) fn index_of(address: SocketAddr) -> Option<usize> {
    match address {
        SocketAddr::V4(v4) => {
            let [_, _, high, low] = v4.ip().octets();
            Some(usize::from(high) * 200 + usize::from(low.checked_sub(1)?))
        }
        SocketAddr::V6(_) => None,
    }
}

fn deliver(clients: &mut [Client], now: Instant, to: SocketAddr, datagram: &[u8]) -> Result<()> {
    match index_of(to).and_then(|at| clients.get_mut(at)) {
        Some(client) => client.receive(now, datagram),
        None => Ok(()),
    }
}

/// Lets all connect.
pub(crate) fn connect(server: &mut impl Server, clients: &mut [Client], now: &mut Instant) -> Result<()> {
    for _ in 0..3000 {
        *now += Duration::from_millis(10);
        exchange(server, clients, *now)?;
        if clients.iter().all(|client| client.connected) {
            break;
        }
    }
    ensure!(clients.iter().all(|client| client.connected), "not all clients connected");
    for _ in 0..100 {
        *now += Duration::from_millis(10);
        exchange(server, clients, *now)?;
    }
    Ok(())
}

/// Runs what is measured: how long it took, and how often it allocated. Callgrind counts in here alone, see
/// `instructions.rs`.
#[inline(never)]
pub(crate) fn measured_part(work: &mut dyn FnMut() -> Result<()>) -> Result<(Duration, u64)> {
    let mut outcome = Ok(());
    let mut elapsed = Duration::ZERO;
    let counted = allocation_counter::measure(|| {
        let begin = Instant::now();
        outcome = work();
        elapsed = begin.elapsed();
    });
    outcome.map(|()| (elapsed, counted.count_total))
}
