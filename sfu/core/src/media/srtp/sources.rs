//! What is remembered of each SSRC that a peer sends with.

use super::{OpenError, RTP_INDEX_MAX, replay::ReplayWindow};

/// Sources of one kind (RTP, RTCP) that a session keeps a window for. When a further one authenticates, the one
/// that has been silent longest is retired: its highest index is kept, its window is not.
pub const SOURCES_MAX: usize = 256;
/// Retired sources whose highest index a session remembers, so that nothing they sent can be replayed. When
/// this is full as well, packets of further sources are refused ([`OpenError::TooManySources`]). Only a peer
/// that authenticates gets there, and only for itself.
pub const RETIRED_SOURCES_MAX: usize = 1024;

struct Source<const WORDS: usize> {
    window: ReplayWindow<WORDS>,
    /// The table's clock when it was last heard.
    heard: u64,
}

struct Retired {
    ssrc: u32,
    highest: u64,
}

/// Where a packet's source was found; valid until the table's next change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Active(usize),
    Unknown,
}

/// Windows by SSRC. A packet adds to it only after it has authenticated.
pub(super) struct Sources<const WORDS: usize> {
    /// Searched front to back: a session has a handful, and 16 of them are one cache line.
    ssrcs: Vec<u32>,
    sources: Vec<Source<WORDS>>,
    /// Ordered by SSRC.
    retired: Vec<Retired>,
    clock: u64,
}

impl<const WORDS: usize> Sources<WORDS> {
    pub(super) fn new() -> Self {
        Self { ssrcs: Vec::new(), sources: Vec::new(), retired: Vec::new(), clock: 0 }
    }

    /// The index of an RTP packet by its sequence number, if it may be opened: it is new, and its source is
    /// known or may be added.
    #[inline]
    pub(super) fn check_sequence(&self, ssrc: u32, sequence: u16) -> Result<(Found, u64), OpenError> {
        if let Some(at) = self.position(ssrc)
            && let Some(source) = self.sources.get(at)
        {
            let index = extend(source.window.highest(), sequence).ok_or(OpenError::Replayed)?;
            return if source.window.is_new(index) {
                Ok((Found::Active(at), index))
            } else {
                Err(OpenError::Replayed)
            };
        }
        let index = match self.unknown(ssrc)? {
            Some(highest) => extend(highest, sequence).filter(|index| *index > highest),
            // RFC 3711, section 3.3.1: the rollover counter of a new source is zero.
            None => Some(u64::from(sequence)),
        };
        Ok((Found::Unknown, index.ok_or(OpenError::Replayed)?))
    }

    /// Whether a packet whose index is given may be opened.
    pub(super) fn check_index(&self, ssrc: u32, index: u64) -> Result<Found, OpenError> {
        if let Some(at) = self.position(ssrc)
            && let Some(source) = self.sources.get(at)
        {
            return if source.window.is_new(index) {
                Ok(Found::Active(at))
            } else {
                Err(OpenError::Replayed)
            };
        }
        match self.unknown(ssrc)? {
            Some(highest) if index <= highest => Err(OpenError::Replayed),
            Some(_) | None => Ok(Found::Unknown),
        }
    }

    /// Remembers a packet that has authenticated.
    #[inline]
    pub(super) fn record(&mut self, found: Found, ssrc: u32, index: u64) {
        self.clock += 1;
        match found {
            Found::Active(at) => {
                if let Some(source) = self.sources.get_mut(at) {
                    source.window.record(index);
                    source.heard = self.clock;
                }
            }
            Found::Unknown => self.add(ssrc, index),
        }
    }

    fn add(&mut self, ssrc: u32, index: u64) {
        if let Ok(at) = self.retired.binary_search_by_key(&ssrc, |retired| retired.ssrc) {
            self.retired.remove(at);
        }
        let source = Source { window: ReplayWindow::new(index), heard: self.clock };
        if self.ssrcs.len() < SOURCES_MAX {
            self.ssrcs.push(ssrc);
            self.sources.push(source);
            return;
        }
        let Some((at, _)) = self.sources.iter().enumerate().min_by_key(|(_, source)| source.heard) else {
            return;
        };
        if let (Some(old_ssrc), Some(old)) = (self.ssrcs.get_mut(at), self.sources.get_mut(at)) {
            let retired = Retired { ssrc: *old_ssrc, highest: old.window.highest() };
            *old_ssrc = ssrc;
            *old = source;
            if let Err(at) = self.retired.binary_search_by_key(&retired.ssrc, |other| other.ssrc) {
                self.retired.insert(at, retired);
            }
        }
    }

