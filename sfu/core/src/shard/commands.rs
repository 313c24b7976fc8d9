//! Orders from signaling.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, DataKind, EndReason, ExpectedTrack, NegotiationFailure,
    NodeAction, NodeEvent, OpenConnection, Recipients, RoomSid, SubscribeTrack, SubscriptionSettings,
    TrackSid,
};

use super::{Allocation, CaughtUp, EndpointKey, Lacked, Shard, SubscriptionKey, TrackKey};
use crate::{
    connection::{Connection, DataSent},
    demux::draw_credentials,
    endpoint::{CredentialsNow, DataQueue, Endpoint, Negotiation, Traffic},
    forwarder::Subscription,
    media_session::MediaSession,
    silence::Silence,
    track::{Origin, Track},
};

/// Changes within this time make one offer.
pub(super) const NEGOTIATION_DELAY: Duration = Duration::from_millis(10);

impl Shard {
    pub(super) fn handle_command(&mut self, room: RoomSid, action: NodeAction) {
        match action {
            NodeAction::OpenConnection(open) => self.open_connection(room, open),
            NodeAction::AdoptConnection { connection, from } => {
                self.adopt_connection(&room, connection, from)
            }
            NodeAction::CloseConnection { connection } => {
                if let Some(key) = self.endpoint_of(connection) {
                    self.close(key, None);
                }
            }
            NodeAction::LimitAudio { loudest } => {
                // Only a connection makes a room.
                if let Some(room) = self.rooms.get_mut(&room) {
                    room.loudest.set_places(loudest);
                }
            }
            NodeAction::CloseRoom => {
                let endpoints = self.rooms.get(&room).map(|room| room.endpoints.clone()).unwrap_or_default();
                for key in endpoints {
                    self.close(key, None);
                }
                self.rooms.remove(&room);
                self.relay.forget_room(&room);
            }
            NodeAction::RemoteOffer { connection, offer_id, sdp } => match self.endpoint_of(connection) {
                Some(key) => self.handle_offer(key, offer_id, &sdp),
                None => {
                    let failure = NegotiationFailure::Closed;
                    let event = NodeEvent::NegotiationFailed { connection, offer_id, failure };
                    self.events.push_back((room, event));
                }
            },
            NodeAction::RemoteAnswer { connection, offer_id, sdp } => {
                if let Some(key) = self.endpoint_of(connection) {
                    self.handle_answer(key, offer_id, &sdp);
                }
            }
            // An ICE-lite agent needs no candidates: it answers where the checks come from.
            NodeAction::RemoteCandidate { .. } => {}
            NodeAction::RestartIce { connection } => {
                if let Some(key) = self.endpoint_of(connection)
                    && let Some(endpoint) = self.endpoints.get_mut(key.0)
                    && endpoint.role == ConnectionRole::Subscriber
                {
                    // A resumed client may have lost the outstanding offer with its signaling connection.
                    endpoint.negotiation.outstanding = None;
                    endpoint.negotiation.restart_ice = true;
                    endpoint.negotiation.due_at = None;
                    self.negotiate_soon(key, self.now);
                }
            }
            NodeAction::ExpectTrack(track) => self.expect_track(track),
            NodeAction::RemoveTrack { track } => self.remove_track(&track),
            NodeAction::MuteTrack { track, muted } => self.mute_published(&track, muted),
            NodeAction::Subscribe(subscribe) => self.subscribe(subscribe),
            NodeAction::Unsubscribe { connection, track } => self.unsubscribe(connection, &track),
            NodeAction::ConfigureSubscription { connection, track, settings } => {
                self.configure(connection, track, settings);
            }
            NodeAction::SendData { to: Recipients::Connections(connections), kind, payload } => {
                for connection in connections {
                    self.send_data(connection, kind, &payload);
                }
            }
            NodeAction::ReportRoom { request, shares } => self.report_room(room, request, shares),
        }
    }

    pub(super) fn endpoint_of(&self, connection: ConnectionId) -> Option<EndpointKey> {
        self.by_id.get(&connection).copied()
    }

