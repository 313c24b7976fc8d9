//! Packets through a server, paced, and what the server takes for each.
//!
//! ```text
//!  client 0 ─ ChannelData ─┐            ┌─ UDP ─ peer 0          every event is one packet, or a burst to one peer;
//!  client 1 ───────────────┼── server ──┼─────── peer 1          the next event is the next client's
//!  …                       ┘            └─ …                     rev: the other way round
//! ```
//! Some packets are due together, as they are where there are many clients; then there is a pause. As long as they are no
//! more than there are clients, all of them go to different peers. Were there fewer, the figure would be that of waking
//! up; were there more, a server would find packets to one peer side by side that in a network come at different times.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use zynk_benches::machine::CpuTimes;
use zynk_net::RecvBatch;

use zynk_benches::stun::channel_header;

use crate::{
    relay::{CHANNEL, Relay},
    server::TurnServer,
};

/// How far the generator may fall behind and catch up. What is later is never sent.
const BEHIND_MAX: Duration = Duration::from_micros(500);
/// A window ends when nothing has arrived for so long.
const SILENCE: Duration = Duration::from_millis(20);

/// Of each payload: the time that it was sent at.
const STAMP_BYTES: usize = 8;

/// Which way the packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// From client to peer.
    Fwd,
    /// From peer to client.
    Rev,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shape {
    pub(crate) direction: Direction,
    /// Of one packet's payload.
    pub(crate) bytes: usize,
    /// Packets that leave at once, to one peer.
    pub(crate) burst: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Fwd => "fwd",
            Direction::Rev => "rev",
        };
        write!(f, "{direction}:{}:{}", self.bytes, self.burst)
    }
}

/// As on a command line: `fwd:1200:8`.
impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = "a point is fwd:BYTES:BURST or rev:BYTES:BURST";
        let mut words = text.split(':');
        let direction = match words.next() {
            Some("fwd") => Direction::Fwd,
            Some("rev") => Direction::Rev,
            _ => bail!(wanted),
        };
        let mut number = || words.next().and_then(|word| word.parse().ok()).filter(|number| *number > 0);
        let (bytes, burst): (usize, usize) = (number().context(wanted)?, number().context(wanted)?);
        ensure!(
            (STAMP_BYTES..=1400).contains(&bytes) && burst <= 64,
            "8 to 1400 bytes, and at most 64 packets at once"
        );
        Ok(Self { direction, bytes, burst })
    }
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Pace {
    pub(crate) packets_per_second: f64,
    /// Packets that are due at one time; at least a burst is.
    pub(crate) together: usize,
}

/// What was seen in some time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Window {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// While packets were sent.
    pub(crate) seconds: f64,
    /// The server's CPU time for each packet that was received.
    pub(crate) us_per_packet: f64,
    /// The server's CPU time, of a core.
    pub(crate) cpu_percent: f64,
    /// What the kernel took of the generator, while packets were sent.
    pub(crate) packets_per_second: f64,
    /// From the generator's send to its read, of which the latter is up to a look at every receiver late.
    pub(crate) late_ms_p50: f64,
    /// The same of one in a hundred.
    pub(crate) late_ms_p99: f64,
}

impl Window {
    /// Packets that did not arrive.
    pub(crate) fn lost_percent(&self) -> f64 {
        self.sent.saturating_sub(self.received) as f64 / self.sent.max(1) as f64 * 100.0
    }
}

/// A server with its clients.
pub(crate) struct Load {
    server: TurnServer,
    relays: Vec<Relay>,
    arena: RecvBatch,
}

impl Load {
    /// Starts the clients.
    pub(crate) fn new(server: TurnServer, clients: usize) -> Result<Self> {
        let mut arena = RecvBatch::new();
        let open = |_| Relay::open(&server, &mut arena);
        let relays = (0..clients).map(open).collect::<Result<_>>();
        let relays =
            relays.with_context(|| format!("{}, whose log ends with:\n{}", server.name(), server.log()))?;
        Ok(Self { server, relays, arena })
    }

    /// The server's name.
    pub(crate) fn name(&self) -> &str {
        self.server.name()
    }

    /// To be said from time to time, so that nothing ends.
    pub(crate) fn renew(&mut self) -> Result<()> {
        self.relays.iter_mut().try_for_each(|relay| relay.renew(&mut self.arena))
    }

