//! The `webrtc` crate as a WHIP publisher (RFC 9725) and a WHEP player. The recordings are replayed,
//! so what arrives can be compared byte by byte with what was sent.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rtc::interceptor::Registry;
use rtc::media::Sample;
use rtc::media::io::ivf_reader::IVFReader;
use rtc::media::io::ogg_reader::OggReader;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::interceptor_registry::register_default_interceptors;
use rtc::peer_connection::configuration::media_engine::{MIME_TYPE_OPUS, MIME_TYPE_VP8, MediaEngine};
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::rtp::codec::vp8::Vp8Packet;
use rtc::rtp::packetizer::Depacketizer;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use tokio::sync::mpsc;
use tokio::time::timeout;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_sample::TrackLocalStaticSample;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCPeerConnectionState,
};
use webrtc::rtp_transceiver::RtpSender;
use zynk_auth::{Claims, KeyRing, VideoGrants};

use crate::rig::{API_KEY, API_SECRET};

const LIMIT: Duration = Duration::from_secs(20);
const VIDEO_FRAME: Duration = Duration::from_millis(100);
const AUDIO_FRAME: Duration = Duration::from_millis(20);
const VIDEO_FRAMES_MIN: usize = 20;
const AUDIO_FRAMES_MIN: usize = 100;

/// What the peer connection tells of itself.
#[derive(Debug)]
enum Notice {
    Gathered,
    Connected,
    Failed,
    /// A frame's payload, its RTP payload descriptor taken off.
    Frame(RtpCodecKind, Bytes),
}

struct Handler(mpsc::UnboundedSender<Notice>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.0.send(Notice::Gathered);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Connected => drop(self.0.send(Notice::Connected)),
            RTCPeerConnectionState::Failed => drop(self.0.send(Notice::Failed)),
            _ => {}
        }
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let notices = self.0.clone();
        tokio::spawn(async move {
            let kind = track.kind().await;
            while let Some(event) = track.poll().await {
                let TrackRemoteEvent::OnRtpPacket(packet) = event else {
                    continue;
                };
                let frame = match kind {
                    RtpCodecKind::Video => Vp8Packet::default().depacketize(&packet.payload),
                    _ => Ok(packet.payload),
                };
                // Padding probes for bandwidth have no frame in them.
                if let Ok(frame) = frame
                    && !frame.is_empty()
                {
                    let _ = notices.send(Notice::Frame(kind, frame));
                }
            }
        });
    }
}

struct Peer {
    connection: Arc<dyn PeerConnection>,
    notices: mpsc::UnboundedReceiver<Notice>,
}

impl Peer {
    async fn new() -> Self {
        let (sender, notices) = mpsc::unbounded_channel();
        let mut codecs = MediaEngine::default();
        codecs.register_default_codecs().unwrap();
        let interceptors = register_default_interceptors(Registry::new(), &mut codecs).unwrap();
        let connection = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_media_engine(codecs)
            .with_interceptor_registry(interceptors)
            .with_handler(Arc::new(Handler(sender)))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .build()
            .await
            .unwrap();
        Self { connection: Arc::new(connection), notices }
    }

    /// Adds a track that sends one stream of `mime_type`.
    async fn send(&self, kind: RtpCodecKind, mime_type: &str) -> Outgoing {
        let (ssrc, clock_rate, channels) = match kind {
            RtpCodecKind::Video => (0x11_22_33, 90_000, 0),
            _ => (0x44_55_66, 48_000, 2),
        };
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: RTCRtpCodec {
                mime_type: mime_type.to_owned(),
                clock_rate,
                channels,
                ..Default::default()
            },
            ..Default::default()
        };
        let track = MediaStreamTrack::new(
            "recording".to_owned(),
            format!("recorded-{kind}"),
            format!("recorded-{kind}"),
            kind,
            vec![encoding],
        );
        let track = Arc::new(TrackLocalStaticSample::new(Instant::now(), track).unwrap());
        let sender = self.connection.add_track(Arc::clone(&track) as Arc<dyn TrackLocal>).await.unwrap();
        Outgoing { track, sender, ssrc }
    }

    /// Offers to `endpoint` and takes its answer; returns where the session is to be ended.
    async fn open(&mut self, http: &reqwest::Client, endpoint: &str, token: &str) -> reqwest::Url {
        let offer = self.connection.create_offer(None).await.unwrap();
        self.connection.set_local_description(offer).await.unwrap();
        self.until(|notice| matches!(notice, Notice::Gathered)).await;
        let offer = self.connection.local_description().await.unwrap();
        let response = http
            .post(endpoint)
            .bearer_auth(token)
            .header("content-type", "application/sdp")
            .body(offer.sdp)
            .send()
            .await
            .unwrap();
        let status = response.status();
        let resource = response
            .headers()
            .get("location")
            .map(|location| response.url().join(location.to_str().unwrap()).unwrap());
        let answer = response.text().await.unwrap();
        assert_eq!(status, 201, "{answer}");
        let answer = RTCSessionDescription::answer(answer).unwrap();
        self.connection.set_remote_description(answer).await.unwrap();
        self.until(|notice| matches!(notice, Notice::Connected)).await;
        resource.expect("the session has a location")
    }

    async fn next(&mut self) -> Notice {
        let notice = self.notices.recv().await.expect("the connection lives");
        assert!(!matches!(notice, Notice::Failed), "the connection failed");
        notice
    }

    async fn until(&mut self, wanted: impl Fn(&Notice) -> bool) {
        let waited = timeout(LIMIT, async { while !wanted(&self.next().await) {} }).await;
        waited.expect("the connection comes about in time");
    }

    async fn close(self, http: &reqwest::Client, resource: reqwest::Url, token: &str) {
        let response = http.delete(resource).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), 200);
        self.connection.close().await.unwrap();
    }
}

