//! Failures that a client asks for, to see what it makes of them (`SimulateScenario`).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::simulate_scenario::Scenario;
use zynk_protocol::livekit::{
    self, CandidateProtocol, ClientConfigSetting, DisconnectReason, signal_response,
};
use zynk_protocol::{CandidatePolicy, Identity, ParticipantSid};

use super::{Room, RoomOutput, SessionId};
use crate::join::{JoinError, JoinParams};

/// How long a client may take until the resume that is to fail.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

/// Resumes that fail before any message.
const RESUMES_REFUSED: u8 = 3;

/// Speech ends after at most so many seconds, as what is asked for.
const SPEECH_S_MAX: u64 = 60;

/// Identities whose transport is remembered; those that come later keep all of theirs.
const TRANSPORTS_MAX: usize = 1_000;

/// How a speaker looks while it rehearses.
const SPEECH_LEVEL: f32 = 0.9;

/// A transport that a client is kept to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    /// Through a TURN server over TLS.
    Relay,
}

/// What the room keeps of rehearsals.
#[derive(Debug, Default)]
pub(super) struct Rehearsals {
    /// Transports that clients asked to be kept to, at most [`TRANSPORTS_MAX`]: they join again to use them.
    transports: HashMap<Identity, Transport>,
    /// Until when somebody seems to speak; bounded by the participants.
    speeches: BTreeMap<ParticipantSid, Instant>,
}

impl Rehearsals {
    /// When the next one ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.speeches.values().min().copied()
    }

    /// Somebody is gone.
    pub(super) fn forget(&mut self, sid: &ParticipantSid) {
        self.speeches.remove(sid);
    }
}

/// What becomes of a participant's next resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResumeFailure {
    /// The session ends before its first message, so many times.
    Refused(u8),
    /// The session ends after all messages of the resume.
    Dropped,
}

/// How a participant's next resume fails, and until when it has to come for that.
#[derive(Debug, Default)]
pub(super) struct RehearsedResume(Option<(ResumeFailure, Instant)>);

impl Room {
    /// What asks for no failure that this server can have is ignored, as LiveKit ignores it.
    pub(super) fn handle_simulate(&mut self, sid: &ParticipantSid, scenario: livekit::SimulateScenario) {
        match scenario.scenario {
            Some(Scenario::SpeakerUpdate(seconds)) => self.rehearse_speech(sid, seconds),
            Some(Scenario::NodeFailure(true) | Scenario::Migration(true)) => {
                self.remove_participant(sid, DisconnectReason::StateMismatch, None);
            }
            Some(Scenario::ServerLeave(true)) => {
                self.remove_participant(sid, DisconnectReason::ServerShutdown, Some(Action::Disconnect));
            }
            Some(Scenario::LeaveRequestFullReconnect(true)) => {
                self.remove_participant(sid, DisconnectReason::StateMismatch, Some(Action::Reconnect));
            }
            Some(Scenario::DisconnectSignalOnResume(true)) => {
                self.fail_resume(sid, ResumeFailure::Dropped);
            }
            Some(Scenario::DisconnectSignalOnResumeNoMessages(true)) => {
                self.fail_resume(sid, ResumeFailure::Refused(RESUMES_REFUSED));
            }
            Some(Scenario::SwitchCandidateProtocol(protocol)) => {
                if let Ok(protocol) = CandidateProtocol::try_from(protocol) {
                    self.switch_transport(sid, protocol);
                }
            }
            _ => {}
        }
    }

    fn rehearse_speech(&mut self, sid: &ParticipantSid, seconds: i32) {
        let seconds = u64::try_from(seconds).unwrap_or(0).min(SPEECH_S_MAX);
        self.rehearsals.speeches.insert(sid.clone(), self.now + Duration::from_secs(seconds));
        self.tell_speech(sid, true);
    }

