//! Inputs that get far into a shard, for the fuzzer to begin with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use zynk_fuzz::{shard_operations, shard_reach};

const SETTINGS: u8 = 14;
const PATH: u8 = 17;
const TCP_CLOSED: u8 = 18;
const CALL: u8 = 20;
const CONNECT: u8 = 21;
const RAW_RTP: u8 = 22;
const RTP: u8 = 23;
const RAW_RTCP: u8 = 25;
const RTCP: u8 = 26;
const REPLAY: u8 = 27;
const RELAY: u8 = 28;
const SIBLINGS: u8 = 29;
const ADVANCE: u8 = 30;
const SETTLE: u8 = 31;
/// The next operation comes in the same turn.
const HELD: u8 = 0x80;

/// Settings of the video.
const LOW: u8 = 1;
const PAUSED: u8 = 1 | 4;

const AUDIO: u8 = 0;
const RED: u8 = 1;
const VP8: u8 = 2;
const VP9: u8 = 3;
const AV1: u8 = 5;
const SCREEN_VP9: u8 = 7;
const RTX: u8 = 8;
const SIMULCAST: u8 = 9;

const KEYFRAME: u8 = 1;
const DESCRIBED: u8 = 2;
const GAP: u8 = 4;
const FAR: u8 = 8;
const LATE: u8 = 12;
const BURST: u8 = 16;

/// A dependency descriptor with its structure: two spatial layers, the frame is number 1 of the lower.
const STRUCTURE: [u8; 23] = [
    0xfe, 0x00, 0x01, 0x87, 0xc1, 0x23, 0xfa, 0x32, 0x45, 0x04, 0x5a, 0x00, 0x24, 0x22, 0x45, 0x01, 0x3f,
    0x00, 0xb3, 0x02, 0x7f, 0x01, 0x67,
];

#[derive(Default)]
struct Seed(Vec<u8>);

impl Seed {
    fn op(mut self, opcode: u8, a: u8, b: u8) -> Self {
        self.0.extend([opcode, a, b]);
        self
    }

    /// A packet of connection 0.
    fn rtp(self, stream: u8, flags: u8, octets: &[u8]) -> Self {
        let mut seed = self.op(RTP, stream << 3, flags);
        seed.0.push(octets.len() as u8);
        seed.0.extend(octets);
        seed
    }

    fn octets(self, opcode: u8, a: u8, octets: &[u8]) -> Self {
        let mut seed = self.op(opcode, a, octets.len() as u8);
        seed.0.extend(octets);
        seed
    }

    fn rtcp(self, connection: u8, kind: u8, arguments: [u8; 2]) -> Self {
        let mut seed = self.op(RTCP, connection, kind);
        seed.0.extend(arguments);
        seed
    }

    /// A binding request of a connection from a port, which nominates the path, and from where it sends from then on.
    fn path(self, connection: u8, port: u8, tcp: bool) -> Self {
        let mut seed = self.op(PATH, port << 4 | u8::from(tcp) << 3 | connection, 0);
        seed.0.push(0xf3);
        seed
    }

    fn wait(self) -> Self {
        self.op(SETTLE, 0, 0).op(ADVANCE, 0, 20)
    }
}

fn call(bits: u8) -> Seed {
    Seed::default().op(CALL, 0, bits)
}

