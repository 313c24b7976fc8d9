//! A str0m peer connection at an address of the virtual network.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    net::{Protocol, Receive},
};

use crate::link::Datagram;

/// A connection that is up at the latest after this.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Peer {
    pub(crate) rtc: Rtc,
    address: SocketAddr,
    deadline: Instant,
    pub(crate) connected: bool,
    sent: Vec<Datagram>,
    events: Vec<Event>,
}

impl Peer {
    /// In RTP mode, with Opus and VP8; `set` may change that.
    pub(crate) fn new(now: Instant, address: SocketAddr, set: impl FnOnce(RtcConfig) -> RtcConfig) -> Self {
        let config = RtcConfig::new()
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .set_rtp_mode(true)
            .set_stats_interval(None);
        let mut rtc = set(config).build(now);
        rtc.add_local_candidate(Candidate::host(address, Protocol::Udp).unwrap());
        Self { rtc, address, deadline: now, connected: false, sent: Vec::new(), events: Vec::new() }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.rtc.handle_input(Input::Timeout(now)).unwrap();
        self.drain();
    }

    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: &Datagram) {
        let receive = Receive::new(Protocol::Udp, datagram.source, self.address, &datagram.payload).unwrap();
        self.rtc.handle_input(Input::Receive(now, receive)).unwrap();
        self.drain();
    }

    /// Takes what str0m has to say: it wants that before the next thing is asked of it.
    pub(crate) fn drain(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
                Output::Transmit(transmit) => self.sent.push(Datagram {
                    source: self.address,
                    destination: transmit.destination,
                    payload: transmit.contents.to_vec(),
                }),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    pub(crate) fn take_sent(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}
