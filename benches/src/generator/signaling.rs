//! How participants reach a server: WHIP and WHEP here, anything else that implements [`Signaling`]. It waits for
//! answers, so it has a thread of its own.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use zynk_auth::{Claims, KeyRing, VideoGrants};

use super::http;

/// How long a token is good for: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(6 * 3600);

/// A server's signaling.
pub trait Signaling: Send {
    /// Whether the server offers what can be received, and not the client what it would receive.
    fn server_offers(&self) -> bool {
        false
    }

    /// Publishes; returns the answer to `offer`.
    ///
    /// # Errors
    /// When the server refuses.
    fn publish(&mut self, room: &str, name: &str, offer: &str) -> Result<String>;

    /// Receives. With an offer it returns the server's answer; without one, the server's offer.
    ///
    /// # Errors
    /// When the server refuses.
    fn play(&mut self, room: &str, name: &str, offer: Option<&str>) -> Result<String>;

    /// Answers the server's offer.
    ///
    /// # Errors
    /// When the server refuses.
    fn answer(&mut self, _room: &str, _name: &str, _answer: &str) -> Result<()> {
        bail!("the server did not offer")
    }

    /// Ends all sessions.
    ///
    /// # Errors
    /// When the server refuses.
    fn leave(&mut self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) enum Request {
    Publish { room: String, name: String, offer: String },
    Play { room: String, name: String, offer: Option<String> },
    Answer { room: String, name: String, answer: String },
    Leave,
}

/// The thread that waits for answers. It ends when this is dropped.
pub(super) struct Requests {
    requests: Option<Sender<Request>>,
    answers: Receiver<Result<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Requests {
    pub(super) fn start(mut signaling: Box<dyn Signaling>) -> Result<Self> {
        let (requests, inbox) = channel::<Request>();
        let (outbox, answers) = channel();
        let run = move || {
            for request in inbox {
                let answer = match request {
                    Request::Publish { room, name, offer } => signaling.publish(&room, &name, &offer),
                    Request::Play { room, name, offer } => signaling.play(&room, &name, offer.as_deref()),
                    Request::Answer { room, name, answer } => {
                        signaling.answer(&room, &name, &answer).map(|()| String::new())
                    }
                    Request::Leave => signaling.leave().map(|()| String::new()),
                };
                if outbox.send(answer).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("signaling".into()).spawn(run)?;
        Ok(Self { requests: Some(requests), answers, thread: Some(thread) })
    }

    pub(super) fn send(&self, request: Request) -> Result<()> {
        let requests = self.requests.as_ref().context("the signaling thread has ended")?;
        requests.send(request).ok().context("the signaling thread has ended")
    }

    /// The answer, if it has come.
    pub(super) fn poll(&self) -> Option<Result<String>> {
        use std::sync::mpsc::TryRecvError;
        match self.answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(anyhow::anyhow!("the signaling thread has ended"))),
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// Made for each participant, with the key of `zynk dev`.
    Development,
    /// The same for all, or none.
    Fixed(Option<String>),
}

/// WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep, the client offers).
#[derive(Clone, Debug)]
pub struct Whip {
    /// Where to publish; `{room}` and `{name}` are replaced.
    pub publish_url: String,
    /// Where to play; as above.
    pub play_url: String,
    /// The bearer tokens.
    pub tokens: Tokens,
    /// The sessions' resources, with their tokens.
    sessions: Vec<(String, Option<String>)>,
}

impl Whip {
    /// A server by its URLs.
    pub fn new(publish_url: &str, play_url: &str, tokens: Tokens) -> Self {
        let (publish_url, play_url) = (publish_url.to_owned(), play_url.to_owned());
        Self { publish_url, play_url, tokens, sessions: Vec::new() }
    }

    /// Our own server, by its base URL.
    pub fn zynk(base: &str) -> Self {
        Self::new(&format!("{base}/whip/{{room}}"), &format!("{base}/whep/{{room}}"), Tokens::Development)
    }

    fn post(&mut self, url: &str, room: &str, name: &str, offer: &str) -> Result<String> {
        let url = url.replace("{room}", room).replace("{name}", name);
        let token = match &self.tokens {
            Tokens::Development => Some(token(room, name)?),
            Tokens::Fixed(token) => token.clone(),
        };
        let bearer = token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers = vec![("Content-Type", "application/sdp")];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        let answer = http::request("POST", &url, &headers, offer)?;
        ensure!(
            answer.status == 201,
            "POST {url} was answered with {}: {}",
            answer.status,
            answer.body.trim()
        );
        if let Some(location) = answer.location {
            self.sessions.push((absolute(&url, &location), token));
        }
        Ok(answer.body)
    }
}

impl Signaling for Whip {
    fn publish(&mut self, room: &str, name: &str, offer: &str) -> Result<String> {
        self.post(&self.publish_url.clone(), room, name, offer)
    }

    fn play(&mut self, room: &str, name: &str, offer: Option<&str>) -> Result<String> {
        self.post(&self.play_url.clone(), room, name, offer.context("WHEP wants an offer")?)
    }

    fn leave(&mut self) -> Result<()> {
        for (url, token) in self.sessions.drain(..) {
            let bearer = token.map(|token| format!("Bearer {token}"));
            let headers: Vec<_> =
                bearer.as_deref().map(|bearer| ("Authorization", bearer)).into_iter().collect();
            http::request("DELETE", &url, &headers, "")?;
        }
        Ok(())
    }
}

/// A header `Location`, against the URL that was asked.
fn absolute(url: &str, location: &str) -> String {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.to_owned();
    }
    let origin = url.match_indices('/').nth(2).map_or(url, |(at, _)| url.get(..at).unwrap_or(url));
    match location.starts_with('/') {
        true => format!("{origin}{location}"),
        false => format!("{}/{location}", url.rsplit_once('/').map_or(url, |(folder, _)| folder)),
    }
}

/// A token of the development key.
fn token(room: &str, name: &str) -> Result<String> {
    let mut claims = Claims::for_identity(name);
    claims.video = VideoGrants::join(room);
    Ok(KeyRing::single("devkey", "secret").sign(&claims, TOKEN_LIFE, SystemTime::now())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let url = "http://127.0.0.1:7880/whip/room";
        assert_eq!(absolute(url, "/whip/v1/x"), "http://127.0.0.1:7880/whip/v1/x");
        assert_eq!(absolute(url, "x"), "http://127.0.0.1:7880/whip/x");
        assert_eq!(absolute(url, "http://127.0.0.1:1/x"), "http://127.0.0.1:1/x");
    }
}
