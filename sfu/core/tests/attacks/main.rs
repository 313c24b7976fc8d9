//! Attacks on whole calls, by number of the list of known attacks. Clients do ICE and DTLS with the shard, in virtual
//! time; attackers write into the same network. What needs the shard's inside is in `src/shard/tests/attacks.rs`.
#![allow(unreachable_pub, clippy::print_stdout)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod call;
mod client;
mod congestion;
mod data;
mod dtls;
mod fingerprint;
mod hello_race;
mod ice;
mod malformed;
mod media;
mod records;
mod sctp;
mod sdp;
mod stun;
