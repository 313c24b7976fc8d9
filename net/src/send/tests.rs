use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token};
use quinn_udp::Transmit;

use super::*;
use crate::{RecvBatch, SocketOptions};

fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(address.parse().unwrap(), SocketOptions::default()).unwrap()
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

/// Source, destination address and payload of each of the next `count` datagrams.
fn receive(socket: &mut UdpSocket, count: usize) -> Vec<(SocketAddr, Option<IpAddr>, Vec<u8>)> {
    let mut poll = Poll::new().unwrap();
    poll.registry().register(socket, Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(4);
    let mut batch = RecvBatch::new();
    let mut received = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        while batch.recv(socket).is_ok() {
            for datagram in batch.datagrams() {
                received.push((datagram.source, datagram.destination_ip, datagram.payload.to_vec()));
            }
        }
        if received.len() >= count {
            break;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{} of {count} datagrams arrived", received.len());
        poll.poll(&mut events, Some(left)).unwrap();
    }
    poll.registry().deregister(socket).unwrap();
    received
}

/// A kernel that answers as told, then takes everything.
#[derive(Default)]
struct Scripted {
    segments_max: usize,
    answers: VecDeque<io::Result<()>>,
    taken: Vec<(SocketAddr, Vec<u8>, Option<usize>)>,
    given_up: usize,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Option<i32>>) -> Self {
        let answers = answers
            .into_iter()
            .map(|errno| errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno))))
            .collect();
        Self { segments_max: 64, answers, ..Self::default() }
    }
}

impl Sink for Scripted {
    fn segments_max(&self) -> usize {
        self.segments_max
    }

    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.answers.pop_front().unwrap_or(Ok(()))?;
        self.taken.push((transmit.destination, transmit.contents.to_vec(), transmit.segment_size));
        Ok(())
    }

    fn give_up_segmentation(&mut self, _now: Instant) {
        self.segments_max = 1;
        self.given_up += 1;
    }
}

const EPERM: i32 = 1;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const EMSGSIZE: i32 = 90;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

#[test]
fn runs_of_equal_size_arrive_as_separate_datagrams_in_order() {
    let (mut a, mut b, mut c) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let mut batch = SendBatch::new();
    let sizes = [1200usize, 1200, 1200, 700, 1200, 90, 1200, 1200];
    for (number, size) in (0u8..).zip(sizes) {
        assert!(batch.push(b.local_addr(), None, &vec![number; size]));
        assert!(batch.push(c.local_addr(), None, &[number + 100; 100]));
    }
    batch.flush(&mut a, Instant::now());
    assert!(batch.is_empty() && !batch.is_blocked());
    let stats = batch.stats();
    assert_eq!(stats.datagrams_sent, 16);
    assert_eq!(stats.dropped(), 0);
    if a.segments_max() > 1 {
        // b: [1200 1200 1200 700] [1200 90] [1200 1200]; c: all eight.
        assert_eq!(stats.sends, 4);
    }
    let at_b = receive(&mut b, 8);
    for ((number, size), (source, destination, payload)) in (0u8..).zip(sizes).zip(&at_b) {
        assert_eq!(payload, &vec![number; size]);
        assert_eq!(*source, a.local_addr());
        assert_eq!(*destination, Some(Ipv4Addr::LOCALHOST.into()));
    }
    let at_c = receive(&mut c, 8);
    assert!((100u8..).zip(&at_c).all(|(number, (.., payload))| payload == &vec![number; 100]));
}

#[test]
fn a_large_batch_arrives_whole() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let mut batch = SendBatch::new();
    // Small enough for the smallest receive buffer that a kernel grants by default.
    for number in 0u32..100 {
        assert!(batch.push(b.local_addr(), None, &[number.to_be_bytes().as_slice(), &[7; 396]].concat()));
    }
    batch.flush(&mut a, Instant::now());
    let received = receive(&mut b, 100);
    assert_eq!(received.len(), 100);
    for (number, (.., payload)) in (0u32..).zip(&received) {
        assert_eq!(payload.len(), 400);
        assert_eq!(payload[..4], number.to_be_bytes());
    }
    assert!(batch.stats().sends >= 2, "one send carries 64 segments at most");
}

