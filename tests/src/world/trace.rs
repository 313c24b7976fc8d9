//! What happened in a world, in a form that two runs can be compared by.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

/// Everything that clients noticed, with its time.
#[derive(Debug, Default)]
pub(super) struct Trace {
    entries: Vec<(Duration, String)>,
}

impl Trace {
    pub(super) fn add(&mut self, at: Duration, what: String) {
        self.entries.push((at, what));
    }

    /// The entries in order of time; what happened at the same instant is in alphabetical order.
    pub(super) fn sorted(&self) -> Vec<(Duration, String)> {
        let mut entries = self.entries.clone();
        entries.sort();
        entries
    }

    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.sorted().hash(&mut hasher);
        hasher.finish()
    }
}
