//! Inputs that get far into a relay, for the fuzzer to begin with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use zynk_fuzz::{turn_message, turn_reach};
use zynk_turn_core::stun::{Class, IntegrityKey, Method, PasswordAlgorithm, Writer};

const ALLOCATE: u8 = 0;
const RESERVED: u8 = 1;
const REFRESH: u8 = 2;
const FAMILY: u8 = 3;
const MOVE: u8 = 4;
const PERMIT: u8 = 5;
const BIND: u8 = 6;
const CHANNEL: u8 = 7;
const SEND: u8 = 8;
const PEER: u8 = 9;
const CLOSED: u8 = 10;
const CONNECT: u8 = 11;
const CONNECTED: u8 = 12;
const PEER_CLOSED: u8 = 13;
const ACCEPTED: u8 = 14;
const CONNECTION_BIND: u8 = 15;
const ANSWERS: u8 = 16;
const ANSWER: u8 = 17;
const KICK: u8 = 18;
const CONFIGURE: u8 = 19;
const WAIT: u8 = 20;
const REQUEST: u8 = 21;
const RAW: u8 = 22;
const DRAIN: u8 = 23;

// Clients: over UDP, TCP, TLS, UDP, TCP, DTLS; the first, the third and the last are one user's.
const TCP_CLIENT: u8 = 1;
const DATA_STREAM: u8 = 4;
/// Signs with SHA-256.
const MODERN: u8 = 0x80;

// Wishes of Allocate.
const TCP: u8 = 1;
const MOBILE: u8 = 2;
const DUAL: u8 = 4;
const EVEN: u8 = 8;
const PAIR: u8 = 8 | 0x80;

fn seeds() -> Vec<(&'static str, Vec<[u8; 3]>)> {
    let channel = vec![
        [ALLOCATE, MODERN, MOBILE | DUAL],
        [BIND, 0, 0],
        [BIND, MODERN | 6, 3],
        [CHANNEL, 0, 3],
        [PEER, 0, 0],
        [PEER, 1, 3],
        [SEND, 18, 0],
        [PERMIT, 0, 1],
        [SEND, 6, 1],
        [PEER, 0, 1],
        [WAIT, 0, 200],
        [PERMIT, 0, 0],
        [WAIT, 0, 200],
        [CHANNEL, 0, 3],
        [REFRESH, 0, 100],
        [WAIT, 1, 40],
        [CHANNEL, 0, 3],
        [FAMILY, 0, 1],
        [FAMILY, 0, 0],
        [REFRESH, 0, 0],
    ];
    let moving = vec![
        [ALLOCATE, TCP_CLIENT, MOBILE],
        [BIND, TCP_CLIENT, 0],
        [CLOSED, TCP_CLIENT, 0],
        [ALLOCATE, 0, MOBILE],
        [MOVE, DATA_STREAM, 0],
        [PEER, 0, 0],
        [MOVE, 0, 0x82],
        [MOVE, 2, 1],
        [WAIT, 1, 90],
    ];
    let tcp = vec![
        [ALLOCATE, TCP_CLIENT, TCP],
        [CONNECT, TCP_CLIENT, 0],
        [CONNECTED, 0, 0],
        [CONNECTION_BIND, DATA_STREAM, 0],
        [CLOSED, DATA_STREAM, 0],
        [CONNECT, TCP_CLIENT, 1],
        [PEER_CLOSED, 0, 1],
        [CONNECT, TCP_CLIENT, 2],
        [WAIT, 0, 31],
        [PERMIT, TCP_CLIENT, 0],
        [ACCEPTED, 5, 1],
        [CONNECTION_BIND, DATA_STREAM, 1],
        [CONFIGURE, 0, 1],
        [CLOSED, TCP_CLIENT, 0],
    ];
    let pairs = vec![
        [ALLOCATE, 0, PAIR],
        [RESERVED, 2, 0],
        [RESERVED, 3, 0],
        [ALLOCATE, TCP_CLIENT, EVEN],
        [ALLOCATE, 3, PAIR],
        [WAIT, 0, 31],
        [RESERVED, 4, 1],
        [KICK, 0, 1],
        [KICK, 0, 0],
    ];
    let sockets = vec![
        [ANSWERS, 0, 2],
        [ALLOCATE, 0, DUAL],
        [REFRESH, 0, 50],
        [ANSWER, 0, 0],
        [ANSWER, 0, 1],
        [ANSWERS, 0, 1],
        [ALLOCATE, 3, 0],
        [ALLOCATE, 3, PAIR],
        [ANSWERS, 0, 0],
        [ALLOCATE, 3, 0],
        [DRAIN, 7, 7],
        [ALLOCATE, 4, 0],
    ];
    // Peers after the eleven that are fixed are relayed addresses.
    let inside = vec![
        [ALLOCATE, 0, 0],
        [ALLOCATE, TCP_CLIENT, 0],
        [BIND, 0, 12],
        [PERMIT, TCP_CLIENT, 11],
        [CHANNEL, 0, 3],
        [SEND, TCP_CLIENT, 11],
        [BIND, 6, 4],
        [CHANNEL, 6, 4],
        [PERMIT, 0, 0],
        [SEND, 0, 0],
        [CONFIGURE, 0, 8],
        [CHANNEL, 0, 3],
        [CHANNEL, 0, 3],
    ];
    vec![
        ("channel", channel),
        ("moving", moving),
        ("tcp", tcp),
        ("pairs", pairs),
        ("sockets", sockets),
        ("inside", inside),
    ]
}

