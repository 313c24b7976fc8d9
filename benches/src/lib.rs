//! What the programs that measure a running server have in common: a load generator on one core, the floor under
//! a forwarded packet, and what the kernel says of a process.
//!
//! ```text
//!   core 0: the server's process                      core 1: one thread
//!           ▲  │ forwarded                                    Generator: publishers, receivers
//!           │  └─────────────────────────────────────────────►  sockets drained, counted, every 61st opened
//!           └──────────────────────────────────────────────────  sealed media, RTCP, STUN
//! ```
//!
//! - [`generator`]: participants that join by WHIP and WHEP (or whatever a [`generator::Signaling`] speaks).
//! - [`floor`]: the least that a server could do for the same packets, on the same core.
//! - [`machine`]: cores, clocks, CPU time and memory of processes.
//! - [`stun`]: what clients say to a TURN relay.
//! - [`server`], [`janus`]: our own binary and Janus as child processes.
//! - [`median`]: the figure in the middle.
//! - [`point`]: who is in which room, and the figures of a server that serves them.

pub mod floor;
pub mod generator;
pub mod histogram;
pub mod janus;
pub mod machine;
pub mod median;
pub mod point;
pub mod server;
pub mod stun;
