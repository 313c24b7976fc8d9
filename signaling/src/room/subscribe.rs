//! Who receives which track.

use std::time::Duration;

use zynk_protocol::livekit::{self, SubscriptionError, signal_response};
use zynk_protocol::{
    ConnectionId, NodeAction, ParticipantSid, SubscribeTrack, SubscriptionFailure, SubscriptionSettings,
    TrackQuality, TrackSid,
};

use super::Room;
use super::dynacast::quality_for;
use super::participant::Participant;
use super::publish::Track;
use crate::join::SubscribeScope;

/// How long a track is waited for that does not exist.
const NOT_FOUND_TIMEOUT: Duration = Duration::from_secs(60);

/// Tracks that a participant may wait for. Further ones are reported as not found at once.
pub(super) const MISSING_TRACKS_MAX: usize = 256;

/// Settings that are kept for tracks without a subscription. Further ones are forgotten.
pub(super) const KEPT_SETTINGS_MAX: usize = 256;

/// A participant's wish for a track.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    /// Whether its publisher lets the participant have it; the node knows of it only then.
    pub(super) allowed: bool,
    pub(super) settings: SubscriptionSettings,
    /// Whether it is to receive the track's second codec.
    pub(super) backup: bool,
    /// Whether it pauses for lack of bandwidth.
    pub(super) starved: bool,
}

impl Participant {
    /// Whether it receives the tracks of `publisher` without asking.
    fn scope_covers(&self, publisher: &Participant) -> bool {
        match &self.scope {
            SubscribeScope::Auto => true,
            SubscribeScope::None => false,
            SubscribeScope::Participant(identity) => publisher.identity == *identity,
        }
    }
}

impl Room {
    /// Subscribes a participant to everything that its scope covers, in the order of publication.
    pub(super) fn subscribe_to_existing(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let mut wanted: Vec<(u64, TrackSid)> = self
            .participants
            .values()
            .filter(|other| other.sid != *sid && participant.scope_covers(other))
            .flat_map(|other| other.tracks.iter())
            .filter(|track| track.is_published() && !participant.unwanted.contains(&track.sid))
            .map(|track| (track.order, track.sid.clone()))
            .collect();
        wanted.sort();
        for (_, track) in wanted {
            self.subscribe(sid, &track);
        }
    }

    /// Subscribes those to a new track whose scope covers it, or who waited for it.
    pub(super) fn subscribe_others_to(&mut self, publisher: &ParticipantSid, track: &TrackSid) {
        let Some(source) = self.participants.get(publisher) else { return };
        let receivers: Vec<ParticipantSid> = self
            .participants
            .values()
            .filter(|other| other.sid != *publisher)
            .filter(|other| other.scope_covers(source) || other.missing.contains_key(track))
            .map(|other| other.sid.clone())
            .collect();
        for receiver in receivers {
            self.subscribe(&receiver, track);
        }
    }

    /// Subscribes a participant to a published track of somebody else. Does nothing where it is already.
    pub(super) fn subscribe(&mut self, sid: &ParticipantSid, track: &TrackSid) {
        let Some(publisher) = self.tracks.get(track).and_then(|publisher| self.participants.get(publisher))
        else {
            return;
        };
        let published = publisher.track(track.as_str()).is_some_and(Track::is_published);
        let Some(participant) = self.participants.get(sid) else { return };
        if !published
            || publisher.sid == *sid
            || !participant.permission.can_subscribe
            || participant.subscriptions.contains_key(track)
        {
            return;
        }
        let allowed = publisher.allows(participant, track);
        let backup = publisher.track(track.as_str()).is_some_and(Track::has_regressed);
        let (publisher_sid, stream_id) =
            (publisher.sid.clone(), self.stream_id(publisher, participant, track));
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.missing.remove(track);
        let first_quality = if participant.adaptive_stream { TrackQuality::Low } else { TrackQuality::High };
        let settings = participant
            .kept_settings
            .remove(track)
            .unwrap_or(SubscriptionSettings { quality: first_quality, ..Default::default() });
        participant
            .subscriptions
            .insert(track.clone(), Subscription { allowed, settings, backup, starved: false });
        if allowed {
            self.send_subscribe(sid, track, stream_id, settings);
            self.demand_changed(track);
        } else {
            self.tell_permission(sid, &publisher_sid, track, false);
        }
    }

    pub(super) fn send_subscribe(
        &mut self,
        sid: &ParticipantSid,
        track: &TrackSid,
        stream_id: String,
        settings: SubscriptionSettings,
    ) {
        self.open_downstream(sid);
        let downstream = self.participants.get(sid).and_then(|participant| participant.downstream());
        let Some(connection) = downstream else { return };
        let settings = self.with_quality(track, settings);
        let track = track.clone();
        self.command(NodeAction::Subscribe(SubscribeTrack { connection, track, stream_id, settings }));
    }

