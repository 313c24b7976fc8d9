//! The shard as it stands in the server, between sockets: a publisher's datagram in, a datagram for each receiver out,
//! with everything that comes between (timers, estimates, reports, feedback to the publisher).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use str0m::media::Direction;
use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, ExpectedTrack, MediaKind, NodeAction, NodeEvent,
    OpenConnection, ParticipantSid, RoomSid, SubscribeTrack, SubscriptionSettings, TrackSid, TrackSource,
};
use zynk_sfu_core::{Certificate, Input, Output, Shard, ShardConfig, ShardIndex, Transport};

use crate::{
    INTERVAL,
    client::{Client, SERVER, Server, connect, index_of, measured_part},
};

pub(crate) struct Plane {
    shard: Shard,
    room: RoomSid,
    deadline: Instant,
    description: Option<String>,
    /// Datagrams that go out, in an arena that is used again: what the kernel does with them.
    arena: Vec<u8>,
    entries: Vec<(SocketAddr, usize)>,
    /// Whether they are copied, for somebody to read.
    copies: bool,
    /// Octets on the heap that the shard holds, from its beginning on.
    held: i64,
    transmitted: u64,
}

impl Plane {
    fn new(now: Instant) -> Result<Self> {
        let config = ShardConfig {
            index: ShardIndex(0),
            udp: vec![SERVER.into()],
            tcp: Vec::new(),
            certificate: Certificate::generate()?,
            unix_time: Duration::from_secs(1_750_000_000),
            protect_audio: false,
            seed: 1,
        };
        Ok(Self {
            shard: Shard::new(config, now)?,
            room: RoomSid::from_random(1),
            deadline: now,
            description: None,
            arena: Vec::new(),
            entries: Vec::new(),
            copies: true,
            held: 0,
            transmitted: 0,
        })
    }

    fn command(&mut self, now: Instant, action: NodeAction) {
        self.input(now, Input::Command { room: self.room.clone(), action });
    }

    fn input(&mut self, now: Instant, input: Input<'_>) {
        let mut input = Some(input);
        let held = allocation_counter::measure(|| {
            if let Some(input) = input.take() {
                self.shard.handle_input(now, input);
            }
            self.drain();
        });
        self.held += held.bytes_current;
    }