#[test]
fn the_source_address_is_obeyed_and_the_destination_told() {
    let (mut a, mut b) = (bind("0.0.0.0:0"), bind("0.0.0.0:0"));
    let to = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 3).into(), b.local_addr().port());
    let mut batch = SendBatch::new();
    batch.push(to, Some(Ipv4Addr::new(127, 0, 0, 2).into()), b"x");
    batch.flush(&mut a, Instant::now());
    let received = receive(&mut b, 1);
    assert_eq!(received[0].0, SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), a.local_addr().port()));
    assert_eq!(received[0].1, Some(to.ip()));
}

#[test]
fn a_dual_stack_socket_speaks_ipv4() {
    let (mut a, mut b) = (bind("[::]:0"), bind("127.0.0.1:0"));
    let mut batch = SendBatch::new();
    batch.push(b.local_addr(), Some(Ipv4Addr::LOCALHOST.into()), b"there");
    batch.flush(&mut a, Instant::now());
    let (from, ..) = receive(&mut b, 1).remove(0);
    assert_eq!(from, address(a.local_addr().port()));
    batch.push(from, None, b"back");
    batch.flush(&mut b, Instant::now());
    let (source, destination, payload) = receive(&mut a, 1).remove(0);
    assert_eq!((source, payload.as_slice()), (b.local_addr(), b"back".as_slice()));
    assert_eq!(destination, Some(Ipv4Addr::LOCALHOST.into()));
}

#[test]
fn an_error_of_one_destination_spares_the_others_and_segmentation_comes_back() {
    let (mut a, mut b) = (bind("0.0.0.0:0"), bind("127.0.0.1:0"));
    let before = a.segments_max();
    let now = Instant::now();
    let mut batch = SendBatch::new();
    // Broadcast without permission, and a source address that is not ours: EACCES, EINVAL.
    batch.push("255.255.255.255:9".parse().unwrap(), None, b"x");
    batch.push(b.local_addr(), Some(Ipv4Addr::new(192, 0, 2, 77).into()), b"y");
    batch.push(address(b.local_addr().port()), None, b"z");
    batch.flush(&mut a, now);
    assert_eq!(batch.stats().dropped(), 2);
    assert_eq!(receive(&mut b, 1)[0].2, b"z");
    batch.push(b.local_addr(), None, b"z");
    batch.flush(&mut a, now + Duration::from_secs(11));
    assert_eq!(a.segments_max(), before);
}

#[test]
fn impossible_destinations_and_sizes_never_reach_the_kernel() {
    let mut batch = SendBatch::new();
    for destination in ["127.0.0.1:0", "0.0.0.0:5", "224.0.0.1:5", "[ff02::1]:5", "[::]:5"] {
        assert!(!batch.push(destination.parse().unwrap(), None, b"x"));
    }
    assert!(!batch.push(address(5), None, b""));
    assert!(!batch.push(address(5), None, &vec![0; 65_488]));
    assert_eq!((batch.stats().dropped_unreachable, batch.stats().dropped_too_big), (5, 2));
    assert!(batch.is_empty());
}

#[test]
fn a_full_batch_drops_and_counts() {
    let mut batch = SendBatch::new();
    for _ in 0..DATAGRAMS_MAX {
        assert!(batch.push(address(5), None, b"x"));
    }
    assert!(!batch.push(address(5), None, b"x"));
    let mut batch = SendBatch::new();
    let huge = vec![0; 65_000];
    let fitting = ARENA_BYTES_MAX / huge.len();
    assert_eq!((0..fitting + 3).filter(|_| batch.push(address(5), None, &huge)).count(), fitting);
    assert_eq!(batch.stats().dropped_full, 3);
}

