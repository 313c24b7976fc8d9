//! The media plane: RTP and RTCP from the datagram to the frame's way out, without str0m.
//!
//! ```text
//!   datagram ─► srtp open ─► rtp parse once ─► receiver (statistics, NACK, TWCC feedback) ─► track
//!   track ─► forwarder ─► egress: header + payload ─► srtp seal ─► datagram
//! ```

pub mod bitrate;
pub mod egress;
pub mod estimator;
pub mod extensions;
pub mod keyframes;
pub mod nack;
pub mod pacer;
pub mod packet_budget;
pub mod receiver;
pub mod rtcp;
pub mod rtp;
pub mod srtp;
pub mod store;
pub mod timers;
pub mod twcc;
