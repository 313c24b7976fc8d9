//! What is to be sent, in one reused arena: nothing is allocated for a datagram, and what goes to one receiver lies as
//! the kernel takes it for one segmented send.
//!
//! ```text
//!   arena    │ A 1200 │ A 1200 │ A 90 │ A 1200 │ B 1200 │
//!   entries  └──── one run ──────────┘└─ run ──┘└─ run ──┘
//! ```

use std::collections::VecDeque;

use crate::{Transmit, connection::Path};

/// Octets that one datagram may have.
pub(super) const DATAGRAM_BYTES_MAX: usize = 2048;

/// The largest payload of a segmented send: 65,535 minus the headers of IPv6 and UDP.
const RUN_BYTES_MAX: usize = 65_487;
/// The most segments of one send (Linux, `UDP_MAX_SEGMENTS` before 6.9).
const RUN_DATAGRAMS_MAX: usize = 64;

/// So much is written before the shell gets any of it: what fits into a core's own cache.
const BATCH_BYTES: usize = 64 * 1024;

/// Runs for which room is kept.
const ENTRIES_KEPT: usize = 4096;

/// Datagrams that wait for the shell to take them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    arena: Vec<u8>,
    /// Octets of the arena that are taken.
    used: usize,
    /// The most that were, since it was last asked whether less would do.
    peak: usize,
    entries: VecDeque<Entry>,
}

/// A run of datagrams in the arena, of one size but for the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    path: Path,
    start: usize,
    len: usize,
    segment_bytes: usize,
    /// Its last datagram is as long as the others: one more may follow.
    open: bool,
}

impl Entry {
    /// Takes up a datagram that lies right behind it, if it can go in the same send.
    fn extend(&mut self, path: Path, start: usize, len: usize) -> bool {
        let fits = self.open
            && (1..=self.segment_bytes).contains(&len)
            && self.path == path
            && self.start + self.len == start
            && self.len + len <= RUN_BYTES_MAX
            && self.len <= (RUN_DATAGRAMS_MAX - 1) * self.segment_bytes;
        if fits {
            self.len += len;
            self.open = len == self.segment_bytes;
        }
        fits
    }
}

impl Outbox {
    /// Whether more is to be written before any of it is taken.
    pub(super) fn has_room(&self) -> bool {
        self.used < BATCH_BYTES
    }

    /// Room for one datagram. It counts once [`Self::commit`] says how long it is.
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        let end = self.used + DATAGRAM_BYTES_MAX;
        self.peak = self.peak.max(end);
        if self.arena.len() < end {
            // In large steps: this is the only place where forwarding allocates, until the arena is as large as
            // the largest turn wants it.
            self.arena.resize(end.next_power_of_two(), 0);
        }
        self.arena.get_mut(self.used..end).unwrap_or_default()
    }

    /// Takes the first `len` octets of [`Self::buffer`] for a datagram.
    pub(super) fn commit(&mut self, path: Path, len: usize) {
        let len = len.min(DATAGRAM_BYTES_MAX);
        let start = self.used;
        self.used += len;
        if !self.entries.back_mut().is_some_and(|last| last.extend(path, start, len)) {
            self.entries.push_back(Entry { path, start, len, segment_bytes: len, open: true });
        }
    }

    /// Adds a datagram that lies elsewhere; an overlong one is left out.
    pub(super) fn push(&mut self, path: Path, payload: &[u8]) {
        if let Some(room) = self.buffer().get_mut(..payload.len()) {
            room.copy_from_slice(payload);
            self.commit(path, payload.len());
        }
    }

    /// The next one. Once all are taken the arena is free again.
    pub(super) fn next(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front();
        if entry.is_none() {
            self.used = 0;
        }
        entry
    }

    /// Gives memory back that a rare turn took: what is larger than four times the most of the time since the last call.
    pub(super) fn shrink(&mut self) {
        let enough = std::mem::take(&mut self.peak).max(BATCH_BYTES + DATAGRAM_BYTES_MAX).next_power_of_two();
        if self.used == 0 && self.arena.len() > 4 * enough {
            self.arena.truncate(enough);
            self.arena.shrink_to_fit();
        }
        self.entries.shrink_to(ENTRIES_KEPT);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.arena.capacity()
    }

    /// What it says.
    pub(super) fn transmit(&self, entry: Entry) -> Transmit<'_> {
        let Entry { path, start, len, segment_bytes, .. } = entry;
        Transmit {
            transport: path.transport,
            source: path.local,
            destination: path.remote,
            payload: self.arena.get(start..start + len).unwrap_or_default(),
            segment_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transport;

    fn path(port: u16) -> Path {
        Path {
            transport: Transport::Udp,
            local: ([10, 0, 0, 1], 7882).into(),
            remote: ([10, 0, 0, 2], port).into(),
        }
    }

    /// Sizes of the datagrams of each run.
    fn runs(datagrams: &[(u16, usize)]) -> Vec<Vec<usize>> {
        let mut outbox = Outbox::default();
        for (number, (port, len)) in (0..).zip(datagrams) {
            outbox.push(path(*port), &vec![number; *len]);
        }
        let mut runs = Vec::new();
        let mut number = 0;
        while let Some(entry) = outbox.next() {
            let transmit = outbox.transmit(entry);
            for datagram in transmit.datagrams() {
                assert!(datagram.iter().all(|octet| *octet == number), "in order, each as it was pushed");
                number += 1;
            }
            runs.push(transmit.datagrams().map(<[u8]>::len).collect());
        }
        runs
    }

    #[test]
    fn what_goes_to_one_receiver_in_one_size_is_one_run() {
        assert_eq!(
            runs(&[(1, 1200), (1, 1200), (1, 90), (1, 1200), (2, 1200)]),
            [vec![1200, 1200, 90], vec![1200], vec![1200]]
        );
        assert_eq!(runs(&[(1, 90), (1, 1200)]), [vec![90], vec![1200]], "a longer one begins anew");
        assert_eq!(runs(&[(1, 100), (2, 100), (1, 100)]).len(), 3, "their order stays");
    }

    #[test]
    fn a_run_is_no_longer_than_the_kernel_takes() {
        let sizes: Vec<usize> = runs(&[(1, 100); 130]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [64, 64, 2]);
        let bytes: Vec<usize> = runs(&[(1, 2000); 40]).iter().map(|run| run.iter().sum()).collect();
        assert_eq!(bytes, [64_000, 16_000]);
    }
}