/// Operations that take octets are followed by as many as they say.
fn encode(operations: &[[u8; 3]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for [opcode, a, b] in operations {
        bytes.extend([opcode, a, b]);
        if *opcode == CHANNEL {
            bytes.extend(vec![7; usize::from(*b)]);
        }
    }
    bytes
}

fn all_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<_> = seeds().into_iter().map(|(name, operations)| (name, encode(&operations))).collect();
    // Requests of chosen attributes and bare bytes.
    let request = [
        &[ALLOCATE, 0, MOBILE][..],
        // ChannelBind with a number and an address, then CreatePermission under the same number.
        &[REQUEST, 0, 0x23, 0, 4, 0x40, 1, 0, 0, 2, 8, 0, 1, 0x21, 0x13, 0x29, 0x1a, 0xac, 0x4a],
        &[REQUEST, 0, 0x1a, 2, 8, 0, 1, 0x21, 0x13, 0x29, 0x1a, 0xac, 0x4a],
        &[REQUEST, 0, 0x21, 11, 0, 1, 4, 0, 0, 0, 0],
        &[RAW, 0, 8, 0x40, 1, 0, 4, 1, 2, 3, 4],
        &[RAW, 3, 20, 0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ];
    all.push(("request", request.concat()));
    all
}

#[test]
fn turn_seeds_reach_peers_and_clients() {
    for (name, seed) in all_seeds() {
        let reach = turn_reach(&seed);
        assert!(reach.allocations > 0, "{name}: {reach:?}");
        match name {
            "channel" => assert!(reach.to_peers >= 4 && reach.to_clients >= 3, "{reach:?}"),
            "moving" => assert!(reach.moved >= 1 && reach.to_clients >= 1, "{reach:?}"),
            "tcp" => assert_eq!(reach.spliced, 2, "{reach:?}"),
            "pairs" => assert!(reach.allocations >= 4, "{reach:?}"),
            "sockets" => assert_eq!(reach.allocations, 2, "{reach:?}"),
            "inside" => assert!(reach.to_clients >= 2 && reach.to_peers >= 2, "{reach:?}"),
            _ => {}
        }
    }
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let key = IntegrityKey::long_term(PasswordAlgorithm::Md5, "alice", "r", "alice");
    let mut all = Vec::new();
    let mut add = |name, write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        all.push((name, bytes));
    };
    add("allocate", &|bytes| {
        Writer::new(bytes, Class::Request, Method::Allocate, &[1; 12])
            .attribute(0x0019, &[17, 0, 0, 0])
            .attribute(0x8000, &[2, 0, 0, 0])
            .attribute(0x0006, b"alice")
            .attribute(0x0014, b"r")
            .attribute(0x0015, b"obMatJos2AAAB")
            .sign_sha1(&key)
            .sign_sha256(&key)
            .fingerprint();
    });
    add("send", &|bytes| {
        Writer::new(bytes, Class::Indication, Method::Send, &[2; 12])
            .xor_address(0x0012, "8.8.8.8:1".parse().unwrap())
            .xor_address(0x0012, "[2606:4700::1]:1".parse().unwrap())
            .attribute(0x0013, b"odd");
    });
    add("channel", &|bytes| bytes.extend([0x40, 1, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0x40]));
    add("attributes", &|bytes| {
        bytes.extend([3, 0, 0x19, 0, 4, 17, 0, 0, 0, 0, 6, 0, 5, b'a', b'l', b'i', b'c', b'e', 0, 0, 0]);
    });
    all
}

/// Writes the seeds into the corpora: `cargo test --package zynk-fuzz --test turn_seeds -- --ignored`.
#[test]
#[ignore = "writes files"]
fn write_turn_seeds() {
    let corpus = format!("{}/corpus", env!("CARGO_MANIFEST_DIR"));
    for (name, seed) in all_seeds() {
        fs::write(format!("{corpus}/turn_server/{name}"), seed).unwrap();
    }
    for (name, seed) in messages() {
        turn_message(&seed);
        fs::write(format!("{corpus}/turn_message/{name}"), seed).unwrap();
    }
}
