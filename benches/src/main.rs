//! What this machine's kernel charges for a UDP datagram sent through `zynk-net`, by how many datagrams to one
//! receiver leave together: the floor under everything that the SFU forwards.
//!
//! `cargo run --release -p zynk-benches [--json]` prints a table, medians of five rounds in one run, so that
//! the rows compare even where the machine is noisy. Sends to 127.0.0.1 only, and ends by itself.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use zynk_net::{RecvBatch, SendBatch, SocketOptions, UdpSocket};

/// Receivers, as in a room of medium size.
const RECEIVERS: usize = 100;
/// Datagrams a round.
const DATAGRAMS: usize = 100_000;
const ROUNDS: usize = 5;
const PAYLOAD_BYTES: usize = 1100;

#[derive(Debug, Serialize)]
struct Row {
    /// Datagrams to one receiver that leave together.
    group: usize,
    /// Median wall time per datagram.
    ns_per_datagram: f64,
    /// Compared with single sends.
    ratio: f64,
    /// Datagrams that the kernel did not take, of one round.
    dropped: u64,
}

fn main() -> Result<()> {
    let json = std::env::args().any(|argument| argument == "--json");
    let groups = [1, 4, 16, 64];
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); groups.len()];
    let mut dropped = vec![0; groups.len()];
    let receivers = (0..RECEIVERS).map(|_| bind()).collect::<Result<Vec<_>>>()?;
    for _ in 0..ROUNDS {
        for ((group, times), dropped) in groups.iter().zip(&mut times).zip(&mut dropped) {
            let (elapsed, lost) = round(&receivers, *group)?;
            times.push(elapsed.as_nanos() as f64 / DATAGRAMS as f64);
            *dropped = lost;
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let single = medians.first().copied().context("no rows")?;
    let rows: Vec<Row> = groups
        .iter()
        .zip(&medians)
        .zip(dropped)
        .map(|((group, median), dropped)| Row {
            group: *group,
            ns_per_datagram: *median,
            ratio: median / single,
            dropped,
        })
        .collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!(
        "{RECEIVERS} receivers, {PAYLOAD_BYTES} B, {DATAGRAMS} datagrams a round, median of {ROUNDS} rounds"
    );
    println!("{:>6} {:>16} {:>7} {:>9}", "group", "ns per datagram", "ratio", "dropped");
    for row in rows {
        println!("{:>6} {:>16.0} {:>7.2} {:>9}", row.group, row.ns_per_datagram, row.ratio, row.dropped);
    }
    Ok(())
}

fn bind() -> Result<UdpSocket> {
    UdpSocket::bind("127.0.0.1:0".parse()?, SocketOptions::default()).context("binding a socket on loopback")
}

/// Sends `DATAGRAMS` to the receivers in turn, `group` at a time, and empties the receivers outside the clock.
fn round(receivers: &[UdpSocket], group: usize) -> Result<(Duration, u64)> {
    let mut sender = bind()?;
    let mut batch = SendBatch::new();
    let mut arrived = RecvBatch::new();
    let payload = [0x5a; PAYLOAD_BYTES];
    let mut elapsed = Duration::ZERO;
    let turns = DATAGRAMS / (RECEIVERS * group);
    for _ in 0..turns {
        let begin = Instant::now();
        for receiver in receivers {
            for _ in 0..group {
                batch.push(receiver.local_addr(), None, &payload);
            }
        }
        batch.flush(&mut sender, Instant::now());
        elapsed += begin.elapsed();
        for receiver in receivers {
            while arrived.recv(receiver).is_ok() {}
        }
    }
    let sent = turns * RECEIVERS * group;
    let scaled = elapsed.mul_f64(DATAGRAMS as f64 / sent as f64);
    Ok((scaled, batch.stats().dropped()))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
