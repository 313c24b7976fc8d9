//! The command line, and what it makes of the configuration file.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::Deserialize;
use zynk_netlab::{
    LinkConfig,
    proxy::{Forward, ProxyConfig},
};

/// A UDP proxy that behaves like a bad network.
///
/// LINK is what stands in a section of the configuration file, separated by commas:
/// 'delay_ms = 40, jitter_ms = 5, loss = 0.02, rate_kbps = 1000, queue_ms = 200'. docs/how-to/netlab.md explains all
/// keys.
#[derive(Debug, Parser)]
#[command(name = "netlab", version)]
pub(crate) struct Cli {
    /// Where to listen, and where to send what comes; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT=ADDRESS:PORT")]
    forward: Vec<Forward>,
    /// The link in both directions
    #[arg(long, value_name = "LINK")]
    both: Option<String>,
    /// The link from clients to the target; its keys win over those of --both
    #[arg(long, value_name = "LINK")]
    upstream: Option<String>,
    /// The link from the target to clients; its keys win over those of --both
    #[arg(long, value_name = "LINK")]
    downstream: Option<String>,
    /// Let all clients share one link in each direction, instead of each having its own
    #[arg(long)]
    shared: bool,
    /// Decides everything that is random [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Most clients at a time [default: 256]
    #[arg(long, value_name = "COUNT")]
    clients_max: Option<usize>,
    /// A configuration file (TOML); flags win over it, key by key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End after so long, such as `30s` or `5m`; otherwise at SIGINT or SIGTERM
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Print figures as one line of JSON rather than as a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl Cli {
    /// Reads the file and lays the flags over it.
    pub(crate) fn proxy_config(&self) -> Result<ProxyConfig> {
        let mut table = match &self.config {
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
                // Read as it is first: errors then name the line.
                toml::from_str::<ProxyConfig>(&text).with_context(|| name.clone())?;
                text.parse().with_context(|| name.clone())?
            }
            None => toml::Table::new(),
        };
        for (flag, text, sections) in [
            ("--both", &self.both, &["upstream", "downstream"][..]),
            ("--upstream", &self.upstream, &["upstream"]),
            ("--downstream", &self.downstream, &["downstream"]),
        ] {
            let Some(text) = text else { continue };
            let keys = parse_link(text).context(flag)?;
            for section in sections {
                let section = table.entry(*section).or_insert_with(|| toml::Table::new().into());
                // Anything else was an error when the file was read.
                if let Some(section) = section.as_table_mut() {
                    section.extend(keys.clone());
                }
            }
        }
        let mut config: ProxyConfig = table.try_into()?;
        if !self.forward.is_empty() {
            config.forward.clone_from(&self.forward);
        }
        config.shared |= self.shared;
        config.seed = self.seed.unwrap_or(config.seed);
        config.clients_max = self.clients_max.unwrap_or(config.clients_max);
        config.check()?;
        Ok(config)
    }
}

/// The keys of a link, checked.
fn parse_link(text: &str) -> Result<toml::Table> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Checked {
        #[serde(rename = "LINK")]
        _link: LinkConfig,
    }

    let text = format!("LINK = {{ {text} }}");
    toml::from_str::<Checked>(&text)?;
    let table: toml::Table = text.parse()?;
    Ok(table.into_iter().find_map(|(_, value)| value.try_into().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zynk_netlab::{Bitrate, Loss};

    use super::*;

    fn config(arguments: &[&str]) -> Result<ProxyConfig> {
        Cli::try_parse_from(["netlab"].iter().chain(arguments))?.proxy_config()
    }

    const FORWARD: &str = "--forward=127.0.0.1:1=127.0.0.1:2";

    #[test]
    fn flags_win_over_the_file_key_by_key() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = "forward = ['127.0.0.1:3=127.0.0.1:4']\nseed = 1\nclients_max = 5\n\
                    [upstream]\ndelay_ms = 1\nloss = 0.5\n[downstream]\nsteps = [{ at_ms = 1, outage_ms = 1 }]\n";
        file.write_all(text.as_bytes()).unwrap();
        let path = format!("--config={}", file.path().display());
        let from_file = config(&[&path]).unwrap();
        assert_eq!((from_file.seed, from_file.forward.len()), (1, 1));

        let both = "--both=delay_ms = 20, rate_kbps = 500";
        let flags =
            [&path, FORWARD, "--seed=2", both, "--downstream=rate_kbps = 900, loss = '1%'", "--shared"];
        let merged = config(&flags).unwrap();
        assert_eq!(merged.forward, [FORWARD.split_once('=').unwrap().1.parse().unwrap()]);
        assert_eq!((merged.seed, merged.clients_max, merged.shared), (2, 5, true));
        assert_eq!(merged.upstream.delay, Duration::from_millis(20));
        assert_eq!((merged.upstream.loss, merged.downstream.loss), (Loss::uniform(0.5), Loss::uniform(0.01)));
        let rates = [merged.upstream.rate, merged.downstream.rate];
        assert_eq!(rates, [Bitrate::from_kbps(500), Bitrate::from_kbps(900)]);
        assert_eq!(merged.downstream.steps.len(), 1);
    }

    #[test]
    fn errors_name_the_flag_and_the_key() {
        for (arguments, expected) in [
            (&[][..], "name where to listen"),
            (&[FORWARD, "--both=delay = 1"], "unknown field `delay`"),
            (&[FORWARD, "--downstream=loss = 2"], "--downstream"),
            (&[FORWARD, "--upstream=loss"], "--upstream"),
            (&[FORWARD, "--upstream=delay_ms = 1 }\nseed = { "], "--upstream"),
            (&["--forward=7882"], "is not like"),
            (&[FORWARD, "--config=missing.toml"], "missing.toml"),
        ] {
            let error = format!("{:#}", config(arguments).unwrap_err());
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
