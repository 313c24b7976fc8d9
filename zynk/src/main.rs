//! The `zynk` binary: `zynk dev` to try it out, `zynk run` to serve, and the commands that go with them.

mod certificates;
mod cli;
mod config;
mod doctor;
mod keys;
mod reload;
mod roles;
mod room;
mod server;
mod server_api;
mod table;
mod token;
mod turn;
mod web;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::cli::{Cli, Command, ConfigCommand, KeysCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match execute(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "zynk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Dev(arguments) => {
            let print_ports = arguments.server.print_ports;
            server::run(config::Source::Dev(arguments.server), print_ports).await?;
        }
        Command::Run(arguments) => {
            let print_ports = arguments.server.print_ports;
            server::run(config::Source::Run(arguments), print_ports).await?;
        }
        Command::Token(cli::TokenCommand::Create(arguments)) => print(&(token::create(&arguments)? + "\n"))?,
        Command::Turn(command) => print(&turn::execute(&command).await?)?,
        Command::Room(command) => print(&room::execute(&command).await?)?,
        Command::Doctor(arguments) => {
            let (text, is_well) = doctor::execute(&arguments).await?;
            print(&text)?;
            return Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Config(ConfigCommand::Check { config }) => {
            config::check(config.as_deref())?;
            print("the configuration is good\n")?;
        }
        Command::Config(ConfigCommand::Example { keys }) => print(&config::example(keys)?)?,
        Command::Keys(KeysCommand::Generate) => print(&(keys::generate() + "\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output, where other programs read.
fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot write to standard output")
}
