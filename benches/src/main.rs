//! What this machine charges for the parts of forwarding that nobody can save: a datagram sent, by how many to one
//! receiver leave together; a datagram received; a payload sealed or opened.
//!
//! `cargo run --release -p zynk-benches [-- --json]` prints a table, medians of five rounds in one run, so that the rows
//! compare even where the machine is noisy. Sends to 127.0.0.1 only, and ends by itself.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::{
    net::{SocketAddr, UdpSocket as PlainSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::Serialize;
use zynk_benches::{machine, median::median};
use zynk_net::{RecvBatch, SendBatch, SocketOptions, UdpSocket};

/// Receivers, as in a room of medium size.
const RECEIVERS: usize = 100;
/// Datagrams a round.
const DATAGRAMS: usize = 50_000;
const ROUNDS: usize = 5;
const PAYLOAD_BYTES: usize = 1100;
/// What AES-GCM adds.
const TAG_BYTES: usize = 16;

/// What a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    /// `sendto`, a call for each datagram, to the receivers in turn.
    SendTo,
    /// The same through sockets that are connected to one receiver each.
    SendConnected,
    /// One segmented send of so many datagrams to each receiver in turn.
    SendSegmented(usize),
    /// `recvmmsg` of datagrams that were sent one by one.
    Receive,
    /// The same of datagrams that were sent so many at a time, which the kernel hands over in one piece.
    ReceiveSegmented(usize),
    /// AES-256-GCM.
    Seal,
    /// AES-256-GCM.
    Open,
}

const PARTS: [Part; 11] = [
    Part::SendTo,
    Part::SendConnected,
    Part::SendSegmented(1),
    Part::SendSegmented(2),
    Part::SendSegmented(4),
    Part::SendSegmented(16),
    Part::SendSegmented(64),
    Part::Receive,
    Part::ReceiveSegmented(16),
    Part::Seal,
    Part::Open,
];

impl Part {
    fn name(self) -> String {
        match self {
            Self::SendTo => "sendto".to_owned(),
            Self::SendConnected => "send, connected".to_owned(),
            Self::SendSegmented(segments) => format!("send, {segments} segments"),
            Self::Receive => "recvmmsg".to_owned(),
            Self::ReceiveSegmented(segments) => format!("recvmmsg, trains of {segments}"),
            Self::Seal => "AES-256-GCM seal".to_owned(),
            Self::Open => "AES-256-GCM open".to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    part: Part,
    /// Median wall time per datagram.
    ns_per_datagram: f64,
    /// Compared with `sendto`.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Of one, five and fifteen minutes, when the run began.
    load_average: String,
    rows: Vec<Row>,
}

fn main() -> Result<()> {
    let json = std::env::args().any(|argument| argument == "--json");
    let load_average = machine::load_average();
    let mut bench = Bench::new()?;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); PARTS.len()];
    for _ in 0..ROUNDS {
        for (part, times) in PARTS.into_iter().zip(&mut times) {
            times.push(bench.round(part)?);
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let single = medians.first().copied().context("no rows")?;
    let row = |(part, median): (Part, f64)| Row { part, ns_per_datagram: median, ratio: median / single };
    let report = Report { load_average, rows: PARTS.into_iter().zip(medians).map(row).collect() };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("load average {}", report.load_average);
    println!("{RECEIVERS} receivers, {PAYLOAD_BYTES} B, median of {ROUNDS} rounds of {DATAGRAMS} datagrams");
    println!("{:<24} {:>16} {:>7}", "part", "ns per datagram", "ratio");
    for row in report.rows {
        println!("{:<24} {:>16.0} {:>7.2}", row.part.name(), row.ns_per_datagram, row.ratio);
    }
    Ok(())
}

struct Bench {
    receivers: Vec<UdpSocket>,
    addresses: Vec<SocketAddr>,
    sender: UdpSocket,
    plain: PlainSocket,
    connected: Vec<PlainSocket>,
    arrived: RecvBatch,
    key: LessSafeKey,
}

impl Bench {
    fn new() -> Result<Self> {
        let receivers = (0..RECEIVERS).map(|_| bind()).collect::<Result<Vec<_>>>()?;
        let addresses: Vec<SocketAddr> = receivers.iter().map(UdpSocket::local_addr).collect();
        let connected = addresses.iter().map(|address| {
            let socket = PlainSocket::bind("127.0.0.1:0")?;
            socket.connect(address)?;
            Ok(socket)
        });
        Ok(Self {
            connected: connected.collect::<std::io::Result<_>>()?,
            receivers,
            addresses,
            sender: bind()?,
            plain: PlainSocket::bind("127.0.0.1:0")?,
            arrived: RecvBatch::new(),
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).ok().context("a key")?),
        })
    }

