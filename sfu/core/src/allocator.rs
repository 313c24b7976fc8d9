//! Which layers of its video tracks a subscriber gets of what reaches it.
//!
//! ```text
//!   priority   ladders: what each track could be sent as, and what that takes
//!     3  screen    [          1.5 M          ]         budget: the estimate less the audio
//!     2  speaker   [ 60k │ 90k │ 150k │ 500k │ 1.7M ]     1  every track gets its lowest rung, or pauses
//!     1  others    [ 60k │ 90k │ 150k │ 500k ]            2  then the first priority goes up as far as there is room,
//!     1            [ 60k │ 90k │ 150k │ 500k ]               all tracks of it a rung at a time; then the next
//! ```
//! What is held needs no more than it takes; what would be new needs some room besides, or it would come and go with each
//! change of the estimate. Where there is less room than before, what goes goes at once.

use smallvec::SmallVec;

use crate::media::bitrate::Bitrate;

/// Something for each track of a subscriber. Only of more than a page full of pictures is it on the heap.
pub(crate) type PerTrack<T> = SmallVec<[T; 32]>;

/// Room besides that a new rung needs, in percent of what it takes …
const MARGIN_PERCENT: u64 = 15;
/// … and the lowest one of a track, so that no track of less priority goes up before it is there at all.
const FLOOR_MARGIN_PERCENT: u64 = 5;

/// The lowest rung of the first track stays as long as so much of it fits: with the estimate going up and down around it,
/// a picture that comes late now and then is better than one that comes and goes.
const LAST_FITS_PERCENT: u64 = 75;

/// The highest layers that are sent of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Layers {
    /// The simulcast encoding.
    pub(crate) encoding: u8,
    /// Of that.
    pub(crate) spatial: u8,
    pub(crate) temporal: u8,
}

impl Layers {
    /// What its size depends on. A change of it needs a keyframe.
    pub(crate) fn picture(self) -> (u8, u8) {
        (self.encoding, self.spatial)
    }
}

/// A way to send a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rung {
    pub(crate) layers: Layers,
    pub(crate) rate: Bitrate,
}

/// Who comes first: compared field by field, the greater first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Priority {
    pub(crate) is_screen: bool,
    /// The subscriber's own order; 0 where it has none.
    pub(crate) pinned: u32,
    pub(crate) speaks: bool,
    /// The logarithm of the picture's area where it is shown.
    pub(crate) size: u8,
}

/// What a subscriber wants of a track.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) priority: Priority,
    /// From the lowest; rates rise.
    pub(crate) ladder: &'a [Rung],
    /// What it is sent now, none if it pauses.
    pub(crate) held: Option<Layers>,
    /// It pauses for lack of room, and the client knows.
    pub(crate) paused: bool,
    /// It just had to go down: nothing that needs a keyframe is given to it.
    pub(crate) stays_down: bool,
}

impl Wish<'_> {
    /// How many rungs it holds.
    fn rungs_held(&self) -> usize {
        let Some(held) = self.held else { return 0 };
        self.ladder.iter().filter(|rung| rung.layers <= held).count().max(1)
    }

    /// What going from so many rungs to one more takes; none if there is no such rung, or it may not be given.
    fn step(&self, rungs: usize) -> Option<Step> {
        let rung = self.ladder.get(rungs)?;
        let below = rungs.checked_sub(1).and_then(|index| self.ladder.get(index));
        let is_new = rungs >= self.rungs_held();
        let needs_keyframe = match self.held {
            None => true,
            Some(held) => rung.layers.picture() > held.picture(),
        };
        if is_new && needs_keyframe && self.stays_down {
            return None;
        }
        let added = rung.rate.as_bps().saturating_sub(below.map_or(0, |rung| rung.rate.as_bps()));
        let percent = match below {
            _ if !is_new => 0,
            Some(_) => MARGIN_PERCENT,
            None => FLOOR_MARGIN_PERCENT,
        };
        let margin = rung.rate.as_bps() * percent / 100;
        Some(Step { added, margin })
    }
}

