//! What flows in the room, told to operators who ask.
//!
//! ```text
//!   Admin(Stats) ─► ReportRoom ─► RoomReports ── a second later ──► ReportRoom ─► RoomReports ─► AdminReply
//! ```
//! The node tells counters; their differences are the rates. Whoever asks meanwhile gets the same answer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use zynk_protocol::{
    ConnectionReport, EncodingReport, NodeAction, ParticipantSid, RoomReport, SubscriptionReport,
    TrackReport, TrackSid,
};

use super::participant::Participant;
use super::publish::{Track, source};
use super::{ReplyId, Room, RoomOutput};
use crate::admin::{AdminError, AdminResponse};
use crate::room_stats::{
    EncodingStats, GivenLayers, ParticipantStats, RoomStats, SubscriptionState, SubscriptionStats,
    TrackStats, TransportStats, WantedLayers,
};

/// Over how long rates are measured.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Callers that wait for one answer. Further ones are refused.
const ASKERS_MAX: usize = 64;

/// Workers that a node can have; a report that says more is ignored.
const SHARES_MAX: u32 = 256;

const TOO_MANY: AdminError = AdminError::ResourceExhausted("too many wait for statistics of this room");
const NO_ANSWER: AdminError = AdminError::Unavailable("the media node did not answer in time");

/// What is being collected.
#[derive(Debug, Default)]
pub(super) struct StatsState {
    collection: Option<Collection>,
    last_request: u64,
}

#[derive(Debug)]
struct Collection {
    /// At most [`ASKERS_MAX`].
    askers: Vec<ReplyId>,
    step: Step,
    /// What the node told first, and when.
    before: Option<(Instant, Vec<ConnectionReport>)>,
}

#[derive(Debug)]
enum Step {
    /// The node has been asked, and has answered in part.
    Asked { request: u64, deadline: Instant, shares: Vec<RoomReport> },
    /// It is asked once more then.
    Pause { until: Instant },
}

impl StatsState {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.collection.as_ref().map(|collection| match collection.step {
            Step::Asked { deadline, .. } => deadline,
            Step::Pause { until } => until,
        })
    }
}

impl Room {
    pub(super) fn collect_stats(&mut self, reply: ReplyId) {
        if let Some(collection) = &mut self.stats.collection {
            if collection.askers.len() < ASKERS_MAX {
                return collection.askers.push(reply);
            }
            return self.outputs.push_back(RoomOutput::AdminReply { reply, result: Err(TOO_MANY) });
        }
        let step = self.ask_for_report();
        self.stats.collection = Some(Collection { askers: vec![reply], step, before: None });
    }

    fn ask_for_report(&mut self) -> Step {
        self.stats.last_request += 1;
        let request = self.stats.last_request;
        self.command(NodeAction::ReportRoom { request, shares: 1 });
        Step::Asked { request, deadline: self.now + ANSWER_TIMEOUT, shares: Vec::new() }
    }

    /// A worker of the node tells its share.
    pub(super) fn room_reported(&mut self, report: RoomReport) {
        let now = self.now;
        let Some(collection) = &mut self.stats.collection else { return };
        let Step::Asked { request, shares, .. } = &mut collection.step else { return };
        if report.request != *request || report.shares > SHARES_MAX {
            return;
        }
        let complete = shares.len() + 1 >= report.shares as usize;
        shares.push(report);
        if !complete {
            return;
        }
        let truncated = shares.iter().any(|share| share.truncated);
        let connections = std::mem::take(shares).into_iter().flat_map(|share| share.connections).collect();
        match collection.before.take() {
            None => {
                collection.before = Some((now, connections));
                collection.step = Step::Pause { until: now + INTERVAL };
            }
            Some((at, before)) => {
                let interval = now.saturating_duration_since(at);
                let stats = self.room_stats(interval, truncated, &before, &connections);
                self.answer_stats(Ok(stats));
            }
        }
    }

    pub(super) fn continue_stats(&mut self) {
        if self.stats.deadline().is_none_or(|deadline| deadline > self.now) {
            return;
        }
        match self.stats.collection.as_ref().map(|collection| &collection.step) {
            Some(Step::Asked { .. }) => self.answer_stats(Err(NO_ANSWER)),
            Some(Step::Pause { .. }) => {
                let step = self.ask_for_report();
                if let Some(collection) = &mut self.stats.collection {
                    collection.step = step;
                }
            }
            None => {}
        }
    }

    fn answer_stats(&mut self, result: Result<RoomStats, AdminError>) {
        let Some(collection) = self.stats.collection.take() else { return };
        for reply in collection.askers {
            let result = result.clone().map(|stats| AdminResponse::Stats(Box::new(stats)));
            self.outputs.push_back(RoomOutput::AdminReply { reply, result });
        }
    }

