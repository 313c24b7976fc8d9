//! What must not work with a relay, and whom it must not disturb: on real sockets, as fast as a generator can.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, reason = "figures")]

#[path = "turn/echo.rs"]
mod echo;
#[allow(dead_code, reason = "what turn.rs alone needs")]
#[path = "turn/program.rs"]
mod program;
#[allow(dead_code, reason = "what turn.rs alone needs")]
#[path = "turn/server.rs"]
mod server;
#[allow(dead_code, reason = "what turn.rs alone needs")]
#[path = "turn/uclient.rs"]
mod uclient;
#[allow(dead_code, reason = "what turn.rs alone needs")]
#[path = "turn/webrtc_rs.rs"]
mod webrtc_rs;

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use zynk_net::{RecvBatch, SendBatch, SocketOptions};

use server::{Authentication, Family, Transport, TurnUnderTest};
use uclient::{Peer, Uclient};
use webrtc_rs::Call;

const LIMIT: Duration = Duration::from_secs(20);
/// Between two packets of a call that nobody may disturb.
const PACKET_INTERVAL: Duration = Duration::from_millis(1);
/// Packets in a thousand that such a call may lose.
const LOST_PERMILLE_MAX: u64 = 1;
/// Packets that it sends at least, each way.
const PACKETS_MIN: u64 = 1_000;
const MIB: u64 = 1024 * 1024;

/// Addresses that forged requests come from, and how often each does.
const FORGED_SOURCES: u32 = 100_000;
const FORGED_ROUNDS: u32 = 6;
/// Addresses of one socket.
const SOURCES_OF_SOCKET: u32 = 50_000;

/// Connections that say nothing, from each of some addresses.
const HALF_OPEN_FROM_EACH: usize = 400;
const HALF_OPEN_ADDRESSES: u8 = 10;

/// What a slow reader's peer sends.
const UNREAD_PACKETS: u32 = 30_000;
const UNREAD_BYTES: usize = 1_200;

/// Gives the relay a core of its own, as far as there are two: what is asked is whether it can cope with a flood, not
/// whether the generator takes its time away.
fn on_cores_of_their_own(turn: &TurnUnderTest) {
    for (core, process) in [("0", turn.pid()), ("1", std::process::id())] {
        let mut taskset = Command::new("taskset");
        taskset.args(["--all-tasks", "--cpu-list", "--pid", core, &process.to_string()]);
        if let Err(error) = taskset.stdout(Stdio::null()).status() {
            println!("{taskset:?}: {error}");
        }
    }
}

/// A call through the relay that goes on while `attack` runs, both ways, and may lose next to nothing.
fn undisturbed<T: Send>(turn: &TurnUnderTest, attack: impl FnOnce() -> T + Send) -> T {
    on_cores_of_their_own(turn);
    let (mut call, relayed, channel) = Call::open(turn, Transport::Udp);
    call.peer.set_nonblocking(true).unwrap();
    let (mut sent, mut there, mut back) = (0_u64, 0_u64, 0_u64);
    std::thread::scope(|scope| {
        let attack = scope.spawn(attack);
        let count = |call: &mut Call, there: &mut u64, back: &mut u64| {
            let mut buffer = [0; 2048];
            while let Ok((_, source)) = call.peer.recv_from(&mut buffer) {
                *there += u64::from(source == relayed);
            }
            while call.receive_at_once(channel).is_some() {
                *back += 1;
            }
        };
        let mut due = Instant::now();
        while !attack.is_finished() || sent < PACKETS_MIN {
            if due <= Instant::now() {
                due += PACKET_INTERVAL;
                sent += 1;
                call.send(channel, &[7; 172]);
                call.peer.send_to(&[8; 172], relayed).unwrap();
            }
            count(&mut call, &mut there, &mut back);
        }
        let deadline = Instant::now() + LIMIT;
        let lost = |arrived: u64| sent - arrived;
        loop {
            count(&mut call, &mut there, &mut back);
            let all = there == sent && back == sent;
            if all || Instant::now() > deadline {
                break;
            }
        }
        println!("of {sent} packets each way {} and {} were lost", lost(there), lost(back));
        assert!(lost(there).max(lost(back)) * 1000 <= sent * LOST_PERMILLE_MAX, "the call was disturbed");
        join(attack)
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// RFC 8656 section 7.1: an Allocate without credentials.
fn allocate_request(number: u32) -> Vec<u8> {
    let mut request = b"\x00\x03\x00\x08\x21\x12\xa4\x42forgery.".to_vec();
    request.extend(number.to_be_bytes());
    request.extend(b"\x00\x19\x00\x04\x11\x00\x00\x00");
    request
}

#[test]
fn forged_allocates_from_a_hundred_thousand_sources_disturb_nobody() {
    let turn = TurnUnderTest::zynk(Authentication::User);
    let server = turn.address(Transport::Udp, Family::V4);
    let flood = || {
        let mut answers = 0;
        let bind = || zynk_net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), SocketOptions::default());
        let mut sockets: Vec<_> = (0..FORGED_SOURCES / SOURCES_OF_SOCKET).map(|_| bind().unwrap()).collect();
        let (mut out, mut arena) = (SendBatch::new(), RecvBatch::new());
        for round in 0..FORGED_ROUNDS {
            for (at, socket) in (0..).zip(&mut sockets) {
                for first in (1..=SOURCES_OF_SOCKET).step_by(500) {
                    let now = Instant::now();
                    for number in first..first + 500 {
                        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number);
                        let request = allocate_request((round << 24) + (at << 20) + number);
                        out.push(server, Some(IpAddr::V4(source)), &request);
                    }
                    out.flush(socket, now);
                    while arena.recv(socket).is_ok() {
                        answers += arena.datagrams().count();
                    }
                }
            }
        }
        (out.stats(), answers)
    };
    // The table of addresses that have had answers is made with the first.
    let mut first = None;
    let (stats, answers) = undisturbed(&turn, || {
        flood();
        first = Some(turn.resident_bytes());
        flood()
    });
    let grown = turn.resident_bytes().saturating_sub(first.unwrap());
    println!("{} forged requests, {answers} answers, {} KiB more memory", stats.datagrams_sent, grown / 1024);
    assert!(stats.datagrams_sent > u64::from(FORGED_SOURCES * FORGED_ROUNDS) * 9 / 10, "{stats:?}");
    assert!(answers > 1000, "addresses that are no forgeries would have had answers");
    assert!(grown < MIB, "forged requests leave something behind");
}

