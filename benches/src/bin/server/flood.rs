//! Invalid packets against one room, while another is measured.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use quinn_udp::{Transmit, UdpSocketState};
use serde::Serialize;
use zynk_benches::{
    generator::{Generator, Load, Window, signaling::Whip},
    histogram::Percentiles,
    machine::{self, CpuTimes},
    point::Topology,
    server::ZynkServer,
};

/// Packets a second.
const RATE: u64 = 200_000;
/// As large as packets of video.
const PACKET_BYTES: usize = 1100;
/// Packets of one send: the kernel makes datagrams of them.
const SEGMENTS: usize = 50;
const GROUP_MEASURED: usize = 0;
const GROUP_FLOODED: usize = 1;
/// How far ahead of the publisher's packets the sequence numbers begin, and how many there are: none is known to
/// be a repetition, so each has to be decrypted to be found out. More than a publisher sends in 20 s.
const AHEAD: u16 = 4096;
const SETTLE: Duration = Duration::from_secs(3);

/// Where the packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// An address that nobody has joined from.
    Wrong,
    /// A publisher's own address, with its SSRC.
    Right,
}

/// The other room's figures.
#[derive(Clone, Copy, Debug, Serialize)]
struct Victim {
    latency_ms: Percentiles,
    loss_percent: f64,
    packets_per_second: f64,
    server_cpu_percent: f64,
    /// Datagrams that the kernel dropped at the server's socket, each second.
    server_drops_per_second: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Flood {
    source: Source,
    /// What the kernel took.
    packets_per_second: f64,
    before: Victim,
    during: Victim,
    after: Victim,
}

pub(crate) fn measure(binary: &Path, source: Source, duration: Duration) -> Result<Flood> {
    let server = ZynkServer::start(binary, None)?;
    let mut generator = Generator::new(Box::new(Whip::zynk(server.url())))?;
    Topology::mesh(6).join(&mut generator, "measured", Load::CALL, GROUP_MEASURED)?;
    let flooded = Topology::Fan(2).join(&mut generator, "flooded", Load::CALL, GROUP_FLOODED)?;
    generator.run(SETTLE)?;
    let publisher = flooded.publishers.first().context("a publisher")?.key;
    let mut path = generator.path_of(publisher)?;
    let remote = path.server;
    if source == Source::Wrong {
        path.socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    }
    let pid = server.pid();
    let before = victim(&mut generator, pid, remote, duration)?;
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let stop = stop.clone();
        std::thread::spawn(move || flood(&path, &stop))
    };
    let begun = Instant::now();
    let during = victim(&mut generator, pid, remote, duration);
    stop.store(true, Ordering::Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let sent = thread.join().map_err(|_| anyhow!("the flood's thread panicked"))??;
    let during = during?;
    generator.run(SETTLE)?;
    let after = victim(&mut generator, pid, remote, duration)?;
    Ok(Flood { source, packets_per_second: sent as f64 / seconds, before, during, after })
}

fn victim(generator: &mut Generator, pid: u32, server: SocketAddr, duration: Duration) -> Result<Victim> {
    let ports = BTreeSet::from([server.port()]);
    let (cpu, drops, begun) = (CpuTimes::of(pid), machine::udp_drops(&ports), Instant::now());
    let window: Window =
        generator.measure(duration)?.into_iter().nth(GROUP_MEASURED).context("the measured room")?;
    let seconds = begun.elapsed().as_secs_f64();
    let received = window.received;
    let lost = received.lost.max(0) as f64;
    Ok(Victim {
        latency_ms: window.latencies.percentiles(),
        loss_percent: 100.0 * lost / (received.packets as f64 + lost).max(1.0),
        packets_per_second: received.packets as f64 / seconds,
        server_cpu_percent: 100.0 * CpuTimes::of(pid).since(&cpu).as_secs_f64() / seconds,
        server_drops_per_second: machine::udp_drops(&ports).saturating_sub(drops) as f64 / seconds,
    })
}

/// Sends until told to stop; returns how many packets the kernel took.
fn flood(path: &zynk_benches::generator::Path, stop: &AtomicBool) -> Result<u64> {
    let socket = &path.socket;
    let state = UdpSocketState::new(socket.into())?;
    let segments = SEGMENTS.min(state.max_gso_segments());
    let mut packets = vec![0x5a; segments * PACKET_BYTES];
    let (begun, mut sent, mut number) = (Instant::now(), 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = begun.elapsed().as_micros() as u64 * RATE / 1_000_000;
        if sent >= due {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        for packet in packets.chunks_exact_mut(PACKET_BYTES) {
            number = (number + 1) % AHEAD;
            let [s0, s1] = path.sequence.wrapping_add(AHEAD + number).to_be_bytes();
            let [c0, c1, c2, c3] = path.ssrc.to_be_bytes();
            if let Some(header) = packet.first_chunk_mut::<12>() {
                *header = [0x80, 96, s0, s1, 0, 0, 0, 0, c0, c1, c2, c3];
            }
        }
        let transmit = Transmit {
            destination: path.server,
            ecn: None,
            contents: &packets,
            segment_size: Some(PACKET_BYTES),
            src_ip: None,
        };
        if state.try_send(socket.into(), &transmit).is_ok() {
            sent += segments as u64;
        }
    }
    Ok(sent)
}

impl std::fmt::Display for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:.0} invalid packets/s of {PACKET_BYTES} octets from the {} source against one room; another room, mesh 6:",
            self.packets_per_second,
            if self.source == Source::Wrong { "wrong" } else { "right" }
        )?;
        write!(
            f,
            "{:<8} {:>7} {:>6} {:>25} {:>6} {:>13}",
            "", "pkt/s", "loss%", "p50/p95/p99/max ms", "cpu%", "server drops/s"
        )?;
        for (name, victim) in [("before", self.before), ("during", self.during), ("after", self.after)] {
            let Percentiles { p50, p95, p99, max } = victim.latency_ms;
            write!(
                f,
                "\n{name:<8} {:>7.0} {:>6.2} {:>25} {:>6.1} {:>13.0}",
                victim.packets_per_second,
                victim.loss_percent,
                format!("{p50:.2}/{p95:.2}/{p99:.2}/{max:.1}"),
                victim.server_cpu_percent,
                victim.server_drops_per_second
            )?;
        }
        Ok(())
    }
}
