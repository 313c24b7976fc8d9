//! A shard with its time, drained after every input.

use std::{
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, NodeAction, NodeEvent, OpenConnection, ParticipantSid,
    RoomSid,
};
use zynk_sfu_core::{Certificate, Input, Output, Shard, ShardConfig, ShardIndex, Transport};

/// Outputs of one input: more than this is a shard that never rests.
const OUTPUTS_MAX: usize = 16_384;

/// Made once: its key costs more than everything else here.
static CERTIFICATE: LazyLock<Option<Certificate>> = LazyLock::new(|| Certificate::generate().ok());
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) struct Rig {
    pub(crate) shard: Shard,
    now: Instant,
    /// The last answer or offer, to take credentials from.
    pub(crate) description: Option<String>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let Some(certificate) = CERTIFICATE.clone() else { panic!("no certificate") };
        let config = ShardConfig {
            index: ShardIndex(3),
            udp: vec![local()],
            tcp: vec![local()],
            certificate,
            unix_time: Duration::from_secs(1_750_000_000),
            seed: 7,
        };
        let Ok(shard) = Shard::new(config, *START) else { panic!("no shard") };
        Self { shard, now: *START, description: None }
    }

    /// Feeds one input and drains; returns how many datagrams were to be sent.
    pub(crate) fn input(&mut self, input: Input<'_>) -> usize {
        self.shard.handle_input(self.now, input);
        let mut transmits = 0;
        for _ in 0..OUTPUTS_MAX {
            match self.shard.poll_output() {
                Output::Transmit(transmit) => {
                    assert!(transmit.payload.len() <= 65_535);
                    transmits += transmit.datagrams().count();
                }
                Output::Event { event, .. } => match event {
                    NodeEvent::Answer { sdp, .. } | NodeEvent::Offer { sdp, .. } => {
                        self.description = Some(sdp);
                    }
                    _ => {}
                },
                Output::Relay { .. } => unreachable!("the room is this shard's alone"),
                Output::Timeout(_) => {
                    assert_eq!(self.shard.stats().sessions_panicked, 0, "a session panicked");
                    return transmits;
                }
            }
        }
        panic!("more than {OUTPUTS_MAX} outputs of one input");
    }

    pub(crate) fn command(&mut self, room: &RoomSid, action: NodeAction) -> usize {
        self.input(Input::Command { room: room.clone(), action })
    }

    pub(crate) fn open(&mut self, room: &RoomSid, id: u64, role: ConnectionRole, late_binding: bool) {
        self.command(
            room,
            NodeAction::OpenConnection(OpenConnection {
                connection: ConnectionId(id),
                participant: ParticipantSid::from_random(id.into()),
                role,
                late_binding,
                candidates: CandidatePolicy::All,
            }),
        );
    }

    pub(crate) fn datagram(&mut self, transport: Transport, port: u16, payload: &[u8]) -> usize {
        let mut payload = payload.to_vec();
        let source = remote(port);
        let (destination, arrived) = (local(), self.now);
        self.input(Input::Datagram { transport, source, destination, arrived, payload: &mut payload })
    }

    pub(crate) fn advance(&mut self, by: Duration) -> usize {
        self.now += by;
        self.input(Input::Timeout)
    }
}

pub(crate) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7882))
}

pub(crate) fn remote(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], port))
}

/// An offer with one audio and one video section, as browsers write it.
pub(crate) fn offer() -> String {
    let fingerprint = ["AB"; 32].join(":");
    let mut sdp = String::from("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n");
    let sections = [
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:111 opus/48000/2\r\na=msid:s a\r\n",
        "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=msid:s v\r\n",
    ];
    for (mid, section) in sections.iter().enumerate() {
        sdp.push_str(section);
        sdp.push_str(&format!(
            "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
             a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\na=mid:{mid}\r\na=rtcp-mux\r\n\
             a=sendrecv\r\na=ssrc:{} cname:c\r\n",
            1000 + mid
        ));
    }
    sdp
}
