//! Who gets which layers: what reaches each client is shared out among the video tracks that it receives.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use zynk_protocol::{MediaKind, NodeEvent, SubscriptionSettings, TrackSource};

use super::{EndpointKey, Shard, SubscriptionKey};
use crate::{
    allocator::{self, Budget, Layers, MayPause, PerTrack, Priority, Rung, Wish},
    downstream::{Capacity, Downstream},
    endpoint::Endpoint,
    forwarder::{Allotment, Subscription},
    ladder,
    media::bitrate::Bitrate,
    track::Track,
};

/// Rates of layers and estimates change slowly; a fall below what is sent is seen to at once.
const ALLOCATE_INTERVAL: Duration = Duration::from_millis(500);
/// When larger pictures wait for their turn: each begins with a keyframe, and several at once fill the queue on the way.
const STEP_INTERVAL: Duration = Duration::from_millis(200);
/// What went down for lack of room stays there for so long: each way up takes a keyframe.
const STAYS_DOWN: Duration = Duration::from_secs(2);
/// What stands in the queue on the way to a client is to be gone after so long: it takes its share of what is carried then.
const DRAINS_IN: Duration = Duration::from_millis(500);
/// Up to so much of it, in percent.
const DRAIN_PERCENT_MAX: u64 = 50;
/// What of a larger picture is sent until the smaller one begins may take so much of what that takes, in percent.
const BRIDGE_PERCENT_MAX: u64 = 150;
/// Pictures pause where there was congestion so lately, not for an estimate alone.
const CONGESTED_WITHIN: Duration = Duration::from_secs(5);
/// The only picture pauses when there has been no room for it for so long: estimates fall for a moment and come back.
const PAUSES_AFTER: Duration = Duration::from_secs(1);
/// What waits for room is seen to as soon as so much more is carried, in percent.
const RISE_PERCENT: u64 = 120;
/// The logarithm of a picture's area where it is shown, if nobody told: a million pixels.
const SIZE_ASSUMED: u8 = 20;

/// What a connection's last allocation came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allocation {
    /// Something changed that it depends on.
    pub(crate) outdated: bool,
    next_at: Option<Instant>,
    /// What was given out, audio included.
    taken: Bitrate,
    /// Since when there has been no room even for one picture.
    short_since: Option<Instant>,
    /// Something waits for so much to be carried.
    wants_more: Option<Bitrate>,
}

/// A track among those that a client receives.
struct Item {
    subscription: SubscriptionKey,
    rungs: Range<usize>,
    priority: Priority,
    held: Option<Layers>,
    paused: bool,
    stays_down: bool,
}

impl Shard {
    /// Allocates anew where that is due.
    pub(super) fn allocate_where_due(&mut self) {
        let now = self.now;
        let is_due =
            |allocation: &Allocation| allocation.outdated || allocation.next_at.is_some_and(|at| at <= now);
        let mut due = std::mem::take(&mut self.due);
        let endpoints = self.endpoints.iter().filter(|(_, endpoint)| is_due(&endpoint.allocation));
        due.extend(endpoints.map(|(index, _)| EndpointKey(index)));
        for key in due.drain(..) {
            self.allocate(key);
        }
        self.due = due;
    }

    /// A client's feedback came. If its path carries less than it is sent, that goes at once; if it carries much more, what
    /// waits begins.
    pub(super) fn allocate_on_feedback(&mut self, key: EndpointKey) {
        let is_due = |endpoint: &Endpoint| {
            let believed = endpoint.media.downstream.believed();
            let Allocation { next_at, taken, wants_more, .. } = endpoint.allocation;
            next_at.is_some() && (believed < taken || wants_more.is_some_and(|more| believed >= more))
        };
        if self.endpoints.get(key.0).is_some_and(is_due) {
            self.allocate(key);
        }
    }

    /// What a connection receives changed, or what it wants of it.
    pub(super) fn allocate_soon(&mut self, key: EndpointKey) {
        if let Some(endpoint) = self.endpoints.get_mut(key.0) {
            endpoint.allocation.outdated = true;
        }
    }

    /// Shares out what reaches a client.
    pub(super) fn allocate(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let Allocation { short_since, taken: taken_before, .. } = std::mem::take(&mut endpoint.allocation);
        if !endpoint.connection.is_connected() {
            return;
        }
        let mut rungs = std::mem::take(&mut self.rungs);
        rungs.clear();
        let items = self.items(key, &mut rungs);
        self.allocate_items(key, &items, &rungs, (short_since, taken_before));
        self.rungs = rungs;
    }

