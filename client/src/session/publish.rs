//! Tracks that the session publishes.

use zynk_protocol::{
    MediaKind, TrackSource,
    livekit::{self, VideoQuality},
};

use super::peer::SendSection;
use crate::Codec;

/// Tracks that one session may publish; further ones are refused.
pub(super) const LOCAL_TRACKS_MAX: usize = 64;

/// A track to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTrack {
    /// The client's own id for it: letters, digits and dashes, unique within the session.
    pub cid: String,
    /// A name for people.
    pub name: String,
    /// Where it comes from.
    pub source: TrackSource,
    /// How it is encoded; says whether it is audio or video.
    pub codec: Codec,
    /// Size in pixels; 0 by 0 for audio.
    pub size: (u32, u32),
    /// RIDs of simulcast encodings, lowest first (`q`, `h`, `f`); empty for a single stream.
    pub rids: Vec<String>,
}

impl PublishTrack {
    /// A microphone in Opus.
    pub fn microphone(cid: impl Into<String>) -> Self {
        Self {
            cid: cid.into(),
            name: "microphone".to_owned(),
            source: TrackSource::Microphone,
            codec: Codec::Opus,
            size: (0, 0),
            rids: Vec::new(),
        }
    }

    /// A camera of 1280 by 720 pixels.
    pub fn camera(cid: impl Into<String>, codec: Codec) -> Self {
        Self {
            cid: cid.into(),
            name: "camera".to_owned(),
            source: TrackSource::Camera,
            codec,
            size: (1280, 720),
            rids: Vec::new(),
        }
    }

    /// The same track in three simulcast encodings: `q`, `h` and `f`.
    pub fn simulcast(mut self) -> Self {
        self.rids = ["q", "h", "f"].map(str::to_owned).to_vec();
        self
    }

    pub(super) fn add_track_request(&self) -> livekit::AddTrackRequest {
        let (kind, codec) = match self.codec.kind() {
            MediaKind::Audio => (livekit::TrackType::Audio, Vec::new()),
            MediaKind::Video => (
                livekit::TrackType::Video,
                vec![livekit::SimulcastCodec {
                    codec: self.codec.name().to_ascii_lowercase(),
                    cid: self.cid.clone(),
                    layers: self.layers(),
                    ..livekit::SimulcastCodec::default()
                }],
            ),
        };
        let source = match self.source {
            TrackSource::Unknown => livekit::TrackSource::Unknown,
            TrackSource::Camera => livekit::TrackSource::Camera,
            TrackSource::Microphone => livekit::TrackSource::Microphone,
            TrackSource::ScreenShare => livekit::TrackSource::ScreenShare,
            TrackSource::ScreenShareAudio => livekit::TrackSource::ScreenShareAudio,
        };
        livekit::AddTrackRequest {
            cid: self.cid.clone(),
            name: self.name.clone(),
            r#type: i32::from(kind),
            width: self.size.0,
            height: self.size.1,
            source: i32::from(source),
            layers: self.layers(),
            simulcast_codecs: codec,
            disable_red: true,
            ..livekit::AddTrackRequest::default()
        }
    }

    /// Layers double in size from each RID to the next; the last one, or the only one, has the full size.
    fn layers(&self) -> Vec<livekit::VideoLayer> {
        if self.codec.kind() == MediaKind::Audio {
            return Vec::new();
        }
        let single = [String::new()];
        let rids = if self.rids.is_empty() { &single[..] } else { &self.rids[..] };
        let qualities = [VideoQuality::High, VideoQuality::Medium, VideoQuality::Low];
        let layers = rids.iter().rev().zip(qualities).enumerate().map(|(halvings, (rid, quality))| {
            livekit::VideoLayer {
                quality: i32::from(quality),
                width: self.size.0 >> halvings,
                height: self.size.1 >> halvings,
                bitrate: 1_500_000 >> (2 * halvings),
                rid: rid.clone(),
                ..livekit::VideoLayer::default()
            }
        });
        let mut layers: Vec<_> = layers.collect();
        layers.reverse();
        layers
    }

    fn send_section(&self) -> SendSection {
        SendSection { kind: self.codec.kind(), cid: self.cid.clone(), rids: self.rids.clone() }
    }
}

/// How far publishing a track has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// The server has been asked.
    Announced,
    /// The server agreed; the track waits for an offer.
    Accepted,
    /// It is in an offer that has not been answered.
    Offered,
    /// It is negotiated; the peer connection is not up.
    Negotiated,
    /// It may send.
    Ready,
}

#[derive(Clone, Debug)]
pub(super) struct LocalTrack {
    pub(super) track: PublishTrack,
    pub(super) sid: String,
    pub(super) mid: String,
    stage: Stage,
}

/// All tracks of the session.
#[derive(Debug, Default)]
pub(super) struct LocalTracks {
    tracks: Vec<LocalTrack>,
    /// Sections of tracks that were unpublished and still send as far as the server knows.
    stopped_mids: Vec<String>,
}

impl LocalTracks {
    /// Notes a track that the server is asked for. False when there are too many, or it is there already.
    pub(super) fn announce(&mut self, track: PublishTrack) -> bool {
        if self.tracks.len() >= LOCAL_TRACKS_MAX || self.get(&track.cid).is_some() {
            return false;
        }
        self.tracks.push(LocalTrack {
            track,
            sid: String::new(),
            mid: String::new(),
            stage: Stage::Announced,
        });
        true
    }