    /// Ends a subscription, if there is one.
    pub(super) fn unsubscribe(&mut self, sid: &ParticipantSid, track: &TrackSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.missing.remove(track);
        let Some(subscription) = participant.subscriptions.remove(track) else { return };
        if subscription.allowed {
            if let Some(connection) = participant.downstream() {
                self.command(NodeAction::Unsubscribe { connection, track: track.clone() });
            }
            self.demand_changed(track);
        }
    }

    /// Ends all subscriptions of a participant that may not subscribe any more.
    pub(super) fn unsubscribe_from_all(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.missing.clear();
        let tracks: Vec<TrackSid> = participant.subscriptions.keys().cloned().collect();
        for track in tracks {
            self.unsubscribe(sid, &track);
        }
    }

    /// The msid's stream part. Exactly one bar: clients split there. Firefox shows the stream's id as the
    /// track's, so that it must name the track.
    pub(super) fn stream_id(
        &self,
        publisher: &Participant,
        receiver: &Participant,
        track: &TrackSid,
    ) -> String {
        let in_step = self.settings.record.sync_streams
            && receiver.protocol() >= 10
            && !receiver.client.browser.eq_ignore_ascii_case("firefox");
        let stream = publisher.track(track.as_str()).map(|track| track.info.stream.as_str());
        match stream {
            Some(stream) if in_step && !stream.is_empty() => format!("{}|{stream}", publisher.sid),
            _ => format!("{}|{track}", publisher.sid),
        }
    }

    pub(super) fn handle_subscription(
        &mut self,
        sid: &ParticipantSid,
        request: &livekit::UpdateSubscription,
    ) {
        let theirs = request.participant_tracks.iter().flat_map(|tracks| tracks.track_sids.iter());
        for track in request.track_sids.iter().chain(theirs) {
            let known = track.parse::<TrackSid>().ok();
            match (known, request.subscribe) {
                (Some(track), true) => self.want_track(sid, &track),
                (Some(track), false) => self.unwant_track(sid, &track),
                (None, true) => self.tell_subscription_error(sid, track, SubscriptionError::SeTrackNotfound),
                (None, false) => {}
            }
        }
    }

    fn want_track(&mut self, sid: &ParticipantSid, track: &TrackSid) {
        let deadline = self.now + NOT_FOUND_TIMEOUT;
        let published = self.is_published(track);
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.unwanted.remove(track);
        if published {
            return self.subscribe(sid, track);
        }
        if participant.missing.len() < MISSING_TRACKS_MAX {
            participant.missing.entry(track.clone()).or_insert(deadline);
        } else {
            self.tell_subscription_error(sid, track.as_str(), SubscriptionError::SeTrackNotfound);
        }
    }

    fn unwant_track(&mut self, sid: &ParticipantSid, track: &TrackSid) {
        self.unsubscribe(sid, track);
        if self.tracks.contains_key(track)
            && let Some(participant) = self.participants.get_mut(sid)
        {
            participant.unwanted.insert(track.clone());
        }
    }

    fn is_published(&self, track: &TrackSid) -> bool {
        let publisher = self.tracks.get(track).and_then(|publisher| self.participants.get(publisher));
        publisher.and_then(|publisher| publisher.track(track.as_str())).is_some_and(Track::is_published)
    }

    pub(super) fn handle_track_settings(
        &mut self,
        sid: &ParticipantSid,
        request: &livekit::UpdateTrackSettings,
    ) {
        let quality = match request.quality() {
            livekit::VideoQuality::Low => TrackQuality::Low,
            livekit::VideoQuality::Medium => TrackQuality::Medium,
            livekit::VideoQuality::High | livekit::VideoQuality::Off => TrackQuality::High,
        };
        let settings = SubscriptionSettings {
            paused: request.disabled || request.quality() == livekit::VideoQuality::Off,
            quality: if request.width > 0 && request.height > 0 { TrackQuality::High } else { quality },
            size: (request.width > 0 && request.height > 0).then_some((request.width, request.height)),
            fps: request.fps,
            priority: request.priority,
        };
        for track in request.track_sids.iter().filter_map(|track| track.parse::<TrackSid>().ok()) {
            self.configure_subscription(sid, &track, settings);
        }
    }

