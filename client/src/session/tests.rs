#![allow(clippy::disallowed_methods, reason = "a test begins its virtual time anywhere")]

use std::collections::HashMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use str0m::{
    Candidate, Event as RtcEvent, Input as RtcInput, Output as RtcOutput, Rtc, RtcConfig,
    change::SdpOffer,
    channel::ChannelId,
    media::Mid,
    net::{Protocol, Receive},
    rtp::{RtpWrite, SeqNo, Ssrc},
};

use zynk_protocol::livekit::{data_packet, signal_response};

use super::{negotiation::description, *};
use crate::{Codec, SyntheticVideo};

const CLIENT: &str = "10.0.0.1:4000";
const SERVER: &str = "10.0.0.2:5000";
const DELAY: Duration = Duration::from_millis(20);

/// A server of one client, which sends the client's video back as the track `TR_echo`.
struct EchoServer {
    rtc: Rtc,
    deadline: Instant,
    responses: VecDeque<signal_response::Message>,
    echo_mid: Option<Mid>,
    channels: HashMap<ChannelId, String>,
    data: Vec<String>,
    echo_seq: SeqNo,
    echo_source: Option<Ssrc>,
    pings: usize,
}

impl EchoServer {
    fn new(now: Instant) -> Self {
        let mut rtc = RtcConfig::new().set_rtp_mode(true).set_ice_lite(true).build(now);
        rtc.add_local_candidate(Candidate::host(SERVER.parse().unwrap(), Protocol::Udp).unwrap());
        Self {
            rtc,
            deadline: now,
            responses: VecDeque::new(),
            echo_mid: None,
            channels: HashMap::new(),
            data: Vec::new(),
            echo_seq: SeqNo::default(),
            echo_source: None,
            pings: 0,
        }
    }

    fn handle_offer(&mut self, now: Instant, offer: &livekit::SessionDescription, sent: &mut Vec<Vec<u8>>) {
        let video = offer
            .sdp
            .split("m=")
            .find(|section| section.starts_with("video") && section.contains("a=recvonly"));
        let mid = video.and_then(|video| video.lines().find_map(|line| line.strip_prefix("a=mid:")));
        self.echo_mid = mid.map(Mid::from);
        let sdp = SdpOffer::from_sdp_string(&offer.sdp).unwrap();
        let sdp = self.rtc.sdp_api().accept_offer(sdp).unwrap().to_sdp_string();
        self.handle_timeout(now, sent);
        let mut answer = description("answer", sdp, offer.id);
        if let Some(mid) = self.echo_mid {
            answer.mid_to_track_id = HashMap::from([(mid.to_string(), "TR_echo".to_owned())]);
        }
        self.responses.push_back(signal_response::Message::Answer(answer));
    }

    fn handle_request(&mut self, now: Instant, request: livekit::SignalRequest, sent: &mut Vec<Vec<u8>>) {
        match request.message.unwrap() {
            signal_request::Message::Offer(offer) => self.handle_offer(now, &offer, sent),
            signal_request::Message::AddTrack(request) => {
                let track = livekit::TrackInfo { sid: "TR_own".to_owned(), ..Default::default() };
                self.responses.push_back(signal_response::Message::TrackPublished(
                    livekit::TrackPublishedResponse { cid: request.cid, track: Some(track) },
                ));
            }
            signal_request::Message::PingReq(_) => self.pings += 1,
            _ => {}
        }
    }

    fn handle_datagram(&mut self, now: Instant, datagram: &[u8], sent: &mut Vec<Vec<u8>>) {
        let addresses = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let receive = Receive::new(Protocol::Udp, addresses.0, addresses.1, datagram).unwrap();
        self.rtc.handle_input(RtcInput::Receive(now, receive)).unwrap();
        self.drain(now, sent);
    }

    fn handle_timeout(&mut self, now: Instant, sent: &mut Vec<Vec<u8>>) {
        self.rtc.handle_input(RtcInput::Timeout(now)).unwrap();
        self.drain(now, sent);
    }