    /// `before`: since when there has been no room even for one picture, and what was given out.
    fn allocate_items(
        &mut self,
        key: EndpointKey,
        items: &[Item],
        rungs: &[Rung],
        (short_since, taken_before): (Option<Instant>, Bitrate),
    ) {
        let now = self.now;
        if items.is_empty() {
            // What is received may not have begun.
            if let Some(endpoint) =
                self.endpoints.get_mut(key.0).filter(|endpoint| !endpoint.order.is_empty())
            {
                endpoint.allocation.next_at = Some(now + STEP_INTERVAL);
            }
            return;
        }
        let wishes: PerTrack<Wish<'_>> = items
            .iter()
            .map(|item| Wish {
                priority: item.priority,
                ladder: rungs.get(item.rungs.clone()).unwrap_or_default(),
                held: item.held,
                paused: item.paused,
                stays_down: item.stays_down,
            })
            .collect();
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let downstream = &mut endpoint.media.downstream;
        let audio = downstream.audio_rate();
        let Share { budget, mut slack, may_pause } = share(downstream, now, taken_before);
        let mut given = allocator::allocate(budget, &wishes, may_pause);
        let is_short = given.iter().all(|given| *given == 0);
        let short_since = is_short.then(|| short_since.unwrap_or(now));
        if short_since.is_some_and(|since| now.saturating_duration_since(since) < PAUSES_AFTER) {
            given = allocator::allocate(budget, &wishes, MayPause::AllButOne);
        }
        let waits = allocator::hold_back(&wishes, &mut given);
        let rates = |rung: fn(&[Rung], usize) -> Option<&Rung>| -> Bitrate {
            let rates = wishes.iter().zip(&given).filter_map(|(wish, given)| rung(wish.ladder, *given));
            Bitrate::bps(rates.map(|rung| rung.rate.as_bps()).sum())
        };
        let taken = rates(|ladder, given| ladder.get(given.checked_sub(1)?)).saturating_add(audio);
        let wanted = rates(|ladder, _| ladder.last()).saturating_add(audio);
        let complete = wishes.iter().zip(&given).all(|(wish, given)| *given == wish.ladder.len());
        let probes = downstream.set_wanted(now, wanted, complete);
        let interval = if waits { STEP_INTERVAL } else { ALLOCATE_INTERVAL };
        let wants_more = (waits || given.contains(&0)).then(|| downstream.believed().percent(RISE_PERCENT));
        endpoint.allocation =
            Allocation { outdated: false, next_at: Some(now + interval), taken, short_since, wants_more };
        let mut allotted: PerTrack<(Priority, usize, SubscriptionKey, Allotment, Bitrate)> = items
            .iter()
            .zip(&wishes)
            .zip(&given)
            .enumerate()
            .map(|(index, ((item, wish), given))| {
                let rung = given.checked_sub(1).and_then(|index| wish.ladder.get(index));
                let allotment = rung.map_or(Allotment::Nothing, |rung| Allotment::UpTo(rung.layers));
                let rate = rung.map_or(Bitrate::ZERO, |rung| rung.rate);
                (item.priority, index, item.subscription, allotment, rate)
            })
            .collect();
        allotted.sort_unstable_by_key(|(priority, index, ..)| (std::cmp::Reverse(*priority), *index));
        if probes {
            self.mark_media(key);
        }
        for (_, _, subscription, allotment, rate) in allotted {
            self.allot(subscription, allotment, rate, &mut slack);
            if may_pause != MayPause::Unsent {
                self.tell_stream_state(key, subscription);
            }
        }
    }

    /// Whether the lowest layers of what is being sent may go on until the smaller picture begins: they fit into `rate`,
    /// more or less, or into what is left free for the queue to drain.
    fn bridges(&self, subscription: &Subscription, rate: Bitrate, slack: &mut Bitrate) -> bool {
        let lowest = || {
            let track = self.tracks.get(subscription.source?.0)?;
            track.encodings.get(subscription.current_encoding()?)?.rates.as_ref()?.rate(0, 0)
        };
        let Some(lowest) = lowest().filter(|lowest| *lowest > rate.percent(BRIDGE_PERCENT_MAX)) else {
            return true;
        };
        let more = lowest.saturating_sub(rate);
        let fits = rate > Bitrate::ZERO && more <= *slack;
        if fits {
            *slack = slack.saturating_sub(more);
        }
        fits
    }