#[test]
fn a_blocked_kernel_keeps_the_rest_for_20_ms() {
    let now = Instant::now();
    let mut batch = SendBatch::new();
    batch.push(address(1), None, &[1; 10]);
    batch.push(address(2), None, &[2; 10]);
    batch.push(address(3), None, &[3; 10]);
    let mut kernel = Scripted::new([None, Some(EAGAIN)]);
    batch.flush_to(&mut kernel, now);
    assert!(batch.is_blocked());
    assert_eq!(batch.len(), 2);

    // What is pushed meanwhile leaves after what waits for the same destination.
    let later = now + Duration::from_millis(19);
    batch.push(address(2), None, &[4; 10]);
    let mut kernel = Scripted::new([None, Some(EAGAIN)]);
    batch.flush_to(&mut kernel, later);
    assert_eq!(kernel.taken, [(address(2), [[2; 10], [4; 10]].concat(), Some(10))]);
    assert_eq!(batch.len(), 1);

    // The datagram for port 3 has waited since the first flush.
    let mut kernel = Scripted::new([]);
    batch.flush_to(&mut kernel, now + Duration::from_millis(20));
    assert!(kernel.taken.is_empty() && batch.is_empty() && !batch.is_blocked());
    let stats = batch.stats();
    assert_eq!((stats.datagrams_sent, stats.dropped_stale, stats.dropped()), (3, 1, 1));
}

#[test]
fn refused_segmentation_is_repeated_one_by_one() {
    for errno in [EIO, EINVAL, EMSGSIZE] {
        let mut batch = SendBatch::new();
        for number in 0u8..4 {
            batch.push(address(1), None, &[number; 10]);
        }
        batch.push(address(2), None, &[9; 10]);
        // The third single is too large for the path.
        let mut kernel = Scripted::new([Some(errno), None, None, Some(EMSGSIZE)]);
        batch.flush_to(&mut kernel, Instant::now());
        let taken: Vec<_> =
            kernel.taken.iter().map(|(to, bytes, size)| (to.port(), bytes[0], *size)).collect();
        assert_eq!(taken, [(1, 0, None), (1, 1, None), (1, 3, None), (2, 9, None)]);
        let stats = batch.stats();
        assert_eq!((stats.segmentation_refused, stats.datagrams_sent, stats.dropped_too_big), (1, 4, 1));
        assert_eq!(stats.dropped(), 1);
    }
}

#[test]
fn an_unreachable_destination_costs_one_call() {
    let mut batch = SendBatch::new();
    for size in [10, 20, 30] {
        batch.push(address(1), None, &vec![0; size]);
        batch.push(address(2), None, &vec![0; size]);
    }
    let mut kernel = Scripted::new([Some(EHOSTUNREACH)]);
    batch.flush_to(&mut kernel, Instant::now());
    assert_eq!(kernel.taken.len(), 3);
    let stats = batch.stats();
    assert_eq!((stats.dropped_unreachable, stats.datagrams_sent, stats.dropped()), (3, 3, 3));
}

#[test]
fn without_offload_every_datagram_is_a_send() {
    let mut batch = SendBatch::new();
    for _ in 0..3 {
        batch.push(address(1), None, &[0; 10]);
    }
    let mut kernel = Scripted { segments_max: 1, ..Scripted::default() };
    batch.flush_to(&mut kernel, Instant::now());
    assert!(kernel.taken.iter().all(|(_, bytes, size)| bytes.len() == 10 && size.is_none()));
    assert_eq!(batch.stats().sends, 3);
}

#[test]
fn buffers_are_granted_or_told() {
    let options = SocketOptions { recv_buffer_bytes: 100_000, send_buffer_bytes: 50_000, reuse_port: false };
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
    // Linux allows at least 212,992 bytes by default, and doubles.
    assert!(socket.recv_buffer_bytes().unwrap() >= 100_000);
    assert!(socket.send_buffer_bytes().unwrap() >= 50_000);
    assert!(socket.recv_buffer_bytes().unwrap() < 1_000_000, "the option is obeyed");
}

#[test]
fn a_run_leaves_at_once_without_a_copy() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let mut batch = SendBatch::new();
    let run: Vec<u8> =
        (0u8..5).flat_map(|number| vec![number; if number < 4 { 1000 } else { 300 }]).collect();
    batch.send(&mut a, b.local_addr(), None, (&run, 1000), Instant::now());
    assert!(batch.is_empty());
    assert_eq!((batch.stats().datagrams_sent, batch.stats().bytes_sent), (5, 4300));
    let received: Vec<Vec<u8>> = receive(&mut b, 5).into_iter().map(|(.., payload)| payload).collect();
    assert_eq!(received, run.chunks(1000).map(<[u8]>::to_vec).collect::<Vec<_>>());
}

