//! Which layers of a video track anybody wants: its publisher may stop encoding the others.

use std::time::{Duration, Instant};

use zynk_protocol::livekit::{self, VideoQuality, signal_response};
use zynk_protocol::{MediaKind, SubscriptionSettings, TrackQuality, TrackSid};

use super::Room;
use super::publish::Track;

/// What a publisher was told about the demand for a track.
#[derive(Debug, Default)]
pub(super) struct Dynacast {
    /// None until somebody first wanted the track; then the best quality that is wanted, if any is.
    told: Option<Option<TrackQuality>>,
    /// When a fall of the demand is to be told. Views come and go; layers need a keyframe to come back.
    lower_at: Option<Instant>,
}

impl Dynacast {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lower_at
    }
}

impl Room {
    /// A subscription to the track began, ended or changed.
    pub(super) fn demand_changed(&mut self, track_sid: &TrackSid) {
        let delay = Duration::from_millis(self.settings.config.room.dynacast_pause_delay_ms);
        let at = self.now + delay;
        let demand = self.demand(track_sid);
        let Some(track) = self.video_track_mut(track_sid) else { return };
        match track.dynacast.told {
            None if demand.is_none() => {}
            Some(told) if demand < told => {
                track.dynacast.lower_at.get_or_insert(at);
            }
            Some(told) if demand == told => track.dynacast.lower_at = None,
            _ => self.tell_demand(track_sid, demand),
        }
    }

    pub(super) fn run_dynacast(&mut self) {
        let is_due = |track: &&Track| track.dynacast.lower_at.is_some_and(|at| at <= self.now);
        let due: Vec<TrackSid> = self
            .participants
            .values()
            .flat_map(|participant| participant.tracks.iter().filter(is_due))
            .map(|track| track.sid.clone())
            .collect();
        for track in due {
            let demand = self.demand(&track);
            self.tell_demand(&track, demand);
        }
    }

    fn video_track_mut(&mut self, track: &TrackSid) -> Option<&mut Track> {
        let publisher = self.tracks.get(track)?;
        let track = self.participants.get_mut(publisher)?.track_mut(track.as_str())?;
        (track.kind == MediaKind::Video).then_some(track)
    }

    /// The best quality that anybody wants now.
    fn demand(&self, track_sid: &TrackSid) -> Option<TrackQuality> {
        let publisher = self.participants.get(self.tracks.get(track_sid)?)?;
        let track = publisher.track(track_sid.as_str())?;
        let wishes = self.participants.values().filter_map(|other| other.subscriptions.get(track_sid));
        wishes
            .filter(|wish| wish.allowed && !wish.settings.paused)
            .map(|wish| quality_for(&track.info, wish.settings))
            .max()
    }

    fn tell_demand(&mut self, track_sid: &TrackSid, demand: Option<TrackQuality>) {
        let Some(publisher) = self.tracks.get(track_sid).cloned() else { return };
        let Some(track) = self.video_track_mut(track_sid) else { return };
        track.dynacast.told = Some(demand);
        track.dynacast.lower_at = None;
        let wants = |quality| demand.is_some_and(|best| quality <= best);
        let qualities: Vec<livekit::SubscribedQuality> = [
            (VideoQuality::Low, wants(TrackQuality::Low)),
            (VideoQuality::Medium, wants(TrackQuality::Medium)),
            (VideoQuality::High, wants(TrackQuality::High)),
        ]
        .map(|(quality, enabled)| livekit::SubscribedQuality { quality: quality.into(), enabled })
        .to_vec();
        let mime = track.info.mime_type.to_ascii_lowercase();
        let codec = mime.strip_prefix("video/").unwrap_or(&mime).to_owned();
        let update = livekit::SubscribedQualityUpdate {
            track_sid: track_sid.as_str().to_owned(),
            subscribed_qualities: qualities.clone(),
            subscribed_codecs: vec![livekit::SubscribedCodec { codec, qualities }],
        };
        self.tell(&publisher, signal_response::Message::SubscribedQualityUpdate(update));
    }
}

/// The smallest layer that covers the size at which the track is shown, and not more than asked for.
fn quality_for(info: &livekit::TrackInfo, settings: SubscriptionSettings) -> TrackQuality {
    let Some((width, height)) = settings.size else { return settings.quality };
    let covers = |layer: &&livekit::VideoLayer| layer.width >= width && layer.height >= height;
    let smallest = info.layers.iter().filter(covers).min_by_key(|layer| layer.quality);
    let quality = match smallest.map(livekit::VideoLayer::quality) {
        Some(VideoQuality::Low) => TrackQuality::Low,
        Some(VideoQuality::Medium) => TrackQuality::Medium,
        _ => TrackQuality::High,
    };
    quality.min(settings.quality)
}
