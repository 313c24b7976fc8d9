//! Rooms and sessions: LiveKit's signal protocol over WebSocket, its server API over HTTP, WHIP and WHEP.

mod admin;
mod config;
mod directory;
mod join;

pub use admin::{AdminError, AdminRequest, AdminResponse};
pub use config::{IceServerConfig, LimitsConfig, RoomConfig, SignalingConfig};
pub use directory::{Directory, SessionHandle, WebhookSender};
pub use join::{ConnectionMode, JoinError, JoinParams, Resume, SubscribeScope};
