//! What a resuming client believes to be the case.

use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::{self, DisconnectReason};
use zynk_protocol::{ParticipantSid, SubscriptionSettings, TrackSid};

use super::Room;

impl Room {
    pub(super) fn handle_sync_state(&mut self, sid: &ParticipantSid, state: livekit::SyncState) {
        let Some(participant) = self.participants.get(sid) else { return };
        let tracks_known = state
            .publish_tracks
            .iter()
            .filter_map(|published| published.track.as_ref())
            .all(|track| participant.track(&track.sid).is_some());
        let data_tracks_known = state
            .publish_data_tracks
            .iter()
            .filter_map(|published| published.info.as_ref())
            .all(|info| participant.data_tracks.has(&info.sid));
        if !tracks_known || !data_tracks_known {
            return self.remove_participant(sid, DisconnectReason::StateMismatch, Some(Action::Reconnect));
        }
        for track in state.track_sids_disabled.iter().filter_map(|track| track.parse::<TrackSid>().ok()) {
            let before = self.participants.get(sid).and_then(|p| p.subscriptions.get(&track));
            let settings = before.map_or_else(SubscriptionSettings::default, |before| before.settings);
            self.configure_subscription(sid, &track, SubscriptionSettings { paused: true, ..settings });
        }
        if let Some(subscription) = &state.subscription {
            self.handle_subscription(sid, subscription);
        }
        if let Some(subscription) = state.data_subscription {
            self.handle_data_subscription(sid, subscription);
        }
    }
}
