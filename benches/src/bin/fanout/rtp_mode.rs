//! The same fan-out through str0m's RTP mode: an `Rtc` for each receiver, which is given each packet.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use str0m::{
    Candidate, Event, Input, Output, Reason, Rtc,
    bwe::Bitrate,
    change::SdpOffer,
    media::{Direction, Mid, Pt},
    net::{Protocol, Receive, Transmit},
    rtp::{RtpWrite, SeqNo},
};

use crate::client::{Client, SERVER, Server, config, connect, index_of, measured_part};

/// What the estimate begins with, and what is wanted of it.
const BITRATE: u64 = 3_000_000;

struct Peer {
    rtc: Rtc,
    address: SocketAddr,
    deadline: Instant,
    /// The section that sends.
    video: Option<(Mid, Pt)>,
}

impl Peer {
    fn drain(&mut self, sent: &mut Vec<Transmit>) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.deadline = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => sent.push(transmit),
                Output::Event(Event::MediaAdded(added)) if self.video.is_none() => {
                    let media = self.rtc.media(added.mid).context("a section")?;
                    let pt = media.remote_pts().first().copied();
                    self.video = pt.map(|pt| (added.mid, pt));
                }
                Output::Event(_) => {}
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, sent: &mut Vec<Transmit>) -> Result<()> {
        // With the estimate on, str0m asks to be called at once as long as its clock stands still.
        let mut stands = 0;
        while self.deadline <= now && stands < 2 {
            self.rtc.handle_input(Input::Timeout(now))?;
            self.drain(sent)?;
            stands += usize::from(self.rtc.last_timeout_reason() == Reason::BweDelayControl);
        }
        Ok(())
    }
}

struct Peers {
    peers: Vec<Peer>,
    sent: Vec<Transmit>,
}

impl Server for Peers {
    fn handle_timeout(&mut self, now: Instant) -> Result<()> {
        for peer in &mut self.peers {
            peer.handle_timeout(now, &mut self.sent)?;
        }
        Ok(())
    }

    fn receive(&mut self, now: Instant, source: SocketAddr, datagram: &mut [u8]) -> Result<()> {
        let peer = index_of(source).and_then(|at| self.peers.get_mut(at)).context("a peer")?;
        let contents = (&*datagram).try_into()?;
        let receive = Receive { proto: Protocol::Udp, source, destination: SERVER.into(), contents };
        peer.rtc.handle_input(Input::Receive(now, receive))?;
        peer.drain(&mut self.sent)?;
        peer.handle_timeout(now, &mut self.sent)
    }

    fn take_sent(&mut self, to: &mut dyn FnMut(SocketAddr, &[u8]) -> Result<()>) -> Result<()> {
        for transmit in self.sent.drain(..) {
            to(transmit.destination, &transmit.contents)?;
        }
        Ok(())
    }
}

pub(crate) struct RtpMode {
    server: Peers,
    clients: Vec<Client>,
    now: Instant,
    payload: Arc<[u8]>,
    sequence: u64,
}

impl RtpMode {
    pub(crate) fn new(receivers: usize, sections: usize, payload: Arc<[u8]>) -> Result<Self> {
        let mut now = Instant::now();
        let mut server = Peers { peers: Vec::new(), sent: Vec::new() };
        let mut clients = Vec::new();
        for number in 0..receivers {
            let mut client = Client::new(number, now)?;
            let mut rtc = config().set_ice_lite(true).enable_bwe(Some(Bitrate::bps(BITRATE))).build(now);
            rtc.add_local_candidate(Candidate::host(SERVER.into(), Protocol::Udp)?);
            let offer = client.offer(sections, Direction::RecvOnly)?;
            let answer = rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&offer)?)?;
            client.answer(&answer.to_sdp_string())?;
            let mut peer = Peer { rtc, address: client.address, deadline: now, video: None };
            peer.drain(&mut server.sent)?;
            debug_assert_eq!(index_of(peer.address), Some(number));
            server.peers.push(peer);
            clients.push(client);
        }
        connect(&mut server, &mut clients, &mut now)?;
        for peer in &mut server.peers {
            peer.rtc.bwe().set_bitrate(Bitrate::bps(BITRATE / 2), Bitrate::bps(BITRATE));
            peer.drain(&mut server.sent)?;
        }
        Ok(Self { server, clients, now, payload, sequence: 100 })
    }

    /// One packet to all, and their feedback. Returns the time that the server took for either.
    pub(crate) fn step(&mut self, interval: Duration) -> Result<(Duration, Duration)> {
        self.now += interval;
        let now = self.now;
        self.sequence += 1;
        let sequence = self.sequence;
        let timestamp = (sequence as u32).wrapping_mul(500);
        let (server, payload) = (&mut self.server, &self.payload);
        let (mut sending, _) = measured_part(&mut || {
            server.handle_timeout(now)?;
            for peer in &mut server.peers {
                let (mid, pt) = peer.video.context("a section that sends")?;
                let packet = RtpWrite::new(pt, SeqNo::from(sequence), timestamp, now, payload.clone())
                    .marker(true)
                    .nackable(true);
                let mut api = peer.rtc.direct_api();
                api.stream_tx_by_mid(mid, None).context("a stream")?.write_rtp(packet);
                peer.drain(&mut server.sent)?;
                peer.handle_timeout(now, &mut server.sent)?;
            }
            Ok(())
        })?;
        for transmit in &self.server.sent {
            let client = index_of(transmit.destination).and_then(|at| self.clients.get_mut(at));
            client.context("a client")?.receive(now, &transmit.contents)?;
        }
        let begin = Instant::now();
        self.server.sent.clear();
        sending += begin.elapsed();
        let mut feedback = Duration::ZERO;
        for client in &mut self.clients {
            client.handle_timeout(now)?;
            for mut datagram in std::mem::take(&mut client.sent) {
                let begin = Instant::now();
                self.server.receive(now, client.address, &mut datagram)?;
                feedback += begin.elapsed();
            }
        }
        Ok((sending, feedback))
    }

    /// Packets of media that came, of all clients.
    pub(crate) fn received(&self) -> u64 {
        self.clients.iter().map(|client| client.received).sum()
    }
}
