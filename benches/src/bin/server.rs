//! What the real server costs: its process on core 0, a load generator on core 1, and the floor of the same run
//! beside it (`zynk_benches::floor`).
//!
//! `cargo build --release -p zynk -p zynk-benches && target/release/server`. Arguments: `--help`. Loopback only;
//! ends by itself.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::{path::PathBuf, time::Duration};

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
    /// What to measure: fan:N, mesh:N, rooms:RxN
    #[arg(default_values_t = defaults())]
    points: Vec<Topology>,
    /// The server's binary; `zynk` beside this program unless set
    #[arg(long, value_name = "FILE")]
    zynk: Option<PathBuf>,
    /// Windows of a point; the table has medians
    #[arg(long, default_value_t = 3)]
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
    rows: Vec<Row>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    machine::pin(machine::GENERATOR_CORE)?;
    let binary = match &arguments.zynk {
        Some(binary) => binary.clone(),
        None => ZynkServer::binary()?,
    };
    let load = Load { video: !arguments.audio_only, ..Load::CALL };
    let mut report = Report::default();
    println!("load average {}", machine::load_average());
    println!("{HEADING}");
    for topology in &arguments.points {
        let row = measure(&arguments, &binary, *topology, load).with_context(|| topology.to_string())?;
        println!("{row}");
        if row.generator_drops > 0 || row.failures > 0 || row.opened[1] > 0 {
            let [opened, refused] = row.opened;
            println!(
                "  the generator dropped {}, {} connections failed, {refused} of {opened} packets not authentic",
                row.generator_drops, row.failures
            );
        }
        report.rows.push(row);
    }
    if let Some(row) = report.rows.first() {
        println!("SRTP {}", row.profile);
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, binary: &std::path::Path, topology: Topology, load: Load) -> Result<Row> {
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
        let duration = Duration::from_secs_f64(arguments.seconds);
        let pid = Some(server.pid());
        point::measure("zynk", pid, &mut generator, topology, load, arguments.windows, duration)
            .with_context(|| format!("the server's log ends with:\n{}", server.log()))?
    };
    if let (Some(before), Some(after)) = (before, floor()?) {
        row.floor_us_per_packet = Some([before, after]);
        row.floor_ratio = Some(row.median.us_per_packet / ((before + after) / 2.0));
    }
    Ok(row)
}
