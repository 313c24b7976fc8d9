//! Our TURN relay under load, beside coturn: CPU time for each relayed packet and how late it is, the time to make many
//! allocations, and their memory.
//!
//! `cargo build --release -p zynk -p zynk-benches && target/release/turn`. Arguments: `--help`. Every server on core 0, the
//! generator on core 1. No packet leaves the machine. Ends by itself.
#![allow(clippy::print_stdout, reason = "the table is the product")]

mod allocations;
mod load;
mod relay;
mod server;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use zynk_benches::{machine, median::median};

use allocations::Allocations;
use load::{Load, Pace, Shape, Window};
use server::{Program, TurnServer};

/// Of files that the server may have open: a socket for each allocation, and more.
const OPEN_FILES: u64 = 65_536;
/// The rate is sought from here on.
const FIRST_RATE: f64 = 20_000.0;
const RATE_MIN: f64 = 5_000.0;
const RATES_TRIED: usize = 6;
/// Share of the core that the first server is to be busy.
const BUSY_PERCENT: f64 = 65.0;
/// What may be lost in a window that counts.
const LOST_PERCENT_MAX: f64 = 0.5;
const HEADING: &str = "point         server       packets/s   lost %   CPU %   late ms p50, p99   µs/packet    (least, most)   ratio";

/// Measures TURN relays.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to send: fwd:BYTES:BURST from clients to peers, rev:BYTES:BURST from peers to clients
    #[arg(default_values = [
        "fwd:172:1", "fwd:1200:1", "rev:172:1", "rev:1200:1", "fwd:172:8", "fwd:1200:8", "rev:172:8", "rev:1200:8",
    ])]
    points: Vec<Shape>,
    /// A server beside coturn and Zynk: its name and its command. `{port}`, `{user}`, `{password}`, `{realm}`, `{folder}` and
    /// `{config}` are replaced
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    servers: Vec<String>,
    /// The configuration that `{config}` is made of; the same is replaced in it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave coturn out
    #[arg(long)]
    no_coturn: bool,
    /// Leave Zynk out
    #[arg(long)]
    no_zynk: bool,
    /// Clients, each with a peer of its own
    #[arg(long, default_value_t = 20)]
    clients: usize,
    /// Packets a second; unless set, what keeps the first server 65 % busy
    #[arg(long, value_name = "PACKETS")]
    rate: Option<f64>,
    /// Packets that are due at one time, at least a burst; 1 spreads them evenly, and each wakes the server
    #[arg(long, value_name = "PACKETS", default_value_t = 20)]
    together: usize,
    /// Windows of a row; the table has medians
    #[arg(long, default_value_t = 5)]
    windows: usize,
    /// Seconds of a window
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Allocations to make; 0 leaves that out
    #[arg(long, default_value_t = 10_000)]
    allocations: usize,
    /// Leave out the packets
    #[arg(long)]
    no_load: bool,
    /// Write JSON to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One server at one point.
#[derive(Debug, Serialize)]
struct Row {
    server: String,
    point: String,
    #[serde(flatten)]
    shape: Shape,
    /// What was to be sent.
    pace: Pace,
    windows: Vec<Window>,
    /// Median.
    us_per_packet: f64,
    /// Of the first server's median.
    ratio: f64,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    load_average: String,
    clients: usize,
    rows: Vec<Row>,
    allocations: Vec<Allocations>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    machine::pin(machine::GENERATOR_CORE)?;
    // Children inherit it. Beyond the hard limit only root may go.
    rlimit::setrlimit(rlimit::Resource::NOFILE, OPEN_FILES, OPEN_FILES)
        .or_else(|_| rlimit::increase_nofile_limit(OPEN_FILES).map(drop))
        .context("cannot raise the limit on open files")?;
    ensure!(arguments.clients > 1, "with one client all packets go to one peer");
    let programs = programs(&arguments)?;
    let mut report =
        Report { load_average: machine::load_average(), clients: arguments.clients, ..Report::default() };
    println!("load average {}", report.load_average);
    let outcome = measure(&arguments, &programs, &mut report);
    // What was measured before something failed is kept.
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    outcome
}

