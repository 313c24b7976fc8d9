//! Rooms that are spread over two shards, with clients that do ICE and DTLS, in virtual time.
#![allow(unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod call;
#[path = "../attacks/client.rs"]
mod client;
#[path = "../attacks/dtls.rs"]
mod dtls;
mod link;
mod media;
mod tracks;
