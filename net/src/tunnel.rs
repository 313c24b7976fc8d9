//! A way for datagrams between two loops of one process, without a socket and without a system call for each.
//!
//! ```text
//!   loop a: push, push, flush ─► parcel ─► bounded queue ─► loop b: woken once, recv, datagrams, recycle
//!                     ▲                                                              │
//!                     └───────────────────── empty parcels ──────────────────────────┘
//! ```
//! As with a socket, what finds no room is dropped and counted.

mod set;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use mio::Waker;

pub use set::TunnelSet;

/// Parcels that wait for the other side. When there are as many, further ones are dropped.
const PARCELS_MAX: usize = 64;

/// Datagrams of a parcel at most; one that is full leaves before the flush.
const DATAGRAMS_MAX: usize = 256;

/// Bytes of a parcel after which it leaves before the flush.
const PARCEL_BYTES: usize = 256 * 1024;

/// Datagrams that travel together.
#[derive(Debug, Default)]
pub struct Parcel {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    source: SocketAddr,
    destination: SocketAddr,
    end: usize,
}

/// One datagram of a parcel. It may be changed in place.
#[derive(Debug, PartialEq, Eq)]
pub struct Tunnelled<'a> {
    /// Who sends it, as the other side is to see it.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
    /// The bytes.
    pub payload: &'a mut [u8],
}

/// What became of the datagrams that one side sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelStats {
    /// Handed to the other side.
    pub datagrams_sent: u64,
    /// Dropped, because the other side does not keep up, or has ended.
    pub dropped: u64,
}

/// One side.
#[derive(Debug)]
pub struct TunnelEnd {
    outgoing: Sender<Parcel>,
    incoming: Receiver<Parcel>,
    /// Empty parcels of the way out come back here,
    emptied: Receiver<Parcel>,
    /// and those of the way in go back there.
    spare: Sender<Parcel>,
    filling: Parcel,
    other: Bell,
    own: Bell,
    stats: TunnelStats,
}

/// Wakes a loop once for all that comes until it has looked.
#[derive(Clone, Debug)]
struct Bell {
    waker: Arc<Waker>,
    has_rung: Arc<AtomicBool>,
}

/// Makes a tunnel between two loops, which its wakers wake.
pub fn tunnel(a: Arc<Waker>, b: Arc<Waker>) -> (TunnelEnd, TunnelEnd) {
    let [bell_a, bell_b] = [a, b].map(|waker| Bell { waker, has_rung: Arc::default() });
    let [there, back, there_emptied, back_emptied] =
        std::array::from_fn(|_| crossbeam_channel::bounded(PARCELS_MAX));
    let end = |outgoing, incoming, emptied, spare, own, other| TunnelEnd {
        outgoing,
        incoming,
        emptied,
        spare,
        filling: Parcel::default(),
        own,
        other,
        stats: TunnelStats::default(),
    };
    (
        end(
            there.0.clone(),
            back.1.clone(),
            there_emptied.1.clone(),
            back_emptied.0.clone(),
            bell_a.clone(),
            bell_b.clone(),
        ),
        end(back.0, there.1, back_emptied.1, there_emptied.0, bell_b, bell_a),
    )
}

impl TunnelEnd {
    /// Adds datagrams that lie one after the other, each of `segment_bytes` but the last, which may be shorter. They leave
    /// with the flush, or when they have become many.
    pub fn push(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        (contents, segment_bytes): (&[u8], usize),
    ) {
        for payload in contents.chunks(segment_bytes.max(1)) {
            self.filling.arena.extend_from_slice(payload);
            self.filling.entries.push(Entry { source, destination, end: self.filling.arena.len() });
            if self.filling.entries.len() >= DATAGRAMS_MAX || self.filling.arena.len() >= PARCEL_BYTES {
                self.flush();
            }
        }
    }

    /// Hands over what was pushed, and wakes the other side unless it has been woken and has not looked yet.
    pub fn flush(&mut self) {
        if self.filling.entries.is_empty() {
            return;
        }
        let spare = self.emptied.try_recv().unwrap_or_default();
        let parcel = std::mem::replace(&mut self.filling, spare);
        let datagrams = parcel.entries.len() as u64;
        match self.outgoing.try_send(parcel) {
            Ok(()) => self.stats.datagrams_sent += datagrams,
            Err(TrySendError::Full(mut parcel) | TrySendError::Disconnected(mut parcel)) => {
                self.stats.dropped += datagrams;
                parcel.clear();
                self.filling = parcel;
            }
        }
        fence(Ordering::SeqCst);
        if !self.other.has_rung.swap(true, Ordering::SeqCst) {
            // A loop that cannot be woken has ended.
            let _ = self.other.waker.wake();
        }
    }

    /// The next parcel. From none on, the other side's next flush wakes this one.
    pub fn recv(&mut self) -> Option<Parcel> {
        if let Ok(parcel) = self.incoming.try_recv() {
            return Some(parcel);
        }
        self.own.has_rung.store(false, Ordering::SeqCst);
        // Before the second look, however the processor would order them.
        fence(Ordering::SeqCst);
        // One that came before the bell could ring again.
        self.incoming.try_recv().ok()
    }