    fn open_connection(&mut self, room: RoomSid, open: OpenConnection) {
        if self.by_id.contains_key(&open.connection) {
            return;
        }
        let credentials = draw_credentials(&mut self.random, self.config.index);
        let udp: &[_] = if open.candidates == CandidatePolicy::TcpOnly { &[] } else { &self.config.udp };
        let connection =
            Connection::new(&self.config.certificate, &credentials, udp, &self.config.tcp, self.now);
        let key = EndpointKey(self.endpoints.insert(Endpoint {
            id: open.connection,
            room: room.clone(),
            participant: open.participant,
            role: open.role,
            late_binding: open.late_binding,
            connection: Box::new(connection),
            media: MediaSession::new(self.random.random()),
            allocation: Allocation::default(),
            caught_up: CaughtUp::default(),
            credentials: CredentialsNow { current: credentials.clone(), offered: None, restarts: 0 },
            sections: Vec::new(),
            expected: Vec::new(),
            subscriptions: rustc_hash::FxHashMap::default(),
            order: Vec::new(),
            early_settings: rustc_hash::FxHashMap::default(),
            negotiation: Negotiation::default(),
            data: DataQueue::default(),
            opened_at: self.now,
            connected_once: false,
            disconnected_at: None,
            silence: Silence::new(self.now),
            wake_at: None,
            dirty: false,
            traffic: Traffic::default(),
            stats_at: self.now,
            lacked: Lacked::default(),
            sources_replaced: 0,
        }));
        self.by_id.insert(open.connection, key);
        self.demux.add_ufrag(&credentials.ufrag, key);
        self.rooms.entry(room).or_default().endpoints.push(key);
        if open.role == ConnectionRole::Subscriber {
            self.negotiate_soon(key, self.now + NEGOTIATION_DELAY);
        }
    }

    fn expect_track(&mut self, track: ExpectedTrack) {
        let Some(key) = self.endpoint_of(track.connection) else { return };
        if self.endpoints.get_mut(key.0).is_some_and(|endpoint| endpoint.expect(track)) {
            self.match_expected(key);
        }
    }

    /// Mutes or unmutes a track that has its publisher here, and its second codec; others hear of it from there.
    fn mute_published(&mut self, sid: &TrackSid, muted: bool) {
        let primary = self.published(sid);
        let backup = primary.and_then(|key| self.tracks.get(key.0)?.backup);
        for key in [primary, backup].into_iter().flatten() {
            self.mute(key, muted);
        }
    }

    /// Stops or resumes a track. What was muted starts again at a keyframe.
    pub(super) fn mute(&mut self, key: TrackKey, muted: bool) {
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        if std::mem::replace(&mut track.muted, muted) == muted {
            return;
        }
        self.forget_voice(key);
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        // What was shown before is not shown again.
        track.encodings.iter_mut().for_each(|encoding| encoding.last_video.clear());
        let subscribers = track.subscribers.clone();
        self.tell_muted(key);
        for key in subscribers {
            if let Some(subscription) = self.subscriptions.get_mut(key.0) {
                subscription.restart();
                let subscriber = subscription.subscriber;
                self.allocate_soon(subscriber);
            }
            self.want_keyframe_for(key);
        }
    }

    /// A track that has its publisher here.
    pub(super) fn published(&self, sid: &TrackSid) -> Option<TrackKey> {
        let key = *self.by_sid.get(sid)?;
        self.tracks.get(key.0)?.publisher().map(|_| key)
    }

    fn remove_track(&mut self, sid: &TrackSid) {
        if let Some(key) = self.published(sid) {
            self.stop_track(key, None);
        }
        for (_, endpoint) in &mut self.endpoints {
            endpoint.expected.retain(|expected| expected.track != *sid);
        }
    }

    /// Ends a track. Its subscriptions wait for it to come back, which it does not: signaling removes them.
    pub(super) fn stop_track(&mut self, key: TrackKey, report: Option<EndReason>) {
        let primary = self.tracks.get(key.0).and_then(|track| self.by_sid.get(&track.sid).copied());
        if let Some(primary) = primary.filter(|primary| *primary != key) {
            return self.stop_backup(key, primary);
        }
        let Some(mut track) = self.take_track(key) else { return };
        self.by_sid.remove(&track.sid);
        if let Some(backup) = track.backup {
            track.subscribers.extend(self.forget_backup(backup));
        }
        for subscription in std::mem::take(&mut track.subscribers) {
            self.release_section(subscription);
            if let Some(subscription) = self.subscriptions.get_mut(subscription.0) {
                subscription.source = None;
            }
            self.waiting.entry(track.sid.clone()).or_default().push(subscription);
        }
        let publisher = track.publisher().and_then(|publisher| self.endpoints.get(publisher.0));
        let Some(room) = publisher.map(|publisher| publisher.room.clone()) else { return };
        self.ask_again(&track.sid);
        let last_word = self.rooms.get_mut(&room).and_then(|room| {
            room.speaking.remove(&track.participant);
            room.speakers.remove(&track.sid)
        });
        if let Some(level) = last_word {
            let event = NodeEvent::Speakers { levels: vec![level] };
            self.events.push_back((room.clone(), event));
        }
        if let Some(reason) = report {
            let event = NodeEvent::TrackStopped { track: track.sid, reason };
            self.events.push_back((room, event));
        }
    }

