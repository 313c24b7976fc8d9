//! Which simulcast encoding a subscription forwards.

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Send it on as part of the running stream.
    Forward,
    /// Send it on as the first of another source.
    Switch,
    /// Leave it out.
    Drop,
}

/// A subscription's choice among the encodings of its track; they are numbered from the smallest picture.
///
/// Video starts and switches only at packets with which decoding can start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Selector {
    current: Option<usize>,
}

impl Selector {
    /// The best encoding up to `highest` that is being sent, else the least; `active` tells which are sent.
    pub(crate) fn target(active: &[bool], highest: usize) -> Option<usize> {
        let at_most = (0..=highest).rev().find(|index| active.get(*index) == Some(&true));
        at_most.or_else(|| active.iter().position(|active| *active))
    }

    /// Decides on a packet of encoding `index`.
    pub(crate) fn select(&mut self, index: usize, target: usize, can_start: bool) -> Selection {
        match self.current {
            Some(current) if current == index => Selection::Forward,
            _ if index == target && can_start => {
                self.current = Some(index);
                Selection::Switch
            }
            _ => Selection::Drop,
        }
    }

    /// What is being forwarded.
    pub(crate) fn current(&self) -> Option<usize> {
        self.current
    }

    /// Whether `index` is what is being forwarded.
    pub(crate) fn is_current(&self, index: usize) -> bool {
        self.current == Some(index)
    }

    /// Whether a keyframe of the target would change anything.
    pub(crate) fn wants(&self, target: usize) -> bool {
        self.current != Some(target)
    }

    /// Forgets the running source: the next one starts afresh.
    pub(crate) fn reset(&mut self) {
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_active_encoding_within_the_wish_is_the_target() {
        let target = Selector::target;
        assert_eq!(target(&[true, true, true], 2), Some(2));
        assert_eq!(target(&[true, true, false], 2), Some(1));
        assert_eq!(target(&[true, true, true], 0), Some(0));
        assert_eq!(target(&[false, false, true], 0), Some(2), "better than nothing");
        assert_eq!(target(&[false], 7), None);
        assert_eq!(target(&[], 7), None);
    }

    #[test]
    fn switches_only_where_decoding_can_start() {
        let mut selector = Selector::default();
        assert_eq!(selector.select(0, 0, false), Selection::Drop);
        assert_eq!(selector.select(0, 0, true), Selection::Switch);
        assert_eq!(selector.select(0, 2, false), Selection::Forward, "the old one goes on meanwhile");
        assert_eq!(selector.select(2, 2, false), Selection::Drop);
        assert!(selector.wants(2));
        assert_eq!(selector.select(2, 2, true), Selection::Switch);
        assert_eq!(selector.select(0, 2, true), Selection::Drop);
        assert!(!selector.wants(2));
    }
}