    fn drain(&mut self, now: Instant, sent: &mut Vec<Vec<u8>>) {
        loop {
            match self.rtc.poll_output().unwrap() {
                RtcOutput::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
                RtcOutput::Transmit(transmit) => sent.push(transmit.contents.to_vec()),
                RtcOutput::Event(RtcEvent::ChannelOpen(id, label)) => {
                    self.channels.insert(id, label);
                }
                RtcOutput::Event(RtcEvent::ChannelData(data)) => {
                    self.data.push(self.channels[&data.id].clone());
                    self.rtc.channel(data.id).unwrap().write(true, &data.data).unwrap();
                }
                RtcOutput::Event(RtcEvent::KeyframeRequest(_)) => {
                    let ssrc = self.echo_source.unwrap();
                    let mut api = self.rtc.direct_api();
                    api.stream_rx(&ssrc).unwrap().request_keyframe(str0m::media::KeyframeRequestKind::Pli);
                }
                RtcOutput::Event(RtcEvent::RtpPacket(packet)) => {
                    let mid = self.echo_mid.unwrap();
                    let source = packet.header.ssrc;
                    self.echo_source = Some(source);
                    let mut api = self.rtc.direct_api();
                    let write = RtpWrite::new(
                        packet.header.payload_type,
                        self.echo_seq,
                        packet.header.timestamp,
                        now,
                        packet.payload.clone(),
                    );
                    self.echo_seq.inc();
                    let write = write.marker(packet.header.marker).nackable(true);
                    api.stream_tx_by_mid(mid, None).unwrap().write_rtp(write);
                    self.deadline = now;
                }
                RtcOutput::Event(_) => {}
            }
        }
    }
}

/// Client and server in virtual time, over a link that loses the given share of media and control datagrams.
struct Call {
    now: Instant,
    client: Session,
    server: EchoServer,
    loss: f64,
    random: Pcg64Mcg,
    in_flight: Vec<(Instant, bool, Vec<u8>)>,
    events: Vec<Event>,
}

impl Call {
    fn new(loss: f64) -> Self {
        let now = Instant::now();
        let config = SessionConfig {
            media_events: false,
            ..SessionConfig::new(CLIENT.parse().unwrap(), "10.0.0.1:4001".parse().unwrap())
        };
        let mut call = Self {
            now,
            client: Session::new(config, now).unwrap(),
            server: EchoServer::new(now),
            loss,
            random: Pcg64Mcg::seed_from_u64(1),
            in_flight: Vec::new(),
            events: Vec::new(),
        };
        call.server.responses.push_back(signal_response::Message::Join(livekit::JoinResponse {
            participant: Some(livekit::ParticipantInfo { sid: "PA_own".to_owned(), ..Default::default() }),
            ping_interval: 5,
            ping_timeout: 15,
            ..Default::default()
        }));
        let offer = call.client.join_request().publisher_offer.clone().unwrap();
        let mut sent = Vec::new();
        call.server.handle_offer(now, &offer, &mut sent);
        call.run_for(Duration::ZERO);
        call
    }

    fn command(&mut self, command: Command) {
        self.client.handle_input(self.now, Input::Command(command));
    }

    fn send(&mut self, to_server: bool, datagram: Vec<u8>) {
        // DTLS starts with 20 to 63 (RFC 7983); its own retransmission is slow, and not what is tested.
        let handshake = datagram[0] < 64;
        if handshake || !self.random.random_bool(self.loss) {
            self.in_flight.push((self.now + DELAY, to_server, datagram));
        }
    }