#[test]
fn connections_that_say_nothing_disturb_nobody() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let turn = TurnUnderTest::zynk(Authentication::User);
    let before = turn.resident_bytes();
    let open = || {
        let mut open = Vec::new();
        for transport in [Transport::Tcp, Transport::Tls] {
            let server = turn.address(transport, Family::V4);
            for address in 1..=HALF_OPEN_ADDRESSES {
                for number in 0..HALF_OPEN_FROM_EACH {
                    let mut stream = connect_from(Ipv4Addr::new(127, 0, 3, address), server);
                    // Some begin what they do not end: a message, a handshake.
                    if number % 2 == 0 {
                        let begun: &[u8] = match transport {
                            Transport::Tls => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                            _ => b"\x00\x03\x00\x08\x21",
                        };
                        match stream.write_all(begun) {
                            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                            }
                            _ => {}
                        }
                    }
                    open.push(stream);
                }
            }
        }
        open
    };
    let open = undisturbed(&turn, open);
    let grown = turn.resident_bytes().saturating_sub(before);
    println!("{} connections that say nothing, {} KiB more memory", open.len(), grown / 1024);
    assert!(grown < 64 * MIB, "connections that say nothing take much memory");
    for transport in [Transport::Tcp, Transport::Tls] {
        Uclient::new(transport, Family::V4, Peer::Echo(Family::V4), &[]).run(&turn).assert_relayed();
    }
    drop(open);
}

fn connect_from(source: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.into()
}

/// T26: who reads slowly loses data, not the stream, and what waits for it is bounded.
#[test]
fn a_client_that_reads_slowly_disturbs_nobody() {
    let turn = TurnUnderTest::zynk(Authentication::User);
    let (mut slow, relayed, channel) = Call::open(&turn, Transport::Tcp);
    let before = turn.resident_bytes();
    let send = |peer: &UdpSocket, number: u32| {
        let mut packet = [0; UNREAD_BYTES];
        packet[..4].copy_from_slice(&number.to_be_bytes());
        peer.send_to(&packet, relayed).unwrap();
    };
    let peer = slow.peer.try_clone().unwrap();
    undisturbed(&turn, || {
        let begun = Instant::now();
        for number in 1..=UNREAD_PACKETS {
            send(&peer, number);
            // Slower than the relay's socket would lose by itself.
            while begun.elapsed() < Duration::from_micros(100) * number {
                std::hint::spin_loop();
            }
        }
    });
    let grown = turn.resident_bytes().saturating_sub(before);
    println!("{} KiB more memory", grown / 1024);
    assert!(grown < 4 * MIB, "what nobody reads is kept");

    // The stream is whole: message after message, in order, with gaps; and it goes on.
    let (mut last, mut read) = (0, 0_u32);
    let deadline = Instant::now() + LIMIT;
    while last <= UNREAD_PACKETS {
        assert!(Instant::now() < deadline, "after {read} messages, the last {last}, nothing comes");
        send(&slow.peer, UNREAD_PACKETS + 1);
        let Some(data) = slow.receive(channel) else { continue };
        assert_eq!(data.len(), UNREAD_BYTES);
        let number = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
        assert!(number > last, "{number} after {last}");
        (last, read) = (number, read + 1);
    }
    println!("{read} of {UNREAD_PACKETS} packets were kept");
    assert!(read < UNREAD_PACKETS / 2, "the reader was not slow");
}
