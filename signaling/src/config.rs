//! How the signaling role is set up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::relays::RelayConfig;

/// Configuration of the signaling role.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignalingConfig {
    /// Name of this server's region, shown to clients; may be empty.
    pub region: String,
    /// Rooms.
    pub room: RoomConfig,
    /// What clients may send.
    pub limits: LimitsConfig,
    /// STUN and TURN servers that every client is told to use, with the same password for all. Relays that
    /// share a secret with this server belong in `relays`.
    pub ice_servers: Vec<IceServerConfig>,
    /// TURN relays, one entry for each region. Clients are told those nearest to them, with a user name and a
    /// password of their own that end.
    pub relays: Vec<RelayConfig>,
    /// How long a client's password for relays lasts, in seconds. Clients get a new one whenever they connect
    /// anew; calls that a relay carries already go on after it. 60 to 31536000.
    pub relay_credentials_ttl_s: u64,
    /// The relays of how many regions a client is told, the nearest first. Applies as soon as it is known where
    /// the client is or which region it wants; others are told the first four, and try them all.
    pub relay_regions_max: usize,
    /// A file in MaxMind's format that knows where addresses are (GeoLite2 City, DB-IP City Lite), to find the
    /// nearest relays by. It is read once, and kept in memory. Clients behind a proxy have the proxy's address
    /// here. Empty: none.
    pub geoip_database: PathBuf,
}

/// Defaults of rooms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoomConfig {
    /// Whether joining a room that is not open creates it.
    pub auto_create: bool,
    /// How long a room stays open that nobody ever joined, in seconds.
    pub empty_timeout_s: u32,
    /// How long a room stays open after the last participant left, in seconds.
    pub departure_timeout_s: u32,
    /// How many participants a room may have; 0 means any number.
    pub max_participants: u32,
    /// Codecs that may be published, as MIME types. Video comes first, the fallbacks before the others:
    /// clients take the first entry when theirs is not listed.
    pub enabled_codecs: Vec<String>,
    /// Whether the server API may unmute a participant's track.
    pub enable_remote_unmute: bool,
    /// How often changes of participants that publish nothing are told to the others, in milliseconds.
    pub subscriber_update_interval_ms: u64,
    /// How long a layer that nobody watches any more stays asked for, in milliseconds.
    pub dynacast_pause_delay_ms: u64,
    /// Of how many publishers the audio is forwarded, the loudest of the room, at most 64; 0 means of all. In rooms of
    /// hundreds it spares receivers what nobody could listen to. Publishers who do not tell their audio levels, and the
    /// sound of shared screens, are always heard.
    pub audio_top_n: u32,
}

/// Largest [`RoomConfig::audio_top_n`]: nodes count to no more.
pub const AUDIO_TOP_N_MAX: u32 = 64;

/// Limits on what clients may send; what is over them is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Rooms that may be open at once.
    pub rooms_max: usize,
    /// Signal connections that may be open at once.
    pub sessions_max: usize,
    /// Longest metadata of a room or participant, in bytes.
    pub metadata_bytes_max: usize,
    /// Largest sum of all keys and values of a participant's attributes, in bytes.
    pub attributes_bytes_max: usize,
    /// Longest name of a room, in bytes.
    pub room_name_bytes_max: usize,
    /// Longest identity or name of a participant, in bytes.
    pub identity_bytes_max: usize,
    /// Largest signal message, in bytes. A larger one ends the session.
    pub signal_message_bytes_max: usize,
    /// Largest description of a session in a join request after inflation, in bytes.
    pub join_request_bytes_max: usize,
}

/// A STUN or TURN server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IceServerConfig {
    /// Its addresses (`stun:…`, `turn:…`).
    pub urls: Vec<String>,
    /// User name, for TURN.
    pub username: String,
    /// Password, for TURN. Every client is told it.
    pub credential: String,
}

impl Default for SignalingConfig {
    fn default() -> Self {
        Self {
            region: String::new(),
            room: RoomConfig::default(),
            limits: LimitsConfig::default(),
            ice_servers: Vec::new(),
            relays: Vec::new(),
            relay_credentials_ttl_s: 12 * 3_600,
            relay_regions_max: 2,
            geoip_database: PathBuf::new(),
        }
    }
}

impl Default for RoomConfig {
    fn default() -> Self {
        let codecs =
            ["video/VP8", "video/H264", "video/VP9", "video/AV1", "video/rtx", "audio/opus", "audio/red"];
        Self {
            auto_create: true,
            empty_timeout_s: 300,
            departure_timeout_s: 20,
            max_participants: 0,
            enabled_codecs: codecs.map(str::to_owned).to_vec(),
            enable_remote_unmute: false,
            subscriber_update_interval_ms: 500,
            dynacast_pause_delay_ms: 3_000,
            audio_top_n: 0,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            rooms_max: 10_000,
            sessions_max: 20_000,
            metadata_bytes_max: 512 * 1024,
            attributes_bytes_max: 64 * 1024,
            room_name_bytes_max: 256,
            identity_bytes_max: 256,
            signal_message_bytes_max: 2 * 1024 * 1024,
            join_request_bytes_max: 1024 * 1024,
        }
    }
}
