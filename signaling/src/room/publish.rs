//! Tracks, from their announcement to their end.

use zynk_protocol::livekit::request_response::{Reason, Request};
use zynk_protocol::livekit::{self, VideoQuality, signal_response};
use zynk_protocol::{
    ExpectedTrack, MediaKind, MimeType, NodeAction, ParticipantSid, StartedTrack, TrackSid, TrackSource,
};

use super::backup::Backup;
use super::dynacast::Dynacast;
use super::{Room, codecs};

/// Announced tracks without media that a participant may have. Further ones are refused (LIMIT_EXCEEDED).
pub(super) const PENDING_TRACKS_MAX: usize = 20;

/// Announcements of one client id that may wait for an earlier track of it to end. Further ones are refused.
pub(super) const QUEUED_PER_CID_MAX: usize = 3;

/// Tracks of a participant, announced and published. Further ones are refused (LIMIT_EXCEEDED).
pub(super) const TRACKS_MAX: usize = 64;

/// Codecs that one announcement may name. With more it is refused (INVALID_REQUEST).
const SIMULCAST_CODECS_MAX: usize = 8;

/// Longest name of an encoding. A longer one is forgotten.
const RID_BYTES_MAX: usize = 64;

/// Longest client id and name of a track or codec, in bytes. Longer ones are refused (INVALID_REQUEST).
const TRACK_TEXT_BYTES_MAX: usize = 1024;

/// A track of a participant.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) sid: TrackSid,
    pub(super) kind: MediaKind,
    pub(super) source: livekit::TrackSource,
    /// The client's name for it.
    pub(super) cid: String,
    pub(super) info: livekit::TrackInfo,
    /// Its place among all publications of the room; 0 while it is only announced.
    pub(super) order: u64,
    /// Whether its publisher knows that somebody receives it.
    pub(super) subscriber_told: bool,
    pub(super) dynacast: Dynacast,
    /// Its second codec, once the client has announced that.
    pub(super) backup: Option<Backup>,
}

impl Track {
    pub(super) fn is_published(&self) -> bool {
        self.order > 0
    }

    fn has_cid(&self, cid: &str) -> bool {
        self.cid == cid || self.info.codecs.iter().any(|codec| !cid.is_empty() && codec.cid == cid)
    }
}

/// Whether a permission covers tracks of a source. "Unknown" in its list stands for names that this version
/// does not know, and covers nothing.
pub(super) fn may_publish(permission: &livekit::ParticipantPermission, source: i32) -> bool {
    let is_listed = || {
        source != i32::from(livekit::TrackSource::Unknown) && permission.can_publish_sources.contains(&source)
    };
    permission.can_publish && (permission.can_publish_sources.is_empty() || is_listed())
}

