//! Rooms and sessions: LiveKit's signal protocol over WebSocket, its server API over HTTP, WHIP and WHEP.

#![allow(deprecated, reason = "clients and servers of every age read and write the old fields")]

mod admin;
mod config;
mod directory;
mod guest;
mod http;
mod join;
mod metrics;
mod other_services;
mod placement;
mod room;
mod room_service;
mod room_task;
mod sdp_fragment;
mod session;
mod twirp;
mod webhook;
mod webhook_delivery;
mod whep;
mod whip;
mod whip_offer;
mod whip_problem;
mod whip_session;
mod ws;

pub use admin::{AdminError, AdminRequest, AdminResponse};
pub use config::{IceServerConfig, LimitsConfig, RoomConfig, SignalingConfig};
pub use directory::{Directory, SessionHandle, WebhookSender};
pub use guest::{GUEST_TOKEN_TTL, GuestConfig};
pub use http::{api_router, collapse_slashes};
pub use join::{ConnectionMode, JoinError, JoinParams, Resume, SubscribeScope};
pub use room::{ReplyId, Room, RoomInput, RoomOutput, RoomSettings, SessionId};
pub use twirp::{API_BODY_BYTES_MAX, TwirpCode, TwirpError};
pub use webhook::{WebhookConfig, WebhookDispatcher, WebhookError};
pub use ws::rtc_router;
