//! What the real server costs: its process on core 0, a load generator on core 1, and the floor of the same run
//! beside it (`zynk_benches::floor`).
//!
//! `cargo build --release -p zynk -p zynk-benches && target/release/server`. Arguments: `--help`. Loopback only;
//! ends by itself.
#![allow(clippy::print_stdout, reason = "the table is the product")]

mod flood;
mod memory;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;
use zynk_benches::{
    floor,
    generator::{Generator, Load, signaling::Whip},
    machine,
    point::{self, HEADING, Row, Topology},
    server::ZynkServer,
};
use zynk_sfu_core::media::srtp::Profile;

/// Measures the server with a load of real connections.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure: fan:N, mesh:N, rooms:RxN; a choice of them unless set
    points: Vec<Topology>,
    /// The server's binary; `zynk` beside this program unless set
    #[arg(long, value_name = "FILE")]
    zynk: Option<PathBuf>,
    /// Windows of a point; the table has medians
    #[arg(long, default_value_t = 5)]
    windows: usize,
    /// Seconds of a window
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the floor, before and after each point; 0 leaves it out
    #[arg(long, default_value_t = 3.0)]
    floor_seconds: f64,
    /// Milliseconds that the server holds datagrams back, always; as it decides itself unless set
    #[arg(long, value_name = "MS")]
    hold_back: Option<u64>,
    /// Publish audio only
    #[arg(long)]
    audio_only: bool,
    /// Publish a frame's packets one by one over 13 ms instead of in a burst
    #[arg(long)]
    spread: bool,
    /// Measure each point a second time with everything through the server's own relay
    #[arg(long)]
    relayed: bool,
    /// Memory with so many idle participants, and of their subscriptions, instead of points
    #[arg(long, value_name = "PARTICIPANTS", num_args = 0..=1, default_missing_value = "500")]
    memory: Option<usize>,
    /// Invalid packets from a wrong source or a right one against one room, instead of points
    #[arg(long, value_enum)]
    flood: Option<flood::Source>,
    /// Write JSON to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn defaults() -> Vec<Topology> {
    let fans = [10, 50, 100, 200, 500].into_iter().map(Topology::Fan);
    fans.chain([6, 10].into_iter().map(Topology::mesh)).chain([Topology::Rooms(5, 6)]).collect()
}

#[derive(Debug, Default, Serialize)]
struct Report {
    load_average: String,
    rows: Vec<Row>,
    memory: Option<memory::Memory>,
    flood: Option<flood::Flood>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    machine::pin(machine::GENERATOR_CORE)?;
    let binary = match &arguments.zynk {
        Some(binary) => binary.clone(),
        None => ZynkServer::binary()?,
    };
    let mut report = Report { load_average: machine::load_average(), ..Report::default() };
    println!("load average {}", report.load_average);
    if let Some(participants) = arguments.memory {
        let memory = memory::measure(&binary, participants)?;
        println!("{memory}");
        report.memory = Some(memory);
    }
    if let Some(source) = arguments.flood {
        let flood = flood::measure(&binary, source, Duration::from_secs_f64(arguments.seconds))?;
        println!("{flood}");
        report.flood = Some(flood);
    }
    let points = match arguments.points.as_slice() {
        [] if arguments.memory.is_none() && arguments.flood.is_none() => &defaults()[..],
        points => points,
    };
    let outcome = measure_points(&arguments, &binary, points, &mut report.rows);
    // What was measured before something failed is kept.
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    outcome
}

fn measure_points(
    arguments: &Arguments,
    binary: &Path,
    points: &[Topology],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let load = Load { video: !arguments.audio_only, spread: arguments.spread, ..Load::CALL };
    if !points.is_empty() {
        println!("{HEADING}");
    }
    for topology in points {
        let row = measure(arguments, binary, *topology, load, false).with_context(|| topology.to_string())?;
        println!("{row}");
        let direct = row.median.us_per_packet;
        rows.push(row);
        if arguments.relayed {
            let row = measure(arguments, binary, *topology, load, true)
                .with_context(|| format!("{topology}, relayed"))?;
            println!("{row}\n  relayed by direct: {:.2}", row.median.us_per_packet / direct);
            rows.push(row);
        }
    }
    if let Some(row) = rows.first() {
        println!("SRTP {}", row.profile);
    }
    Ok(())
}

fn measure(
    arguments: &Arguments,
    binary: &Path,
    topology: Topology,
    load: Load,
    relayed: bool,
) -> Result<Row> {
    let floor = || -> Result<Option<f64>> {
        if arguments.floor_seconds <= 0.0 {
            return Ok(None);
        }
        let duration = Duration::from_secs_f64(arguments.floor_seconds);
        let floor = floor::measure(&topology.receivers(), load, Profile::AeadAes256Gcm, duration)?;
        Ok(Some(floor.us_per_packet))
    };
    let before = floor()?;
    let mut row = {
        let server = ZynkServer::start(binary, arguments.hold_back.map(|ms| (ms, ms)))?;
        let mut generator = Generator::new(Box::new(Whip::zynk(server.url())))?;
        if relayed {
            generator.relay_by(server.relay().context("the server has no relay")?.clone());
        }
        let duration = Duration::from_secs_f64(arguments.seconds);
        let name = if relayed { "zynk, relayed" } else { "zynk" };
        let pid = Some(server.pid());
        point::measure(name, pid, &mut generator, topology, load, arguments.windows, duration)
            .with_context(|| format!("the server's log ends with:\n{}", server.log()))?
    };
    if let (Some(before), Some(after)) = (before, floor()?) {
        row.floor_us_per_packet = Some([before, after]);
        row.floor_ratio = Some(row.median.us_per_packet / ((before + after) / 2.0));
    }
    Ok(row)
}