impl Room {
    pub(super) fn handle_add_track(&mut self, sid: &ParticipantSid, request: livekit::AddTrackRequest) {
        let Some(participant) = self.participants.get(sid) else { return };
        if !may_publish(&participant.permission, request.source) {
            let message = "may not publish from this source";
            return self.refuse_track(sid, request, Reason::NotAllowed, message);
        }
        let kind = match request.r#type() {
            livekit::TrackType::Audio => MediaKind::Audio,
            livekit::TrackType::Video => MediaKind::Video,
            livekit::TrackType::Data => {
                return self.refuse_track(sid, request, Reason::UnsupportedType, "neither audio nor video");
            }
        };
        if request.cid.len() > TRACK_TEXT_BYTES_MAX || request.name.len() > TRACK_TEXT_BYTES_MAX {
            return self.refuse_track(sid, request, Reason::InvalidRequest, "cid or name is too long");
        }
        let codecs = &request.simulcast_codecs;
        let is_long = |codec: &livekit::SimulcastCodec| {
            codec.cid.len() > TRACK_TEXT_BYTES_MAX || codec.codec.len() > TRACK_TEXT_BYTES_MAX
        };
        if codecs.len() > SIMULCAST_CODECS_MAX || codecs.iter().any(is_long) {
            return self.refuse_track(sid, request, Reason::InvalidRequest, "too many codecs, or too long");
        }
        if !request.sid.is_empty() {
            return self.add_backup_codec(sid, request);
        }
        let pending = participant.tracks.iter().filter(|track| !track.is_published()).count();
        if pending + participant.queued_tracks.len() >= PENDING_TRACKS_MAX
            || participant.tracks.len() >= TRACKS_MAX
        {
            return self.refuse_track(sid, request, Reason::LimitExceeded, "too many tracks");
        }
        if participant.tracks.iter().any(|track| track.has_cid(&request.cid)) {
            return self.queue_track(sid, request);
        }
        self.announce_track(sid, kind, request);
    }

    fn queue_track(&mut self, sid: &ParticipantSid, request: livekit::AddTrackRequest) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let same = participant.queued_tracks.iter().filter(|queued| queued.cid == request.cid).count();
        if same >= QUEUED_PER_CID_MAX {
            return self.refuse_track(sid, request, Reason::LimitExceeded, "too many tracks of one cid");
        }
        participant.queued_tracks.push_back(request.clone());
        self.refuse_track(sid, request, Reason::Queued, "an earlier track has this cid");
    }

    pub(super) fn refuse_track(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::AddTrackRequest,
        reason: Reason,
        message: &str,
    ) {
        self.respond(sid, 0, reason, message, Some(Request::AddTrack(request)));
    }

    fn announce_track(&mut self, sid: &ParticipantSid, kind: MediaKind, request: livekit::AddTrackRequest) {
        let random = self.random();
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let track_sid = TrackSid::for_track(kind, source(request.source()), random);
        let enabled = &self.settings.config.room.enabled_codecs;
        let info =
            track_info(&track_sid, kind, &request, |mime| codecs::usable(enabled, &participant.client, mime));
        let expected = expected_track(participant.publisher.id, &track_sid, kind, &request, &info);
        participant.tracks.push(Track {
            sid: track_sid.clone(),
            kind,
            source: request.source(),
            cid: request.cid.clone(),
            info: info.clone(),
            order: 0,
            subscriber_told: false,
            dynacast: Dynacast::default(),
            backup: None,
        });
        self.tracks.insert(track_sid, sid.clone());
        self.command(NodeAction::ExpectTrack(expected));
        let response = livekit::TrackPublishedResponse { cid: request.cid, track: Some(info) };
        self.tell(sid, signal_response::Message::TrackPublished(response));
    }

    /// The node found an announced track in the SDP.
    pub(super) fn track_started(&mut self, started: StartedTrack) {
        let Some(sid) = self.tracks.get(&started.track).cloned() else {
            // It was withdrawn meanwhile.
            return self.command(NodeAction::RemoveTrack { track: started.track });
        };
        let order = self.publications + 1;
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        let Some(track) = participant.track_mut(started.track.as_str()) else { return };
        if started.backup {
            track.start_backup(&started);
            return self.participant_changed(&sid, false);
        }
        let is_new = !track.is_published();
        if is_new {
            track.order = order;
        }
        describe_media(&mut track.info, &track.cid, &started);
        let (info, kind) = (track.info.clone(), track.kind);
        participant.is_publisher = true;
        let brief = participant.brief();
        // Receivers drop media of somebody they were not told of, so the update comes first.
        self.participant_changed(&sid, false);
        if is_new {
            self.publications = order;
            tracing::debug!(track = %started.track, kind = kind.as_str(), "track published");
            self.webhook_track("track_published", brief, info);
            self.subscribe_others_to(&sid, &started.track);
            self.demand_changed(&started.track);
            self.occupancy_changed();
        }
    }

    /// The node saw a track's media section stop sending, or its connection end.
    pub(super) fn track_stopped(&mut self, track: &TrackSid) {
        let Some(sid) = self.tracks.get(track).cloned() else { return };
        if self.drop_track(&sid, track) {
            self.participant_changed(&sid, false);
        }
        self.announce_queued_tracks(&sid);
    }

    /// Forgets a track here. Returns whether it had been published.
    pub(super) fn drop_track(&mut self, sid: &ParticipantSid, track_sid: &TrackSid) -> bool {
        self.tracks.remove(track_sid);
        for other in self.participants.values_mut() {
            other.subscriptions.remove(track_sid);
            other.unwanted.remove(track_sid);
            other.kept_settings.remove(track_sid);
        }
        let Some(participant) = self.participants.get_mut(sid) else { return false };
        let Some(at) = participant.tracks.iter().position(|track| track.sid == *track_sid) else {
            return false;
        };
        let track = participant.tracks.remove(at);
        if !track.is_published() {
            return false;
        }
        let brief = participant.brief();
        self.webhook_track("track_unpublished", brief, track.info);
        true
    }

    fn announce_queued_tracks(&mut self, sid: &ParticipantSid) {
        loop {
            let Some(participant) = self.participants.get_mut(sid) else { return };
            let tracks = &participant.tracks;
            let free = |queued: &livekit::AddTrackRequest| !tracks.iter().any(|t| t.has_cid(&queued.cid));
            let Some(at) = participant.queued_tracks.iter().position(free) else { return };
            let Some(request) = participant.queued_tracks.remove(at) else { return };
            self.handle_add_track(sid, request);
        }
    }

    /// Takes tracks away that a changed permission does not cover any more.
    pub(super) fn revoke_tracks(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let permission = participant.permission.clone();
        let forbidden = |source: i32| !may_publish(&permission, source);
        participant.queued_tracks.retain(|queued| !forbidden(queued.source));
        let revoked: Vec<TrackSid> = participant
            .tracks
            .iter()
            .filter(|track| forbidden(track.source.into()))
            .map(|track| track.sid.clone())
            .collect();
        for track in revoked {
            self.drop_track(sid, &track);
            let response = livekit::TrackUnpublishedResponse { track_sid: track.as_str().to_owned() };
            self.tell(sid, signal_response::Message::TrackUnpublished(response));
            self.command(NodeAction::RemoveTrack { track });
        }
    }

    pub(super) fn handle_mute(&mut self, sid: &ParticipantSid, request: livekit::MuteTrackRequest) {
        if self.set_muted(sid, &request.sid, request.muted).is_none() {
            self.respond(sid, 0, Reason::NotFound, "no such track", Some(Request::Mute(request)));
        }
    }

    /// Mutes or unmutes a track; none if there is no such track.
    pub(super) fn set_muted(
        &mut self,
        sid: &ParticipantSid,
        track: &str,
        muted: bool,
    ) -> Option<livekit::TrackInfo> {
        let track = self.participants.get_mut(sid)?.track_mut(track)?;
        let changed = track.info.muted != muted;
        track.info.muted = muted;
        let (info, track, is_published) = (track.info.clone(), track.sid.clone(), track.is_published());
        if changed {
            self.command(NodeAction::MuteTrack { track, muted });
            if is_published {
                self.participant_changed(sid, false);
            }
        }
        Some(info)
    }

    pub(super) fn handle_update_audio_track(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::UpdateLocalAudioTrack,
    ) {
        let track = self.participants.get_mut(sid).and_then(|p| p.track_mut(&request.track_sid));
        let Some(track) = track else {
            let echo = Some(Request::UpdateAudioTrack(request));
            return self.respond(sid, 0, Reason::NotFound, "no such track", echo);
        };
        track.info.stereo = request.features.contains(&livekit::AudioTrackFeature::TfStereo.into());
        track.info.disable_dtx = request.features.contains(&livekit::AudioTrackFeature::TfNoDtx.into());
        track.info.audio_features = known_features(&request.features);
        self.participant_changed(sid, true);
    }

    pub(super) fn handle_update_video_track(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::UpdateLocalVideoTrack,
    ) {
        let track = self.participants.get_mut(sid).and_then(|p| p.track_mut(&request.track_sid));
        let Some(track) = track else {
            let echo = Some(Request::UpdateVideoTrack(request));
            return self.respond(sid, 0, Reason::NotFound, "no such track", echo);
        };
        track.info.width = request.width;
        track.info.height = request.height;
        self.participant_changed(sid, true);
    }

    /// Answers a request that carries an id or is echoed.
    pub(super) fn respond(
        &mut self,
        sid: &ParticipantSid,
        request_id: u32,
        reason: Reason,
        message: &str,
        request: Option<Request>,
    ) {
        let response = livekit::RequestResponse {
            request_id,
            reason: reason.into(),
            message: message.to_owned(),
            request,
        };
        self.tell(sid, signal_response::Message::RequestResponse(response));
    }
}