    /// Sends for some time.
    pub(crate) fn run(&mut self, shape: Shape, pace: Pace, duration: Duration) -> Window {
        let mut packet = Vec::new();
        if shape.direction == Direction::Fwd {
            packet.extend(channel_header(CHANNEL, shape.bytes));
        }
        packet.resize(packet.len() + shape.bytes, 0x5a);
        let stamp_at = packet.len() - shape.bytes;
        let mut burst = packet.repeat(shape.burst);
        let together = (pace.together / shape.burst).max(1) as u64;
        let packets = together * shape.burst as u64;
        let interval = Duration::from_secs_f64(packets as f64 / pace.packets_per_second);
        let mut receivers =
            Receivers { shape, next: 0, received: 0, begun: Instant::now(), late_us: Vec::new() };

        let sent_before = self.sent(shape.direction);
        let cpu_before = CpuTimes::of(self.server.pid());
        let begun = receivers.begun;
        let (mut due, mut events) = (begun, 0_u64);
        loop {
            let now = Instant::now();
            if now.duration_since(begun) >= duration {
                break;
            }
            if now < due {
                receivers.look(&self.relays, &mut self.arena);
                continue;
            }
            due = due.max(now.checked_sub(BEHIND_MAX).unwrap_or(due)) + interval;
            for _ in 0..together {
                let number = (events % self.relays.len().max(1) as u64) as usize;
                events += 1;
                let Some(relay) = self.relays.get_mut(number) else { continue };
                let (from, to) = match shape.direction {
                    Direction::Fwd => (&mut relay.client, relay.server),
                    Direction::Rev => (&mut relay.peer, relay.relayed),
                };
                let stamp = Instant::now().duration_since(begun).as_nanos() as u64;
                for packet in burst.chunks_exact_mut(packet.len()) {
                    let data = packet.get_mut(stamp_at..).and_then(|data| data.first_chunk_mut());
                    if let Some(data) = data {
                        *data = stamp.to_be_bytes();
                    }
                }
                from.send(to, &burst, packet.len(), now);
            }
            receivers.look(&self.relays, &mut self.arena);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let sent = self.sent(shape.direction) - sent_before;
        let mut last = Instant::now();
        while receivers.received < sent && last.elapsed() < SILENCE {
            if receivers.look(&self.relays, &mut self.arena) {
                last = Instant::now();
            }
        }
        let cpu = CpuTimes::of(self.server.pid()).since(&cpu_before).as_secs_f64();
        Window {
            sent,
            received: receivers.received,
            seconds,
            us_per_packet: cpu * 1e6 / receivers.received as f64,
            cpu_percent: cpu / begun.elapsed().as_secs_f64() * 100.0,
            packets_per_second: sent as f64 / seconds,
            late_ms_p50: receivers.late_ms(0.5),
            late_ms_p99: receivers.late_ms(0.99),
        }
    }

    fn sent(&self, direction: Direction) -> u64 {
        let one = |relay: &Relay| match direction {
            Direction::Fwd => relay.client.sent(),
            Direction::Rev => relay.peer.sent(),
        };
        self.relays.iter().map(one).sum()
    }
}

/// Counts what arrives.
struct Receivers {
    shape: Shape,
    /// Whose socket is looked at next.
    next: usize,
    received: u64,
    begun: Instant,
    /// Of each packet, in µs.
    late_us: Vec<u32>,
}

impl Receivers {
    /// Looks at one receiver's socket and says whether something had come.
    fn look(&mut self, relays: &[Relay], arena: &mut RecvBatch) -> bool {
        let Some(relay) = relays.get(self.next) else { return false };
        self.next = (self.next + 1) % relays.len();
        let socket = match self.shape.direction {
            Direction::Fwd => &relay.peer.socket,
            Direction::Rev => &relay.client.socket,
        };
        if arena.recv(socket).is_err() {
            return false;
        }
        let header = channel_header(CHANNEL, self.shape.bytes);
        let now_us = self.begun.elapsed().as_micros() as u64;
        for datagram in arena.datagrams() {
            let data = match self.shape.direction {
                Direction::Fwd => Some(datagram.payload).filter(|data| data.len() == self.shape.bytes),
                Direction::Rev => {
                    datagram.payload.strip_prefix(&header).filter(|data| data.len() >= self.shape.bytes)
                }
            };
            let Some(stamp) = data.and_then(|data| data.first_chunk::<STAMP_BYTES>()) else { continue };
            self.received += 1;
            let late_us = now_us.saturating_sub(u64::from_be_bytes(*stamp) / 1000);
            self.late_us.push(u32::try_from(late_us).unwrap_or(u32::MAX));
        }
        true
    }

    /// How late the given share of packets was at most.
    fn late_ms(&mut self, share: f64) -> f64 {
        self.late_us.sort_unstable();
        let at = (self.late_us.len() as f64 * share) as usize;
        self.late_us.get(at).map_or(f64::NAN, |late_us| f64::from(*late_us) / 1000.0)
    }
}