fn programs(arguments: &Arguments) -> Result<Vec<Program>> {
    let config = match &arguments.config {
        Some(file) => {
            Some(std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?)
        }
        None => None,
    };
    let coturn = (!arguments.no_coturn).then_some(Ok(Program::Coturn));
    let zynk = (!arguments.no_zynk).then(Program::zynk);
    let others = arguments.servers.iter().map(|server| Program::template(server, config.clone()));
    let programs: Vec<Program> = coturn.into_iter().chain(zynk).chain(others).collect::<Result<_>>()?;
    ensure!(!programs.is_empty(), "no server is left: name one with --server");
    programs.iter().try_for_each(Program::check)?;
    Ok(programs)
}

fn measure(arguments: &Arguments, programs: &[Program], report: &mut Report) -> Result<()> {
    if !arguments.no_load {
        let start = |program| Load::new(TurnServer::start(program)?, arguments.clients);
        let mut loads = programs.iter().map(start).collect::<Result<Vec<_>>>()?;
        println!("{HEADING}");
        for shape in &arguments.points {
            for row in point(arguments, &mut loads, *shape)? {
                println!("{row}");
                report.rows.push(row);
            }
        }
    }
    if arguments.allocations > 0 {
        for program in programs {
            let allocations = allocations::measure(program, arguments.allocations)?;
            println!("{allocations}");
            report.allocations.push(allocations);
        }
    }
    Ok(())
}

/// A row for each server. They take turns, so that what else happens on the machine happens to all.
fn point(arguments: &Arguments, loads: &mut [Load], shape: Shape) -> Result<Vec<Row>> {
    let duration = Duration::from_secs_f64(arguments.seconds);
    loads.iter_mut().try_for_each(Load::renew)?;
    let together = arguments.together;
    let pace = match (arguments.rate, loads.first_mut()) {
        (None, Some(first)) => suitable_pace(first, shape, together, duration),
        (rate, _) => Pace { packets_per_second: rate.unwrap_or(FIRST_RATE), together },
    };
    let mut windows: Vec<Vec<Window>> = loads.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.windows.max(1) {
        for (load, windows) in loads.iter_mut().zip(&mut windows) {
            windows.push(load.run(shape, pace, duration));
        }
    }
    let mut first = None;
    let rows = loads.iter().zip(windows).map(|(load, windows)| {
        let us_per_packet =
            median(&mut windows.iter().map(|window| window.us_per_packet).collect::<Vec<_>>());
        let first = *first.get_or_insert(us_per_packet);
        Row {
            server: load.name().to_owned(),
            point: shape.to_string(),
            shape,
            pace,
            windows,
            us_per_packet,
            ratio: us_per_packet / first,
        }
    });
    Ok(rows.collect())
}

/// Seeks the rate that keeps a server so busy that it never sleeps for long, and loses nothing.
fn suitable_pace(load: &mut Load, shape: Shape, together: usize, duration: Duration) -> Pace {
    let mut pace = Pace { packets_per_second: FIRST_RATE, together };
    for _ in 0..RATES_TRIED {
        let window = load.run(shape, pace, duration / 2);
        // What the generator could do just now, on a machine that has other work as well.
        let possible = if window.lost_percent() > LOST_PERCENT_MAX {
            window.packets_per_second * 0.7
        } else if window.packets_per_second < pace.packets_per_second * 0.9 {
            window.packets_per_second
        } else {
            f64::INFINITY
        };
        // A packet costs less the busier the server is, so this comes from below.
        pace.packets_per_second = (BUSY_PERCENT * 1e4 / window.us_per_packet).min(possible).max(RATE_MIN);
    }
    pace
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |value: fn(&Window) -> f64| self.windows.iter().map(value).collect::<Vec<_>>();
        let mut us = of(|window| window.us_per_packet);
        us.sort_by(f64::total_cmp);
        let lost = median(&mut of(Window::lost_percent));
        write!(
            f,
            "{:<13} {:<12} {:>9.0} {:>8.2}{} {:>6.0} {:>11.2}, {:>5.2} {:>11.2} {:>8.2}, {:>5.2} {:>8.2}",
            self.point,
            self.server,
            median(&mut of(|window| window.packets_per_second)),
            lost,
            if lost > LOST_PERCENT_MAX { "!" } else { " " },
            median(&mut of(|window| window.cpu_percent)),
            median(&mut of(|window| window.late_ms_p50)),
            median(&mut of(|window| window.late_ms_p99)),
            self.us_per_packet,
            us.first().copied().unwrap_or(f64::NAN),
            us.last().copied().unwrap_or(f64::NAN),
            self.ratio,
        )
    }
}
