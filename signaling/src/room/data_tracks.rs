//! Data tracks: small frames that flow from one publisher to those who want them.
//!
//! A packet names its track by a number, the handle: the publisher's own on the way in, each subscriber's
//! own on the way out. Nothing else of a packet is read or changed.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use zynk_protocol::livekit::data_track_subscriber_handles::PublishedDataTrack;
use zynk_protocol::livekit::request_response::{Reason, Request};
use zynk_protocol::livekit::{self, DataTrackInfo, signal_response};
use zynk_protocol::{ConnectionId, DataKind, NodeAction, ParticipantSid, Recipients, random_suffix};

use super::Room;

/// Data tracks of a participant. Further ones are refused (LIMIT_EXCEEDED).
const PUBLISHED_MAX: usize = 256;

/// Longest name, in bytes. Longer ones are refused (INVALID_NAME).
const NAME_BYTES_MAX: usize = 256;

/// Data tracks to which a participant may subscribe. Further ones are ignored.
const SUBSCRIBED_MAX: usize = 1_024;

/// Where the handle is in a packet, and how long the fixed part of its header is, in bytes.
const HANDLE: std::ops::Range<usize> = 2..4;
const HEADER_BYTES: usize = 12;

/// What a participant publishes and receives.
#[derive(Debug, Default)]
pub(super) struct DataTracks {
    /// At most [`PUBLISHED_MAX`].
    published: Vec<DataTrackInfo>,
    auto_subscribe: bool,
    /// By the participant's own handle; at most [`SUBSCRIBED_MAX`].
    subscribed: BTreeMap<u16, DataSubscription>,
    last_handle: u16,
}

#[derive(Debug)]
struct DataSubscription {
    publisher: ParticipantSid,
    track: String,
}

impl DataTracks {
    pub(super) fn new(auto_subscribe: bool) -> Self {
        Self { auto_subscribe, ..Self::default() }
    }

    pub(super) fn infos(&self) -> Vec<DataTrackInfo> {
        self.published.clone()
    }

    pub(super) fn has(&self, sid: &str) -> bool {
        self.published.iter().any(|track| track.sid == sid)
    }

    fn handle_of(&self, track: &str) -> Option<u16> {
        let found = self.subscribed.iter().find(|(_, subscription)| subscription.track == track);
        found.map(|(handle, _)| *handle)
    }

    /// Handles count up, so that a late packet of an earlier track is not taken for one of a later.
    fn add(&mut self, publisher: &ParticipantSid, track: &str) -> bool {
        if self.subscribed.len() >= SUBSCRIBED_MAX || self.handle_of(track).is_some() {
            return false;
        }
        loop {
            self.last_handle = self.last_handle.wrapping_add(1);
            if self.last_handle != 0 && !self.subscribed.contains_key(&self.last_handle) {
                break;
            }
        }
        let subscription = DataSubscription { publisher: publisher.clone(), track: track.to_owned() };
        self.subscribed.insert(self.last_handle, subscription);
        true
    }

    fn remove(&mut self, track: &str) -> bool {
        let before = self.subscribed.len();
        self.subscribed.retain(|_, subscription| subscription.track != track);
        self.subscribed.len() < before
    }
}

impl Room {
    pub(super) fn handle_publish_data_track(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::PublishDataTrackRequest,
    ) {
        let random = self.random();
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let published = &participant.data_tracks.published;
        let refusal = if !participant.permission.can_publish_data {
            Some((Reason::NotAllowed, "may not publish data"))
        } else if !(1..=u32::from(u16::MAX)).contains(&request.pub_handle) {
            Some((Reason::InvalidHandle, "handle must be 1 to 65535"))
        } else if request.name.is_empty() || request.name.len() > NAME_BYTES_MAX {
            Some((Reason::InvalidName, "name must have 1 to 256 bytes"))
        } else if published.iter().any(|track| track.pub_handle == request.pub_handle) {
            Some((Reason::DuplicateHandle, "a data track has this handle"))
        } else if published.iter().any(|track| track.name == request.name) {
            Some((Reason::DuplicateName, "a data track has this name"))
        } else if published.len() >= PUBLISHED_MAX {
            Some((Reason::LimitExceeded, "too many data tracks"))
        } else {
            None
        };
        if let Some((reason, message)) = refusal {
            return self.respond(sid, 0, reason, message, Some(Request::PublishDataTrack(request)));
        }
        let info = DataTrackInfo {
            pub_handle: request.pub_handle,
            sid: format!("DTR_{}", random_suffix(random)),
            name: request.name,
            encryption: request.encryption,
            frame_encoding: request.frame_encoding,
            schema: request.schema,
        };
        participant.data_tracks.published.push(info.clone());
        participant.is_publisher = true;
        let response = livekit::PublishDataTrackResponse { info: Some(info.clone()) };
        self.tell(sid, signal_response::Message::PublishDataTrackResponse(response));
        self.participant_changed(sid, false);
        self.occupancy_changed();
        self.subscribe_others_to_data_tracks(sid, &[info.sid]);
    }

    /// Same of all of somebody's.
    pub(super) fn subscribe_others_to_data_tracks_of(&mut self, sid: &ParticipantSid) {
        let infos = self.participants.get(sid).map(|publisher| publisher.data_tracks.infos());
        let tracks: Vec<String> = infos.into_iter().flatten().map(|info| info.sid).collect();
        self.subscribe_others_to_data_tracks(sid, &tracks);
    }