    /// Notes that the server agreed. False when it was not asked.
    pub(super) fn accept(&mut self, cid: &str, sid: &str) -> bool {
        match self.tracks.iter_mut().find(|local| local.track.cid == cid) {
            Some(local) if local.stage == Stage::Announced => {
                local.stage = Stage::Accepted;
                local.sid = sid.to_owned();
                true
            }
            _ => false,
        }
    }

    /// Sections that the next offer adds.
    pub(super) fn to_offer(&self) -> Vec<SendSection> {
        self.tracks
            .iter()
            .filter(|local| local.stage == Stage::Accepted)
            .map(|local| local.track.send_section())
            .collect()
    }

    /// Notes that the sections of [`LocalTracks::to_offer`] are in an offer, under these mids.
    pub(super) fn offered(&mut self, mids: &[String]) {
        let accepted = self.tracks.iter_mut().filter(|local| local.stage == Stage::Accepted);
        for (local, mid) in accepted.zip(mids) {
            local.stage = Stage::Offered;
            local.mid.clone_from(mid);
        }
    }

    /// Settles the tracks of an answered offer: those that `can_send` are negotiated, the others gone.
    /// Returns the client ids of the others.
    pub(super) fn answered(&mut self, can_send: impl Fn(&LocalTrack) -> bool) -> Vec<String> {
        let mut refused = Vec::new();
        self.tracks.retain_mut(|local| {
            if local.stage != Stage::Offered {
                return true;
            }
            if can_send(local) {
                local.stage = Stage::Negotiated;
                true
            } else {
                refused.push(local.track.cid.clone());
                false
            }
        });
        refused
    }

    /// Notes that the peer connection is up. Returns the tracks that may send from now on.
    pub(super) fn connected(&mut self) -> Vec<LocalTrack> {
        let negotiated = self.tracks.iter_mut().filter(|local| local.stage == Stage::Negotiated);
        let ready = negotiated.map(|local| {
            local.stage = Stage::Ready;
            local.clone()
        });
        ready.collect()
    }

    /// Takes a track away.
    pub(super) fn remove(&mut self, cid: &str) -> Option<LocalTrack> {
        let index = self.tracks.iter().position(|local| local.track.cid == cid)?;
        let local = self.tracks.remove(index);
        if !local.mid.is_empty() {
            self.stopped_mids.push(local.mid.clone());
        }
        Some(local)
    }

    pub(super) fn take_stopped_mids(&mut self) -> Vec<String> {
        std::mem::take(&mut self.stopped_mids)
    }

    pub(super) fn get(&self, cid: &str) -> Option<&LocalTrack> {
        self.tracks.iter().find(|local| local.track.cid == cid)
    }

    pub(super) fn ready(&self, cid: &str) -> Option<&LocalTrack> {
        self.get(cid).filter(|local| local.stage == Stage::Ready)
    }

    pub(super) fn cid_of_mid(&self, mid: &str) -> Option<&str> {
        self.tracks.iter().find(|local| local.mid == mid).map(|local| local.track.cid.as_str())
    }

    pub(super) fn cid_of_sid(&self, sid: &str) -> Option<&str> {
        self.tracks.iter().find(|local| local.sid == sid).map(|local| local.track.cid.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulcast_layers_halve_downwards() {
        let request = PublishTrack::camera("c", Codec::Vp8).simulcast().add_track_request();
        let layers: Vec<_> =
            request.layers.iter().map(|layer| (layer.rid.as_str(), layer.quality, layer.width)).collect();
        assert_eq!(layers, [("q", 0, 320), ("h", 1, 640), ("f", 2, 1280)]);
        assert_eq!(request.simulcast_codecs[0].codec, "vp8");
    }

    #[test]
    fn a_single_stream_is_the_high_layer() {
        let request = PublishTrack::camera("c", Codec::H264).add_track_request();
        assert_eq!(request.layers.len(), 1);
        assert_eq!((request.layers[0].quality, request.layers[0].width), (2, 1280));
        assert!(PublishTrack::microphone("m").add_track_request().layers.is_empty());
    }

    #[test]
    fn tracks_become_ready_in_order() {
        let mut tracks = LocalTracks::default();
        assert!(tracks.announce(PublishTrack::microphone("m")));
        assert!(!tracks.announce(PublishTrack::microphone("m")));
        assert!(tracks.to_offer().is_empty());
        assert!(tracks.accept("m", "TR_AM"));
        assert!(!tracks.accept("x", "TR_AM"));
        assert_eq!(tracks.to_offer().len(), 1);
        tracks.offered(&["4".to_owned()]);
        assert!(tracks.connected().is_empty());
        assert!(tracks.answered(|_| true).is_empty());
        assert!(tracks.ready("m").is_none());
        assert_eq!(tracks.connected().len(), 1);
        assert!(tracks.ready("m").is_some());
        assert_eq!(tracks.cid_of_mid("4"), Some("m"));
        tracks.remove("m");
        assert_eq!(tracks.take_stopped_mids(), ["4"]);
    }
}
