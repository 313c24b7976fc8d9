//! Rooms and sessions: LiveKit's signal protocol over WebSocket, its server API over HTTP, WHIP and WHEP.

#![allow(deprecated, reason = "clients and servers of every age read and write the old fields")]

mod admin;
mod config;
mod directory;
mod join;
mod placement;
mod room;

pub use admin::{AdminError, AdminRequest, AdminResponse};
pub use config::{IceServerConfig, LimitsConfig, RoomConfig, SignalingConfig};
pub use directory::{Directory, SessionHandle, WebhookSender};
pub use join::{ConnectionMode, JoinError, JoinParams, Resume, SubscribeScope};
pub use room::{ReplyId, Room, RoomInput, RoomOutput, RoomSettings, SessionId};
