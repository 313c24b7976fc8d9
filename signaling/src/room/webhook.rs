//! What the application is told.

use zynk_protocol::livekit;
use zynk_protocol::random_suffix;

use super::{Room, RoomOutput};

impl Room {
    pub(super) fn webhook_room(&mut self, event: &str, end: Option<livekit::RoomEndReason>) {
        let room_end_reason = end.map_or(0, i32::from);
        self.webhook(livekit::WebhookEvent { event: event.into(), room_end_reason, ..Default::default() });
    }

    pub(super) fn webhook_participant(&mut self, event: &str, participant: livekit::ParticipantInfo) {
        let participant = Some(participant);
        self.webhook(livekit::WebhookEvent { event: event.into(), participant, ..Default::default() });
    }

    pub(super) fn webhook_track(
        &mut self,
        event: &str,
        participant: livekit::ParticipantInfo,
        track: livekit::TrackInfo,
    ) {
        self.webhook(livekit::WebhookEvent {
            event: event.into(),
            participant: Some(participant),
            track: Some(track),
            ..Default::default()
        });
    }

    fn webhook(&mut self, mut event: livekit::WebhookEvent) {
        event.room = Some(self.room_info());
        event.id = format!("EV_{}", random_suffix(self.random()));
        event.created_at = i64::try_from(self.unix_ms / 1000).unwrap_or_default();
        event.num_dropped = std::mem::take(&mut self.webhooks_dropped);
        self.outputs.push_back(RoomOutput::Webhook(Box::new(event)));
    }
}
