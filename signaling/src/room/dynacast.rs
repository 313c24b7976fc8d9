//! Which layers of a video track anybody wants: its publisher may stop encoding the others.

use std::time::{Duration, Instant};

use zynk_protocol::livekit::{self, VideoQuality, signal_response};
use zynk_protocol::{MediaKind, SubscriptionSettings, TrackQuality, TrackSid};

use super::Room;
use super::publish::Track;

/// The best quality that anybody wants of a track's first and second codec; none where nobody wants it.
type Demand = [Option<TrackQuality>; 2];

/// What a publisher was told about the demand for a track.
#[derive(Debug, Default)]
pub(super) struct Dynacast {
    /// None until somebody first wanted the track, or nobody has for a while.
    told: Option<Demand>,
    /// When a fall of the demand is to be told. Views come and go; layers need a keyframe to come back.
    lower_at: Option<Instant>,
}

impl Dynacast {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lower_at
    }
}

impl Room {
    /// A track began, or a subscription to it began, ended or changed.
    pub(super) fn demand_changed(&mut self, track_sid: &TrackSid) {
        let delay = Duration::from_millis(self.settings.config.room.dynacast_pause_delay_ms);
        let at = self.now + delay;
        let demand = self.demand(track_sid);
        let Some(track) = self.video_track_mut(track_sid) else { return };
        match track.dynacast.told {
            None if demand == [None; 2] => {
                track.dynacast.lower_at.get_or_insert(at);
            }
            Some(told) if demand == told => track.dynacast.lower_at = None,
            Some(told) if demand.iter().zip(told).all(|(now, before)| *now <= before) => {
                track.dynacast.lower_at.get_or_insert(at);
            }
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

    /// The best qualities that anybody wants now.
    fn demand(&self, track_sid: &TrackSid) -> Demand {
        let publisher = self.tracks.get(track_sid).and_then(|publisher| self.participants.get(publisher));
        let Some(track) = publisher.and_then(|publisher| publisher.track(track_sid.as_str())) else {
            return [None; 2];
        };
        let wishes = self.participants.values().filter_map(|other| other.subscriptions.get(track_sid));
        let wishes: Vec<_> = wishes.filter(|wish| wish.allowed && !wish.settings.paused).collect();
        let best = |backup: bool| {
            let qualities = wishes.iter().filter(|wish| wish.backup == backup);
            qualities.map(|wish| quality_for(&track.info, wish.settings)).max()
        };
        [best(false), best(true)]
    }

    fn tell_demand(&mut self, track_sid: &TrackSid, demand: Demand) {
        let Some(publisher) = self.tracks.get(track_sid).cloned() else { return };
        let Some(track) = self.video_track_mut(track_sid) else { return };
        track.dynacast.told = Some(demand);
        track.dynacast.lower_at = None;
        let codecs =
            [Some(track.info.mime_type.as_str()), track.backup_codec().map(|c| c.mime_type.as_str())];
        let codecs: Vec<livekit::SubscribedCodec> = codecs
            .into_iter()
            .zip(demand)
            .filter_map(|(mime, demand)| Some(subscribed_codec(mime?, demand)))
            .collect();
        let update = livekit::SubscribedQualityUpdate {
            track_sid: track_sid.as_str().to_owned(),
            subscribed_qualities: codecs.first().map(|codec| codec.qualities.clone()).unwrap_or_default(),
            subscribed_codecs: codecs,
        };
        self.tell(&publisher, signal_response::Message::SubscribedQualityUpdate(update));
    }
}

/// A codec as clients name it, `vp8`, and its qualities up to the best one that is wanted.
fn subscribed_codec(mime: &str, demand: Option<TrackQuality>) -> livekit::SubscribedCodec {
    let wants = |quality| demand.is_some_and(|best| quality <= best);
    let qualities = [
        (VideoQuality::Low, wants(TrackQuality::Low)),
        (VideoQuality::Medium, wants(TrackQuality::Medium)),
        (VideoQuality::High, wants(TrackQuality::High)),
    ];
    let mime = mime.to_ascii_lowercase();
    livekit::SubscribedCodec {
        codec: mime.strip_prefix("video/").unwrap_or(&mime).to_owned(),
        qualities: qualities
            .map(|(quality, enabled)| livekit::SubscribedQuality { quality: quality.into(), enabled })
            .to_vec(),
    }
}

/// The lowest quality whose layer covers the size at which the track is shown, and not more than asked for.
pub(super) fn quality_for(info: &livekit::TrackInfo, settings: SubscriptionSettings) -> TrackQuality {
    let Some((width, height)) = settings.size else { return settings.quality };
    // The shorter side decides, and a layer may be a tenth smaller, as with LiveKit.
    let portrait = info.width < info.height;
    let wanted = u64::from(if portrait { width } else { height }) * 9;
    let covers = |layer: &&livekit::VideoLayer| {
        u64::from(if portrait { layer.width } else { layer.height }) * 10 >= wanted
    };
    let smallest = info.layers.iter().filter(covers).min_by_key(|layer| layer.quality);
    let quality = match smallest.map(livekit::VideoLayer::quality) {
        Some(VideoQuality::Low) => TrackQuality::Low,
        Some(VideoQuality::Medium) => TrackQuality::Medium,
        _ => TrackQuality::High,
    };
    quality.min(settings.quality)
}