    fn room_stats(
        &self,
        interval: Duration,
        truncated: bool,
        before: &[ConnectionReport],
        now: &[ConnectionReport],
    ) -> RoomStats {
        let earlier = Earlier::new(interval, before);
        let mut connections: HashMap<&ParticipantSid, Vec<&ConnectionReport>> = HashMap::new();
        for connection in now {
            connections.entry(&connection.participant).or_default().push(connection);
        }
        let facts = Facts {
            room: self,
            rids: now.iter().flat_map(|connection| &connection.tracks).map(rids_of).collect(),
            receivers: receivers(now),
            earlier,
        };
        RoomStats {
            room: self.name().as_str().to_owned(),
            sid: self.sid().as_str().to_owned(),
            node: self.settings.node.as_str().to_owned(),
            interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            truncated,
            participants: self
                .participants
                .values()
                .map(|participant| {
                    let theirs = connections.get(&participant.sid).map(Vec::as_slice).unwrap_or_default();
                    facts.participant(participant, theirs)
                })
                .collect(),
        }
    }
}

/// The names of a track's encodings, in one of its codecs.
fn rids_of(report: &TrackReport) -> (&TrackSid, &[EncodingReport]) {
    (&report.track, &report.encodings)
}

/// How many receive each track.
fn receivers(connections: &[ConnectionReport]) -> HashMap<&TrackSid, usize> {
    let mut receivers: HashMap<&TrackSid, usize> = HashMap::new();
    for subscription in connections.iter().flat_map(|connection| &connection.subscriptions) {
        *receivers.entry(&subscription.track).or_default() += 1;
    }
    receivers
}

/// What the node told an interval ago.
struct Earlier<'a> {
    interval: Duration,
    subscriptions: HashMap<(u64, &'a TrackSid), &'a SubscriptionReport>,
    tracks: HashMap<(&'a TrackSid, bool), &'a TrackReport>,
}

impl<'a> Earlier<'a> {
    fn new(interval: Duration, connections: &'a [ConnectionReport]) -> Self {
        let subscriptions = connections.iter().flat_map(|connection| {
            let id = connection.connection.0;
            connection.subscriptions.iter().map(move |report| ((id, &report.track), report))
        });
        let tracks = connections.iter().flat_map(|connection| &connection.tracks);
        Self {
            interval,
            subscriptions: subscriptions.collect(),
            tracks: tracks.map(|report| ((&report.track, report.backup), report)).collect(),
        }
    }

    fn bps(&self, bytes: u64) -> u64 {
        let ms = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX).max(1);
        bytes.saturating_mul(8_000) / ms
    }
}

/// Everything that one answer is made from.
struct Facts<'a> {
    room: &'a Room,
    rids: HashMap<&'a TrackSid, &'a [EncodingReport]>,
    receivers: HashMap<&'a TrackSid, usize>,
    earlier: Earlier<'a>,
}