pub(super) fn source(source: livekit::TrackSource) -> TrackSource {
    match source {
        livekit::TrackSource::Unknown => TrackSource::Unknown,
        livekit::TrackSource::Camera => TrackSource::Camera,
        livekit::TrackSource::Microphone => TrackSource::Microphone,
        livekit::TrackSource::ScreenShare => TrackSource::ScreenShare,
        livekit::TrackSource::ScreenShareAudio => TrackSource::ScreenShareAudio,
    }
}

/// The MIME type of a codec's short name; a name that is one already stays as it is.
pub(super) fn mime_of(kind: MediaKind, codec: &str) -> String {
    match codec.contains('/') {
        true => codec.to_owned(),
        false => format!("{}/{codec}", kind.as_str()),
    }
}

fn known_features(features: &[i32]) -> Vec<i32> {
    known(features, |feature| livekit::AudioTrackFeature::try_from(feature).is_ok())
}

/// Each known number once, so that a client cannot make everybody carry a long list.
pub(super) fn known(numbers: &[i32], is_known: impl Fn(i32) -> bool) -> Vec<i32> {
    let known = numbers.iter().copied().filter(|number| is_known(*number));
    known.collect::<std::collections::BTreeSet<i32>>().into_iter().collect()
}

/// What is told about an announced track.
fn track_info(
    sid: &TrackSid,
    kind: MediaKind,
    request: &livekit::AddTrackRequest,
    usable: impl Fn(&str) -> String,
) -> livekit::TrackInfo {
    use livekit::AudioTrackFeature as Feature;
    use livekit::video_layer::Mode;
    let mut features = request.audio_features.clone();
    if request.disable_dtx {
        features.push(Feature::TfNoDtx.into());
    }
    if request.stereo {
        features.push(Feature::TfStereo.into());
    }
    let features = if kind == MediaKind::Audio { known_features(&features) } else { Vec::new() };
    let layers = sorted_layers(&request.layers);
    let mut codecs: Vec<livekit::SimulcastCodecInfo> = Vec::new();
    for wanted in &request.simulcast_codecs {
        let mime = usable(&mime_of(kind, &wanted.codec));
        if codecs.iter().any(|codec| codec.mime_type.eq_ignore_ascii_case(&mime)) {
            continue;
        }
        let svc = matches!(mime.to_ascii_lowercase().as_str(), "video/vp9" | "video/av1");
        let mode = match (wanted.video_layer_mode(), svc) {
            (Mode::Unused, true) => Mode::MultipleSpatialLayersPerStream,
            (Mode::Unused, false) => Mode::OneSpatialLayerPerStream,
            (mode, _) => mode,
        };
        let own = sorted_layers(&wanted.layers);
        codecs.push(livekit::SimulcastCodecInfo {
            mime_type: mime,
            cid: wanted.cid.clone(),
            layers: if own.is_empty() { layers.clone() } else { own },
            video_layer_mode: mode.into(),
            ..Default::default()
        });
    }
    if codecs.is_empty() {
        codecs.push(livekit::SimulcastCodecInfo {
            cid: request.cid.clone(),
            layers: layers.clone(),
            ..Default::default()
        });
    }
    let simulcast = kind == MediaKind::Video
        && codecs.first().is_some_and(|codec| {
            codec.video_layer_mode() != Mode::MultipleSpatialLayersPerStream && codec.layers.len() > 1
        });
    livekit::TrackInfo {
        sid: sid.as_str().to_owned(),
        r#type: request.r#type,
        name: request.name.clone(),
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast,
        disable_dtx: features.contains(&Feature::TfNoDtx.into()),
        source: request.source,
        layers,
        mime_type: codecs.first().map(|codec| codec.mime_type.clone()).unwrap_or_default(),
        codecs,
        stereo: features.contains(&Feature::TfStereo.into()),
        disable_red: request.disable_red,
        encryption: request.encryption,
        stream: stream_name(request),
        audio_features: features,
        backup_codec_policy: request.backup_codec_policy,
        packet_trailer_features: known(&request.packet_trailer_features, |feature| {
            livekit::PacketTrailerFeature::try_from(feature).is_ok()
        }),
        ..Default::default()
    }
}

