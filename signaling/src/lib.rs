//! Rooms and sessions: LiveKit's signal protocol over WebSocket, its server API over HTTP, WHIP and WHEP.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::sync::Arc;
//! use zynk_signaling::{Directory, Relays, SignalingConfig, rtc_router};
//!
//! let keys = Arc::new(zynk_auth::KeyRing::single("devkey", "secret"));
//! let store = zynk_store::connect("memory:").await.unwrap();
//! let bus = zynk_bus::connect("local:").await.unwrap();
//! let (webhooks, _events) = tokio::sync::mpsc::channel(100);
//! let config = Arc::new(SignalingConfig::default());
//! let relays = Arc::new(Relays::new(&config, &keys, None).unwrap());
//! let directory = Directory::new(config, keys, relays, store, bus, webhooks);
//! let _app: axum::Router = rtc_router(directory.clone());
//! assert!(directory.list_rooms(&[]).await.is_empty());
//! directory.shutdown().await;
//! # });
//! ```
//!
//! - [`Directory`]: the open rooms; sessions begin here.
//! - [`Relays`]: the TURN relays that clients are told, nearest first.
//! - [`Room`]: one room as a state machine without IO.
//! - [`rtc_router`], [`api_router`]: everything that is served over HTTP.
//! - [`WebhookDispatcher`]: tells applications what happens.

#![allow(deprecated, reason = "clients and servers of every age read and write the old fields")]

mod admin;
mod config;
mod directory;
mod guest;
mod http;
mod join;
mod metrics;
mod mover;
mod other_services;
mod packed_text;
mod placement;
mod regions;
mod relays;
mod responses;
mod room;
mod room_service;
mod room_stats;
mod room_task;
mod route;
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
pub use config::{AUDIO_TOP_N_MAX, IceServerConfig, LimitsConfig, RoomConfig, SignalingConfig};
pub use directory::{Directory, SessionHandle, WebhookSender};
pub use guest::{GUEST_TOKEN_TTL, GuestConfig};
pub use http::{api_router, collapse_slashes};
pub use join::{ConnectionMode, JoinError, JoinParams, Resume, SubscribeScope};
pub use relays::{
    ClientPlace, OwnRelay, PlacesError, RelayConfig, Relays, RelaysError, SignalingConfigError,
};
pub use responses::ResponseReceiver;
pub use room::{MoveId, ReplyId, Room, RoomInput, RoomOutput, RoomSettings, SessionId, Traveller};
pub use room_stats::{
    EncodingStats, GivenLayers, ParticipantStats, RoomStats, SubscriptionState, SubscriptionStats,
    TrackStats, TransportStats, WantedLayers,
};
pub use twirp::{API_BODY_BYTES_MAX, TwirpCode, TwirpError};
pub use webhook::{WebhookConfig, WebhookDispatcher, WebhookError};
pub use ws::rtc_router;
