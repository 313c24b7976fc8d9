//! What is to be sent, in one reused arena: nothing is allocated for a datagram.

use std::collections::VecDeque;

use crate::{Transmit, connection::Path};

/// Octets that one datagram may have.
pub(super) const DATAGRAM_BYTES_MAX: usize = 2048;

/// Datagrams that wait for the shell to take them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    arena: Vec<u8>,
    /// Octets of the arena that are taken.
    used: usize,
    entries: VecDeque<Entry>,
}

/// A datagram in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    path: Path,
    start: usize,
    len: usize,
}

impl Outbox {
    /// Room for one datagram. It counts once [`Self::commit`] says how long it is.
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        let end = self.used + DATAGRAM_BYTES_MAX;
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
        self.entries.push_back(Entry { path, start: self.used, len });
        self.used += len;
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

    /// What it says.
    pub(super) fn transmit(&self, entry: Entry) -> Transmit<'_> {
        let Entry { path, start, len } = entry;
        Transmit {
            transport: path.transport,
            source: path.local,
            destination: path.remote,
            payload: self.arena.get(start..start + len).unwrap_or_default(),
        }
    }
}
