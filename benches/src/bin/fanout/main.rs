//! What forwarding one packet to one receiver costs before the kernel sees it: the shard as it stands in the server,
//! the bare AES-GCM seal and str0m's RTP mode, in one run and in turns.
//!
//! `cargo run --release -p zynk-benches --bin fanout [-- --json | --quick | --instructions]`. A number is the median of
//! five rounds. `--instructions` counts them with valgrind's callgrind instead (Debian: `apt-get install valgrind`).
//! No sockets; ends by itself.
#![allow(clippy::print_stdout, reason = "the table is the product")]

mod client;
mod egress;
mod instructions;
mod plane;
mod rtp_mode;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;
use zynk_benches::{machine, median::median};
use zynk_sfu_core::media::srtp::Profile;

use egress::{Bare, ROUNDS, STRIDE};
use plane::Fan;
use rtp_mode::RtpMode;

/// Between packets: 230 a second, as a publisher of video and audio sends them.
const INTERVAL: Duration = Duration::from_micros(4348);
/// Steps before the first that counts: sequence maps fill, arenas grow, estimates settle.
const WARM_UP: usize = 700;
/// Packets a round, over all receivers.
const PACKETS: usize = 60_000;
/// Parts of a round; what is compared is measured between them.
const SLICES: usize = 10;
/// Steps of a part at most: all rounds together are 13 s of the clients' time, after which those that do not answer
/// are taken for gone.
const STEPS_MAX: usize = 60;

/// What is done about the receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Receivers {
    /// They do not answer: nothing but the shard is in the caches.
    Silent,
    /// str0m's clients, in the same process, that read everything and send feedback.
    Answering,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    receivers_are: Receivers,
    receivers: usize,
    payload_bytes: usize,
    sections: usize,
    /// Per packet and receiver: everything from the publisher's datagram to the last datagram out, timers included.
    ns: f64,
    /// Per packet and receiver: feedback and reports of the receivers.
    feedback_ns: f64,
    bare_seal_ns: Option<f64>,
    /// Of `ns` to the bare seal.
    ratio: Option<f64>,
    /// Per packet and receiver, publisher's and receivers' feedback included; none where nobody counted.
    allocations: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Of one, five and fifteen minutes, when the run began.
    load_average: String,
    shard: Vec<Row>,
    egress: Vec<egress::Row>,
    open: Vec<egress::OpenRow>,
    memory: plane::Memory,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if has("--instructions") {
        return instructions::print();
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--case") {
        return instructions::run(arguments.get(at + 1..).unwrap_or_default());
    }
    let load_average = machine::load_average();
    let quick = has("--quick");
    let mut shard = Vec::new();
    for (receivers, bytes) in [(1, 1100), (10, 1100), (100, 1100), (500, 1100), (100, 100)] {
        if !quick || (receivers, bytes) == (100, 1100) {
            shard.push(silent(receivers, 2, bytes)?);
        }
    }
    for sections in [10, 50] {
        shard.push(silent(100, sections, 1100)?);
    }
    for sections in if quick { vec![2] } else { vec![2, 10, 50] } {
        shard.extend(answering(100, sections, 1100)?);
    }
    let (egress, open) = if quick { Default::default() } else { (egress::rows()?, egress::open_rows()?) };
    let memory = plane::memory(100, &payload(1100))?;
    let report = Report { load_average, shard, egress, open, memory };
    if has("--json") {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    print(&report);
    Ok(())
}

fn print(report: &Report) {
    println!("load average {}", report.load_average);
    println!(
        "{:<14} {:<10} {:>9} {:>6} {:>8} {:>7} {:>9} {:>10} {:>6} {:>12}",
        "what",
        "clients",
        "receivers",
        "bytes",
        "sections",
        "ns",
        "feedback",
        "bare seal",
        "ratio",
        "allocations"
    );
    let or_dash = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for row in &report.shard {
        println!(
            "{:<14} {:<10} {:>9} {:>6} {:>8} {:>7.0} {:>9.0} {:>10} {:>6} {:>12}",
            row.what,
            format!("{:?}", row.receivers_are).to_lowercase(),
            row.receivers,
            row.payload_bytes,
            row.sections,
            row.ns,
            row.feedback_ns,
            or_dash(row.bare_seal_ns, 0),
            or_dash(row.ratio, 2),
            or_dash(row.allocations, 4)
        );
    }
    let plane::Memory { connection, subscription } = report.memory;
    println!(
        "\non the heap: {connection} bytes an idle connection, {subscription} more with video subscribed"
    );
    if !report.egress.is_empty() {
        println!("\nthe way out alone (header, payload, seal), and the way in");
        egress::print(&report.egress, &report.open);
    }
}