    /// Gives back a parcel of [`TunnelEnd::recv`], to be used again.
    pub fn recycle(&mut self, mut parcel: Parcel) {
        parcel.clear();
        // What is not taken is freed.
        let _ = self.spare.try_send(parcel);
    }

    /// What became of what this side sent.
    pub fn stats(&self) -> TunnelStats {
        self.stats
    }
}

impl Parcel {
    /// The datagrams, in the order in which they were pushed.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Tunnelled<'_>> {
        let mut rest = self.arena.as_mut_slice();
        let mut taken = 0;
        self.entries.iter().map(move |entry| {
            let (payload, after) = std::mem::take(&mut rest).split_at_mut(entry.end - taken);
            (rest, taken) = (after, entry.end);
            Tunnelled { source: entry.source, destination: entry.destination, payload }
        })
    }

    /// How many datagrams there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    struct Loop {
        poll: Poll,
        waker: Arc<Waker>,
    }

    impl Loop {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            Self { poll, waker }
        }

        fn is_woken(&mut self) -> bool {
            let mut events = Events::with_capacity(4);
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            !events.is_empty()
        }
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn taken(end: &mut TunnelEnd) -> Vec<(u16, u16, Vec<u8>)> {
        let mut taken = Vec::new();
        while let Some(mut parcel) = end.recv() {
            taken.extend(parcel.datagrams().map(|datagram| {
                (datagram.source.port(), datagram.destination.port(), datagram.payload.to_vec())
            }));
            end.recycle(parcel);
        }
        taken
    }

    #[test]
    fn datagrams_arrive_as_they_were_pushed_both_ways() {
        let (mut here, mut there) = (Loop::new(), Loop::new());
        let (mut a, mut b) = tunnel(here.waker.clone(), there.waker.clone());
        a.push(address(1), address(2), (b"one two thr", 4));
        a.push(address(3), address(4), (b"four", 4));
        assert_eq!(taken(&mut b), [], "nothing leaves before the flush");
        a.flush();
        assert!(there.is_woken() && !here.is_woken());
        let expected = [(1, 2, &b"one "[..]), (1, 2, b"two "), (1, 2, b"thr"), (3, 4, b"four")];
        assert_eq!(taken(&mut b), expected.map(|(from, to, bytes)| (from, to, bytes.to_vec())));
        b.push(address(2), address(1), (b"back", 4));
        b.flush();
        assert!(here.is_woken());
        assert_eq!(taken(&mut a), [(2, 1, b"back".to_vec())]);
    }

    #[test]
    fn a_loop_is_woken_once_until_it_has_looked() {
        let (here, mut there) = (Loop::new(), Loop::new());
        let (mut a, mut b) = tunnel(here.waker.clone(), there.waker.clone());
        let send = |a: &mut TunnelEnd| {
            a.push(address(1), address(2), (b"x", 1));
            a.flush();
        };
        send(&mut a);
        assert!(there.is_woken());
        send(&mut a);
        assert!(!there.is_woken(), "it has not looked yet");
        assert_eq!(taken(&mut b).len(), 2);
        send(&mut a);
        assert!(there.is_woken());
        a.flush();
        assert_eq!((taken(&mut b).len(), there.is_woken()), (1, false), "nothing is no reason");
    }

    #[test]
    fn a_side_that_does_not_read_costs_a_bounded_amount() {
        let (here, there) = (Loop::new(), Loop::new());
        let (mut a, mut b) = tunnel(here.waker.clone(), there.waker.clone());
        let (parcels, beyond) = (PARCELS_MAX as u64, 10);
        for _ in 0..(parcels + beyond) * DATAGRAMS_MAX as u64 {
            a.push(address(1), address(2), (b"x", 1));
        }
        let datagrams = DATAGRAMS_MAX as u64;
        let stats = TunnelStats { datagrams_sent: parcels * datagrams, dropped: beyond * datagrams };
        assert_eq!(a.stats(), stats);
        assert_eq!(taken(&mut b).len() as u64, parcels * datagrams);
        drop(b);
        a.push(address(1), address(2), (b"x", 1));
        a.flush();
        assert_eq!(a.stats().dropped, beyond * datagrams + 1);
    }

    #[test]
    fn datagrams_can_be_changed_in_place() {
        let (here, there) = (Loop::new(), Loop::new());
        let (mut a, mut b) = tunnel(here.waker.clone(), there.waker.clone());
        a.push(address(1), address(2), (b"abcd", 2));
        a.flush();
        let mut parcel = b.recv().unwrap();
        parcel.datagrams().for_each(|datagram| datagram.payload.reverse());
        let bytes: Vec<_> = parcel.datagrams().map(|datagram| datagram.payload.to_vec()).collect();
        assert_eq!((parcel.len(), bytes), (2, vec![b"ba".to_vec(), b"dc".to_vec()]));
    }
}
