//! The thread that accepts ICE-TCP sockets and finds out whose they are.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, TrySendError};
use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};
use zynk_sfu_core::ShardIndex;

use super::{
    AcceptedSocket,
    budget::{ConnectionBudget, source_key},
    framing::{first_frame, first_frame_len},
};

/// Sockets that have not sent their first frame yet. When there are more, the oldest is closed: a client
/// sends its frame within a round trip, so the one that has waited longest is the least likely to be one.
const WAITING_MAX: usize = 2_048;

/// Waiting sockets from one source; the oldest of that source is closed for a new one.
const WAITING_PER_SOURCE_MAX: usize = 256;

/// How long a socket may take for its first frame. Then it is closed.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest first frame: a STUN request fits an Ethernet packet. Larger ones close the socket.
const FIRST_FRAME_BYTES_MAX: usize = 1_500;

/// Sockets accepted in one turn, so that those which already wait are read too.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause when the process has no file descriptor left and no waiting socket to close for one.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Tokens from here on are waiting sockets, in order of acceptance.
const FIRST_SOCKET: usize = 2;

/// Bounds on connections, and how first frames are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptorConfig {
    pub(crate) connections_max: usize,
    pub(crate) connections_per_source_max: usize,
    /// Finds the worker in the first frame.
    pub(crate) shard_of: fn(&[u8]) -> Option<ShardIndex>,
}

/// Counted since the start; read by the metrics.
#[derive(Debug, Default)]
pub(crate) struct AcceptorStats {
    /// Sockets accepted.
    pub(crate) accepted: AtomicU64,
    /// Sockets handed to a worker.
    pub(crate) handed_over: AtomicU64,
    /// Sockets closed because they sent nothing useful in time, or were the oldest of too many.
    pub(crate) closed_silent: AtomicU64,
    /// Sockets closed because their first frame was no STUN request for a worker of this node.
    pub(crate) closed_invalid: AtomicU64,
    /// Sockets closed because their source, or all together, have too many connections.
    pub(crate) closed_limit: AtomicU64,
    /// Sockets closed because their worker did not take them.
    pub(crate) closed_busy: AtomicU64,
}

/// A worker's door for sockets. Sockets are closed when its channel is full.
#[derive(Clone, Debug)]
pub(crate) struct SocketSender {
    pub(crate) sockets: Sender<AcceptedSocket>,
    pub(crate) waker: Arc<Waker>,
}

/// Accepts sockets until it is stopped.
#[derive(Debug)]
pub(crate) struct Acceptor {
    poll: Poll,
    listener: TcpListener,
    config: AcceptorConfig,
    workers: Vec<SocketSender>,
    budget: ConnectionBudget,
    /// By order of acceptance, and so by age.
    waiting: BTreeMap<usize, Waiting>,
    /// The waiting ones of each source, oldest first.
    by_source: HashMap<IpAddr, VecDeque<usize>>,
    next_token: usize,
    /// Sockets may wait in the listener's queue. Polls report them once only.
    acceptable: bool,
    /// No file descriptor was left; try again then.
    accept_again_at: Option<Instant>,
    stats: Arc<AcceptorStats>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

/// A socket without a first frame.
#[derive(Debug)]
struct Waiting {
    stream: TcpStream,
    source: SocketAddr,
    received: Vec<u8>,
    deadline: Instant,
}

/// What a read of a waiting socket showed.
enum FirstFrame {
    Incomplete,
    Complete(ShardIndex),
    Invalid,
    Closed,
}

impl Acceptor {
    /// `listener` is bound and listening.
    pub(crate) fn new(
        listener: std::net::TcpListener,
        config: AcceptorConfig,
        workers: Vec<SocketSender>,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let budget = ConnectionBudget::new(config.connections_max, config.connections_per_source_max);
        Ok(Self {
            poll,
            listener,
            config,
            workers,
            budget,
            waiting: BTreeMap::new(),
            by_source: HashMap::new(),
            next_token: FIRST_SOCKET,
            acceptable: true,
            accept_again_at: None,
            stats: Arc::default(),
            stop,
            waker,
        })
    }

    /// Wakes the thread, so that it sees that it is to stop.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    pub(crate) fn stats(&self) -> Arc<AcceptorStats> {
        self.stats.clone()
    }