    /// Subscribes those to new data tracks who receive them without asking.
    fn subscribe_others_to_data_tracks(&mut self, publisher: &ParticipantSid, tracks: &[String]) {
        for receiver in self.others(publisher) {
            if !self.participants.get(&receiver).is_some_and(|other| other.data_tracks.auto_subscribe) {
                continue;
            }
            let mut changed = false;
            for track in tracks {
                changed |= self.add_data_subscription(&receiver, track);
            }
            if changed {
                self.send_handles(&receiver);
            }
        }
    }

    pub(super) fn handle_unpublish_data_track(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::UnpublishDataTrackRequest,
    ) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let published = &mut participant.data_tracks.published;
        let Some(at) = published.iter().position(|track| track.pub_handle == request.pub_handle) else {
            let echo = Some(Request::UnpublishDataTrack(request));
            return self.respond(sid, 0, Reason::NotFound, "no such data track", echo);
        };
        let info = published.remove(at);
        self.end_data_subscriptions(&info.sid);
        let response = livekit::UnpublishDataTrackResponse { info: Some(info) };
        self.tell(sid, signal_response::Message::UnpublishDataTrackResponse(response));
        self.participant_changed(sid, false);
    }

    /// Takes all data tracks of a participant away.
    pub(super) fn drop_data_tracks_of(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        for track in std::mem::take(&mut participant.data_tracks.published) {
            self.end_data_subscriptions(&track.sid);
        }
    }

    pub(super) fn end_data_subscriptions(&mut self, track: &str) {
        let mut affected = Vec::new();
        for participant in self.participants.values_mut() {
            if participant.data_tracks.remove(track) {
                affected.push(participant.sid.clone());
            }
        }
        for receiver in affected {
            self.send_handles(&receiver);
        }
    }

    pub(super) fn handle_data_subscription(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::UpdateDataSubscription,
    ) {
        for update in &request.updates {
            if update.subscribe {
                self.add_data_subscription(sid, &update.track_sid);
            } else if let Some(participant) = self.participants.get_mut(sid) {
                participant.data_tracks.remove(&update.track_sid);
            }
        }
        self.send_handles(sid);
    }

    pub(super) fn subscribe_to_existing_data_tracks(&mut self, sid: &ParticipantSid) {
        if !self.participants.get(sid).is_some_and(|participant| participant.data_tracks.auto_subscribe) {
            return;
        }
        let others = self.participants.values().filter(|other| other.sid != *sid);
        let tracks: Vec<String> =
            others.flat_map(|other| other.data_tracks.published.iter().map(|t| t.sid.clone())).collect();
        let mut changed = false;
        for track in tracks {
            changed |= self.add_data_subscription(sid, &track);
        }
        if changed {
            self.send_handles(sid);
        }
    }

    pub(super) fn unsubscribe_from_data_tracks(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.data_tracks.subscribed.clear();
        self.send_handles(sid);
    }

    fn add_data_subscription(&mut self, sid: &ParticipantSid, track: &str) -> bool {
        let publisher = self.participants.values().find(|other| other.data_tracks.has(track));
        let Some(publisher) = publisher.map(|publisher| publisher.sid.clone()) else { return false };
        let Some(participant) = self.participants.get_mut(sid) else { return false };
        participant.permission.can_subscribe
            && publisher != *sid
            && participant.data_tracks.add(&publisher, track)
    }

    /// Tells a subscriber all its handles.
    fn send_handles(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let mut sub_handles = HashMap::new();
        for (handle, subscription) in &participant.data_tracks.subscribed {
            let Some(publisher) = self.participants.get(&subscription.publisher) else { continue };
            let track = PublishedDataTrack {
                publisher_identity: publisher.identity.as_str().to_owned(),
                publisher_sid: publisher.sid.as_str().to_owned(),
                track_sid: subscription.track.clone(),
            };
            sub_handles.insert(u32::from(*handle), track);
        }
        let handles = livekit::DataTrackSubscriberHandles { sub_handles };
        self.tell(sid, signal_response::Message::DataTrackSubscriberHandles(handles));
    }

    /// Passes a packet on under each subscriber's own handle.
    pub(super) fn forward_data_track(&mut self, sid: &ParticipantSid, payload: &Bytes) {
        if payload.len() < HEADER_BYTES {
            return;
        }
        let Some([high, low]) = payload.get(HANDLE).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok()) else {
            return;
        };
        let handle = u32::from(u16::from_be_bytes([high, low]));
        let Some(participant) = self.participants.get(sid) else { return };
        let published = participant.data_tracks.published.iter().find(|track| track.pub_handle == handle);
        let Some(track) = published.map(|track| track.sid.clone()) else { return };
        let mut receivers: BTreeMap<u16, Vec<ConnectionId>> = BTreeMap::new();
        for other in self.participants.values().filter(|other| other.is_active()) {
            if let Some(handle) = other.data_tracks.handle_of(&track) {
                receivers.entry(handle).or_default().push(other.primary().id);
            }
        }
        for (handle, connections) in receivers {
            let mut packet = BytesMut::from(&payload[..]);
            if let Some(field) = packet.get_mut(HANDLE) {
                field.copy_from_slice(&handle.to_be_bytes());
            }
            self.command(NodeAction::SendData {
                to: Recipients::Connections(connections),
                kind: DataKind::DataTrack,
                payload: packet.freeze(),
            });
        }
    }

    /// Data blobs are not offered.
    pub(super) fn refuse_data_blob(&mut self, sid: &ParticipantSid, request_id: u32) {
        self.respond(sid, request_id, Reason::NotAllowed, "data blob not enabled", None);
    }
}
