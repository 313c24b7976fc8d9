//! Collecting what one turn of a loop has to send, and sending it in as few system calls as possible.
//!
//! ```text
//!  push, in any order          groups, in order of first push      sendmsg with UDP_SEGMENT
//!  A:1200 B:1200 A:1200   ->   A: 1200 1200 1200 700          ->   A: one call, 4 datagrams
//!  A:1200 B:90   A:700         B: 1200 90                          B: one call, 2 datagrams
//! ```
//! A run ends with the first datagram of another size; a shorter one still belongs to it, as its last.
//! Datagrams to one destination leave in the order in which they were pushed.

mod train;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::UdpSocket;
use train::{Progress, Sink, Train};

/// Datagrams a batch holds. When it is full, [`SendBatch::send`] flushes it first; while the kernel's buffer is full as
/// well, further ones are dropped and counted. [`SendBatch::push`] has no socket to flush to and drops at once.
const DATAGRAMS_MAX: usize = 4096;

/// Bytes a batch holds. What happens when it is full is the same.
const ARENA_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a datagram may wait for the kernel's buffer. Older ones are dropped and counted: media that comes
/// late is worse than media that is lost, and everything else here is retransmitted.
const STALE_AFTER: Duration = Duration::from_millis(20);

/// The largest payload of one datagram, and of all segments of one send: 65,535 minus the headers of IPv6
/// and UDP.
const SEND_BYTES_MAX: usize = 65_487;

/// No further datagram in the group.
const NONE: u32 = u32::MAX;

/// What became of the datagrams of a batch, counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendStats {
    /// Datagrams that the kernel took.
    pub datagrams_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// System calls that took them.
    pub sends: u64,
    /// Dropped because the batch was full.
    pub dropped_full: u64,
    /// Dropped because the kernel's buffer stayed full for 20 ms.
    pub dropped_stale: u64,
    /// Dropped because they are larger than a datagram, or than the path to their destination takes.
    pub dropped_too_big: u64,
    /// Dropped because there is no way to their destination, or it is none (port 0, multicast).
    pub dropped_unreachable: u64,
    /// Dropped because of any other error of the kernel.
    pub dropped_failed: u64,
    /// Segmented sends that the kernel refused and that were repeated one datagram at a time.
    pub segmentation_refused: u64,
}

impl SendStats {
    /// All that was dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_full
            + self.dropped_stale
            + self.dropped_too_big
            + self.dropped_unreachable
            + self.dropped_failed
    }
}

/// Datagrams of one turn of the loop, in a reused arena.
#[derive(Debug, Default)]
pub struct SendBatch {
    /// The payloads, in order of [`SendBatch::push`].
    arena: Vec<u8>,
    entries: Vec<Entry>,
    /// One per route, in order of first push.
    groups: Vec<Group>,
    index: HashMap<Route, u32>,
    /// The segments of one send, when they are not neighbours in the arena.
    scratch: Vec<u8>,
    /// When the kernel's buffer was full, if it was at the last attempt.
    blocked_at: Option<Instant>,
    stats: SendStats,
}

/// Where a datagram goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Route {
    destination: SocketAddr,
    source_ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    len: usize,
    /// The next entry of the same group, or [`NONE`].
    next: u32,
    /// When a flush first could not send it.
    blocked_since: Option<Instant>,
}

/// A chain of entries with one route.
#[derive(Clone, Copy, Debug)]
struct Group {
    route: Route,
    first: u32,
    last: u32,
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a datagram. `source_ip` is the address of this machine that it is to leave from; none lets the
    /// kernel choose. Returns whether it was taken: a full batch, an impossible destination or an impossible
    /// size drops it, and counts it.
    pub fn push(&mut self, destination: SocketAddr, source_ip: Option<IpAddr>, payload: &[u8]) -> bool {
        if payload.is_empty() || payload.len() > SEND_BYTES_MAX {
            self.stats.dropped_too_big += 1;
            return false;
        }
        if !can_be_sent_to(destination) {
            self.stats.dropped_unreachable += 1;
            return false;
        }
        self.enqueue(Route { destination, source_ip: source_for(destination, source_ip) }, payload)
    }

    /// Sends datagrams that lie one after the other, each of `segment_bytes` but the last, which may be shorter: at once
    /// and without a copy where nothing waits before them, else after what waits. What goes to one destination stays in
    /// order. A datagram that the kernel refuses is dropped and counted, and the next one is sent; only when the
    /// kernel's buffer is full do they wait for a flush.
    pub fn send(
        &mut self,
        socket: &mut UdpSocket,
        destination: SocketAddr,
        source_ip: Option<IpAddr>,
        (contents, segment_bytes): (&[u8], usize),
        now: Instant,
    ) {
        socket.restore(now);
        self.send_to(socket, destination, source_ip, (contents, segment_bytes), now);
    }