/// Lowest quality first, each known one at most once. What names an encoding is the node's to say.
pub(super) fn sorted_layers(layers: &[livekit::VideoLayer]) -> Vec<livekit::VideoLayer> {
    let is_known = |layer: &&livekit::VideoLayer| VideoQuality::try_from(layer.quality).is_ok();
    let mut sorted: Vec<_> = layers.iter().filter(is_known).cloned().collect();
    sorted.iter_mut().filter(|layer| layer.rid.len() > RID_BYTES_MAX).for_each(|layer| layer.rid.clear());
    sorted.sort_by_key(|layer| layer.quality);
    sorted.dedup_by_key(|layer| layer.quality);
    sorted
}

/// Tracks of one stream are played in step.
fn stream_name(request: &livekit::AddTrackRequest) -> String {
    use livekit::TrackSource as Source;
    if !request.stream.is_empty() && request.stream.len() <= TRACK_TEXT_BYTES_MAX {
        // A bar would split the stream's id in the wrong place.
        return request.stream.replace('|', "");
    }
    match request.source() {
        Source::Camera | Source::Microphone => "camera",
        Source::ScreenShare | Source::ScreenShareAudio => "screen",
        Source::Unknown => "unknown",
    }
    .to_owned()
}

fn expected_track(
    connection: zynk_protocol::ConnectionId,
    track: &TrackSid,
    kind: MediaKind,
    request: &livekit::AddTrackRequest,
    info: &livekit::TrackInfo,
) -> ExpectedTrack {
    let mut cids = Vec::new();
    let theirs = request.simulcast_codecs.first().map(|codec| codec.cid.clone());
    for cid in [Some(request.cid.clone()), theirs].into_iter().flatten() {
        if !cid.is_empty() && !cids.contains(&cid) {
            cids.push(cid);
        }
    }
    ExpectedTrack {
        connection,
        track: track.clone(),
        cids,
        kind,
        source: source(request.source()),
        codec: (!info.mime_type.is_empty()).then(|| MimeType::new(info.mime_type.clone())),
        red: kind == MediaKind::Audio && !info.disable_red,
        dtx: kind == MediaKind::Audio && !info.disable_dtx,
        stereo: info.stereo,
        muted: info.muted,
        encrypted: info.encryption() != livekit::encryption::Type::None,
        backup: None,
    }
}

/// Notes in a track's description what its SDP said.
fn describe_media(info: &mut livekit::TrackInfo, cid: &str, started: &StartedTrack) {
    info.mid.clone_from(&started.mid);
    info.mime_type = started.codec.as_str().to_owned();
    if let Some(codec) = info.codecs.first_mut() {
        codec.mime_type = started.codec.as_str().to_owned();
        if codec.cid.is_empty() {
            codec.cid = cid.to_owned();
        }
        describe_codec(codec, started);
    }
    name_layers(&mut info.layers, started);
}

pub(super) fn describe_codec(codec: &mut livekit::SimulcastCodecInfo, started: &StartedTrack) {
    codec.mid.clone_from(&started.mid);
    if started.sdp_cid != codec.cid {
        codec.sdp_cid.clone_from(&started.sdp_cid);
    }
    name_layers(&mut codec.layers, started);
}

/// The n-th lowest quality is the n-th encoding.
fn name_layers(layers: &mut [livekit::VideoLayer], started: &StartedTrack) {
    for (spatial_layer, (layer, encoding)) in (0_i32..).zip(layers.iter_mut().zip(&started.encodings)) {
        layer.rid.clone_from(&encoding.rid);
        layer.spatial_layer = spatial_layer;
    }
}