struct Outgoing {
    track: Arc<TrackLocalStaticSample>,
    sender: Arc<dyn RtpSender>,
    ssrc: u32,
}

impl Outgoing {
    /// Sends `frames` over and over, one every `interval`.
    async fn replay(self, frames: Vec<Bytes>, interval: Duration) {
        let parameters = self.sender.get_parameters().await.unwrap();
        let payload_type = parameters.rtp_parameters.codecs[0].payload_type;
        let mut ticks = tokio::time::interval(interval);
        for data in frames.into_iter().cycle() {
            ticks.tick().await;
            let sample = Sample { data, duration: interval, ..Sample::new(Instant::now()) };
            let written = self.track.sample_writer(self.ssrc, payload_type).write_sample(&sample);
            if written.await.is_err() {
                return;
            }
        }
    }
}

fn recording(name: &str) -> BufReader<File> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("interop/media").join(name);
    BufReader::new(File::open(path).unwrap())
}

fn video_frames() -> Vec<Bytes> {
    let (mut reader, _) = IVFReader::new(recording("stripes.ivf")).unwrap();
    std::iter::from_fn(|| reader.parse_next_frame().ok()).map(|(frame, _)| frame.freeze()).collect()
}

fn audio_frames() -> Vec<Bytes> {
    let (mut reader, _) = OggReader::new(recording("tone.ogg"), true).unwrap();
    std::iter::from_fn(|| reader.parse_next_page().ok())
        .map(|(page, _)| page.freeze())
        .filter(|page| !page.starts_with(b"OpusTags"))
        .collect()
}

fn access_token(identity: &str) -> String {
    let mut claims = Claims::for_identity(identity);
    claims.video = VideoGrants::join("recordings");
    KeyRing::single(API_KEY, API_SECRET).sign(&claims, Duration::from_secs(600), SystemTime::now()).unwrap()
}

/// Publishes the recordings through WHIP, plays them through WHEP as so many, and compares.
pub(crate) async fn publish_and_play(url: &str, players: usize) {
    let http = reqwest::Client::new();
    let (video, audio) = (video_frames(), audio_frames());

    let token = access_token("publisher");
    let mut publisher = Peer::new().await;
    let microphone = publisher.send(RtpCodecKind::Audio, MIME_TYPE_OPUS).await;
    let camera = publisher.send(RtpCodecKind::Video, MIME_TYPE_VP8).await;
    let published = publisher.open(&http, &format!("{url}/whip/recordings"), &token).await;
    let sending = [
        tokio::spawn(microphone.replay(audio.clone(), AUDIO_FRAME)),
        tokio::spawn(camera.replay(video.clone(), VIDEO_FRAME)),
    ];

    let sent: HashSet<Bytes> = video.into_iter().chain(audio).collect();
    let mut playing = Vec::new();
    for number in 0..players {
        let token = access_token(&format!("player-{number}"));
        let mut player = Peer::new().await;
        for kind in [RtpCodecKind::Audio, RtpCodecKind::Video] {
            let direction = RTCRtpTransceiverDirection::Recvonly;
            let receive = RTCRtpTransceiverInit { direction, ..Default::default() };
            player.connection.add_transceiver_from_kind(kind, Some(receive)).await.unwrap();
        }
        let played = player.open(&http, &format!("{url}/whep/recordings"), &token).await;
        playing.push((player, played, token));
    }
    for (player, ..) in &mut playing {
        play(player, &sent).await;
    }
    for (player, played, token) in playing {
        player.close(&http, played, &token).await;
    }
    for task in sending {
        task.abort();
    }
    publisher.close(&http, published, &token).await;
}

/// Waits for enough frames, all of them among those that were sent.
async fn play(player: &mut Peer, sent: &HashSet<Bytes>) {
    let (mut video_frames, mut audio_frames) = (0, 0);
    let received = timeout(LIMIT, async {
        while video_frames < VIDEO_FRAMES_MIN || audio_frames < AUDIO_FRAMES_MIN {
            if let Notice::Frame(kind, frame) = player.next().await {
                assert!(sent.contains(&frame), "{kind} of {} bytes was never sent", frame.len());
                match kind {
                    RtpCodecKind::Video => video_frames += 1,
                    _ => audio_frames += 1,
                }
            }
        }
    })
    .await;
    assert!(
        received.is_ok(),
        "after {LIMIT:?} only {video_frames} video and {audio_frames} audio frames had come"
    );
}
