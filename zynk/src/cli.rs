//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;

use crate::config::Role;

/// Voice and video calls through one binary.
#[derive(Debug, Parser)]
#[command(name = "zynk", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try it out: everything in one process, with the well-known key `devkey` and secret `secret`
    Dev(DevArguments),
    /// Serve, with a configuration file
    Run(RunArguments),
    /// Make access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Let people use TURN relays, and see who does
    #[command(subcommand)]
    Turn(TurnCommand),
    /// List, watch and end the rooms of a running server
    #[command(subcommand)]
    Room(RoomCommand),
    /// Tell what works between this machine and a server, its relays included, and why the rest does not
    Doctor(DoctorArguments),
    /// Make API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Check a configuration file, or write one
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "ZYNK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// What this process does; everything unless set
    #[arg(long, value_name = "ROLE,…", value_delimiter = ',', value_enum)]
    pub(crate) roles: Vec<Role>,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

/// Flags that win over the configuration.
#[derive(Debug, Default, Args)]
pub(crate) struct ServerFlags {
    /// Address for HTTP and WebSocket
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Option<IpAddr>,
    /// Port for HTTP and WebSocket; 0 takes free ones for everything that has no port of its own set
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Port for media over TCP; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    pub(crate) ice_tcp_port: Option<u16>,
    /// First port for media over UDP; 0 takes free ones
    #[arg(long, value_name = "PORT")]
    pub(crate) udp_port: Option<u16>,
    /// Port of the relay; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    pub(crate) turn_port: Option<u16>,
    /// Media worker threads
    #[arg(long, value_name = "COUNT")]
    pub(crate) workers: Option<usize>,
    /// Addresses at which clients reach the media ports
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    pub(crate) announce: Vec<IpAddr>,
    /// Least level that is logged, as `info` or `info,zynk_signaling=debug`
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// `json` or `text`
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Print one line of JSON with the ports to standard output once the server is ready
    #[arg(long)]
    pub(crate) print_ports: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a token for one participant of one room
    Create(TokenArguments),
}

#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// The room
    #[arg(long)]
    pub(crate) room: String,
    /// Who the participant is; unique in the room
    #[arg(long)]
    pub(crate) identity: String,
    /// The participant's name, for others to read
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Metadata of the participant
    #[arg(long, default_value = "")]
    pub(crate) metadata: String,
    /// May moderate the room, and create, list and delete rooms
    #[arg(long)]
    pub(crate) admin: bool,
    /// A further grant, such as `canPublish=false` or `canPublishSources=camera,microphone`
    #[arg(long = "grant", value_name = "KEY[=VALUE]")]
    pub(crate) grants: Vec<String>,
    /// How long the token is valid, such as `30m` or `6h`
    #[arg(long, default_value = "6h", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
}

/// Where the API key comes from: these two, or the first key of the configuration, or that of `zynk dev`.
#[derive(Debug, Args)]
pub(crate) struct KeyFlags {
    /// The API key
    #[arg(long, value_name = "KEY", env = "ZYNK_API_KEY", requires = "api_secret")]
    pub(crate) api_key: Option<String>,
    /// The API key's secret; better set in the environment, where other users do not see it
    #[arg(
        long,
        value_name = "SECRET",
        env = "ZYNK_API_SECRET",
        hide_env_values = true,
        requires = "api_key"
    )]
    pub(crate) api_secret: Option<SecretString>,
    /// A configuration file to take the key from
    #[arg(long, value_name = "FILE", env = "ZYNK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TurnCommand {
    /// Print a user name and a password for relays, which are good for a while
    Credentials(TurnCredentialsArguments),
    /// Print the secret that a relay elsewhere checks passwords with, such as coturn's `static-auth-secret`. It is made
    /// from an API key, which it does not give away
    Secret {
        /// The API key, if it is not the first one of the configuration
        #[arg(long = "of", value_name = "KEY")]
        of: Option<String>,
        #[command(flatten)]
        key: KeyFlags,
    },
    /// List who uses the relay of a running server
    List {
        /// Print JSON, as the server's `/api/v1/turn/allocations` has it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerAddress,
    },
    /// End what somebody has of the relay. The client may come again as long as its credentials last
    Kick {
        /// The ids that `zynk turn list` shows
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        server: ServerAddress,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TurnCredentialsArguments {
    /// Whose they are: the relay's log and quotas know the user by that
    #[arg(long, value_name = "NAME", default_value = "zynk")]
    pub(crate) user: String,
    /// How long they are good, such as `30m` or `12h`
    #[arg(long, default_value = "12h", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
    /// Print JSON, as applications expect it of a server that hands out credentials
    #[arg(long)]
    pub(crate) json: bool,
    /// For the relays of this region of the configuration, with their secret
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// Where a relay is, such as `turn:relay.example.org:3478?transport=udp`; may be repeated. Unless set, the relays
    /// of the configuration that share the secret
    #[arg(long = "url", value_name = "URL")]
    pub(crate) urls: Vec<String>,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoomCommand {
    /// List the open rooms
    List {
        /// Print JSON, as the server API has it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerAddress,
    },
    /// Show who sends and receives what in a room, at which rate, and how it arrives; takes a second
    Stats {
        /// Its name
        room: String,
        /// Print JSON, as the server's `/api/v1/rooms/{room}/stats` has it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerAddress,
    },
    /// End rooms; everybody in them is told to leave
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        server: ServerAddress,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServerAddress {
    /// Where the server is
    #[arg(long, env = "ZYNK_URL", default_value = "http://127.0.0.1:7880")]
    pub(crate) url: reqwest::Url,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
}

/// Exits with 0 if a client on this machine could make a call, and with 1 otherwise.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Where the server is, as clients have it: `wss://call.example.org`. Unless set, `http://127.0.0.1:7880`, or, with
    /// --turn-url, no server
    #[arg(long, env = "ZYNK_URL")]
    pub(crate) url: Option<reqwest::Url>,
    /// A participant's token, where the API key should not be: its room is joined for a few seconds
    #[arg(long, value_name = "TOKEN", env = "ZYNK_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<SecretString>,
    /// A relay to look at, besides those that the server tells clients: `turn:relay.example.org:3478?transport=udp`; may
    /// be repeated
    #[arg(long = "turn-url", value_name = "URL")]
    pub(crate) turn_urls: Vec<String>,
    /// The user name for --turn-url; unless set, credentials are made with the secret of the configuration
    #[arg(long, value_name = "NAME", requires = "credential")]
    pub(crate) username: Option<String>,
    /// The password for --turn-url; better set in the environment, where other users do not see it
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "ZYNK_TURN_CREDENTIAL",
        hide_env_values = true,
        requires = "username"
    )]
    pub(crate) credential: Option<SecretString>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration as `zynk run` does, and say what is wrong
    Check {
        /// The configuration file (TOML)
        #[arg(value_name = "FILE", env = "ZYNK_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Print a configuration file with every key, its meaning and its default
    Example {
        /// Put a fresh API key into it, so that it can be used as it is
        #[arg(long)]
        keys: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Print a fresh API key and its secret, as a line for the section `[keys]` of the configuration
    Generate,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn secrets_of_the_command_line_stay_out_of_debug_output() {
        let arguments = [
            "zynk",
            "room",
            "list",
            "--api-key",
            "k",
            "--api-secret",
            "hunter2",
            "--url",
            "https://x.example",
        ];
        let cli = Cli::try_parse_from(arguments).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