    fn drain(&mut self) {
        loop {
            match self.shard.poll_output() {
                Output::Transmit(transmit) => {
                    self.transmitted += transmit.datagrams().len() as u64;
                    if self.copies {
                        self.arena.extend_from_slice(transmit.payload);
                        let sizes =
                            transmit.datagrams().map(|datagram| (transmit.destination, datagram.len()));
                        self.entries.extend(sizes);
                    } else {
                        std::hint::black_box(transmit.payload);
                    }
                }
                Output::Event { event, .. } => {
                    if let NodeEvent::Answer { sdp, .. } = event {
                        self.description = Some(sdp);
                    }
                }
                Output::Relay { .. } => unreachable!("the room is this shard's alone"),
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }

    /// Opens a connection for a client that offers so many sections.
    fn join(
        &mut self,
        now: Instant,
        id: u64,
        client: &mut Client,
        sections: usize,
        tracks: &[TrackSid],
    ) -> Result<()> {
        let connection = ConnectionId(id);
        let publishes = tracks.is_empty();
        let (role, direction) = if publishes {
            (ConnectionRole::Publisher, Direction::SendOnly)
        } else {
            (ConnectionRole::Single, Direction::RecvOnly)
        };
        self.command(
            now,
            NodeAction::OpenConnection(OpenConnection {
                connection,
                participant: ParticipantSid::from_random(id.into()),
                role,
                late_binding: !publishes,
                candidates: CandidatePolicy::All,
            }),
        );
        if publishes {
            for kind in [MediaKind::Video, MediaKind::Audio] {
                self.command(now, NodeAction::ExpectTrack(expected(connection, kind)));
            }
        }
        for track in tracks {
            self.command(
                now,
                NodeAction::Subscribe(SubscribeTrack {
                    connection,
                    track: track.clone(),
                    stream_id: "stream".to_owned(),
                    settings: SubscriptionSettings::default(),
                }),
            );
        }
        let sdp = client.offer(sections, direction)?;
        self.command(now, NodeAction::RemoteOffer { connection, offer_id: 1, sdp });
        client.answer(&self.description.take().context("an answer")?)
    }
}

fn track_sid(connection: ConnectionId, kind: MediaKind) -> TrackSid {
    TrackSid::from_random(u128::from(connection.0) * 2 + u128::from(kind == MediaKind::Audio))
}

fn expected(connection: ConnectionId, kind: MediaKind) -> ExpectedTrack {
    ExpectedTrack {
        connection,
        track: track_sid(connection, kind),
        cids: Vec::new(),
        kind,
        source: if kind == MediaKind::Video { TrackSource::Camera } else { TrackSource::Microphone },
        codec: None,
        red: false,
        dtx: false,
        stereo: false,
        muted: false,
        encrypted: false,
        backup: None,
    }
}

impl Server for Plane {
    fn handle_timeout(&mut self, now: Instant) -> Result<()> {
        if self.deadline <= now {
            self.input(now, Input::Timeout);
        }
        Ok(())
    }

    fn receive(&mut self, now: Instant, source: SocketAddr, payload: &mut [u8]) -> Result<()> {
        let (transport, destination) = (Transport::Udp, SERVER.into());
        self.input(now, Input::Datagram { transport, source, destination, arrived: now, payload });
        Ok(())
    }

    fn take_sent(&mut self, to: &mut dyn FnMut(SocketAddr, &[u8]) -> Result<()>) -> Result<()> {
        let mut start = 0;
        for (destination, bytes) in &self.entries {
            to(*destination, self.arena.get(start..start + bytes).context("a datagram")?)?;
            start += bytes;
        }
        self.arena.clear();
        self.entries.clear();
        Ok(())
    }
}

/// A room: `sections / 2` publishers, of which the first sends, and receivers of everything.
pub(crate) struct Fan {
    plane: Plane,
    /// Publishers first.
    clients: Vec<Client>,
    publishers: usize,
    now: Instant,
    payload: Arc<[u8]>,
}

impl Fan {
    pub(crate) fn new(receivers: usize, sections: usize, payload: Arc<[u8]>) -> Result<Self> {
        let mut now = Instant::now();
        let mut plane = Plane::new(now)?;
        let mut clients = Vec::new();
        let publishers = (sections / 2).max(1);
        let mut tracks = Vec::new();
        for number in 0..publishers + receivers {
            let mut client = Client::new(number, now)?;
            let id = number as u64 + 1;
            if number < publishers {
                plane.join(now, id, &mut client, 2, &[])?;
                tracks.extend(
                    [MediaKind::Video, MediaKind::Audio].map(|kind| track_sid(ConnectionId(id), kind)),
                );
            } else {
                plane.join(now, id, &mut client, sections, &tracks)?;
            }
            clients.push(client);
        }
        connect(&mut plane, &mut clients, &mut now)?;
        Ok(Self { plane, clients, publishers, now, payload })
    }

    /// The publisher's next packet, sealed, and what else it has to say.
    fn publish(&mut self) -> Result<Vec<Vec<u8>>> {
        let publisher = self.clients.first_mut().context("a publisher")?;
        publisher.handle_timeout(self.now)?;
        publisher.write(self.now, &self.payload)?;
        Ok(std::mem::take(&mut publisher.sent))
    }

    /// One packet through the shard: the time it took, and how often it allocated.
    pub(crate) fn forward(&mut self) -> Result<(Duration, u64)> {
        self.now += INTERVAL;
        let now = self.now;
        let mut datagrams = self.publish()?;
        let publisher = self.clients.first().context("a publisher")?.address;
        let plane = &mut self.plane;
        let before = plane.transmitted;
        let measured = measured_part(&mut || {
            plane.handle_timeout(now)?;
            datagrams.iter_mut().try_for_each(|datagram| plane.receive(now, publisher, datagram))
        })?;
        let sent = plane.transmitted - before;
        ensure!(sent >= (self.clients.len() - self.publishers) as u64, "a packet was not forwarded to all");
        Ok(measured)
    }

    /// The clients read what was sent, and the shard their feedback: the time that it took the shard.
    pub(crate) fn answer(&mut self) -> Result<(Duration, u64)> {
        let (now, clients, publishers) = (self.now, &mut self.clients, self.publishers);
        self.plane.take_sent(&mut |to, datagram| {
            let client = index_of(to).and_then(|at| clients.get_mut(at));
            client.context("a client")?.receive(now, datagram)
        })?;
        let mut sum = (Duration::ZERO, 0);
        for client in clients.iter_mut().skip(publishers) {
            client.handle_timeout(now)?;
            for mut datagram in std::mem::take(&mut client.sent) {
                let (elapsed, allocations) =
                    measured_part(&mut || self.plane.receive(now, client.address, &mut datagram))?;
                sum = (sum.0 + elapsed, sum.1 + allocations);
            }
        }
        Ok(sum)
    }

    /// Whether what is sent is copied, for clients to read. The publisher has to read its feedback now and then.
    pub(crate) fn set_copies(&mut self, copies: bool) {
        self.plane.copies = copies;
    }

    /// Packets of media that came, of all receivers.
    pub(crate) fn received(&self) -> u64 {
        self.clients.iter().skip(self.publishers).map(|client| client.received).sum()
    }
}

/// What connections and subscriptions hold on the heap, in octets each.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// A connection that has been up for a second, with two sections that carry nothing.
    pub(crate) connection: i64,
    /// A subscription to video that has run for three seconds, beyond its connection.
    pub(crate) subscription: i64,
}

/// Measures [`Memory`] in a room of so many receivers. What the datagrams' copies take is in it.
pub(crate) fn memory(receivers: usize, payload: &Arc<[u8]>) -> Result<Memory> {
    let count = i64::try_from(receivers)?;
    let held = |receivers, steps| -> Result<i64> {
        let mut fan = Fan::new(receivers, 2, payload.clone())?;
        for _ in 0..steps {
            fan.forward()?;
            fan.answer()?;
        }
        Ok(fan.plane.held)
    };
    let none = held(0, 0)?;
    let idle = held(receivers, 0)?;
    Ok(Memory { connection: (idle - none) / count, subscription: (held(receivers, 700)? - idle) / count })
}
