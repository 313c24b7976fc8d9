//! Clients over TCP and TLS, and the connections of peers that go through to them (RFC 6062).
//!
//! ```text
//!  accept ─► (PROXY header) ─► (TLS handshake) ─► frames ─► core
//!  handed over, with its handshake done ───────────┘   └─ ConnectionBind ─► spliced: bytes go to the peer's connection as
//!                                                                           they are, and back
//! ```
//! A stream is nobody's until an allocation or a peer's connection hangs on it. Such streams are few and do not live
//! long; who reads slowly loses data, not the stream, and costs a bounded amount of memory.

mod accept;
mod peers;
mod stream;

pub(crate) use peers::accept;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use ipnet::IpNet;
use mio::{Interest, Registry, Token};
use rustc_hash::FxHashMap;
use slab::Slab;
use zynk_turn_core::{FiveTuple, Frame, PeerConnectionKey, Transport, next_frame};

use crate::dtls::source_key;
use crate::handover::TlsClient;
use crate::tokens::{self, Kind};
use peers::Peers;
use stream::{ReadOutcome, Stream};

/// Streams on which no allocation hangs. When there are more, the oldest of them is closed.
const UNPROVEN_MAX: usize = 2048;

/// How long a stream may live on which no allocation hangs.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a TLS handshake may take, and the first message after it.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream that took nothing for so long while bytes wait for it is closed.
const STUCK_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams read in one turn.
const STREAMS_PER_TURN: usize = 64;

/// Bytes read from one stream in one turn.
const READ_BYTES_PER_TURN: usize = 128 * 1024;

/// Bytes that wait for a stream before data for it is dropped.
const DATA_WAITING_MAX: usize = 256 * 1024;

/// Bytes that wait for a stream before it is closed: not even answers fit.
const CONTROL_WAITING_MAX: usize = 1024 * 1024;

/// Bytes that wait for a stream on which no allocation hangs before it is closed.
const UNPROVEN_WAITING_MAX: usize = 64 * 1024;

/// Bytes that wait on one side of two connections that are one before nothing more is read from the other.
const SPLICE_WAITING_MAX: usize = 256 * 1024;

/// What streams are told; it may change.
#[derive(Clone, Debug)]
pub(crate) struct StreamSettings {
    pub(crate) connections_max: usize,
    pub(crate) connections_per_source_max: usize,
    /// Connections from there begin with a PROXY header.
    pub(crate) balancers: Vec<IpNet>,
}

/// What happened on streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamStats {
    /// Streams of clients now.
    pub(crate) streams: u64,
    /// Streams that were accepted.
    pub(crate) accepted: u64,
    /// Streams refused because there were too many, in all or from one address.
    pub(crate) refused: u64,
    /// Streams closed for being silent, stuck, or nobody's for too long.
    pub(crate) closed_idle: u64,
    /// Streams closed because they did not speak TURN, or not TLS.
    pub(crate) closed_invalid: u64,
    /// Runs of data dropped because a stream did not take them.
    pub(crate) dropped: u64,
}

/// What a stream has to say.
#[derive(Debug)]
pub(crate) enum StreamEvent<'a> {
    /// One frame of a client.
    Frame { five_tuple: FiveTuple, payload: &'a [u8] },
    /// A client's stream has ended.
    Closed { five_tuple: FiveTuple },
    /// A peer's connection is there.
    PeerConnected { connection: PeerConnectionKey },
    /// A peer's connection ended or could not be made.
    PeerClosed { connection: PeerConnectionKey },
}

/// All streams of one worker.
#[derive(Debug)]
pub(crate) struct Streams {
    listeners: Vec<Listener>,
    slab: Slab<Stream>,
    by_tuple: FxHashMap<FiveTuple, usize>,
    per_source: FxHashMap<IpAddr, usize>,
    /// Streams in the order of coming, with the time, while they may be nobody's.
    unproven: VecDeque<(usize, u64)>,
    next_serial: u64,
    readable: Vec<usize>,
    dirty: Vec<usize>,
    peers: Peers,
    tls: Option<Arc<rustls::ServerConfig>>,
    settings: StreamSettings,
    handed_over: Receiver<Box<TlsClient>>,
    chunk: Vec<u8>,
    /// Ended since the last call, for the core to be told.
    closed: Vec<FiveTuple>,
    stats: StreamStats,
}

#[derive(Debug)]
struct Listener {
    listener: mio::net::TcpListener,
    transport: Transport,
    acceptable: bool,
    /// The system refused: to be tried again without a report.
    retries: bool,
}

