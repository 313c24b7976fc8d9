//! What is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zynk_protocol::{RoomName, RoomSid};

/// A room, as far as it outlives its participants. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRecord {
    /// Its name, by which it is found.
    pub name: RoomName,
    /// This life of it.
    pub sid: RoomSid,
    /// Free text of the application.
    #[serde(default)]
    pub metadata: String,
    /// Seconds that it stays open before anybody has joined.
    #[serde(default)]
    pub empty_timeout_s: u32,
    /// Seconds that it stays open after the last participant left.
    #[serde(default)]
    pub departure_timeout_s: u32,
    /// Most participants at a time; 0 means any number.
    #[serde(default)]
    pub max_participants: u32,
    /// Whether audio and video of a participant are put in one stream for lip sync.
    #[serde(default)]
    pub sync_streams: bool,
    /// When it was created.
    pub created_at_ms: u64,
    /// Labels of the application.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl RoomRecord {
    /// A room with nothing set but these.
    pub fn new(name: RoomName, sid: RoomSid, created_at_ms: u64) -> Self {
        Self {
            name,
            sid,
            metadata: String::new(),
            empty_timeout_s: 0,
            departure_timeout_s: 0,
            max_participants: 0,
            sync_streams: false,
            created_at_ms,
            tags: BTreeMap::new(),
        }
    }
}