    /// The highest index of a retired source; an error if there is no room for a source that has none.
    fn unknown(&self, ssrc: u32) -> Result<Option<u64>, OpenError> {
        if let Ok(at) = self.retired.binary_search_by_key(&ssrc, |retired| retired.ssrc) {
            return Ok(self.retired.get(at).map(|retired| retired.highest));
        }
        if self.ssrcs.len() >= SOURCES_MAX && self.retired.len() >= RETIRED_SOURCES_MAX {
            return Err(OpenError::TooManySources);
        }
        Ok(None)
    }

    #[inline]
    fn position(&self, ssrc: u32) -> Option<usize> {
        self.ssrcs.iter().position(|known| *known == ssrc)
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.ssrcs.len(), self.retired.len())
    }
}

/// The index nearest to the highest one whose low 16 bits are the sequence number (RFC 3711, appendix A).
/// `None` where that would be below 0 or above [`RTP_INDEX_MAX`].
#[inline]
fn extend(highest: u64, sequence: u16) -> Option<u64> {
    let last = highest & 0xffff;
    let sequence = u64::from(sequence);
    let rollover = highest >> 16;
    let rollover = if last < 0x8000 {
        if sequence > last + 0x8000 { rollover.checked_sub(1)? } else { rollover }
    } else if sequence + 0x8000 < last {
        rollover + 1
    } else {
        rollover
    };
    Some(rollover << 16 | sequence).filter(|index| *index <= RTP_INDEX_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollover_counter_is_guessed_as_in_rfc_3711() {
        assert_eq!(extend(5, 6), Some(6));
        assert_eq!(extend(0xffff, 0), Some(0x1_0000), "forwards over the edge");
        assert_eq!(extend(0x1_0003, 0xfffe), Some(0xfffe), "late, before the edge");
        assert_eq!(extend(0x1_0003, 0x8003), Some(0x1_8003), "half of the space ahead");
        assert_eq!(extend(0x1_9000, 0x0fff), Some(0x2_0fff));
        assert_eq!(extend(0x1_9000, 0x1000), Some(0x1_1000));
        assert_eq!(extend(3, 0xfffe), None, "before the first packet");
        assert_eq!(extend(RTP_INDEX_MAX, 0), None, "the last index of all");
    }

    #[test]
    fn sources_are_bounded_and_never_forget() {
        let mut sources = Sources::<2>::new();
        for ssrc in 0..2_000u32 {
            let Ok((found, index)) = sources.check_sequence(ssrc, 7) else {
                continue;
            };
            sources.record(found, ssrc, index);
        }
        assert_eq!(sources.counts(), (SOURCES_MAX, RETIRED_SOURCES_MAX));
        assert!(matches!(sources.check_sequence(1_999, 7), Err(OpenError::TooManySources)));
        assert!(matches!(sources.check_sequence(0, 7), Err(OpenError::Replayed)), "a retired one");
        assert!(matches!(sources.check_sequence(0, 6), Err(OpenError::Replayed)));
        let (found, index) = sources.check_sequence(0, 8).unwrap();
        sources.record(found, 0, index);
        assert_eq!(sources.counts(), (SOURCES_MAX, RETIRED_SOURCES_MAX));
        assert!(matches!(sources.check_index(0, 8), Err(OpenError::Replayed)));
    }

    #[test]
    fn the_source_silent_longest_is_retired() {
        let mut sources = Sources::<2>::new();
        for ssrc in 0..SOURCES_MAX as u32 {
            sources.record(Found::Unknown, ssrc, 1);
        }
        let found = sources.check_index(0, 2).unwrap();
        sources.record(found, 0, 2);
        sources.record(Found::Unknown, 9_999, 1);
        assert!(matches!(sources.check_index(0, 3), Ok(Found::Active(_))));
        assert!(matches!(sources.check_index(1, 3), Ok(Found::Unknown)));
        assert!(matches!(sources.check_index(1, 1), Err(OpenError::Replayed)));
    }
}
