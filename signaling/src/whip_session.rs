//! The sessions that WHIP and WHEP clients hold: in-process clients of a room, named by their resource.
//!
//! ```text
//!   POST ──► Directory::join ──► answer ─┐ 201
//!   PATCH, DELETE ── Command ──► StreamTask ── SignalRequest ──► room
//!                                StreamTask ◄─ SignalResponse ── room
//! ```
//!
//! A task keeps each session: it obeys the commands one after the other and ends when the room ends the
//! session, or the client deletes it. The room ends it when its transport fails.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::debug;
use zynk_protocol::{
    Identity, RoomName,
    livekit::{
        self, LeaveRequest, SessionDescription, SignalRequest, SignalTarget, TrickleRequest,
        request_response::Reason, signal_request, signal_response,
    },
    random_suffix,
};

use crate::{
    directory::{Directory, SessionHandle},
    join::JoinParams,
    packed_text::PackedText,
    responses::ResponseReceiver,
    sdp_fragment::{SdpFragment, ice_ufrag, restart_offer},
    whip_problem::Problem,
};

/// How long the media node may take to answer an offer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a deleted session may take to leave its room.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Commands that wait for a session. When full, the HTTP request waits.
const COMMANDS_MAX: usize = 4;

/// The number of a session's first offer.
pub(crate) const FIRST_OFFER_ID: u32 = 1;

/// Every session that is open, by resource. As many as the directory lets join.
#[derive(Debug, Default)]
pub(crate) struct StreamSessions {
    sessions: Mutex<HashMap<String, StreamSession>>,
}

/// What is known of a session from outside its task.
#[derive(Clone, Debug)]
pub(crate) struct StreamSession {
    pub(crate) room: RoomName,
    pub(crate) identity: Identity,
    /// Boxed: a channel has room for 32 messages from the beginning.
    commands: mpsc::Sender<Box<Command>>,
}

/// A session that has begun.
#[derive(Debug)]
pub(crate) struct Started {
    /// The last part of the resource's path. Unguessable: 140 random bits.
    pub(crate) resource: String,
    /// The SDP answer.
    pub(crate) answer: String,
    /// Names the ICE session.
    pub(crate) etag: String,
    /// STUN and TURN servers for the client.
    pub(crate) ice_servers: Vec<livekit::IceServer>,
}

/// What became of a PATCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Patched {
    /// The candidates were handed on.
    Trickled,
    /// The ICE session is a new one.
    Restarted {
        /// Its name.
        etag: String,
        /// Its credentials and candidates.
        fragment: String,
    },
}

/// The condition that a PATCH is made under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// `*`: whatever the ICE session is.
    Any,
    /// The ICE session must be one of these.
    Tags(Vec<String>),
}

#[derive(Debug)]
enum Command {
    Patch { condition: IfMatch, fragment: SdpFragment, reply: oneshot::Sender<Result<Patched, Problem>> },
    Leave { reply: oneshot::Sender<()> },
}

impl StreamSessions {
    /// Joins with the offer in `params`, and waits for the answer to it.
    pub(crate) async fn start(
        self: &Arc<Self>,
        directory: &Directory,
        params: JoinParams,
        offer: String,
    ) -> Result<Started, Problem> {
        let (room, identity) = (params.room.clone(), params.identity.clone());
        let handle = directory.join(params).await?;
        self.begin(room, identity, handle, offer).await
    }

    async fn begin(
        self: &Arc<Self>,
        room: RoomName,
        identity: Identity,
        mut handle: SessionHandle,
        offer: String,
    ) -> Result<Started, Problem> {
        let ice_servers = match handle.first.message.take() {
            Some(signal_response::Message::Join(join)) => join.ice_servers,
            _ => return Err(Problem::unavailable("join_failed", "the room did not admit the session")),
        };
        // Should this fail or be given up, the handle is dropped and the participant leaves.
        let answer = await_answer(&mut handle.responses, FIRST_OFFER_ID).await?;
        let etag = etag_of(&answer)?;
        if !has_media(&answer) {
            let detail = "no audio or video section of the offer has a codec that this server speaks";
            return Err(Problem::unprocessable("no_common_codec", detail));
        }
        let resource = format!("{}{}", random_suffix(rand::random()), random_suffix(rand::random()));
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let session = StreamSession { room, identity, commands };
        self.lock().insert(resource.clone(), session);
        let task = StreamTask {
            requests: handle.requests,
            responses: handle.responses,
            commands: receiver,
            client_ufrag: ice_ufrag(&offer).map(str::to_owned),
            offer: PackedText::new(&offer),
            offer_id: FIRST_OFFER_ID,
            etag: etag.clone(),
        };
        let entry = Entry { sessions: Arc::clone(self), resource: resource.clone() };
        tokio::spawn(async move {
            // Dropped however the task ends.
            let _entry = entry;
            task.run().await;
        });
        Ok(Started { resource, answer, etag, ice_servers })
    }