#[test]
fn a_run_that_the_kernel_does_not_take_waits_and_keeps_its_place() {
    let now = Instant::now();
    let mut kernel = Scripted::new([Some(EAGAIN)]);
    let mut batch = SendBatch::new();
    batch.send_to(&mut kernel, address(5), None, (b"aabbc", 2), now);
    batch.send_to(&mut kernel, address(5), None, (b"dd", 2), now);
    assert_eq!((batch.len(), kernel.taken.len()), (4, 0), "what comes after it waits as well");
    batch.flush_to(&mut kernel, now);
    let taken: Vec<u8> = kernel.taken.iter().flat_map(|(_, contents, _)| contents.clone()).collect();
    assert_eq!(taken, b"aabbcdd");
    assert_eq!((batch.stats().datagrams_sent, batch.stats().dropped()), (4, 0));
}

#[test]
fn what_follows_an_error_leaves_at_once() {
    for errno in [EPERM, EACCES, EMSGSIZE, ECONNREFUSED, EHOSTUNREACH] {
        let mut kernel = Scripted::new([Some(errno)]);
        let mut batch = SendBatch::new();
        batch.send_to(&mut kernel, address(5), None, (b"a", 1), Instant::now());
        assert!(batch.is_empty(), "{errno}");
        batch.send_to(&mut kernel, address(6), None, (b"bb", 1), Instant::now());
        assert_eq!(kernel.taken, [(address(6), b"bb".to_vec(), Some(1))], "{errno}");
        assert_eq!((batch.stats().datagrams_sent, batch.stats().dropped()), (2, 1), "{errno}");
    }
}

#[test]
fn what_follows_an_error_of_a_real_kernel_leaves_at_once() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let mut batch = SendBatch::new();
    // Broadcast without permission.
    batch.send(&mut a, "127.255.255.255:9".parse().unwrap(), None, (b"x", 1), Instant::now());
    assert_eq!((batch.len(), batch.stats().dropped_failed), (0, 1));
    batch.send(&mut a, b.local_addr(), None, (b"yz", 1), Instant::now());
    assert_eq!((batch.len(), batch.stats().datagrams_sent), (0, 2));
    let received: Vec<_> = receive(&mut b, 2).into_iter().map(|(.., payload)| payload).collect();
    assert_eq!(received, [b"y", b"z"]);
}

#[test]
fn without_offload_all_that_the_kernel_takes_leaves_at_once() {
    let mut kernel = Scripted { segments_max: 1, ..Scripted::default() };
    let mut batch = SendBatch::new();
    for number in 0..300 {
        batch.send_to(&mut kernel, address(number + 1), None, (&[0; 2000], 100), Instant::now());
    }
    assert_eq!((batch.len(), batch.stats().datagrams_sent, batch.stats().dropped()), (0, 6000, 0));
    assert!(kernel.taken.iter().all(|(_, bytes, size)| bytes.len() == 100 && size.is_none()));
}

#[test]
fn without_offload_a_real_kernel_takes_all_at_once() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    a.suppose_segments(1);
    let mut batch = SendBatch::new();
    for _ in 0..300 {
        batch.send(&mut a, b.local_addr(), None, (&[0; 2000], 100), Instant::now());
        assert_eq!(receive(&mut b, 20).len(), 20);
    }
    assert_eq!((batch.len(), batch.stats().sends, batch.stats().dropped()), (0, 6000, 0));
}

#[test]
fn a_run_too_large_for_its_path_is_sent_singly_and_segmentation_stays() {
    for errno in [EMSGSIZE, EINVAL] {
        // 1400 octets are too many, alone as well; the last datagram has 300.
        let mut kernel = Scripted::new([Some(errno), Some(EMSGSIZE), Some(EMSGSIZE)]);
        let mut batch = SendBatch::new();
        batch.send_to(&mut kernel, address(1), None, (&[0; 3100], 1400), Instant::now());
        batch.send_to(&mut kernel, address(2), None, (&[0; 3100], 1400), Instant::now());
        let taken: Vec<_> =
            kernel.taken.iter().map(|(to, bytes, size)| (to.port(), bytes.len(), *size)).collect();
        assert_eq!(taken, [(1, 300, None), (2, 3100, Some(1400))]);
        let stats = batch.stats();
        assert_eq!((stats.segmentation_refused, stats.dropped_too_big, stats.dropped()), (1, 2, 2));
        assert_eq!(kernel.given_up, 0);
    }
}

