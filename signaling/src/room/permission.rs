//! Which participants a publisher lets have its tracks.

use std::collections::BTreeSet;

use zynk_protocol::livekit::{self, signal_response};
use zynk_protocol::{NodeAction, ParticipantSid, TrackSid};

use super::Room;
use super::participant::Participant;

/// Entries of a publisher's list that count. Those beyond allow nothing.
const ENTRIES_MAX: usize = 1_000;

/// A publisher's rules.
#[derive(Debug, Default)]
pub(super) struct TrackPermissions {
    /// None: everybody may have everything. At most [`ENTRIES_MAX`] entries.
    entries: Option<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    identity: String,
    sid: String,
    all_tracks: bool,
    tracks: BTreeSet<String>,
}

impl Participant {
    /// Whether `receiver` may have the track. Recorders may have all.
    pub(super) fn allows(&self, receiver: &Participant, track: &TrackSid) -> bool {
        let Some(entries) = &self.track_permissions.entries else { return true };
        receiver.permission.recorder
            || entries.iter().any(|entry| {
                let meant = match entry.identity.is_empty() {
                    true => entry.sid == receiver.sid.as_str(),
                    false => entry.identity == receiver.identity.as_str(),
                };
                meant && (entry.all_tracks || entry.tracks.contains(track.as_str()))
            })
    }
}

impl Room {
    pub(super) fn handle_subscription_permission(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::SubscriptionPermission,
    ) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let entries = request.track_permissions.into_iter().take(ENTRIES_MAX).map(|entry| Entry {
            identity: entry.participant_identity,
            sid: entry.participant_sid,
            all_tracks: entry.all_tracks,
            tracks: entry.track_sids.into_iter().take(ENTRIES_MAX).collect(),
        });
        participant.track_permissions.entries = (!request.all_participants).then(|| entries.collect());
        self.apply_track_permissions(sid);
    }

    fn apply_track_permissions(&mut self, publisher: &ParticipantSid) {
        let Some(source) = self.participants.get(publisher) else { return };
        let mut changes = Vec::new();
        for receiver in self.participants.values() {
            for track in &source.tracks {
                let Some(subscription) = receiver.subscriptions.get(&track.sid) else { continue };
                let allowed = source.allows(receiver, &track.sid);
                if allowed != subscription.allowed {
                    let stream_id = self.stream_id(source, receiver, &track.sid);
                    changes.push((receiver.sid.clone(), track.sid.clone(), stream_id, allowed));
                }
            }
        }
        for (receiver, track, stream_id, allowed) in changes {
            let Some(participant) = self.participants.get_mut(&receiver) else { continue };
            let downstream = participant.downstream();
            let Some(subscription) = participant.subscriptions.get_mut(&track) else { continue };
            subscription.allowed = allowed;
            let settings = subscription.settings;
            if allowed {
                self.send_subscribe(&receiver, &track, stream_id, settings);
            } else if let Some(connection) = downstream {
                self.command(NodeAction::Unsubscribe { connection, track: track.clone() });
            }
            self.tell_permission(&receiver, publisher, &track, allowed);
            self.demand_changed(&track);
        }
    }

    pub(super) fn tell_permission(
        &mut self,
        receiver: &ParticipantSid,
        publisher: &ParticipantSid,
        track: &TrackSid,
        allowed: bool,
    ) {
        let update = livekit::SubscriptionPermissionUpdate {
            participant_sid: publisher.as_str().to_owned(),
            track_sid: track.as_str().to_owned(),
            allowed,
        };
        self.tell(receiver, signal_response::Message::SubscriptionPermissionUpdate(update));
    }
}