    fn send_to(
        &mut self,
        socket: &mut impl Sink,
        destination: SocketAddr,
        source_ip: Option<IpAddr>,
        (contents, segment_bytes): (&[u8], usize),
        now: Instant,
    ) {
        let segment_bytes = segment_bytes.clamp(1, contents.len().max(1));
        if !can_be_sent_to(destination) {
            self.stats.dropped_unreachable += contents.len().div_ceil(segment_bytes) as u64;
            return;
        }
        let route = Route { destination, source_ip: source_for(destination, source_ip) };
        let mut rest = contents;
        while !rest.is_empty() {
            let segments = socket.segments_max().min(SEND_BYTES_MAX / segment_bytes).max(1);
            let (contents, after) = rest.split_at(rest.len().min(segments * segment_bytes));
            rest = after;
            if contents.len() > SEND_BYTES_MAX {
                self.stats.dropped_too_big += 1;
                continue;
            }
            let train = Train { route, contents, segment_bytes };
            self.make_room(&train, socket, now);
            if !self.entries.is_empty() {
                train.datagrams_from(0).for_each(|datagram| _ = self.enqueue(route, datagram));
                continue;
            }
            match train.send(socket, &mut self.stats, now) {
                Progress::Done => {}
                Progress::Blocked(done) => {
                    self.blocked_at = Some(now);
                    train.datagrams_from(done).for_each(|datagram| _ = self.enqueue(route, datagram));
                }
                Progress::Unreachable => {
                    self.stats.dropped_unreachable += rest.len().div_ceil(segment_bytes) as u64;
                    return;
                }
            }
        }
    }

    /// Sends everything, as far as the kernel takes it. When its buffer is full the rest stays, for at most
    /// 20 ms, and [`SendBatch::is_blocked`] turns true. No error of a destination ends the flush.
    pub fn flush(&mut self, socket: &mut UdpSocket, now: Instant) {
        if !self.entries.is_empty() {
            socket.restore(now);
            self.flush_to(socket, now);
        }
    }

    /// Whether datagrams wait for the kernel's buffer: wait for the socket to be writable, then flush again.
    pub fn is_blocked(&self) -> bool {
        self.blocked_at.is_some()
    }

    /// Datagrams that wait for a flush.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What became of all datagrams so far.
    pub fn stats(&self) -> SendStats {
        self.stats
    }

    fn flush_to(&mut self, socket: &mut impl Sink, now: Instant) {
        self.drop_stale(now);
        self.blocked_at = None;
        for at in 0..self.groups.len() {
            self.flush_group(at, socket, now);
            if self.is_blocked() {
                break;
            }
        }
        if self.is_blocked() { self.keep_unsent(now) } else { self.clear() }
    }

    /// Flushes what leaves no room for a train. Once in a turn, of which `now` is the same, is enough: each flush that
    /// gets stuck copies what is left.
    fn make_room(&mut self, train: &Train<'_>, socket: &mut impl Sink, now: Instant) {
        let has_room = self.entries.is_empty() || self.has_room(train.datagrams(), train.contents.len());
        if !has_room && self.blocked_at != Some(now) {
            self.flush_to(socket, now);
        }
    }

    fn has_room(&self, datagrams: usize, bytes: usize) -> bool {
        self.entries.len() + datagrams <= DATAGRAMS_MAX && self.arena.len() + bytes <= ARENA_BYTES_MAX
    }

    /// Lets a datagram wait for the next flush, where there is room for it.
    fn enqueue(&mut self, route: Route, payload: &[u8]) -> bool {
        let has_room = self.has_room(1, payload.len());
        if has_room {
            self.append(route, payload, None);
        } else {
            self.stats.dropped_full += 1;
        }
        has_room
    }

    fn append(&mut self, route: Route, payload: &[u8], blocked_since: Option<Instant>) {
        let at = u32::try_from(self.entries.len()).unwrap_or(NONE);
        let entry = Entry { start: self.arena.len(), len: payload.len(), next: NONE, blocked_since };
        self.arena.extend_from_slice(payload);
        self.entries.push(entry);
        let group = match self.groups.last() {
            // Bursts to one destination are common enough to spare the hash.
            Some(last) if last.route == route => self.groups.len() - 1,
            _ => {
                let new = u32::try_from(self.groups.len()).unwrap_or(NONE);
                *self.index.entry(route).or_insert(new) as usize
            }
        };
        match self.groups.get_mut(group) {
            Some(group) => {
                if let Some(last) = self.entries.get_mut(group.last as usize) {
                    last.next = at;
                }
                group.last = at;
            }
            None => self.groups.push(Group { route, first: at, last: at }),
        }
    }