    pub(crate) fn find(&self, resource: &str) -> Option<StreamSession> {
        self.lock().get(resource).cloned()
    }

    /// The map is consistent after every statement, so that a poisoned lock does no harm.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, StreamSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in the table, given back on drop.
struct Entry {
    sessions: Arc<StreamSessions>,
    resource: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.resource);
    }
}

impl StreamSession {
    /// Candidates, or an ICE restart.
    pub(crate) async fn patch(&self, condition: IfMatch, fragment: SdpFragment) -> Result<Patched, Problem> {
        let (reply, result) = oneshot::channel();
        let command = Command::Patch { condition, fragment, reply };
        self.commands.send(Box::new(command)).await.map_err(|_| Problem::no_session())?;
        result.await.unwrap_or_else(|_| Err(Problem::no_session()))
    }

    /// Ends the session; it has left the room when this returns.
    pub(crate) async fn leave(&self) -> Result<(), Problem> {
        let (reply, done) = oneshot::channel();
        self.commands.send(Box::new(Command::Leave { reply })).await.map_err(|_| Problem::no_session())?;
        // The reply is lost when the room ends the session at the same moment: it has left, too.
        let _ = done.await;
        Ok(())
    }
}

/// Holds one session.
struct StreamTask {
    requests: mpsc::Sender<Box<SignalRequest>>,
    responses: ResponseReceiver,
    commands: mpsc::Receiver<Box<Command>>,
    /// The client's description, with the credentials of its present ICE session; needed if it restarts that.
    offer: PackedText,
    client_ufrag: Option<String>,
    offer_id: u32,
    etag: String,
}

impl StreamTask {
    async fn run(mut self) {
        loop {
            tokio::select! {
                response = self.responses.recv() => match response.map(|response| response.message) {
                    None | Some(Some(signal_response::Message::Leave(_))) => {
                        debug!("the room ended a WHIP or WHEP session");
                        return;
                    }
                    // Everything else is for clients that hold a conversation.
                    Some(_) => {}
                },
                command = self.commands.recv() => match command.map(|command| *command) {
                    None => return,
                    Some(Command::Patch { condition, fragment, reply }) => {
                        // Boxed, as below: the task has room for what it waits for, all its life.
                        let result = Box::pin(self.patch(&condition, &fragment)).await;
                        // The HTTP client may have gone.
                        let _ = reply.send(result);
                    }
                    Some(Command::Leave { reply }) => {
                        Box::pin(self.leave()).await;
                        let _ = reply.send(());
                        return;
                    }
                },
            }
        }
    }