#[test]
fn only_a_refusal_of_modest_segments_gives_segmentation_up() {
    for (errno, segment_bytes, given_up) in
        [(EIO, 1233, 0), (EINVAL, 1233, 0), (EIO, 1232, 1), (EINVAL, 1232, 1), (EMSGSIZE, 1232, 1)]
    {
        let mut kernel = Scripted::new([Some(errno)]);
        let mut batch = SendBatch::new();
        let contents = vec![0; 3 * segment_bytes];
        batch.send_to(&mut kernel, address(1), None, (&contents, segment_bytes), Instant::now());
        assert_eq!((batch.stats().datagrams_sent, kernel.given_up), (3, given_up), "{errno} {segment_bytes}");
        batch.send_to(&mut kernel, address(1), None, (&contents, segment_bytes), Instant::now());
        assert_eq!(batch.stats().segmentation_refused, 1);
        assert_eq!(batch.stats().sends, if given_up == 1 { 6 } else { 4 });
    }
}

#[test]
fn segmentation_that_a_real_kernel_refuses_is_given_up_for_10_s() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let now = Instant::now();
    let mut batch = SendBatch::new();
    // Linux takes 64 segments, from 6.9 on 128, and says EINVAL to more.
    a.suppose_segments(300);
    let contents: Vec<u8> = (0..300u16).flat_map(u16::to_be_bytes).collect();
    batch.send(&mut a, b.local_addr(), None, (&contents, 2), now);
    let received: Vec<u8> = receive(&mut b, 300).into_iter().flat_map(|(.., payload)| payload).collect();
    assert_eq!(received, contents);
    assert_eq!((batch.len(), batch.stats().segmentation_refused, batch.stats().sends), (0, 1, 300));
    assert_eq!(a.segments_max(), 1);
    a.suppose_segments(64);
    batch.send(&mut a, b.local_addr(), None, (b"aabbc", 2), now + Duration::from_millis(9_999));
    assert_eq!(batch.stats().sends, 303);
    batch.send(&mut a, b.local_addr(), None, (b"aabbc", 2), now + Duration::from_secs(10));
    assert_eq!((batch.stats().sends, a.segments_max()), (304, 64));
    assert_eq!(receive(&mut b, 6).len(), 6);
}

#[test]
fn a_bad_destination_leaves_segmentation_to_all_others() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    a.suppose_segments(64);
    let mut batch = SendBatch::new();
    // Reserved, and no way leads there from a loopback address: EINVAL, before anything leaves.
    batch.send(&mut a, "240.0.0.1:9".parse().unwrap(), None, (b"aabb", 2), Instant::now());
    batch.send(&mut a, b.local_addr(), None, (b"ccdd", 2), Instant::now());
    assert_eq!((batch.stats().sends, batch.stats().dropped()), (1, 2));
    assert_eq!((receive(&mut b, 2).len(), a.segments_max()), (2, 64));
}

#[test]
fn more_than_one_send_carries_leaves_at_once() {
    let mut kernel = Scripted::new([]);
    let mut batch = SendBatch::new();
    batch.send_to(&mut kernel, address(1), None, (&[0; 100 * 1000 + 1], 1000), Instant::now());
    let datagrams: Vec<_> = kernel.taken.iter().map(|(_, bytes, _)| bytes.len().div_ceil(1000)).collect();
    assert_eq!((datagrams, batch.len()), (vec![64, 37], 0));
    batch.send_to(&mut kernel, address(1), None, (&[0; 70_001], 70_000), Instant::now());
    assert_eq!((batch.stats().dropped_too_big, batch.stats().datagrams_sent), (1, 102));
}