impl Streams {
    pub(crate) fn new(
        tls: Option<Arc<rustls::ServerConfig>>,
        settings: StreamSettings,
        handed_over: Receiver<Box<TlsClient>>,
    ) -> Self {
        Self {
            listeners: Vec::new(),
            slab: Slab::new(),
            by_tuple: FxHashMap::default(),
            per_source: FxHashMap::default(),
            unproven: VecDeque::new(),
            next_serial: 0,
            readable: Vec::new(),
            dirty: Vec::new(),
            peers: Peers::default(),
            tls,
            settings,
            handed_over,
            chunk: vec![0; 64 * 1024],
            closed: Vec::new(),
            stats: StreamStats::default(),
        }
    }

    /// Adds a socket that listens.
    pub(crate) fn listen(
        &mut self,
        registry: &Registry,
        listener: TcpListener,
        transport: Transport,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let token = tokens::token(Kind::Listener, self.listeners.len());
        registry.register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push(Listener { listener, transport, acceptable: true, retries: false });
        Ok(())
    }

    /// From now on other limits hold, and handshakes show another certificate.
    pub(crate) fn configure(&mut self, settings: StreamSettings, tls: Arc<rustls::ServerConfig>) {
        self.settings = settings;
        self.tls = Some(tls);
    }

    pub(crate) fn stats(&self) -> StreamStats {
        StreamStats { streams: self.slab.len() as u64, ..self.stats }
    }

    /// Notes what a poll reported.
    pub(crate) fn on_event(&mut self, kind: Kind, index: usize, event: &mio::event::Event) {
        match kind {
            Kind::Listener => {
                if let Some(listener) = self.listeners.get_mut(index) {
                    listener.acceptable = true;
                }
            }
            Kind::Stream => {
                if event.is_readable() || event.is_error() || event.is_read_closed() {
                    self.mark_readable(index);
                }
                if event.is_writable() {
                    self.mark_dirty(index);
                }
            }
            _ => self.peers.on_event(index, event),
        }
    }