    async fn patch(&mut self, condition: &IfMatch, fragment: &SdpFragment) -> Result<Patched, Problem> {
        let is_new_session = fragment.ufrag.is_some() && fragment.ufrag != self.client_ufrag;
        match condition {
            IfMatch::Any if is_new_session => self.restart(fragment).await,
            IfMatch::Any => self.trickle(fragment).await,
            IfMatch::Tags(tags) if !tags.contains(&self.etag) => Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "etag_mismatch",
                "If-Match names another ICE session than the present one",
            )),
            IfMatch::Tags(_) if is_new_session => Err(Problem::bad_request(
                "ice_credentials_mismatch",
                "the fragment is about another ICE session; a restart is asked for with If-Match: *",
            )),
            IfMatch::Tags(_) => self.trickle(fragment).await,
        }
    }

    async fn trickle(&mut self, fragment: &SdpFragment) -> Result<Patched, Problem> {
        for candidate in &fragment.candidates {
            let init = serde_json::json!({
                "candidate": candidate.candidate,
                "sdpMid": candidate.mid.clone().unwrap_or_else(|| candidate.section.to_string()),
                "sdpMLineIndex": candidate.section,
            });
            let trickle = TrickleRequest {
                candidate_init: init.to_string(),
                target: SignalTarget::Publisher.into(),
                r#final: false,
            };
            self.request(signal_request::Message::Trickle(trickle)).await?;
        }
        Ok(Patched::Trickled)
    }

    async fn restart(&mut self, fragment: &SdpFragment) -> Result<Patched, Problem> {
        let offer = restart_offer(&self.offer.unpack(), fragment).ok_or_else(|| {
            Problem::bad_request("ice_credentials_missing", "an ICE restart needs a=ice-ufrag and a=ice-pwd")
        })?;
        self.offer_id = self.offer_id.wrapping_add(1).max(1);
        let description = SessionDescription {
            r#type: "offer".into(),
            sdp: offer.clone(),
            id: self.offer_id,
            ..Default::default()
        };
        self.request(signal_request::Message::Offer(description)).await?;
        let answer = await_answer(&mut self.responses, self.offer_id).await?;
        let etag = etag_of(&answer)?;
        let fragment_text = SdpFragment::describing(&answer).ok_or_else(incomplete_answer)?;
        self.offer = PackedText::new(&offer);
        self.client_ufrag.clone_from(&fragment.ufrag);
        self.etag.clone_from(&etag);
        Ok(Patched::Restarted { etag, fragment: fragment_text })
    }

    async fn leave(&mut self) {
        let mut leave = LeaveRequest::default();
        leave.set_reason(livekit::DisconnectReason::ClientInitiated);
        if self.request(signal_request::Message::Leave(leave)).await.is_err() {
            return;
        }
        let ended = async { while self.responses.recv().await.is_some() {} };
        // Should the room be slow, it notices the dropped handle.
        let _ = timeout(LEAVE_TIMEOUT, ended).await;
    }

    async fn request(&self, message: signal_request::Message) -> Result<(), Problem> {
        let request = SignalRequest { message: Some(message) };
        self.requests.send(Box::new(request)).await.map_err(|_| Problem::no_session())
    }
}

/// Waits for the answer to offer `id`. What the room refuses before it is the reason why none comes.
async fn await_answer(responses: &mut ResponseReceiver, id: u32) -> Result<String, Problem> {
    let wait = async {
        while let Some(response) = responses.recv().await {
            match response.message {
                Some(signal_response::Message::Answer(answer)) if answer.id == id => return Ok(answer.sdp),
                Some(signal_response::Message::RequestResponse(refusal)) => match refusal.reason() {
                    Reason::Ok | Reason::Queued => {}
                    Reason::NotAllowed => return Err(Problem::forbidden("not_allowed", refusal.message)),
                    _ => return Err(Problem::bad_request("sdp_refused", refusal.message)),
                },
                Some(signal_response::Message::Leave(leave)) => return Err(left_before_answer(&leave)),
                _ => {}
            }
        }
        Err(Problem::unavailable("session_ended", "the room ended the session before it answered the offer"))
    };
    timeout(ANSWER_TIMEOUT, wait).await.unwrap_or_else(|_| {
        Err(Problem::unavailable("answer_timeout", "the media node did not answer the offer in time"))
    })
}

fn left_before_answer(leave: &LeaveRequest) -> Problem {
    match leave.reason() {
        livekit::DisconnectReason::StateMismatch => {
            Problem::bad_request("sdp_refused", "the media node refused the offer")
        }
        livekit::DisconnectReason::DuplicateIdentity => Problem::new(
            StatusCode::CONFLICT,
            "duplicate_identity",
            "another session with the same identity has taken this one's place",
        ),
        reason => Problem::unavailable(
            "session_ended",
            format!("the room ended the session before it answered the offer: {}", reason.as_str_name()),
        ),
    }
}

/// Whether a section of audio or video was accepted: a port of 0 refuses it (RFC 8829, section 5.3.1).
fn has_media(answer: &str) -> bool {
    let mut accepted = false;
    let mut any = false;
    for line in answer.lines() {
        if let Some(rest) = line.strip_prefix("m=") {
            let mut parts = rest.split(' ');
            let is_media = matches!(parts.next(), Some("audio" | "video"));
            let is_open = is_media && parts.next() != Some("0");
            any |= accepted;
            accepted = is_open;
        } else if line.trim_end() == "a=inactive" {
            accepted = false;
        }
    }
    any || accepted
}

fn etag_of(answer: &str) -> Result<String, Problem> {
    ice_ufrag(answer).map(str::to_owned).ok_or_else(incomplete_answer)
}

fn incomplete_answer() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "answer_incomplete",
        "the media node's answer lacks ICE credentials",
    )
}

#[cfg(test)]
mod tests;
