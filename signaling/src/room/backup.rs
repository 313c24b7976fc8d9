//! Second codecs of tracks, for subscribers that do not decode the first.
//!
//! ```text
//!  subscriber cannot decode VP9 ─► publisher is told that VP8 is wanted (dynacast.rs)
//!    ─► AddTrack of the track's id ─► ExpectTrack with a backup ─► the node sends it where it is needed
//! ```

use zynk_protocol::livekit::request_response::Reason;
use zynk_protocol::livekit::{self, signal_response};
use zynk_protocol::{
    BackupUse, ExpectedTrack, MediaKind, MimeType, NodeAction, ParticipantSid, StartedTrack,
};

use super::Room;
use super::publish::{Track, describe_codec, mime_of, sorted_layers, source};

/// Rooms with fewer participants give up the first codec for the second where the publisher prefers that:
/// encoding twice costs it more than the few receivers gain.
const REGRESSION_PARTICIPANTS: usize = 5;

/// What the node was told of a track's second codec.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backup {
    usage: BackupUse,
    started: bool,
}

impl Track {
    /// The second codec that its publisher can send.
    pub(super) fn backup_codec(&self) -> Option<&livekit::SimulcastCodecInfo> {
        self.info.codecs.get(1).filter(|_| self.kind == MediaKind::Video)
    }

    /// Whether a subscriber that was refused may still be served, by a second codec that has not come yet.
    pub(super) fn may_get_backup(&self) -> bool {
        self.backup_codec().is_some() && !self.backup.is_some_and(|backup| backup.started)
    }

    /// Whether new subscribers receive the second codec.
    pub(super) fn has_regressed(&self) -> bool {
        self.backup.is_some_and(|backup| backup.started && backup.usage == BackupUse::Everywhere)
    }

    /// The node found the second codec in the SDP.
    pub(super) fn start_backup(&mut self, started: &StartedTrack) {
        if let Some(backup) = &mut self.backup {
            backup.started = true;
        }
        let same = |codec: &&mut livekit::SimulcastCodecInfo| {
            codec.mime_type.eq_ignore_ascii_case(started.codec.as_str())
        };
        if let Some(codec) = self.info.codecs.iter_mut().skip(1).find(same) {
            describe_codec(codec, started);
        }
    }
}

impl Room {
    /// The client is about to send a second codec of a track; confirmed with the same track id.
    pub(super) fn add_backup_codec(&mut self, sid: &ParticipantSid, request: livekit::AddTrackRequest) {
        let participants = self.participants.len();
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let connection = participant.publisher.id;
        let Some(track) = participant.track_mut(&request.sid).filter(|track| track.is_published()) else {
            return self.refuse_track(sid, request, Reason::NotFound, "no such track");
        };
        let announced = request.simulcast_codecs.iter().find_map(|wanted| {
            let mime = mime_of(track.kind, &wanted.codec);
            let codecs = track.info.codecs.iter().skip(1);
            let at = codecs.into_iter().position(|codec| codec.mime_type.eq_ignore_ascii_case(&mime))?;
            Some((at + 1, wanted))
        });
        let codec = announced.and_then(|(at, wanted)| Some((track.info.codecs.get_mut(at)?, wanted)));
        let Some((codec, wanted)) = codec else {
            return self.refuse_track(sid, request, Reason::InvalidRequest, "not a codec of this track");
        };
        codec.cid.clone_from(&wanted.cid);
        if !wanted.layers.is_empty() {
            codec.layers = sorted_layers(&wanted.layers);
        }
        let mut cids = vec![wanted.cid.clone(), request.cid.clone()];
        cids.retain(|cid| !cid.is_empty());
        cids.dedup();
        let mime = MimeType::new(codec.mime_type.clone());
        let usage = match track.info.backup_codec_policy() {
            livekit::BackupCodecPolicy::Simulcast => BackupUse::WhereNeeded,
            livekit::BackupCodecPolicy::PreferRegression if participants >= REGRESSION_PARTICIPANTS => {
                BackupUse::WhereNeeded
            }
            _ => BackupUse::Everywhere,
        };
        track.backup = Some(Backup { usage, started: false });
        let expected = ExpectedTrack {
            connection,
            track: track.sid.clone(),
            cids,
            kind: track.kind,
            source: source(track.source),
            codec: Some(mime),
            red: false,
            dtx: false,
            stereo: false,
            muted: track.info.muted,
            encrypted: track.info.encryption() != livekit::encryption::Type::None,
            backup: Some(usage),
        };
        let response = livekit::TrackPublishedResponse { cid: request.cid, track: Some(track.info.clone()) };
        self.command(NodeAction::ExpectTrack(expected));
        self.tell(sid, signal_response::Message::TrackPublished(response));
    }
}
