//! Offers and answers of both peer connections, and which section carries which track.

use std::time::Instant;

use zynk_protocol::{
    SectionCount,
    livekit::{self, SignalTarget, signal_request},
};

use super::{
    Event, PeerConnections, RECEIVE_SECTIONS_MAX, Session, Stage, WAITING_CANDIDATES_MAX, peer::OfferChanges,
    receive,
};

impl Session {
    /// Makes an offer for whatever has changed, and for `wanted` more sections to receive in; after the
    /// answer, if one is outstanding.
    pub(super) fn negotiate(&mut self, now: Instant, wanted: SectionCount) {
        if self.stage == Stage::Ended {
            return;
        }
        if self.upstream.has_pending_offer() {
            let waiting = self.renegotiate.get_or_insert_default();
            waiting.audio = waiting.audio.saturating_add(wanted.audio);
            waiting.video = waiting.video.saturating_add(wanted.video);
            return;
        }
        if let Some(offer) = self.make_offer(now, wanted) {
            self.request(signal_request::Message::Offer(offer));
        }
    }

    pub(super) fn make_offer(
        &mut self,
        now: Instant,
        wanted: SectionCount,
    ) -> Option<livekit::SessionDescription> {
        let room = |added: u32, wanted: u32| wanted.min(RECEIVE_SECTIONS_MAX.saturating_sub(added));
        let mut changes = OfferChanges {
            channels: !std::mem::replace(&mut self.channels_offered, true),
            receive_audio: room(self.sections_added.audio, wanted.audio),
            receive_video: room(self.sections_added.video, wanted.video),
            send: self.local.to_offer(),
            stop: self.local.take_stopped_mids(),
        };
        let made = self.upstream.offer(now, &changes).or_else(|| {
            // The server wants an offer though nothing has changed: str0m makes one only for a change.
            changes =
                OfferChanges { receive_audio: room(self.sections_added.audio, 1), ..OfferChanges::default() };
            self.upstream.offer(now, &changes)
        })?;
        self.sections_added.audio += changes.receive_audio;
        self.sections_added.video += changes.receive_video;
        self.local.offered(&made.send_mids);
        self.offer_id = self.offer_id.wrapping_add(1).max(1);
        Some(description("offer", made.sdp, self.offer_id))
    }

    pub(super) fn handle_answer(&mut self, now: Instant, answer: &livekit::SessionDescription) {
        if !self.upstream.has_pending_offer() || (answer.id != 0 && answer.id != self.offer_id) {
            return;
        }
        if let Err(error) = self.upstream.accept_answer(now, &answer.sdp) {
            self.fail(now, error);
            return;
        }
        self.upstream_described = true;
        let upstream = &self.upstream;
        let refused = self.local.answered(|local| upstream.can_send(&local.mid, local.track.codec));
        self.announce_ready_tracks();
        for cid in refused {
            self.event(Event::TrackFailed { cid, reason: "the server's answer does not take it".to_owned() });
        }
        if self.config.connections == PeerConnections::Single {
            self.map_tracks(answer.mid_to_track_id.iter().map(|(mid, track)| (mid.clone(), track.clone())));
        }
        self.add_waiting_candidates(now, SignalTarget::Publisher);
        if let Some(wanted) = self.renegotiate.take() {
            self.negotiate(now, wanted);
        }
    }

    pub(super) fn handle_offer(&mut self, now: Instant, offer: &livekit::SessionDescription) {
        let Some(downstream) = &mut self.downstream else { return };
        match downstream.accept_offer(now, &offer.sdp) {
            Ok(sdp) => {
                self.map_tracks(receive::tracks_in_sdp(&offer.sdp).into_iter());
                self.add_waiting_candidates(now, SignalTarget::Subscriber);
                self.request(signal_request::Message::Answer(description("answer", sdp, offer.id)));
            }
            Err(error) => self.fail(now, error),
        }
    }

    pub(super) fn handle_trickle(&mut self, now: Instant, trickle: &livekit::TrickleRequest) {
        let init = serde_json::from_str::<serde_json::Value>(&trickle.candidate_init).unwrap_or_default();
        let candidate = init.get("candidate").and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        if candidate.is_empty() || self.waiting_candidates.len() >= WAITING_CANDIDATES_MAX {
            return;
        }
        let target = match self.config.connections {
            PeerConnections::Single => SignalTarget::Publisher,
            PeerConnections::Dual => trickle.target(),
        };
        self.waiting_candidates.push((target, candidate));
        let described = match target {
            SignalTarget::Publisher => self.upstream_described,
            SignalTarget::Subscriber => true,
        };
        if described {
            self.add_waiting_candidates(now, target);
        }
    }

    pub(super) fn add_waiting_candidates(&mut self, now: Instant, target: SignalTarget) {
        let peer = match target {
            SignalTarget::Publisher => Some(&mut self.upstream),
            SignalTarget::Subscriber => self.downstream.as_mut(),
        };
        let Some(peer) = peer else { return };
        self.waiting_candidates.retain(|(waiting, candidate)| {
            if *waiting == target {
                peer.add_candidate(now, candidate);
            }
            *waiting != target
        });
    }

    /// Tracks wait for the peer connection: what is sent before would pile up, and leave in one burst.
    pub(super) fn announce_ready_tracks(&mut self) {
        if self.upstream.is_connected() {
            for local in self.local.connected() {
                self.event(Event::TrackReady { cid: local.track.cid, track: local.sid });
            }
        }
    }

    pub(super) fn map_tracks(&mut self, mids: impl Iterator<Item = (String, String)>) {
        let (begun, ended) = self.received.map(mids);
        for track in ended {
            self.event(Event::TrackUnsubscribed { track });
        }
        for track in begun {
            let publisher = self
                .participants
                .values()
                .find(|participant| participant.tracks.iter().any(|known| known.sid == track));
            let participant = publisher.map(|participant| participant.sid.clone());
            self.event(Event::TrackSubscribed { track, participant });
        }
    }
}

pub(super) fn description(kind: &str, sdp: String, id: u32) -> livekit::SessionDescription {
    livekit::SessionDescription { r#type: kind.to_owned(), sdp, id, ..livekit::SessionDescription::default() }
}