    fn tell_speech(&mut self, sid: &ParticipantSid, active: bool) {
        let level = if active { SPEECH_LEVEL } else { 0.0 };
        let speaker = livekit::SpeakerInfo { sid: sid.as_str().to_owned(), level, active };
        let changed = livekit::SpeakersChanged { speakers: vec![speaker] };
        let everybody: Vec<ParticipantSid> = self.participants.keys().cloned().collect();
        for receiver in everybody {
            self.tell(&receiver, signal_response::Message::SpeakersChanged(changed.clone()));
        }
    }

    /// Ends speech whose time is over.
    pub(super) fn expire_rehearsals(&mut self) {
        let now = self.now;
        let over: Vec<ParticipantSid> =
            self.rehearsals.speeches.extract_if(.., |_, until| *until <= now).map(|(sid, _)| sid).collect();
        for sid in over {
            self.tell_speech(&sid, false);
        }
    }

    fn fail_resume(&mut self, sid: &ParticipantSid, failure: ResumeFailure) {
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.rehearsed_resume.0 = Some((failure, self.now + RESUME_WITHIN));
        }
    }

    /// Whether the resume of a participant ends here, before any message.
    pub(super) fn refuses_rehearsed_resume(&mut self, sid: &ParticipantSid, session: SessionId) -> bool {
        let Some(participant) = self.participants.get_mut(sid) else { return false };
        let Some((ResumeFailure::Refused(left), until)) = participant.rehearsed_resume.0 else {
            return false;
        };
        let left = left.saturating_sub(1);
        // Only the first has to come in time: clients wait between the others.
        let is_late = left + 1 == RESUMES_REFUSED && until < self.now;
        participant.rehearsed_resume.0 =
            (left > 0 && !is_late).then_some((ResumeFailure::Refused(left), until));
        if !is_late {
            let error = JoinError::Unavailable("a rehearsed failure");
            self.outputs.push_back(RoomOutput::JoinRefused { session, error });
        }
        !is_late
    }

    /// Ends the session of a participant that has been told all of its resume, if that was asked for.
    pub(super) fn drop_rehearsed_resume(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let Some((ResumeFailure::Dropped, until)) = participant.rehearsed_resume.0 else { return };
        participant.rehearsed_resume.0 = None;
        if until >= self.now
            && let Some(session) = participant.session.take()
        {
            self.sessions.remove(&session);
            self.outputs.push_back(RoomOutput::CloseSession { session });
        }
    }

    /// Keeps an identity to a transport from its next join on, which its client is told to make now.
    fn switch_transport(&mut self, sid: &ParticipantSid, protocol: CandidateProtocol) {
        let Some(participant) = self.participants.get(sid) else { return };
        let identity = participant.identity.clone();
        let urls = self.settings.config.ice_servers.iter().flat_map(|server| &server.urls);
        let has_relay =
            self.settings.relays.has_tls() || urls.into_iter().any(|url| url.starts_with("turns:"));
        let transport = match protocol {
            CandidateProtocol::Udp => None,
            CandidateProtocol::Tls if has_relay => Some(Transport::Relay),
            CandidateProtocol::Tcp | CandidateProtocol::Tls => Some(Transport::Tcp),
        };
        let kept = &mut self.rehearsals.transports;
        match transport {
            Some(transport) if kept.len() < TRANSPORTS_MAX || kept.contains_key(&identity) => {
                kept.insert(identity, transport);
            }
            _ => drop(kept.remove(&identity)),
        }
        self.remove_participant(sid, DisconnectReason::StateMismatch, Some(Action::Reconnect));
    }

    /// Keeps somebody who joins to the transport that it asked for before.
    pub(super) fn keep_to_transport(&self, params: &mut JoinParams) {
        if self.rehearsals.transports.get(&params.identity) == Some(&Transport::Tcp) {
            params.candidates = CandidatePolicy::TcpOnly;
        }
    }

    /// Whether a client is to use a relay alone.
    pub(super) fn relay_setting(&self, identity: &Identity) -> ClientConfigSetting {
        match self.rehearsals.transports.get(identity) {
            Some(Transport::Relay) => ClientConfigSetting::Enabled,
            _ => ClientConfigSetting::Unset,
        }
    }
}