    pub(super) fn configure_subscription(
        &mut self,
        sid: &ParticipantSid,
        track: &TrackSid,
        settings: SubscriptionSettings,
    ) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let Some(subscription) = participant.subscriptions.get_mut(track) else {
            if participant.kept_settings.len() < KEPT_SETTINGS_MAX {
                participant.kept_settings.insert(track.clone(), settings);
            }
            return;
        };
        if subscription.settings == settings {
            return;
        }
        subscription.settings = settings;
        if !subscription.allowed {
            return;
        }
        if let Some(connection) = participant.downstream() {
            let settings = self.with_quality(track, settings);
            let track = track.clone();
            self.command(NodeAction::ConfigureSubscription { connection, track, settings });
        }
        self.demand_changed(track);
    }

    /// The settings for the node, which knows nothing of sizes: the quality is what the size needs.
    fn with_quality(&self, track: &TrackSid, settings: SubscriptionSettings) -> SubscriptionSettings {
        let publisher = self.tracks.get(track).and_then(|publisher| self.participants.get(publisher));
        match publisher.and_then(|publisher| publisher.track(track.as_str())) {
            Some(track) => SubscriptionSettings { quality: quality_for(&track.info, settings), ..settings },
            None => settings,
        }
    }

    /// Media of a subscription flows.
    pub(super) fn subscribed(&mut self, connection: ConnectionId, track: &TrackSid, backup: bool) {
        let Some(receiver) = self.connections.get(&connection).cloned() else { return };
        let subscription = self.participants.get(&receiver).and_then(|known| known.subscriptions.get(track));
        // It may have been withdrawn while the node negotiated it.
        if !subscription.is_some_and(|subscription| subscription.allowed) {
            return;
        }
        tracing::debug!(participant = %receiver, %track, backup, "subscribed");
        self.set_backup(&receiver, track, backup);
        let Some(publisher) = self.tracks.get(track).cloned() else { return };
        let told = self.participants.get_mut(&publisher).and_then(|p| p.track_mut(track.as_str()));
        if let Some(published) = told
            && !std::mem::replace(&mut published.subscriber_told, true)
        {
            let message = livekit::TrackSubscribed { track_sid: track.as_str().to_owned() };
            self.tell(&publisher, signal_response::Message::TrackSubscribed(message));
        }
    }

    /// Media of a subscription pauses for lack of bandwidth, or goes on.
    pub(super) fn stream_state(&mut self, connection: ConnectionId, track: &TrackSid, paused: bool) {
        let Some(receiver) = self.connections.get(&connection).cloned() else { return };
        let Some(participant) = self.participants.get_mut(&receiver) else { return };
        let Some(subscription) = participant.subscriptions.get_mut(track) else { return };
        subscription.starved = paused;
        self.tell_stream_states(&receiver, |told, _| told == track);
    }

    /// Tells a participant which of its subscriptions pause for lack of bandwidth, and which do not.
    pub(super) fn tell_stream_states(
        &mut self,
        sid: &ParticipantSid,
        of: impl Fn(&TrackSid, &Subscription) -> bool,
    ) {
        let Some(participant) = self.participants.get(sid) else { return };
        let told = participant.subscriptions.iter().filter(|(track, subscription)| of(track, subscription));
        let mut states: Vec<livekit::StreamStateInfo> = told
            .filter_map(|(track, subscription)| {
                let state = match subscription.starved {
                    true => livekit::StreamState::Paused,
                    false => livekit::StreamState::Active,
                };
                Some(livekit::StreamStateInfo {
                    participant_sid: self.tracks.get(track)?.as_str().to_owned(),
                    track_sid: track.as_str().to_owned(),
                    state: state.into(),
                })
            })
            .collect();
        if !states.is_empty() {
            states.sort_by(|a, b| a.track_sid.cmp(&b.track_sid));
            let update = livekit::StreamStateUpdate { stream_states: states };
            self.tell(sid, signal_response::Message::StreamStateUpdate(update));
        }
    }

    pub(super) fn subscription_failed(
        &mut self,
        connection: ConnectionId,
        track: &TrackSid,
        reason: SubscriptionFailure,
    ) {
        let Some(sid) = self.connections.get(&connection).cloned() else { return };
        let error = match reason {
            SubscriptionFailure::CodecUnsupported => SubscriptionError::SeCodecUnsupported,
        };
        let publisher = self.tracks.get(track).and_then(|publisher| self.participants.get(publisher));
        if publisher.and_then(|p| p.track(track.as_str())).is_some_and(Track::may_get_backup) {
            return self.set_backup(&sid, track, true);
        }
        if self.participants.get(&sid).is_some_and(|p| p.subscriptions.contains_key(track)) {
            // It would fail again each time that all tracks are gone through.
            self.unwant_track(&sid, track);
            self.tell_subscription_error(&sid, track.as_str(), error);
        }
    }

    /// Notes which of a track's codecs a participant receives, or waits for.
    fn set_backup(&mut self, sid: &ParticipantSid, track: &TrackSid, backup: bool) {
        let subscription = self.participants.get_mut(sid).and_then(|p| p.subscriptions.get_mut(track));
        if subscription.is_some_and(|s| std::mem::replace(&mut s.backup, backup) != backup) {
            self.demand_changed(track);
        }
    }

    /// Gives up on tracks that never came.
    pub(super) fn expire_wanted_tracks(&mut self) {
        let now = self.now;
        let mut expired = Vec::new();
        for participant in self.participants.values_mut() {
            participant.missing.retain(|track, deadline| {
                let keep = *deadline > now;
                if !keep {
                    expired.push((participant.sid.clone(), track.clone()));
                }
                keep
            });
        }
        for (sid, track) in expired {
            self.tell_subscription_error(&sid, track.as_str(), SubscriptionError::SeTrackNotfound);
        }
    }

    fn tell_subscription_error(&mut self, sid: &ParticipantSid, track: &str, error: SubscriptionError) {
        let response = livekit::SubscriptionResponse { track_sid: track.to_owned(), err: error.into() };
        self.tell(sid, signal_response::Message::SubscriptionResponse(response));
    }
}