    /// Nanoseconds per datagram.
    fn round(&mut self, part: Part) -> Result<f64> {
        match part {
            Part::Seal | Part::Open => self.cipher(part == Part::Open),
            Part::Receive => self.transfer(1, Half::Receiving, Self::send_segmented),
            Part::ReceiveSegmented(segments) => {
                self.transfer(segments, Half::Receiving, Self::send_segmented)
            }
            Part::SendSegmented(segments) => self.transfer(segments, Half::Sending, Self::send_segmented),
            Part::SendTo => self.transfer(1, Half::Sending, |bench, payload, _| {
                for address in &bench.addresses {
                    bench.plain.send_to(payload, address)?;
                }
                Ok(())
            }),
            Part::SendConnected => self.transfer(1, Half::Sending, |bench, payload, _| {
                for socket in &bench.connected {
                    socket.send(payload)?;
                }
                Ok(())
            }),
        }
    }

    fn send_segmented(&mut self, payload: &[u8], _: usize) -> Result<()> {
        let now = Instant::now();
        let mut batch = SendBatch::new();
        for address in &self.addresses {
            batch.send(&mut self.sender, *address, None, (payload, PAYLOAD_BYTES), now);
        }
        anyhow::ensure!(
            batch.is_empty() && batch.stats().dropped() == 0,
            "the kernel did not take a datagram"
        );
        Ok(())
    }

    /// Sends to all receivers, so many datagrams at a time, and empties them; one half of it counts.
    fn transfer(
        &mut self,
        segments: usize,
        half: Half,
        send: impl Fn(&mut Self, &[u8], usize) -> Result<()>,
    ) -> Result<f64> {
        let segments = segments.min(u16::MAX as usize / PAYLOAD_BYTES);
        let payload = vec![0x5a; PAYLOAD_BYTES * segments];
        let (mut sending, mut receiving, mut datagrams) = (Duration::ZERO, Duration::ZERO, 0);
        for _ in 0..DATAGRAMS.div_ceil(RECEIVERS * segments) {
            let begin = Instant::now();
            send(self, &payload, segments)?;
            sending += begin.elapsed();
            for receiver in &self.receivers {
                let begin = Instant::now();
                let count = self.arrived.recv(receiver).unwrap_or(0);
                receiving += begin.elapsed();
                datagrams += count;
                while self.arrived.recv(receiver).is_ok_and(|more| more > 0) {}
            }
        }
        let counted = match half {
            Half::Sending => sending,
            Half::Receiving => receiving,
        };
        Ok(counted.as_nanos() as f64 / datagrams.max(1) as f64)
    }

    fn cipher(&self, open: bool) -> Result<f64> {
        let mut buffer = vec![0x42; PAYLOAD_BYTES + TAG_BYTES];
        let mut elapsed = Duration::ZERO;
        for number in 0..DATAGRAMS as u64 {
            let nonce = || {
                let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
                Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
            };
            let begin = Instant::now();
            let (body, tag) = buffer.split_at_mut_checked(PAYLOAD_BYTES).context("room")?;
            self.key.seal_in_place_scatter(nonce(), Aad::empty(), body, &[], tag).ok().context("a seal")?;
            let sealed = begin.elapsed();
            let begin = Instant::now();
            self.key
                .open_in_place(nonce(), Aad::empty(), &mut buffer)
                .ok()
                .context("an authentic payload")?;
            elapsed += if open { begin.elapsed() } else { sealed };
        }
        Ok(elapsed.as_nanos() as f64 / DATAGRAMS as f64)
    }
}

/// Which half of a transfer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Sending,
    Receiving,
}

fn bind() -> Result<UdpSocket> {
    UdpSocket::bind("127.0.0.1:0".parse()?, SocketOptions::default()).context("binding a socket on loopback")
}