#[test]
fn a_full_batch_is_flushed_unless_the_kernel_is_blocked() {
    let now = Instant::now();
    let fill =
        |batch: &mut SendBatch| (0..DATAGRAMS_MAX).for_each(|_| _ = batch.push(address(1), None, b"a"));
    let mut batch = SendBatch::new();
    fill(&mut batch);
    let mut kernel = Scripted::new([]);
    batch.send_to(&mut kernel, address(1), None, (b"zz", 1), now);
    assert_eq!((batch.len(), batch.stats().datagrams_sent, batch.stats().dropped()), (0, 4098, 0));
    assert_eq!(kernel.taken.pop().unwrap().1, b"zz", "order is kept");

    // One attempt finds the kernel blocked. The next turn tries again.
    fill(&mut batch);
    let mut kernel = Scripted::new([Some(EAGAIN)]);
    batch.send_to(&mut kernel, address(1), None, (b"yy", 1), now);
    batch.send_to(&mut kernel, address(1), None, (b"yy", 1), now);
    assert!(batch.is_blocked() && kernel.taken.is_empty());
    assert_eq!((batch.len(), batch.stats().dropped_full), (DATAGRAMS_MAX, 4));
    batch.send_to(&mut kernel, address(1), None, (b"xx", 1), now + Duration::from_millis(1));
    assert_eq!((batch.len(), batch.is_blocked(), batch.stats().dropped()), (0, false, 4));
}

#[test]
fn a_kernel_that_blocks_amid_single_datagrams_gets_the_rest_later() {
    let now = Instant::now();
    let answers = [Some(EMSGSIZE), None, Some(EAGAIN)];
    let sends: [fn(&mut SendBatch, &mut Scripted, Instant); 2] = [
        |batch, kernel, now| batch.send_to(kernel, address(5), None, (b"aabbc", 2), now),
        |batch, kernel, now| {
            [b"aa".as_slice(), b"bb", b"c"].iter().for_each(|part| _ = batch.push(address(5), None, part));
            batch.flush_to(kernel, now);
        },
    ];
    for send in sends {
        let (mut kernel, mut batch) = (Scripted::new(answers), SendBatch::new());
        send(&mut batch, &mut kernel, now);
        assert_eq!((batch.len(), batch.is_blocked()), (2, true));
        batch.flush_to(&mut kernel, now);
        let taken: Vec<u8> = kernel.taken.iter().flat_map(|(_, contents, _)| contents.clone()).collect();
        assert_eq!(taken, b"aabbc");
        assert_eq!((batch.stats().datagrams_sent, batch.stats().dropped()), (3, 0));
    }
}

#[test]
fn a_run_whose_segmentation_is_refused_goes_one_by_one() {
    let now = Instant::now();
    let mut kernel = Scripted::new([Some(EIO)]);
    let mut batch = SendBatch::new();
    batch.send_to(&mut kernel, address(5), None, (b"aabbc", 2), now);
    let sizes: Vec<Option<usize>> = kernel.taken.iter().map(|(_, _, segment)| *segment).collect();
    assert_eq!(sizes, [None, None, None]);
    assert_eq!(batch.stats().datagrams_sent, 3);
}

#[test]
fn impossible_runs_are_counted_and_never_reach_the_kernel() {
    let mut kernel = Scripted::new([]);
    let mut batch = SendBatch::new();
    batch.send_to(&mut kernel, "224.0.0.1:5".parse().unwrap(), None, (b"aab", 2), Instant::now());
    batch.send_to(&mut kernel, address(5), None, (b"", 2), Instant::now());
    assert_eq!((batch.stats().dropped_unreachable, kernel.taken.len(), batch.len()), (2, 0, 0));
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernel_tells_when_a_datagram_came() {
    use std::time::SystemTime;
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let unix = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let before = unix();
    let mut batch = SendBatch::new();
    batch.push(b.local_addr(), None, b"x");
    batch.flush(&mut a, Instant::now());
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut b, Token(0), Interest::READABLE).unwrap();
    poll.poll(&mut Events::with_capacity(1), Some(Duration::from_secs(5))).unwrap();
    let mut received = RecvBatch::new();
    received.recv(&b).unwrap();
    let arrived = received.datagrams_mut().next().unwrap().arrived.unwrap();
    assert!((before..=unix()).contains(&arrived), "{before:?} {arrived:?}");
}