    /// Everything that happens without time passing. Returns when the next thing is due.
    fn settle(&mut self) -> Instant {
        loop {
            let mut sent = Vec::new();
            while let Some(message) = self.server.responses.pop_front() {
                let response = Box::new(livekit::SignalResponse { message: Some(message) });
                self.client.handle_input(self.now, Input::Signal(response));
            }
            let client_deadline = loop {
                match self.client.poll_output() {
                    Output::Timeout(at) => break at,
                    Output::Transmit(transmit) => self.send(true, transmit.payload),
                    Output::Signal(request) => self.server.handle_request(self.now, *request, &mut sent),
                    Output::Event(event) => self.events.push(event),
                }
            };
            if self.server.deadline <= self.now {
                self.server.handle_timeout(self.now, &mut sent);
            }
            for datagram in sent {
                self.send(false, datagram);
            }
            if client_deadline <= self.now {
                self.client.handle_input(self.now, Input::Timeout);
            } else if self.server.responses.is_empty() && self.server.deadline > self.now {
                let arrival = self.in_flight.iter().map(|(at, ..)| *at).min();
                return client_deadline.min(self.server.deadline).min(arrival.unwrap_or(client_deadline));
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.settle();
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            let (arrived, in_flight) =
                std::mem::take(&mut self.in_flight).into_iter().partition(|(at, ..)| *at <= next);
            self.in_flight = in_flight;
            for (_, to_server, datagram) in arrived {
                if to_server {
                    let mut sent = Vec::new();
                    self.server.handle_datagram(next, &datagram, &mut sent);
                    sent.into_iter().for_each(|datagram| self.send(false, datagram));
                } else {
                    let (source, destination) = (SERVER.parse().unwrap(), CLIENT.parse().unwrap());
                    let input = Input::Datagram { source, destination, payload: &datagram };
                    self.client.handle_input(next, input);
                }
                self.settle();
            }
        }
    }

    fn has(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(wanted)
    }

    fn publish_video(&mut self, frames: u32) -> SyntheticVideo {
        self.command(Command::Publish(PublishTrack::camera("camera", Codec::Vp8)));
        self.run_for(Duration::from_secs(1));
        assert!(self.has(|event| matches!(event, Event::TrackReady { track, .. } if track == "TR_own")));
        let mut video = SyntheticVideo::new(Codec::Vp8, 1, 30, 1_000_000);
        for _ in 0..frames {
            let now_us = self.now.duration_since(self.client.started).as_micros() as u64;
            for packet in video.next_frame(now_us, false) {
                self.command(Command::SendRtp { cid: "camera".to_owned(), rid: None, packet });
            }
            self.run_for(Duration::from_micros(33_333));
        }
        video
    }
}

#[test]
fn joins_connects_and_is_subscribed() {
    let mut call = Call::new(0.0);
    call.run_for(Duration::from_secs(2));
    assert!(matches!(call.events[0], Event::Joined(_)));
    assert!(call.has(|event| matches!(event, Event::TrackSubscribed { track, .. } if track == "TR_echo")));
    assert!(call.has(|event| matches!(event, Event::Connected)));
    assert_eq!(call.client.own_info().unwrap().sid, "PA_own");
}

#[test]
fn every_frame_comes_back_over_a_clean_link() {
    let mut call = Call::new(0.0);
    call.run_for(Duration::from_secs(1));
    call.publish_video(90);
    call.run_for(Duration::from_secs(1));
    let stats = call.client.receive_stats()["TR_echo"];
    assert_eq!((stats.frames.first, stats.frames.last), (Some(0), Some(89)));
    assert_eq!((stats.frames.complete, stats.frames.missing), (90, 0));
    assert_eq!((stats.lost, stats.recovered, stats.duplicates), (0, 0, 0));
    assert_eq!(stats.frames.latency_max, DELAY * 2);
}

#[test]
fn lost_packets_are_recovered_by_retransmission() {
    let mut call = Call::new(0.05);
    call.run_for(Duration::from_secs(2));
    call.publish_video(150);
    call.run_for(Duration::from_secs(3));
    let stats = call.client.receive_stats()["TR_echo"];
    assert!(stats.recovered > 0, "{stats:?}");
    assert_eq!(stats.lost, 0, "{stats:?}");
    // Nobody misses a packet before the first or after the last that came.
    assert_eq!(call.client.incomplete_frames("TR_echo", 5..=144), [0_u32; 0]);
    assert!(stats.frames.latency_max > DELAY * 2);
}

#[test]
fn keyframe_requests_reach_the_publisher() {
    let mut call = Call::new(0.0);
    call.run_for(Duration::from_secs(1));
    call.publish_video(10);
    call.command(Command::RequestKeyframe { track: "TR_echo".to_owned() });
    call.run_for(Duration::from_secs(1));
    assert!(call.has(|event| matches!(event, Event::KeyframeRequested { cid, .. } if cid == "camera")));
}

#[test]
fn data_packets_wait_for_their_channel() {
    let mut call = Call::new(0.0);
    for kind in [DataKind::Reliable, DataKind::Lossy] {
        let user = livekit::UserPacket { payload: b"hello".to_vec(), ..Default::default() };
        let packet =
            livekit::DataPacket { value: Some(data_packet::Value::User(user)), ..Default::default() };
        call.command(Command::SendData { kind, packet: Box::new(packet) });
    }
    call.run_for(Duration::from_secs(2));
    assert_eq!(call.server.data, ["_reliable", "_lossy"]);
    for wanted in [DataKind::Reliable, DataKind::Lossy] {
        assert!(call.has(|event| matches!(event, Event::Data { kind, .. } if *kind == wanted)));
    }
}

#[test]
fn pings_and_gives_up_on_a_silent_server() {
    let mut call = Call::new(0.0);
    call.run_for(Duration::from_secs(14));
    assert_eq!(call.server.pings, 2);
    assert!(!call.client.is_ended());
    call.run_for(Duration::from_secs(2));
    assert!(call.has(|event| matches!(event, Event::Failed(SessionError::SignalTimeout(_)))));
    assert!(call.client.is_ended());
}

#[test]
fn gives_up_without_a_peer_connection() {
    let mut call = Call::new(0.0);
    call.in_flight.clear();
    let start = call.now;
    call.client.handle_input(start + CONNECT_TIMEOUT, Input::Timeout);
    call.settle();
    assert!(call.has(|event| matches!(event, Event::Failed(SessionError::ConnectTimeout(_)))));
}

#[test]
fn leave_ends_the_session() {
    let mut call = Call::new(0.0);
    call.run_for(Duration::from_secs(1));
    let resume =
        livekit::LeaveRequest { action: livekit::leave_request::Action::Resume.into(), ..Default::default() };
    call.server.responses.push_back(signal_response::Message::Leave(resume));
    call.run_for(Duration::ZERO);
    assert!(!call.client.is_ended(), "it goes on with what it has");
    let leave = livekit::LeaveRequest { reason: 4, ..Default::default() };
    call.server.responses.push_back(signal_response::Message::Leave(leave));
    call.run_for(Duration::ZERO);
    assert!(call.has(|event| matches!(event, Event::Left(leave) if leave.reason == 4)));
    assert!(call.client.is_ended());
}

#[test]
fn an_unusable_answer_fails_the_session() {
    let now = Instant::now();
    let config = SessionConfig::new(CLIENT.parse().unwrap(), "10.0.0.1:4001".parse().unwrap());
    let mut client = Session::new(config, now).unwrap();
    let signal = |message| Input::Signal(Box::new(livekit::SignalResponse { message: Some(message) }));
    client.handle_input(now, signal(signal_response::Message::Join(livekit::JoinResponse::default())));
    let answer = description("answer", "garbage".to_owned(), 1);
    client.handle_input(now, signal(signal_response::Message::Answer(answer)));
    let outputs = std::iter::from_fn(|| match client.poll_output() {
        Output::Timeout(_) => None,
        output => Some(output),
    });
    let failed = outputs
        .into_iter()
        .any(|output| matches!(output, Output::Event(Event::Failed(SessionError::Negotiation(_)))));
    assert!(failed);
}
