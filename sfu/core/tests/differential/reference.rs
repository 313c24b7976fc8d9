//! A minimal forwarder on str0m's RTP mode: str0m answers NACKs, paces, probes and estimates.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use str0m::{
    Event, RtcConfig,
    bwe::{Bitrate, BweKind},
    change::SdpOffer,
    media::{KeyframeRequestKind, MediaKind, Mid},
    rtp::{RtpPacket, RtpWrite, SeqNo, Ssrc},
};

use crate::{
    forwarder::{ADDRESS, Forwarder},
    link::Datagram,
    peer::Peer,
};

/// What a receiver's path is taken for before anything is known; as in our estimator's configuration.
const ESTIMATE_START: Bitrate = Bitrate::kbps(300);
/// The receiver's first sequence number.
const SEQUENCE_FIRST: u64 = 1000;

/// Where a stream of the publisher's goes.
struct Route {
    to: Mid,
    nackable: bool,
    first: SeqNo,
}

pub(crate) struct Reference {
    /// The connections to both clients.
    publisher: Peer,
    receiver: Peer,
    publisher_address: SocketAddr,
    /// Sections of the receiver.
    sections: Vec<(MediaKind, Mid)>,
    routes: BTreeMap<Ssrc, Route>,
    estimate: Option<Bitrate>,
}

impl Reference {
    /// `desired_kbps`: what the streams would take if there was room. str0m does not look for more than twice that.
    pub(crate) fn new(now: Instant, publisher_address: SocketAddr, desired_kbps: u32) -> Self {
        let lite = |config: RtcConfig| config.set_ice_lite(true);
        let bwe = |config: RtcConfig| lite(config).enable_bwe(Some(ESTIMATE_START));
        let mut receiver = Peer::new(now, ADDRESS.into(), bwe);
        receiver.rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::kbps(desired_kbps.into()));
        receiver.drain();
        Self {
            publisher: Peer::new(now, ADDRESS.into(), lite),
            receiver,
            publisher_address,
            sections: Vec::new(),
            routes: BTreeMap::new(),
            estimate: None,
        }
    }

    fn serve(&mut self, now: Instant) {
        for event in self.publisher.take_events() {
            if let Event::RtpPacket(packet) = event
                && !packet.payload.is_empty()
            {
                self.forward(now, &packet);
            }
        }
        for event in self.receiver.take_events() {
            match event {
                Event::MediaAdded(added) => self.sections.push((added.kind, added.mid)),
                Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) => {
                    self.estimate = Some(estimate);
                }
                Event::KeyframeRequest(request) => self.request_keyframe(now, request.mid),
                _ => {}
            }
        }
    }

    fn forward(&mut self, now: Instant, packet: &RtpPacket) {
        let ssrc = packet.header.ssrc;
        if !self.routes.contains_key(&ssrc) {
            let from = self.publisher.rtc.direct_api().stream_rx(&ssrc).unwrap().mid();
            self.publisher.drain();
            let kind = self.publisher.rtc.media(from).unwrap().kind();
            let (_, to) = *self.sections.iter().find(|(known, _)| *known == kind).unwrap();
            let nackable = kind == MediaKind::Video;
            self.routes.insert(ssrc, Route { to, nackable, first: packet.seq_no });
        }
        let route = &self.routes[&ssrc];
        let mut api = self.receiver.rtc.direct_api();
        let stream = api.stream_tx_by_mid(route.to, None).unwrap();
        let sequence = (SEQUENCE_FIRST + *packet.seq_no - *route.first).into();
        let (payload_type, timestamp) = (packet.header.payload_type, packet.header.timestamp);
        let write = RtpWrite::new(payload_type, sequence, timestamp, now, packet.payload.clone());
        stream.write_rtp(write.marker(packet.header.marker).nackable(route.nackable));
        self.receiver.drain();
        // A written packet leaves with the next timeout.
        self.receiver.handle_timeout(now);
    }

    fn request_keyframe(&mut self, now: Instant, mid: Mid) {
        let Some(ssrc) = self.routes.iter().find_map(|(ssrc, route)| (route.to == mid).then_some(*ssrc))
        else {
            return;
        };
        let mut api = self.publisher.rtc.direct_api();
        api.stream_rx(&ssrc).unwrap().request_keyframe(KeyframeRequestKind::Pli);
        self.publisher.drain();
        self.publisher.handle_timeout(now);
    }
}

fn answer(now: Instant, peer: &mut Peer, offer: &str) -> String {
    let offer = SdpOffer::from_sdp_string(offer).unwrap();
    let answer = peer.rtc.sdp_api().accept_offer(offer).unwrap();
    peer.drain();
    peer.handle_timeout(now);
    answer.to_sdp_string()
}

impl Forwarder for Reference {
    fn publish(&mut self, now: Instant, offer: &str) -> String {
        answer(now, &mut self.publisher, offer)
    }

    fn subscribe(&mut self, now: Instant, offer: &str) -> String {
        let answer = answer(now, &mut self.receiver, offer);
        self.serve(now);
        answer
    }

    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        let from_publisher = datagram.source == self.publisher_address;
        let peer = if from_publisher { &mut self.publisher } else { &mut self.receiver };
        peer.handle_datagram(now, &datagram);
        self.serve(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        for peer in [&mut self.publisher, &mut self.receiver] {
            if peer.deadline() <= now {
                peer.handle_timeout(now);
            }
        }
        self.serve(now);
    }

    fn deadline(&self) -> Instant {
        self.publisher.deadline().min(self.receiver.deadline())
    }

    fn take_sent(&mut self) -> Vec<Datagram> {
        let mut sent = self.publisher.take_sent();
        sent.extend(self.receiver.take_sent());
        sent
    }

    fn estimate_bps(&self) -> Option<u64> {
        self.estimate.map(|estimate| estimate.as_u64())
    }
}