impl Facts<'_> {
    fn participant(&self, participant: &Participant, reports: &[&ConnectionReport]) -> ParticipantStats {
        let quality = self.room.quality_of(&participant.sid);
        let subscriptions = reports.iter().flat_map(|report| {
            report.subscriptions.iter().filter_map(|subscription| self.subscription(report, subscription))
        });
        ParticipantStats {
            sid: participant.sid.as_str().to_owned(),
            identity: participant.identity.as_str().to_owned(),
            name: participant.name.clone(),
            quality: quality.map(|(quality, _)| quality.as_str_name().to_ascii_lowercase()),
            score: quality.map(|(_, score)| score),
            connections: reports.iter().map(|report| self.transport(report)).collect(),
            tracks: reports
                .iter()
                .flat_map(|report| &report.tracks)
                .filter_map(|report| self.track(participant.track(report.track.as_str())?, report))
                .collect(),
            subscriptions: subscriptions.collect(),
        }
    }

    fn transport(&self, report: &ConnectionReport) -> TransportStats {
        let encodings = report.tracks.iter().flat_map(|track| &track.encodings);
        TransportStats {
            role: report.role,
            connected: report.connected,
            transport: report.transport,
            rtt_ms: report.rtt_ms,
            upstream_bps: encodings.map(|encoding| encoding.bitrate.as_bps()).sum(),
            downstream_bps: report.subscriptions.iter().map(|one| self.sent_bps(report, one)).sum(),
            estimate_bps: report.estimate.map(|rate| rate.as_bps()),
            queue_ms: report.queue_ms,
            congested: report.congested,
        }
    }

    /// What was told a moment ago, of the same stream: a subscription may have got another meanwhile.
    fn earlier_of(
        &self,
        connection: &ConnectionReport,
        report: &SubscriptionReport,
    ) -> Option<&SubscriptionReport> {
        let before = *self.earlier.subscriptions.get(&(connection.connection.0, &report.track))?;
        (before.ssrc.is_some() && before.ssrc == report.ssrc).then_some(before)
    }

    fn sent_bps(&self, connection: &ConnectionReport, report: &SubscriptionReport) -> u64 {
        let before = self.earlier_of(connection, report);
        self.earlier.bps(report.bytes.saturating_sub(before.map_or(report.bytes, |before| before.bytes)))
    }

    fn track(&self, track: &Track, report: &TrackReport) -> Option<TrackStats> {
        let codec = match report.backup {
            false => &track.info.mime_type,
            true => &track.backup_codec()?.mime_type,
        };
        let before = self.earlier.tracks.get(&(&report.track, report.backup));
        let before = before.map(|report| report.encodings.as_slice()).unwrap_or_default();
        let encodings = report.encodings.iter().enumerate();
        Some(TrackStats {
            sid: report.track.as_str().to_owned(),
            name: track.info.name.clone(),
            kind: track.kind,
            source: source(track.source),
            codec: codec.clone(),
            backup: report.backup,
            muted: report.muted,
            subscribers: self.receivers.get(&report.track).copied().unwrap_or(0),
            encodings: encodings.map(|(index, now)| encoding_stats(now, before.get(index))).collect(),
        })
    }

    fn subscription(
        &self,
        connection: &ConnectionReport,
        report: &SubscriptionReport,
    ) -> Option<SubscriptionStats> {
        let publisher = self.room.participants.get(self.room.tracks.get(&report.track)?)?;
        let track = publisher.track(report.track.as_str())?;
        let encodings = self.rids.get(&report.track).copied().unwrap_or_default();
        let rid = |index: u8| encodings.get(usize::from(index)).and_then(|encoding| encoding.rid.clone());
        let before = self.earlier_of(connection, report);
        let settings = report.settings;
        Some(SubscriptionStats {
            track: report.track.as_str().to_owned(),
            publisher: publisher.identity.as_str().to_owned(),
            kind: track.kind,
            source: source(track.source),
            state: match report {
                _ if !report.negotiated => SubscriptionState::Pending,
                _ if settings.paused => SubscriptionState::Paused,
                _ if report.starved => SubscriptionState::Starved,
                _ => SubscriptionState::Flowing,
            },
            given: report.given.map(|given| GivenLayers {
                encoding: given.encoding,
                rid: rid(given.encoding),
                spatial: given.spatial,
                temporal: given.temporal,
                fps: given.frame_rate,
            }),
            wanted: WantedLayers {
                quality: settings.quality,
                encoding: report.wanted_encoding,
                rid: report.wanted_encoding.and_then(rid),
                size: settings.size,
                fps: (settings.fps > 0).then_some(settings.fps),
                priority: (settings.priority > 0).then_some(settings.priority),
            },
            bitrate_bps: self.sent_bps(connection, report),
            packets: report.packets,
            bytes: report.bytes,
            packets_resent: report.resent,
            packets_lost: report.reception.map_or(0, |reception| u64::try_from(reception.lost).unwrap_or(0)),
            loss: before.and_then(|before| reported_loss(before, report)),
            jitter_ms: report.reception.map(|reception| reception.jitter_ms),
        })
    }
}

fn encoding_stats(now: &EncodingReport, before: Option<&EncodingReport>) -> EncodingStats {
    let since = |now: u64, before: Option<u64>| now.saturating_sub(before.unwrap_or(now));
    EncodingStats {
        rid: now.rid.clone(),
        active: now.active,
        bitrate_bps: now.bitrate.as_bps(),
        fps: now.frame_rate,
        packets: now.packets,
        packets_lost: now.lost,
        loss: share(
            since(now.lost, before.map(|before| before.lost)),
            since(now.packets, before.map(|before| before.packets)),
        ),
        jitter_ms: now.jitter_ms,
    }
}

/// The share of a stream that its receiver lost between two reports.
fn reported_loss(before: &SubscriptionReport, now: &SubscriptionReport) -> Option<f32> {
    let (before, now) = (before.reception?, now.reception?);
    let expected = now.highest.wrapping_sub(before.highest);
    let lost = u64::try_from(now.lost.saturating_sub(before.lost)).unwrap_or(0);
    // Numbers that go back are those of another stream.
    share(lost, u64::from(expected)).filter(|_| expected < 1 << 20)
}

fn share(part: u64, whole: u64) -> Option<f32> {
    (whole > 0).then(|| part.min(whole) as f32 / whole as f32)
}
