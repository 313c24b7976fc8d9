use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream},
    thread::JoinHandle,
};

use crossbeam_channel::Receiver;

use super::*;

/// First frames of these tests name their worker in the first byte; 0xff names none.
fn shard_in_first_byte(frame: &[u8]) -> Option<ShardIndex> {
    frame.first().copied().filter(|byte| *byte != 0xff).map(ShardIndex)
}

struct Rig {
    address: SocketAddr,
    sockets: Vec<Receiver<AcceptedSocket>>,
    stats: Arc<AcceptorStats>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<io::Result<()>>>,
    _polls: Vec<Poll>,
}

impl Rig {
    fn new(workers: usize, room: usize, connections_per_source_max: usize) -> Self {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (mut senders, mut sockets, mut polls) = (vec![], vec![], vec![]);
        for _ in 0..workers {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let (sender, receiver) = crossbeam_channel::bounded(room);
            senders.push(SocketSender { sockets: sender, waker });
            sockets.push(receiver);
            polls.push(poll);
        }
        let config = AcceptorConfig {
            connections_max: 100,
            connections_per_source_max,
            shard_of: shard_in_first_byte,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let acceptor = Acceptor::new(listener, config, senders, stop.clone()).unwrap();
        let (stats, waker) = (acceptor.stats(), acceptor.waker());
        let thread = Some(std::thread::spawn(move || acceptor.run()));
        Self { address, sockets, stats, stop, waker, thread, _polls: polls }
    }

    fn connect(&self) -> StdStream {
        StdStream::connect(self.address).unwrap()
    }

    fn accepted(&self, worker: usize) -> AcceptedSocket {
        self.sockets[worker].recv_timeout(Duration::from_secs(5)).expect("a socket is handed over")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake().unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

/// The acceptor closes the stream, in time, without a byte.
fn assert_closed(mut stream: StdStream) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match stream.read(&mut [0; 8]) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("still open: {other:?}"),
    }
}

#[test]
fn the_first_frame_names_the_worker_and_comes_along() {
    let rig = Rig::new(3, 4, 50);
    let mut stream = rig.connect();
    // In pieces, and with the beginning of a second frame.
    for piece in [&[0u8][..], &[3, 2], b"x", b"y\x00\x05more"] {
        stream.write_all(piece).unwrap();
    }
    let socket = rig.accepted(2);
    assert_eq!(socket.source, stream.local_addr().unwrap());
    assert!(socket.received.starts_with(b"\x00\x03\x02xy"));
    assert!(b"\x00\x03\x02xy\x00\x05more".starts_with(&socket.received));
    assert!(rig.sockets[0].is_empty() && rig.sockets[1].is_empty());
}

#[test]
fn nonsense_is_closed() {
    let rig = Rig::new(1, 4, 50);
    // Names no worker, names one that does not exist, is too large, is empty, is a web request.
    for bytes in [&b"\x00\x01\xff"[..], b"\x00\x01\x07", &[0x05, 0xdd], &[0, 0], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = rig.connect();
        stream.write_all(bytes).unwrap();
        assert_closed(stream);
    }
    assert!(rig.sockets[0].is_empty());
    assert_eq!(rig.stats.closed_invalid.load(Ordering::Relaxed), 5);
}

#[test]
fn connections_from_one_source_are_bounded_and_come_back() {
    let rig = Rig::new(1, 16, 3);
    let dial = || {
        let mut stream = rig.connect();
        stream.write_all(b"\x00\x01\x00").unwrap();
        stream
    };
    let streams: Vec<_> = (0..3).map(|_| dial()).collect();
    let mut held: Vec<_> = (0..3).map(|_| rig.accepted(0)).collect();
    assert_closed(dial());
    assert_eq!(rig.stats.closed_limit.load(Ordering::Relaxed), 1);
    held.pop();
    let _stream = dial();
    rig.accepted(0);
    drop(streams);
}

#[test]
fn a_worker_that_takes_no_sockets_costs_nobody_else() {
    let rig = Rig::new(2, 1, 50);
    let mut streams = vec![rig.connect(), rig.connect()];
    for stream in &mut streams {
        stream.write_all(b"\x00\x01\x00").unwrap();
    }
    // One of them found the channel full.
    let deadline = Instant::now() + Duration::from_secs(5);
    while rig.stats.closed_busy.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let mut other = rig.connect();
    other.write_all(b"\x00\x01\x01").unwrap();
    rig.accepted(1);
}

#[test]
fn idle_sockets_do_not_keep_others_out() {
    let rig = Rig::new(1, 4, 50);
    let idle: Vec<_> = (0..WAITING_PER_SOURCE_MAX + 50).map(|_| rig.connect()).collect();
    let mut stream = rig.connect();
    stream.write_all(b"\x00\x01\x00").unwrap();
    let socket = rig.accepted(0);
    assert_eq!(socket.source, stream.local_addr().unwrap());
    // The oldest were closed, the newest wait.
    assert!(rig.stats.closed_silent.load(Ordering::Relaxed) >= 50);
    let mut idle = idle.into_iter();
    assert_closed(idle.next().unwrap());
    let mut newest = idle.next_back().unwrap();
    newest.write_all(b"\x00\x01\x00").unwrap();
    assert_eq!(rig.accepted(0).source, newest.local_addr().unwrap());
}

#[test]
fn silent_sockets_expire_by_age() {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let config =
        AcceptorConfig { connections_max: 1, connections_per_source_max: 1, shard_of: shard_in_first_byte };
    let mut acceptor = Acceptor::new(listener, config, Vec::new(), Arc::default()).unwrap();
    let _streams = [StdStream::connect(address).unwrap(), StdStream::connect(address).unwrap()];
    let now = Instant::now();
    acceptor.accept(now);
    assert_eq!(acceptor.waiting.len(), 2);
    assert_eq!(acceptor.timeout(now), Some(FIRST_FRAME_TIMEOUT));
    acceptor.expire(now + FIRST_FRAME_TIMEOUT - Duration::from_millis(1));
    assert_eq!(acceptor.waiting.len(), 2);
    acceptor.expire(now + FIRST_FRAME_TIMEOUT);
    assert!(acceptor.waiting.is_empty() && acceptor.by_source.is_empty());
    assert_eq!(acceptor.timeout(now), None);
}