    /// Whether a turn left something to read.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.closed.is_empty()
            || !self.readable.is_empty()
            || !self.handed_over.is_empty()
            || self.listeners.iter().any(|listener| listener.acceptable)
            || self.peers.is_waiting()
    }

    /// Closes the oldest stream of nobody's if there are too many.
    fn bound_unproven(&mut self) {
        let slab = &self.slab;
        let is_unproven = |(key, serial): &(usize, u64)| {
            slab.get(*key)
                .is_some_and(|stream| stream.serial == *serial && !stream.is_proven && stream.peer.is_none())
        };
        if self.unproven.len() > UNPROVEN_MAX {
            self.unproven.retain(is_unproven);
        }
        if self.unproven.len() > UNPROVEN_MAX
            && let Some((key, _)) = self.unproven.pop_front()
        {
            self.stats.closed_idle += 1;
            self.close(key);
        }
    }

    /// Reads what is there and hands out what it means.
    pub(crate) fn read(&mut self, mut on_event: impl FnMut(StreamEvent<'_>)) {
        // Before the frames of whoever has the same address now.
        self.closed.drain(..).for_each(|five_tuple| on_event(StreamEvent::Closed { five_tuple }));
        // The rest waits for the next turn: what a turn reads waits in the core's outbox.
        let count = self.readable.len().min(STREAMS_PER_TURN);
        for key in self.readable.drain(..count).collect::<Vec<_>>() {
            if !self.read_header(key) {
                continue;
            }
            let Some(stream) = self.slab.get_mut(key) else { continue };
            stream.is_readable = false;
            if stream.peer.is_some() {
                self.read_spliced(key);
                continue;
            }
            let five_tuple = stream.five_tuple;
            let outcome = stream.read(&mut self.chunk, READ_BYTES_PER_TURN);
            let understood =
                stream.take_frames(|payload| on_event(StreamEvent::Frame { five_tuple, payload }));
            match outcome {
                ReadOutcome::More => self.mark_readable(key),
                ReadOutcome::Drained | ReadOutcome::Invalid => {}
                ReadOutcome::Closed => self.close(key),
            }
            if !understood || outcome == ReadOutcome::Invalid {
                self.stats.closed_invalid += 1;
                self.close(key);
            }
            // A handshake has something to say.
            self.mark_dirty(key);
        }
        self.read_peers(&mut on_event);
        self.closed.drain(..).for_each(|five_tuple| on_event(StreamEvent::Closed { five_tuple }));
    }

    /// Queues bytes for a client.
    pub(crate) fn send(&mut self, five_tuple: FiveTuple, payload: &[u8], is_control: bool) {
        let Some(key) = self.by_tuple.get(&five_tuple).copied() else { return };
        let Some(stream) = self.slab.get_mut(key) else { return };
        let limit = match (is_control, stream.is_proven) {
            (true, true) => CONTROL_WAITING_MAX,
            (true, false) => UNPROVEN_WAITING_MAX,
            (false, _) => DATA_WAITING_MAX,
        };
        if stream.waiting() + payload.len() > limit {
            self.stats.dropped += 1;
            if is_control {
                self.stats.closed_idle += 1;
                self.close(key);
            }
            return;
        }
        stream.push(payload);
        self.mark_dirty(key);
    }

    /// An allocation hangs on a stream, or none any more.
    pub(crate) fn set_proven(&mut self, five_tuple: FiveTuple, is_proven: bool, now: Instant) {
        let Some(key) = self.by_tuple.get(&five_tuple).copied() else { return };
        let Some(stream) = self.slab.get_mut(key) else { return };
        stream.is_proven = is_proven;
        if !is_proven {
            stream.opened_at = now;
            // Earlier entries are no longer its.
            self.next_serial += 1;
            stream.serial = self.next_serial;
            self.unproven.push_back((key, stream.serial));
            self.bound_unproven();
        }
    }

    /// Closes a client's stream when what waits for it has left.
    pub(crate) fn close_client(&mut self, five_tuple: FiveTuple) {
        if let Some(key) = self.by_tuple.get(&five_tuple).copied()
            && let Some(stream) = self.slab.get_mut(key)
        {
            stream.is_closing = true;
            self.mark_dirty(key);
        }
    }

    /// Writes what streams take.
    pub(crate) fn flush(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.dirty) {
            let Some(stream) = self.slab.get_mut(key) else { continue };
            stream.is_dirty = false;
            if stream.is_closing {
                stream.say_goodbye();
            }
            let flushed = stream.flush(now);
            let waiting = stream.waiting();
            let peer = stream.peer;
            let ends = stream.is_closing && stream.is_flushed();
            if flushed.is_err() || ends {
                self.close(key);
            } else if let Some(peer) = peer
                && waiting < SPLICE_WAITING_MAX
            {
                self.peers.resume(peer);
            }
        }
        self.flush_peers(now);
    }

    /// Closes what has been nobody's or stuck for too long. Cheap enough for once a second.
    pub(crate) fn expire(&mut self, now: Instant) {
        for listener in &mut self.listeners {
            listener.acceptable |= std::mem::take(&mut listener.retries);
        }
        self.expire_peers(now);
        let since = |at: Instant| now.saturating_duration_since(at);
        let is_over = |stream: &Stream| {
            let nobodys = !stream.is_proven && stream.peer.is_none();
            (nobodys && since(stream.opened_at) >= UNPROVEN_TIMEOUT)
                || (!stream.has_spoken && since(stream.opened_at) >= FIRST_MESSAGE_TIMEOUT)
                || stream.stuck_since.is_some_and(|at| since(at) >= STUCK_TIMEOUT)
        };
        let over: Vec<_> =
            self.slab.iter().filter(|(_, stream)| is_over(stream)).map(|(key, _)| key).collect();
        for key in over {
            self.stats.closed_idle += 1;
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        let Some(stream) = self.slab.try_remove(key) else { return };
        self.readable.retain(|known| *known != key);
        self.dirty.retain(|known| *known != key);
        if stream.header.is_some() {
            // Nobody knows whose it was.
            return;
        }
        if self.by_tuple.get(&stream.five_tuple) == Some(&key) {
            self.by_tuple.remove(&stream.five_tuple);
        }
        let source = source_key(stream.five_tuple.client);
        if let Some(count) = self.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
        self.closed.push(stream.five_tuple);
    }

    fn mark_readable(&mut self, key: usize) {
        if let Some(stream) = self.slab.get_mut(key)
            && !stream.is_readable
        {
            stream.is_readable = true;
            self.readable.push(key);
        }
    }

    fn mark_dirty(&mut self, key: usize) {
        if let Some(stream) = self.slab.get_mut(key)
            && !stream.is_dirty
        {
            stream.is_dirty = true;
            self.dirty.push(key);
        }
    }
}

/// Tokens of a peer's connection, for its owner.
pub(crate) fn peer_token(index: usize) -> Token {
    tokens::token(Kind::Peer, index)
}

/// Where a connection to a peer begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerRoute {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// What the frames of a stream begin with.
fn frame_of(bytes: &[u8]) -> Frame {
    next_frame(bytes)
}