fn payload(bytes: usize) -> Arc<[u8]> {
    let mut payload = vec![0x42; bytes];
    // VP8: a keyframe's first packet, so that receivers start with any packet.
    for (octet, value) in payload.iter_mut().zip([0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a]) {
        *octet = value;
    }
    payload.into()
}

/// Our shard and the bare seal in turns.
fn silent(receivers: usize, sections: usize, bytes: usize) -> Result<Row> {
    let mut fan = Fan::new(receivers, sections, payload(bytes))?;
    for _ in 0..WARM_UP {
        fan.forward()?;
        fan.answer()?;
    }
    fan.set_copies(false);
    let steps = (PACKETS / receivers / SLICES).clamp(1, STEPS_MAX);
    let mut bare =
        (0..receivers).map(|number| Bare::new(Profile::AeadAes256Gcm, number)).collect::<Result<Vec<_>>>()?;
    let mut arena = vec![0; receivers * STRIDE];
    let (mut ours, mut seals, mut allocations) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (mut samples, mut seal_samples) = (Vec::new(), Vec::new());
        for _ in 0..SLICES {
            for _ in 0..steps {
                let (elapsed, counted) = fan.forward()?;
                samples.push(elapsed.as_nanos() as f64 / receivers as f64);
                allocations += counted;
            }
            for _ in 0..steps {
                let begin = Instant::now();
                for (key, buffer) in bare.iter_mut().zip(arena.chunks_exact_mut(STRIDE)) {
                    key.seal(buffer, bytes)?;
                }
                seal_samples.push(begin.elapsed().as_nanos() as f64 / receivers as f64);
            }
        }
        // Timers that are due once in many packets belong to the cost: means, of which the middle round counts.
        ours.push(trimmed_mean(&mut samples));
        seals.push(trimmed_mean(&mut seal_samples));
    }
    let (ns, bare_seal) = (median(&mut ours), median(&mut seals));
    Ok(Row {
        what: "zynk",
        receivers_are: Receivers::Silent,
        receivers,
        payload_bytes: bytes,
        sections,
        ns,
        feedback_ns: 0.0,
        bare_seal_ns: Some(bare_seal),
        ratio: Some(ns / bare_seal),
        allocations: Some(allocations as f64 / (ROUNDS * SLICES * steps * receivers) as f64),
    })
}

/// The mean without the slowest hundredth: interruptions by other processes.
fn trimmed_mean(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let kept = samples.len() - samples.len() / 100;
    samples.iter().take(kept).sum::<f64>() / kept.max(1) as f64
}

/// Our shard and str0m's RTP mode in turns, with clients that answer.
fn answering(receivers: usize, sections: usize, bytes: usize) -> Result<[Row; 2]> {
    let mut fan = Fan::new(receivers, sections, payload(bytes))?;
    let mut mode = RtpMode::new(receivers, sections, payload(bytes))?;
    for _ in 0..WARM_UP {
        fan.forward()?;
        fan.answer()?;
        mode.step(INTERVAL)?;
    }
    let steps = (PACKETS / receivers / SLICES / 4).max(1);
    let (received, mode_received) = (fan.received(), mode.received());
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut allocations = 0;
    for _ in 0..ROUNDS {
        let mut samples: [Vec<f64>; 4] = Default::default();
        for _ in 0..SLICES {
            for _ in 0..steps {
                let (sending, counted) = fan.forward()?;
                let (feedback, counted_feedback) = fan.answer()?;
                allocations += counted + counted_feedback;
                let (mode_sending, mode_feedback) = mode.step(INTERVAL)?;
                let times = [sending, feedback, mode_sending, mode_feedback];
                for (samples, time) in samples.iter_mut().zip(times) {
                    samples.push(time.as_nanos() as f64 / receivers as f64);
                }
            }
        }
        let [sending, feedback, mode_sending, mode_feedback] = samples.each_mut().map(|s| trimmed_mean(s));
        ours.push((sending, feedback));
        theirs.push((mode_sending, mode_feedback));
    }
    let packets = (ROUNDS * SLICES * steps * receivers) as u64;
    ensure!(fan.received() - received >= packets * 99 / 100, "our clients miss packets");
    ensure!(mode.received() - mode_received >= packets * 99 / 100, "str0m's clients miss packets");
    let row = |what, times: &[(f64, f64)], allocations: Option<u64>| Row {
        what,
        receivers_are: Receivers::Answering,
        receivers,
        payload_bytes: bytes,
        sections,
        ns: median(&mut times.iter().map(|(sending, _)| *sending).collect::<Vec<_>>()),
        feedback_ns: median(&mut times.iter().map(|(_, feedback)| *feedback).collect::<Vec<_>>()),
        bare_seal_ns: None,
        ratio: None,
        allocations: allocations.map(|count| count as f64 / packets as f64),
    };
    Ok([row("zynk", &ours, Some(allocations)), row("str0m RTP mode", &theirs, None)])
}
