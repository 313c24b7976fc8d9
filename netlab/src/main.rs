//! `netlab`: a UDP proxy that behaves like a bad network. It prints where it listens to standard error, and what
//! happened to standard output when it ends.

mod cli;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use zynk_netlab::proxy::{Controller, Proxy};

use cli::Cli;

fn main() -> ExitCode {
    match execute(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "netlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> Result<()> {
    let config = cli.proxy_config()?;
    let (forward, seed) = (config.forward.clone(), config.seed);
    let proxy = Proxy::bind(config)?;
    end_in_time(proxy.controller(), cli.duration)?;
    for (address, forward) in proxy.local_addrs().into_iter().zip(forward) {
        // Nobody reading is fine.
        let _ = writeln!(io::stderr(), "{address} -> {}, seed {seed}", forward.target);
    }
    let stats = proxy.run()?;
    let text = if cli.json { stats.to_json(seed)? + "\n" } else { stats.to_string() };
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot write to standard output")
}

/// Stops the proxy at a signal, or after some time.
fn end_in_time(controller: Controller, duration: Option<Duration>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    #[allow(clippy::disallowed_methods, reason = "this is the shell")]
    thread::spawn(move || {
        runtime.block_on(async {
            let time = async {
                match duration {
                    Some(duration) => tokio::time::sleep(duration).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = time => {}
            }
        });
        // If it has ended already, all the better.
        let _ = controller.stop();
    });
    Ok(())
}
