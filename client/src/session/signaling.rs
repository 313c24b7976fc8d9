//! What the server says.

use std::time::{Duration, Instant};

use zynk_protocol::{
    SectionCount,
    livekit::{self, leave_request, participant_info, signal_response},
};

use super::{CONNECT_TIMEOUT, Event, Output, PARTICIPANTS_MAX, PeerConnections, Ping, Session, Stage};

impl Session {
    pub(super) fn handle_signal(&mut self, now: Instant, response: livekit::SignalResponse) {
        use signal_response::Message;
        if self.stage == Stage::Ended {
            return;
        }
        if let Some(ping) = &mut self.ping {
            ping.last_heard = now;
        }
        let Some(message) = &response.message else { return };
        match message {
            Message::Join(join) => {
                self.handle_join(now, join);
                return;
            }
            // It cannot resume, but what it has may do: if not, the server closes the connection.
            Message::Leave(leave) if leave.action() == leave_request::Action::Resume => {}
            Message::Leave(leave) => {
                self.end(now);
                self.outputs.push_back(Output::Event(Event::Left(leave.clone())));
                return;
            }
            Message::Answer(answer) => self.handle_answer(now, answer),
            Message::Offer(offer) => self.handle_offer(now, offer),
            Message::Trickle(trickle) => self.handle_trickle(now, trickle),
            Message::Update(update) => self.update_participants(&update.participants),
            Message::TrackPublished(published) => {
                let sid = published.track.as_ref().map_or("", |track| track.sid.as_str());
                if self.local.accept(&published.cid, sid) {
                    self.negotiate(now, SectionCount::default());
                }
            }
            Message::TrackUnpublished(unpublished) => {
                if let Some(cid) = self.local.cid_of_sid(&unpublished.track_sid).map(str::to_owned) {
                    self.local.remove(&cid);
                    self.event(Event::TrackFailed { cid, reason: "unpublished by the server".to_owned() });
                    self.negotiate(now, SectionCount::default());
                }
            }
            Message::RequestResponse(answer) => self.handle_refusal(answer),
            Message::MediaSectionsRequirement(wanted) => {
                let wanted = SectionCount { audio: wanted.num_audios, video: wanted.num_videos };
                self.negotiate(now, wanted);
            }
            _ => {}
        }
        self.event(Event::Signal(Box::new(response)));
    }

    pub(super) fn handle_join(&mut self, now: Instant, join: &livekit::JoinResponse) {
        if self.stage != Stage::Joining {
            return;
        }
        self.stage = Stage::Joined;
        self.own.clone_from(&join.participant);
        self.update_participants(&join.other_participants);
        self.subscriber_primary = join.subscriber_primary && self.downstream.is_some();
        let seconds = |value: i32| u64::try_from(value).ok().filter(|value| *value > 0);
        if let (Some(interval), Some(timeout)) = (seconds(join.ping_interval), seconds(join.ping_timeout)) {
            self.ping = Some(Ping {
                interval: Duration::from_secs(interval),
                timeout: Duration::from_secs(timeout),
                next: now + Duration::from_secs(interval),
                last_heard: now,
            });
        }
        self.connect_deadline = Some(now + CONNECT_TIMEOUT);
        self.event(Event::Joined(Box::new(join.clone())));
        if self.config.connections == PeerConnections::Dual && (join.fast_publish || !self.subscriber_primary)
        {
            self.negotiate(now, SectionCount::default());
        }
    }

    pub(super) fn handle_refusal(&mut self, answer: &livekit::RequestResponse) {
        use livekit::request_response::{Reason, Request};
        if matches!(answer.reason(), Reason::Ok | Reason::Queued) {
            return;
        }
        if let Some(Request::AddTrack(request)) = &answer.request
            && self.local.remove(&request.cid).is_some()
        {
            let reason = format!("{}: {}", answer.reason().as_str_name(), answer.message);
            self.event(Event::TrackFailed { cid: request.cid.clone(), reason });
        }
    }

    pub(super) fn update_participants(&mut self, participants: &[livekit::ParticipantInfo]) {
        for participant in participants {
            if self.own.as_ref().is_some_and(|own| own.sid == participant.sid) {
                self.own = Some(participant.clone());
            } else if participant.state() == participant_info::State::Disconnected {
                self.participants.remove(&participant.sid);
            } else if self.participants.len() < PARTICIPANTS_MAX
                || self.participants.contains_key(&participant.sid)
            {
                self.participants.insert(participant.sid.clone(), participant.clone());
            }
        }
    }
}