    /// The video that a client receives, each track with its ladder.
    fn items(&self, key: EndpointKey, rungs: &mut Vec<Rung>) -> PerTrack<Item> {
        let now = self.now;
        let Some(endpoint) = self.endpoints.get(key.0) else { return PerTrack::new() };
        let speaking = self.rooms.get(&endpoint.room).map(|room| &room.speaking);
        let mut items = PerTrack::new();
        for subscription_key in &endpoint.order {
            let Some(subscription) = self.subscriptions.get(subscription_key.0) else { continue };
            let Some(source) = subscription.source.filter(|_| subscription.is_wanted()) else { continue };
            let is_sent = |track: &&Track| track.kind == MediaKind::Video && !track.muted;
            let Some(track) = self.tracks.get(source.0).filter(is_sent) else { continue };
            let start = rungs.len();
            ladder::add_rungs(track, now, subscription.settings, rungs);
            if rungs.len() == start {
                continue;
            }
            let speaks = speaking.is_some_and(|speaking| speaking.contains(&track.participant));
            items.push(Item {
                subscription: *subscription_key,
                rungs: start..rungs.len(),
                priority: priority(track, subscription.settings, speaks),
                held: match subscription.allotment {
                    Allotment::UpTo(layers) => Some(layers),
                    Allotment::All | Allotment::Nothing => None,
                },
                paused: subscription.told_paused,
                stays_down: subscription.stays_down(now, STAYS_DOWN),
            });
        }
        items
    }

    fn allot(&mut self, key: SubscriptionKey, allotment: Allotment, rate: Bitrate, slack: &mut Bitrate) {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get(key.0).filter(|known| known.allotment != allotment)
        else {
            return;
        };
        let bridges = self.bridges(subscription, rate, slack);
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        self.stats.count_switch(subscription.allotment, allotment);
        subscription.allot(now, allotment, bridges);
        if allotment != Allotment::Nothing {
            self.want_keyframe_for_settings(key);
        }
    }

    /// The client is told when a picture pauses for lack of room, and when it goes on.
    fn tell_stream_state(&mut self, endpoint: EndpointKey, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        let paused = subscription.allotment == Allotment::Nothing;
        if std::mem::replace(&mut subscription.told_paused, paused) == paused {
            return;
        }
        let track = subscription.track.clone();
        if let Some(connection) = self.endpoints.get(endpoint.0).map(|endpoint| endpoint.id) {
            self.emit(endpoint, NodeEvent::StreamState { connection, track, paused });
        }
    }
}

/// What there is for a client's video.
struct Share {
    budget: Budget,
    /// What is left free for the queue to drain.
    slack: Bitrate,
    may_pause: MayPause,
}

/// `taken`: what it was sent until now.
fn share(downstream: &Downstream, now: Instant, taken: Bitrate) -> Share {
    let capacity = downstream.capacity(now);
    let queue = downstream.queue_delay();
    // What is sent twice as fast as it leaves has not come to the queue's end yet, where it is seen.
    let drain = match queue > Duration::ZERO && taken > downstream.believed().percent(200) {
        true => DRAIN_PERCENT_MAX,
        false => drain_percent(queue),
    };
    let may_pause = match capacity {
        Capacity::Measured(_) if downstream.was_congested(now, CONGESTED_WITHIN) => MayPause::All,
        // At the start more becomes known every moment: what does not fit yet begins then.
        Capacity::AtLeast(_) => MayPause::Unsent,
        // An estimate may be low because nothing has tried the path yet.
        Capacity::Measured(_) | Capacity::Unlimited => MayPause::Paused,
    };
    let (budget, slack) = match capacity {
        Capacity::Unlimited => {
            (Budget { floors: Bitrate::bps(u64::MAX), all: Bitrate::bps(u64::MAX) }, Bitrate::ZERO)
        }
        Capacity::AtLeast(rate) | Capacity::Measured(rate) => {
            let audio = downstream.audio_rate();
            let all = rate.percent(100 - drain).saturating_sub(audio);
            (Budget { floors: rate.saturating_sub(audio), all }, rate.percent(drain))
        }
    };
    Share { budget, slack, may_pause }
}

/// How much of what is carried is to be left free for a queue to drain.
fn drain_percent(queue: Duration) -> u64 {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    (ms(queue).saturating_mul(100) / ms(DRAINS_IN)).min(DRAIN_PERCENT_MAX)
}

/// A shared screen first, then what the subscriber put first, then who speaks, then what is shown large.
fn priority(track: &Track, settings: SubscriptionSettings, speaks: bool) -> Priority {
    let area = settings.size.map(|(width, height)| u64::from(width) * u64::from(height));
    let size = match area {
        Some(area) => u8::try_from(area.max(1).ilog2()).unwrap_or(u8::MAX),
        None => SIZE_ASSUMED,
    };
    Priority {
        is_screen: track.source == TrackSource::ScreenShare,
        // LiveKit's numbers: 1 is the first, 0 none.
        pinned: settings.priority.checked_sub(1).map_or(0, |after_first| u32::MAX - after_first),
        speaks,
        size,
    }
}

impl Subscription {
    /// Whether it went down so lately that it is to stay there.
    fn stays_down(&self, now: Instant, stays: Duration) -> bool {
        self.lowered_at.is_some_and(|at| now.saturating_duration_since(at) < stays)
    }
}