    /// Sends one group in runs. Leaves `first` at the first entry that was not sent.
    fn flush_group(&mut self, at: usize, socket: &mut impl Sink, now: Instant) {
        let Some(&Group { route, mut first, .. }) = self.groups.get(at) else { return };
        while first != NONE {
            let run = self.run(first, socket.segments_max());
            match self.send_run(route, &run, socket, now) {
                Progress::Done => first = run.next,
                Progress::Blocked(done) => {
                    self.blocked_at = Some(now);
                    first = self.after(first, done);
                    break;
                }
                Progress::Unreachable => {
                    self.stats.dropped_unreachable += self.chain_len(run.next);
                    first = NONE;
                }
            }
        }
        if let Some(group) = self.groups.get_mut(at) {
            group.first = first;
        }
    }

    /// The longest run from `first` that one send can carry.
    fn run(&self, first: u32, segments_max: usize) -> Run {
        let mut run =
            Run { first, next: NONE, segment_bytes: 0, bytes: 0, datagrams: 0, end: 0, scattered: false };
        let mut at = first;
        while let Some(entry) = self.entries.get(at as usize) {
            let fits = run.datagrams == 0
                || (run.datagrams < segments_max
                    && entry.len <= run.segment_bytes
                    && run.bytes + entry.len <= SEND_BYTES_MAX);
            if !fits {
                break;
            }
            if run.datagrams == 0 {
                run.segment_bytes = entry.len;
            } else {
                run.scattered |= entry.start != run.end;
            }
            run.end = entry.start + entry.len;
            run.bytes += entry.len;
            run.datagrams += 1;
            at = entry.next;
            if entry.len < run.segment_bytes {
                break;
            }
        }
        run.next = at;
        run
    }

    fn send_run(&mut self, route: Route, run: &Run, socket: &mut impl Sink, now: Instant) -> Progress {
        let contents = if run.scattered {
            self.scratch.clear();
            let mut at = run.first;
            while at != run.next
                && let Some(entry) = self.entries.get(at as usize)
            {
                let payload = self.arena.get(entry.start..entry.start + entry.len).unwrap_or_default();
                self.scratch.extend_from_slice(payload);
                at = entry.next;
            }
            self.scratch.as_slice()
        } else {
            self.arena.get(run.end.saturating_sub(run.bytes)..run.end).unwrap_or_default()
        };
        Train { route, contents, segment_bytes: run.segment_bytes }.send(socket, &mut self.stats, now)
    }

    /// The entry that comes so many after `first`.
    fn after(&self, first: u32, entries: usize) -> u32 {
        (0..entries).fold(first, |at, _| self.entries.get(at as usize).map_or(NONE, |entry| entry.next))
    }

    fn chain_len(&self, first: u32) -> u64 {
        let mut len = 0;
        let mut at = first;
        while let Some(entry) = self.entries.get(at as usize) {
            len += 1;
            at = entry.next;
        }
        len
    }

    /// Takes from the head of each group what has waited too long. Within a group older entries come first.
    fn drop_stale(&mut self, now: Instant) {
        for group in &mut self.groups {
            while let Some(entry) = self.entries.get(group.first as usize)
                && entry
                    .blocked_since
                    .is_some_and(|since| now.saturating_duration_since(since) >= STALE_AFTER)
            {
                self.stats.dropped_stale += 1;
                group.first = entry.next;
            }
        }
    }

    /// Moves what was not sent to the front of a fresh arena. A full kernel buffer is rare: a copy is cheap
    /// enough and keeps the arena without holes.
    fn keep_unsent(&mut self, now: Instant) {
        let entries = std::mem::take(&mut self.entries);
        let groups = std::mem::take(&mut self.groups);
        let arena = std::mem::take(&mut self.arena);
        self.index.clear();
        for group in groups {
            let mut at = group.first;
            while let Some(entry) = entries.get(at as usize) {
                let payload = arena.get(entry.start..entry.start + entry.len).unwrap_or_default();
                self.append(group.route, payload, Some(entry.blocked_since.unwrap_or(now)));
                at = entry.next;
            }
        }
    }

    fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
        self.groups.clear();
        self.index.clear();
    }
}

/// Whether it is a destination at all. The kernel answers EINVAL to some that are none, as if it refused segmentation.
fn can_be_sent_to(destination: SocketAddr) -> bool {
    let ip = destination.ip();
    destination.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

/// The source address, where it is one for this destination: a loopback source never leaves the machine, Linux answers
/// EINVAL.
fn source_for(destination: SocketAddr, source_ip: Option<IpAddr>) -> Option<IpAddr> {
    let ip = destination.ip();
    source_ip.filter(|source| source.is_ipv4() == ip.is_ipv4() && (!source.is_loopback() || ip.is_loopback()))
}

/// Entries that leave in one send.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    /// The first entry that is not part of it.
    next: u32,
    /// Size of all datagrams but the last.
    segment_bytes: usize,
    bytes: usize,
    datagrams: usize,
    /// Where the last one ends in the arena.
    end: usize,
    /// Its datagrams are not neighbours in the arena.
    scattered: bool,
}

#[cfg(test)]
mod tests;