/// Bits per second.
#[derive(Clone, Copy, Debug)]
struct Step {
    added: u64,
    margin: u64,
}

/// Which tracks may pause; the others get their lowest rung at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayPause {
    /// Those that do so already.
    Paused,
    /// Those that are not being sent yet, but for the first by priority.
    Unsent,
    /// All but the first by priority, if that is being sent.
    AllButOne,
    All,
}

/// What there is to share out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Of what the lowest rungs take.
    pub(crate) floors: Bitrate,
    /// Of everything; less where something is to drain first.
    pub(crate) all: Bitrate,
}

/// Shares a budget out. Returns for each wish how many rungs of its ladder it gets; 0 is nothing.
pub(crate) fn allocate(budget: Budget, wishes: &[Wish<'_>], may_pause: MayPause) -> PerTrack<usize> {
    let mut order: PerTrack<usize> = (0..wishes.len()).collect();
    // Within a priority, what is held first: equals do not change places.
    let key = |index: &usize| wishes.get(*index).map(|wish| (wish.priority, wish.rungs_held()));
    order.sort_unstable_by_key(|index| (std::cmp::Reverse(key(index)), *index));
    let mut rungs: PerTrack<usize> = wishes.iter().map(|_| 0).collect();
    let mut left = budget.floors.as_bps();
    for (position, index) in order.iter().enumerate() {
        let (Some(wish), Some(rungs)) = (wishes.get(*index), rungs.get_mut(*index)) else { continue };
        let Some(step) = wish.step(0) else { continue };
        let stays = position == 0 && wish.held.is_some();
        let stays = match may_pause {
            MayPause::Paused => !wish.paused,
            MayPause::Unsent => position == 0 || wish.held.is_some(),
            MayPause::AllButOne => stays,
            MayPause::All => stays && step.added * LAST_FITS_PERCENT / 100 <= left,
        };
        if stays || step.added + step.margin <= left {
            left = left.saturating_sub(step.added);
            *rungs = 1;
        }
    }
    left = left.saturating_sub(budget.floors.saturating_sub(budget.all).as_bps());
    let equal = |a: &usize, b: &usize| {
        let priority = |index: &usize| wishes.get(*index).map(|wish| wish.priority);
        priority(a) == priority(b)
    };
    for group in order.chunk_by(equal) {
        // A rung at a time, so that equals stay equal.
        let highest = group.iter().filter_map(|index| Some(wishes.get(*index)?.ladder.len())).max();
        for height in 1..highest.unwrap_or(0) {
            for index in group {
                let (Some(wish), Some(rungs)) = (wishes.get(*index), rungs.get_mut(*index)) else { continue };
                if *rungs == height
                    && let Some(step) = wish.step(height)
                    && step.added + step.margin <= left
                {
                    left -= step.added;
                    *rungs += 1;
                }
            }
        }
    }
    rungs
}

/// Lets one track go up to a larger picture at a time, that of the highest priority. What begins is not held back. Returns
/// whether others wait.
pub(crate) fn hold_back(wishes: &[Wish<'_>], given: &mut [usize]) -> bool {
    let goes_up = |wish: &Wish<'_>, given: usize| {
        let rung = given.checked_sub(1).and_then(|index| wish.ladder.get(index));
        rung.zip(wish.held).is_some_and(|(rung, held)| rung.layers.picture() > held.picture())
    };
    let up = wishes.iter().zip(given.iter()).enumerate().filter(|(_, (wish, given))| goes_up(wish, **given));
    let first = up.max_by_key(|(index, (wish, _))| (wish.priority, std::cmp::Reverse(*index)));
    let first = first.map(|(index, _)| index);
    let mut waits = false;
    for (index, (wish, given)) in wishes.iter().zip(given).enumerate() {
        if Some(index) != first && goes_up(wish, *given) {
            let Some(held) = wish.held else { continue };
            let as_large = |rung: &&Rung| rung.layers.picture() <= held.picture();
            *given = wish.ladder.iter().filter(as_large).count().max(1);
            waits = true;
        }
    }
    waits
}

#[cfg(test)]
mod tests;
