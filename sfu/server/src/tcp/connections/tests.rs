use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream as StdStream},
};

use mio::{Events, Poll};

use super::*;
use crate::tcp::{budget::ConnectionBudget, framing::WRITE_BUFFER_BYTES_MAX};

const OURS: &str = "203.0.113.5:7881";

struct Rig {
    poll: Poll,
    connections: Connections,
    listener: TcpListener,
    budget: ConnectionBudget,
}

impl Rig {
    fn new() -> Self {
        Self {
            poll: Poll::new().unwrap(),
            connections: Connections::new(2),
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            budget: ConnectionBudget::new(10, 10),
        }
    }

    /// A client whose first bytes the acceptor has read.
    fn connect(&mut self, received: &[u8], now: Instant) -> StdStream {
        let client = StdStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (stream, source) = self.listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let permit = self.budget.take(source.ip()).unwrap();
        let socket = AcceptedSocket { stream, source, received: received.to_vec(), permit };
        self.connections.adopt(self.poll.registry(), socket, OURS.parse().unwrap(), now).unwrap();
        client
    }

    /// One turn of a worker: waits unless something is left to read, then reads, then writes.
    fn turn(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut events = Events::with_capacity(16);
        let wait = if self.connections.is_readable() { Duration::ZERO } else { Duration::from_millis(200) };
        self.poll.poll(&mut events, Some(wait)).unwrap();
        events.iter().for_each(|event| self.connections.on_event(event));
        let mut frames = Vec::new();
        self.connections.read(now, |source, destination, frame| {
            assert_eq!(destination, OURS.parse().unwrap());
            frames.push((source, frame.to_vec()));
        });
        self.connections.flush(now);
        frames
    }

    fn turns_until<T>(
        &mut self,
        now: Instant,
        mut done: impl FnMut(&mut Self, Vec<Vec<u8>>) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let frames = self.turn(now).into_iter().map(|(_, frame)| frame).collect();
            if let Some(result) = done(self, frames) {
                return result;
            }
            assert!(Instant::now() < deadline, "it never came");
        }
    }
}

#[test]
fn frames_go_both_ways() {
    let now = Instant::now();
    let mut rig = Rig::new();
    let mut client = rig.connect(b"\x00\x05first\x00\x03s", now);
    client.write_all(b"ec\x00\x01x").unwrap();
    let mut frames = Vec::new();
    rig.turns_until(now, |_, new| {
        frames.extend(new);
        (frames.len() == 3).then_some(())
    });
    assert_eq!(frames, [b"first".to_vec(), b"sec".to_vec(), b"x".to_vec()]);

    rig.connections.send(client.local_addr().unwrap(), b"answer");
    rig.connections.flush(now);
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x00\x06answer");
    assert_eq!(rig.connections.stats(), ConnectionsStats { connections: 1, ..Default::default() });
}

#[test]
fn the_end_of_a_client_is_told_once() {
    let now = Instant::now();
    let mut rig = Rig::new();
    let client = rig.connect(b"", now);
    let source = client.local_addr().unwrap();
    drop(client);
    assert_eq!(rig.turns_until(now, |rig, _| rig.connections.next_closed()), source);
    assert_eq!(rig.connections.next_closed(), None);
    rig.connections.send(source, b"late");
    let stats = rig.connections.stats();
    assert_eq!((stats.connections, stats.closed_by_client, stats.frames_dropped), (0, 1, 1));
    assert!(rig.budget.take(source.ip()).is_some());
}

#[test]
fn a_frame_over_the_bound_ends_its_connection_only() {
    let now = Instant::now();
    let mut rig = Rig::new();
    let mut good = rig.connect(b"", now);
    let mut bad = rig.connect(b"", now);
    bad.write_all(&[0xff, 0xff]).unwrap();
    let source = bad.local_addr().unwrap();
    assert_eq!(rig.turns_until(now, |rig, _| rig.connections.next_closed()), source);
    good.write_all(b"\x00\x01g").unwrap();
    rig.turns_until(now, |_, frames| (frames == [b"g"]).then_some(()));
    assert_eq!(rig.connections.stats().closed_invalid, 1);
}

#[test]
fn silent_and_unanswered_connections_expire() {
    let now = Instant::now();
    let mut rig = Rig::new();
    let answered = rig.connect(b"", now);
    let _unanswered = rig.connect(b"", now);
    rig.connections.send(answered.local_addr().unwrap(), b"x");
    rig.turn(now);
    rig.connections.expire(now + UNPROVED_TIMEOUT - Duration::from_millis(1));
    assert_eq!(rig.connections.stats().connections, 2);
    rig.connections.expire(now + UNPROVED_TIMEOUT);
    assert_eq!(rig.connections.stats().connections, 1);
    rig.connections.expire(now + IDLE_TIMEOUT);
    let stats = rig.connections.stats();
    assert_eq!((stats.connections, stats.closed_idle), (0, 2));
}

#[test]
fn a_client_that_reads_nothing_loses_frames_then_its_connection() {
    let now = Instant::now();
    let mut rig = Rig::new();
    let mut client = rig.connect(b"", now);
    let source = client.local_addr().unwrap();
    let packet = [7; 1000];
    // The kernels' buffers on both sides take some megabytes at most.
    let mut sent = 0;
    while rig.connections.stats().frames_dropped == 0 {
        rig.connections.send(source, &packet);
        rig.connections.flush(now);
        sent += 1;
        assert!(sent < 100_000, "nothing bounds what is held");
    }
    let held = rig.connections.slab.iter().next().unwrap().1.writer.pending();
    assert!(held <= WRITE_BUFFER_BYTES_MAX);

    // It reads again in time: everything that was taken arrives.
    let expected = (sent - rig.connections.stats().frames_dropped) * 1002;
    let reader = std::thread::spawn(move || {
        let mut arrived = 0;
        let mut chunk = [0; 65_536];
        while arrived < expected {
            arrived += client.read(&mut chunk).unwrap() as u64;
        }
        (client, arrived)
    });
    let later = now + STUCK_TIMEOUT - Duration::from_millis(1);
    rig.turns_until(later, |rig, _| {
        rig.connections.expire(later);
        (rig.connections.slab.iter().next().unwrap().1.writer.pending() == 0).then_some(())
    });
    let (_client, arrived) = reader.join().unwrap();
    assert_eq!(arrived, expected);

    // It stops again, for good.
    let dropped = rig.connections.stats().frames_dropped;
    while rig.connections.stats().frames_dropped == dropped {
        rig.connections.send(source, &packet);
        rig.connections.flush(later);
    }
    rig.connections.expire(later + STUCK_TIMEOUT);
    assert_eq!(rig.connections.next_closed(), Some(source));
}

#[test]
fn a_source_that_comes_again_replaces_its_old_connection() {
    let now = Instant::now();
    let mut rig = Rig::new();
    let client = rig.connect(b"", now);
    let source = client.local_addr().unwrap();
    let other = StdStream::connect(rig.listener.local_addr().unwrap()).unwrap();
    let (stream, _) = rig.listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let permit = rig.budget.take(source.ip()).unwrap();
    let socket = AcceptedSocket { stream, source, received: Vec::new(), permit };
    rig.connections.adopt(rig.poll.registry(), socket, OURS.parse().unwrap(), now).unwrap();
    assert_eq!(rig.connections.next_closed(), Some(source));
    rig.connections.send(source, b"x");
    rig.connections.flush(now);
    let mut answer = [0; 3];
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (&other).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x00\x01x");
    assert_eq!(rig.connections.stats().connections, 1);
}
