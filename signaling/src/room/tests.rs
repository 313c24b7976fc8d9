//! Rooms in virtual time, without a node or a client: what goes in and what comes out.
//!
//! Names begin with the line of `docs/livekit-compatibility.md` that the test shows.

mod backup;
mod data;
mod fallback;
mod join;
mod lifetime;
mod moving;
mod permission;
mod publish;
mod rehearsal;
mod relays;
mod server_api;
mod stats;
mod subscribe;
mod world;

pub(super) use world::{Peer, World};