fn seeds() -> Vec<(&'static str, Seed)> {
    let both = call(0).rtp(AUDIO, 0, &[1, 2, 3]).rtp(VP8, KEYFRAME, &[4; 40]).wait();
    let repaired = call(0)
        .rtp(VP8, KEYFRAME, &[4; 40])
        .rtp(VP8, BURST, &[5; 200])
        .wait()
        .rtcp(2, 2, [0, 3])
        .rtcp(1, 2, [1, 200])
        .rtcp(2, 3, [0, 200])
        .rtcp(1, 3, [0, 200])
        .op(ADVANCE, 0, 250)
        .op(ADVANCE, 0, 250)
        .op(ADVANCE, 0, 250);
    let repaired = (0..4).fold(repaired, |seed, source| seed.rtcp(1, 0, [source, 0]).rtcp(2, 1, [source, 7]));
    let repaired =
        repaired.wait().op(ADVANCE, 0, 250).rtcp(2, 4, [1, 9]).rtcp(1, 6, [1, 12]).rtcp(2, 4, [2, 8]);
    let repaired = repaired.wait();
    let gaps = call(0)
        .rtp(VP8, KEYFRAME, &[4; 40])
        .rtp(VP8, GAP, &[5; 20])
        .op(ADVANCE, 0, 60)
        .rtp(VP8, LATE, &[6; 20])
        .rtp(RTX, 0, &[7; 20])
        .rtp(VP8, FAR, &[8; 20])
        .op(ADVANCE, 0, 250)
        .rtp(VP8, KEYFRAME | FAR, &[9; 20])
        .op(REPLAY, 0, 0)
        .wait();
    let simulcast = (0..3).fold(call(4), |seed, encoding| {
        seed.rtp(SIMULCAST + encoding, KEYFRAME, &[encoding; 60]).rtp(SIMULCAST + encoding, BURST, &[7; 30])
    });
    let simulcast = simulcast
        .wait()
        .op(SETTINGS, 2, LOW)
        .op(SETTINGS, 1, PAUSED)
        .rtp(SIMULCAST, KEYFRAME, &[1; 9])
        .wait();
    let vp9 = call(2).rtp(VP9, KEYFRAME, &[5; 50]).rtp(VP9, 0, &[6; 9]).rtp(VP9, BURST, &[3; 50]).wait();
    // Descriptor and payload are of one length.
    let described = [VP9, AV1].into_iter().fold(call(2), |seed, stream| {
        let first = [STRUCTURE, [7; STRUCTURE.len()]].concat();
        seed.rtp(stream, KEYFRAME | DESCRIBED, &first)
            .rtp(stream, KEYFRAME | DESCRIBED, &[0xc0, 0, 1, 7, 7, 7])
            .rtp(stream, DESCRIBED, &[0xff, 0, 2, 7, 7, 7])
            .op(SETTINGS, 2, LOW)
            .op(SETTINGS, 1, PAUSED)
            .rtp(stream, DESCRIBED, &[0xc1, 0, 2, 7, 7, 7])
            .rtp(stream, DESCRIBED, &[0xff, 0, 3, 7, 7, 7])
            .rtp(stream, KEYFRAME | DESCRIBED, &first)
            .wait()
    });
    let backup = call(8)
        .rtp(VP8, KEYFRAME, &[4; 40])
        .rtp(SCREEN_VP9, KEYFRAME, &[5; 40])
        .wait()
        .op(11, 0, 128 | 1)
        .op(11, 0, 1)
        .rtp(SCREEN_VP9, KEYFRAME, &[5; 40])
        .wait();
    let subscribers =
        call(16).rtp(AUDIO, 0, &[1]).rtp(VP8, KEYFRAME, &[4; 40]).wait().op(13, 1, 1).op(8, 2, 0).wait();
    let late_binding = call(1 | 32).rtp(RED, 0, &[8; 12]).rtp(RED, KEYFRAME, &[9; 5]).wait();
    let troubled = call(0)
        .rtp(VP8, KEYFRAME, &[4; 40])
        .wait()
        .rtp(VP8, 0, &[4; 40])
        .op(RELAY, 0, 3)
        .rtp(VP8, BURST, &[4; 40])
        .op(RELAY, 0, 6)
        .op(RELAY, 0, 5)
        .op(RELAY, 1, 4)
        .op(RELAY, 0, 2)
        .op(SIBLINGS, 1, 0)
        .op(RELAY, 0, 0)
        .op(SIBLINGS, 1, 3)
        .rtp(VP8, KEYFRAME, &[4; 40])
        .wait();
    let ended = call(0).op(HELD | RTP, VP8 << 3, KEYFRAME);
    let ended = Seed([ended.0, vec![2, 1, 1]].concat()).op(10, 0, 1).rtp(AUDIO, 0, &[1]).op(1, 2, 0).wait();
    let ended = ended.op(0, 2, 2).op(CONNECT, 2, 0).op(2, 0, 0).wait();
    let vp8 = [0x80, 96, 0, 9, 0, 0, 0, 0, 0, 0, 3, 0xe9, 0x10, 0, 0, 0, 0x9d, 1, 0x2a];
    let report = [0x80, 201, 0, 1, 0, 0, 0, 7, 0x81, 206, 0, 2, 0, 0, 0, 7, 0, 0, 0, 9];
    let raw = call(0).octets(RAW_RTP, 0, &vp8).octets(RAW_RTCP, 2, &report).rtcp(0, 5, [0, 9]).wait();
    let roaming = call(0)
        .rtp(VP8, KEYFRAME, &[4; 40])
        .wait()
        .path(2, 9, false)
        .path(1, 1, false)
        .rtcp(2, 2, [0, 3])
        .rtp(VP8, 0, &[4; 40])
        .wait()
        .path(0, 10, true)
        .path(2, 11, true)
        .rtp(VP8, 0, &[4; 40])
        .wait()
        .op(TCP_CLOSED, 11 << 4 | 2, 0)
        .rtp(VP8, 0, &[4; 40])
        .path(2, 2, false)
        .rtp(VP8, 0, &[4; 40])
        .wait();
    vec![
        ("call", both),
        ("roaming", roaming),
        ("repaired", repaired),
        ("gaps", gaps),
        ("simulcast", simulcast),
        ("vp9", vp9),
        ("described", described),
        ("backup", backup),
        ("subscribers", subscribers),
        ("late-binding", late_binding),
        ("troubled", troubled),
        ("ended", ended),
        ("raw", raw),
    ]
}

#[test]
fn seeds_reach_receivers_on_both_shards() {
    for (name, seed) in seeds() {
        let reach = shard_reach(&seed.0);
        assert!(reach.forwarded > 0 && reach.relayed > 0, "{name}: {reach:?}");
        if name == "repaired" {
            assert!(reach.received > reach.forwarded && reach.keyframe_requests > 0, "{name}: {reach:?}");
        }
    }
}

/// Writes the seeds into the corpus: `cargo test --package zynk-fuzz --test seeds -- --ignored`.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    for (name, seed) in seeds() {
        let path = format!("{}/corpus/shard_operations/{name}", env!("CARGO_MANIFEST_DIR"));
        shard_operations(&seed.0);
        fs::write(path, seed.0).unwrap();
    }
}