    /// Takes a track out of the shard's table.
    pub(super) fn take_track(&mut self, key: TrackKey) -> Option<Track> {
        self.forget_voice(key);
        let track = self.tracks.try_remove(key.0)?;
        self.tell_stopped(key, &track);
        if let Origin::Relay(origin) = &track.origin
            && let Some(room) = self.rooms.get_mut(&origin.room)
            && room.overheard.remove(&track.sid).is_some()
        {
            room.speaking.remove(&track.participant);
        }
        if let Some(publisher) = track.publisher().and_then(|publisher| self.endpoints.get_mut(publisher.0)) {
            for section in publisher.sections.iter_mut().filter(|section| section.track == Some(key)) {
                section.track = None;
            }
        }
        Some(track)
    }

    fn subscribe(&mut self, subscribe: SubscribeTrack) {
        let Some(key) = self.endpoint_of(subscribe.connection) else { return };
        let serial = self.serials.draw();
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        if endpoint.subscriptions.contains_key(&subscribe.track) {
            return;
        }
        let settings = endpoint.early_settings.remove(&subscribe.track).unwrap_or(subscribe.settings);
        let subscription =
            Subscription::new(key, subscribe.track.clone(), subscribe.stream_id, settings, serial);
        let subscription_key = SubscriptionKey(self.subscriptions.insert(subscription));
        endpoint.subscriptions.insert(subscribe.track.clone(), subscription_key);
        endpoint.order.push(subscription_key);
        match self.by_sid.get(&subscribe.track).copied() {
            Some(track) => self.attach(subscription_key, track),
            None => {
                self.waiting.entry(subscribe.track.clone()).or_default().push(subscription_key);
                self.ask(&subscribe.track);
            }
        }
    }

    /// Connects a subscription with its track, which has started.
    pub(super) fn attach(&mut self, key: SubscriptionKey, source: TrackKey) {
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        let Some(track) = self.tracks.get_mut(source.0) else { return };
        subscription.source = Some(source);
        track.subscribers.push(key);
        let subscriber = subscription.subscriber;
        self.receivers_changed(source);
        self.place(subscriber);
    }

    fn unsubscribe(&mut self, connection: ConnectionId, track: &TrackSid) {
        let Some(endpoint_key) = self.endpoint_of(connection) else { return };
        let Some(endpoint) = self.endpoints.get_mut(endpoint_key.0) else { return };
        endpoint.early_settings.remove(track);
        let Some(key) = endpoint.subscriptions.remove(track) else { return };
        endpoint.order.retain(|other| *other != key);
        self.release_section(key);
        self.forget_subscription(key);
        self.allocate_soon(endpoint_key);
    }

    fn configure(&mut self, connection: ConnectionId, track: TrackSid, settings: SubscriptionSettings) {
        let Some(endpoint_key) = self.endpoint_of(connection) else { return };
        let Some(endpoint) = self.endpoints.get_mut(endpoint_key.0) else { return };
        let Some(key) = endpoint.subscriptions.get(&track).copied() else {
            endpoint.keep_settings(track, settings);
            return;
        };
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        let changed = subscription.settings != settings;
        subscription.configure(settings);
        if changed {
            self.allocate(endpoint_key);
            self.want_keyframe_for_settings(key);
        }
    }

    fn send_data(&mut self, connection: ConnectionId, kind: DataKind, payload: &Bytes) {
        let Some(key) = self.endpoint_of(connection) else { return };
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let waits = !endpoint.data.is_empty() && kind == DataKind::Reliable;
        let open = endpoint.connection.has_channel(kind);
        let sent = match open && !waits {
            true => self.guard(key, |endpoint| endpoint.connection.send_data(kind, payload)),
            false => Some(DataSent::Full),
        };
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let keeps = open && kind == DataKind::Reliable;
        match sent {
            Some(DataSent::Sent) => self.stats.data_messages_sent += 1,
            Some(DataSent::Full) if keeps && endpoint.data.push(kind, payload.clone()) => {}
            _ => self.stats.data_messages_dropped += 1,
        }
        self.mark_dirty(key);
    }

    /// Hands queued messages to a channel that has room again.
    pub(super) fn send_waiting_data(&mut self, key: EndpointKey) {
        let waiting = self.endpoints.get(key.0).is_some_and(|endpoint| !endpoint.data.is_empty());
        if !waiting {
            return;
        }
        let sent = self.guard(key, |endpoint| {
            let Endpoint { data, connection, .. } = endpoint;
            data.drain(|kind, payload| connection.send_data(kind, payload))
        });
        let Some((sent, lost)) = sent else { return };
        self.stats.data_messages_sent += sent;
        self.stats.data_messages_dropped += lost;
        if sent > 0 {
            self.mark_dirty(key);
        }
    }
}