    /// Runs until `stop` is set.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(Ordering::Acquire) {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    LISTENER => self.acceptable = true,
                    WAKER => {}
                    Token(token) => self.read(token),
                }
            }
            self.accept(now);
            self.expire(now);
        }
        Ok(())
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.acceptable && self.accept_again_at.is_none() {
            return Some(Duration::ZERO);
        }
        let deadline = self.waiting.values().next().map(|waiting| waiting.deadline);
        let earliest = deadline.into_iter().chain(self.accept_again_at).min()?;
        Some(earliest.saturating_duration_since(now))
    }

    fn accept(&mut self, now: Instant) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
        }
        if !self.acceptable || self.accept_again_at.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, source)) => self.admit(stream, source, now),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.acceptable = false;
                        return;
                    }
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    // EMFILE, ENFILE, ENOBUFS, ENOMEM: something must be given up.
                    _ => {
                        if !self.close_oldest() {
                            tracing::warn!(%error, "cannot accept ICE-TCP connections");
                            self.accept_again_at = Some(now + EXHAUSTED_PAUSE);
                            return;
                        }
                    }
                },
            }
        }
    }

    fn admit(&mut self, mut stream: TcpStream, source: SocketAddr, now: Instant) {
        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let token = self.next_token;
        if self.poll.registry().register(&mut stream, Token(token), Interest::READABLE).is_err() {
            return;
        }
        self.next_token = self.next_token.wrapping_add(1).max(FIRST_SOCKET);
        let siblings = self.by_source.entry(source_key(source.ip())).or_default();
        siblings.push_back(token);
        let oldest_sibling = siblings.front().copied().filter(|_| siblings.len() > WAITING_PER_SOURCE_MAX);
        let deadline = now + FIRST_FRAME_TIMEOUT;
        self.waiting.insert(token, Waiting { stream, source, received: Vec::new(), deadline });
        if let Some(oldest) = oldest_sibling {
            self.close_silent(oldest);
        }
        if self.waiting.len() > WAITING_MAX {
            self.close_oldest();
        }
    }

    fn read(&mut self, token: usize) {
        let Some(waiting) = self.waiting.get_mut(&token) else { return };
        match waiting.read(self.config.shard_of) {
            FirstFrame::Incomplete => {}
            FirstFrame::Closed => self.close_silent(token),
            FirstFrame::Invalid => {
                self.stats.closed_invalid.fetch_add(1, Ordering::Relaxed);
                self.remove(token);
            }
            FirstFrame::Complete(shard) => self.hand_over(token, shard),
        }
    }

    fn hand_over(&mut self, token: usize, shard: ShardIndex) {
        let Some(waiting) = self.remove(token) else { return };
        let Some(worker) = self.workers.get(usize::from(shard.0)) else {
            self.stats.closed_invalid.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Some(permit) = self.budget.take(waiting.source.ip()) else {
            self.stats.closed_limit.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let socket = AcceptedSocket {
            stream: waiting.stream.into(),
            source: waiting.source,
            received: waiting.received,
            permit,
        };
        match worker.sockets.try_send(socket) {
            Ok(()) => {
                self.stats.handed_over.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = worker.waker.wake() {
                    tracing::warn!(%error, "cannot wake a worker");
                }
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.stats.closed_busy.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((&token, waiting)) = self.waiting.first_key_value()
            && waiting.deadline <= now
        {
            self.close_silent(token);
        }
    }

    fn close_oldest(&mut self) -> bool {
        match self.waiting.first_key_value() {
            Some((&oldest, _)) => {
                self.close_silent(oldest);
                true
            }
            None => false,
        }
    }

    fn close_silent(&mut self, token: usize) {
        self.stats.closed_silent.fetch_add(1, Ordering::Relaxed);
        self.remove(token);
    }

    fn remove(&mut self, token: usize) -> Option<Waiting> {
        let mut waiting = self.waiting.remove(&token)?;
        let source = source_key(waiting.source.ip());
        if let Some(siblings) = self.by_source.get_mut(&source) {
            siblings.retain(|sibling| *sibling != token);
            if siblings.is_empty() {
                self.by_source.remove(&source);
            }
        }
        let _ = self.poll.registry().deregister(&mut waiting.stream);
        Some(waiting)
    }
}

impl Waiting {
    /// Reads until the first frame is complete or nothing more is there. Bytes after it stay in the socket,
    /// or come along if they were read with it.
    fn read(&mut self, shard_of: fn(&[u8]) -> Option<ShardIndex>) -> FirstFrame {
        let mut chunk = [0; 2 + FIRST_FRAME_BYTES_MAX];
        loop {
            match first_frame_len(&self.received) {
                Some(0) => return FirstFrame::Invalid,
                Some(len) if len > FIRST_FRAME_BYTES_MAX => return FirstFrame::Invalid,
                _ => {}
            }
            if let Some(frame) = first_frame(&self.received) {
                return shard_of(frame).map_or(FirstFrame::Invalid, FirstFrame::Complete);
            }
            let room = chunk.len().saturating_sub(self.received.len());
            let Some(chunk) = chunk.get_mut(..room) else { return FirstFrame::Invalid };
            match self.stream.read(chunk) {
                Ok(0) => return FirstFrame::Closed,
                Ok(len) => self.received.extend_from_slice(chunk.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return FirstFrame::Incomplete,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return FirstFrame::Closed,
            }
        }
    }
}

#[cfg(test)]
mod tests;
