//! The same load on our server, on Janus, and on any server that speaks WHIP and WHEP: one table.
//!
//! `cargo build --release -p zynk -p zynk-benches && target/release/peers`. Arguments: `--help`. A fresh process
//! for each row, on core 0; the generator on core 1. No packet leaves the machine. Ends by itself.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use zynk_benches::{
    floor,
    generator::{
        Generator, Load,
        signaling::{Tokens, Whip},
    },
    janus::JanusServer,
    machine,
    point::{self, HEADING, Row, Topology},
    server::ZynkServer,
};
use zynk_sfu_core::media::srtp::Profile;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// Our server
    Zynk,
    /// Janus with its defaults: a thread for each connection
    Janus,
    /// Janus with one event loop for all connections
    JanusEl1,
    /// The server of --whip and --whep
    Url,
}

/// Compares servers under the same load.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure: fan:N, mesh:N, rooms:RxN
    #[arg(default_values = ["fan:10", "fan:100", "fan:200", "mesh:6", "mesh:10"])]
    points: Vec<Topology>,
    /// Which servers
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["zynk", "janus", "janus-el1"])]
    servers: Vec<Peer>,
    /// Our binary; `zynk` beside this program unless set
    #[arg(long, value_name = "FILE")]
    zynk: Option<PathBuf>,
    /// Where to publish at a further server, http only; `{room}` and `{name}` are replaced
    #[arg(long, value_name = "URL", requires = "whep")]
    whip: Option<String>,
    /// Where to play there
    #[arg(long, value_name = "URL", requires = "whip")]
    whep: Option<String>,
    /// The bearer token for it
    #[arg(long)]
    token: Option<String>,
    /// Its process, for its CPU time and memory; start it on core 0 (`taskset -c 0`)
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Publish a frame's packets one by one over 13 ms instead of in a burst
    #[arg(long)]
    spread: bool,
    /// Windows of a row; the table has medians
    #[arg(long, default_value_t = 5)]
    windows: usize,
    /// Seconds of a window
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the floor, before and after each point; 0 leaves it out
    #[arg(long, default_value_t = 3.0)]
    floor_seconds: f64,
    /// Write JSON to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Arguments {
    fn load(&self) -> Load {
        Load { spread: self.spread, ..Load::CALL }
    }
}

#[derive(Debug, Default, Serialize)]
struct Report {
    load_average: String,
    rows: Vec<Row>,
    /// Rows that are missing, and why.
    failed: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    machine::pin(machine::GENERATOR_CORE)?;
    // Children inherit it.
    rlimit::increase_nofile_limit(65_536).context("cannot raise the limit on open files")?;
    let mut servers = arguments.servers.clone();
    if arguments.whip.is_some() && !servers.contains(&Peer::Url) {
        servers.push(Peer::Url);
    }
    if servers.iter().any(|peer| matches!(peer, Peer::Janus | Peer::JanusEl1)) {
        JanusServer::check().context("leave Janus out with --servers zynk")?;
    }
    let mut report = Report { load_average: machine::load_average(), ..Report::default() };
    println!("load average {}", report.load_average);
    println!("{HEADING}");
    for topology in &arguments.points {
        point(&arguments, &servers, *topology, &mut report)?;
    }
    for row in &report.rows {
        println!("SRTP of {}, {}: {}", row.server, row.point, row.profile);
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// One row for each server, between two measurements of the floor.
fn point(arguments: &Arguments, servers: &[Peer], topology: Topology, report: &mut Report) -> Result<()> {
    let floor = || -> Result<Option<f64>> {
        if arguments.floor_seconds <= 0.0 {
            return Ok(None);
        }
        let duration = Duration::from_secs_f64(arguments.floor_seconds);
        let floor =
            floor::measure(&topology.receivers(), arguments.load(), Profile::AeadAes256Gcm, duration)?;
        Ok(Some(floor.us_per_packet))
    };
    let mut before = floor()?;
    for peer in servers {
        // One server that fails does not take the others' rows along.
        let mut row = match row(arguments, *peer, topology) {
            Ok(row) => row,
            Err(error) => {
                println!("{peer:?}, {topology}: {error:#}");
                report.failed.push(format!("{peer:?}, {topology}: {error:#}"));
                continue;
            }
        };
        let after = floor()?;
        if let (Some(before), Some(after)) = (before, after) {
            row.floor_us_per_packet = Some([before, after]);
            row.floor_ratio = Some(row.median.us_per_packet / ((before + after) / 2.0));
        }
        before = after;
        println!("{row}");
        report.rows.push(row);
    }
    Ok(())
}

fn row(arguments: &Arguments, peer: Peer, topology: Topology) -> Result<Row> {
    let measure = |name: &str, pid: Option<u32>, generator: &mut Generator| {
        let duration = Duration::from_secs_f64(arguments.seconds);
        point::measure(name, pid, generator, topology, arguments.load(), arguments.windows, duration)
    };
    match peer {
        Peer::Zynk => {
            let binary = arguments.zynk.clone().map_or_else(ZynkServer::binary, Ok)?;
            let server = ZynkServer::start(&binary, None)?;
            let mut generator = Generator::new(Box::new(Whip::zynk(server.url())))?;
            measure("zynk", Some(server.pid()), &mut generator)
                .with_context(|| format!("the server's log ends with:\n{}", server.log()))
        }
        Peer::Janus | Peer::JanusEl1 => {
            let (name, event_loops) = match peer {
                Peer::Janus => ("janus", None),
                _ => ("janus-el1", Some(1)),
            };
            let server = JanusServer::start(event_loops)?;
            let mut generator = Generator::new(Box::new(server.signaling()?))?;
            generator.bind_to(server.address());
            measure(name, Some(server.pid()), &mut generator)
                .with_context(|| format!("Janus' log ends with:\n{}", server.log()))
        }
        Peer::Url => {
            let (whip, whep) =
                arguments.whip.as_ref().zip(arguments.whep.as_ref()).context("--whip, --whep")?;
            let tokens = Tokens::Fixed(arguments.token.clone());
            let mut generator = Generator::new(Box::new(Whip::new(whip, whep, tokens)))?;
            let row = measure("url", arguments.pid, &mut generator);
            generator.leave()?;
            row
        }
    }
}
