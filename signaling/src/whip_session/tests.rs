use axum::response::IntoResponse;
use zynk_protocol::livekit::{DisconnectReason, JoinResponse, RequestResponse, SignalResponse};

use super::*;
use crate::responses::{self, ResponseSender};

const OFFER: &str = "v=0\r\na=ice-ufrag:clnt\r\n";
const ANSWER: &str = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:node\r\na=ice-pwd:pass\r\n";

/// The room's side of a session.
struct Room {
    requests: mpsc::Receiver<Box<SignalRequest>>,
    responses: ResponseSender,
}

fn response(message: signal_response::Message) -> SignalResponse {
    SignalResponse { message: Some(message) }
}

fn session() -> (SessionHandle, Room) {
    let (requests_in, requests) = mpsc::channel(8);
    let (responses, responses_out) = responses::channel(8);
    let first = response(signal_response::Message::Join(JoinResponse::default()));
    let handle = SessionHandle { first, requests: requests_in, responses: responses_out, participant: None };
    (handle, Room { requests, responses })
}

fn answer(id: u32) -> signal_response::Message {
    signal_response::Message::Answer(SessionDescription { sdp: ANSWER.into(), id, ..Default::default() })
}

async fn begin(sessions: &Arc<StreamSessions>, handle: SessionHandle) -> Result<Started, Problem> {
    sessions.begin(RoomName::new("r"), Identity::new("i"), handle, OFFER.into()).await
}

#[tokio::test(start_paused = true)]
async fn what_comes_instead_of_an_answer() {
    let mut left = LeaveRequest::default();
    left.set_reason(DisconnectReason::DuplicateIdentity);
    let mut refused = RequestResponse { message: "no camera".into(), ..Default::default() };
    refused.set_reason(Reason::NotAllowed);
    let mut queued = RequestResponse::default();
    queued.set_reason(Reason::Queued);
    for (message, status) in [
        (signal_response::Message::Leave(left), 409),
        (signal_response::Message::Leave(LeaveRequest::default()), 503),
        (signal_response::Message::RequestResponse(refused), 403),
        // These two are no reason to give up; time is.
        (signal_response::Message::RequestResponse(queued), 503),
        (answer(7), 503),
    ] {
        let sessions = Arc::default();
        let (handle, room) = session();
        room.responses.try_send(Box::new(response(message.clone())), true).unwrap();
        let started = tokio::time::Instant::now();
        let problem = begin(&sessions, handle).await.unwrap_err();
        assert_eq!(problem.into_response().status().as_u16(), status, "{message:?}");
        assert!(started.elapsed() <= ANSWER_TIMEOUT + Duration::from_millis(10));
        assert!(room.responses.is_closed(), "the handle is given up");
    }
}

#[tokio::test]
async fn sessions_go_when_the_room_ends_them() {
    for message in [Some(signal_response::Message::Leave(LeaveRequest::default())), None] {
        let sessions: Arc<StreamSessions> = Arc::default();
        let (handle, room) = session();
        room.responses.try_send(Box::new(response(answer(FIRST_OFFER_ID))), true).unwrap();
        let started = begin(&sessions, handle).await.unwrap();
        assert_eq!(started.etag, "node");
        let found = sessions.find(&started.resource).unwrap();
        if let Some(message) = message {
            room.responses.try_send(Box::new(response(message)), true).unwrap();
            room.responses.closed().await;
        } else {
            drop(room);
        }
        found.commands.closed().await;
        assert!(found.leave().await.is_err());
        while sessions.find(&started.resource).is_some() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_given_up_session_tells_the_room() {
    let sessions: Arc<StreamSessions> = Arc::default();
    let (handle, mut room) = session();
    room.responses.try_send(Box::new(response(answer(FIRST_OFFER_ID))), true).unwrap();
    let started = begin(&sessions, handle).await.unwrap();
    let found = sessions.find(&started.resource).unwrap();
    let leave = tokio::spawn(async move { found.leave().await });
    let request = room.requests.recv().await.unwrap();
    let Some(signal_request::Message::Leave(request)) = request.message else { panic!("{request:?}") };
    assert_eq!(request.reason(), DisconnectReason::ClientInitiated);
    drop(room);
    assert_eq!(leave.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_offer_without_a_common_codec_is_refused() {
    for (sections, is_refused) in [
        ("m=audio 0 UDP/TLS/RTP/SAVPF 9\r\n", true),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 9\r\na=inactive\r\n", true),
        ("m=audio 0 UDP/TLS/RTP/SAVPF 9\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=recvonly\r\n", false),
        ("m=video 9 UDP/TLS/RTP/SAVPF 96\r\nm=audio 0 UDP/TLS/RTP/SAVPF 9\r\na=inactive\r\n", false),
    ] {
        let sessions = Arc::default();
        let (handle, room) = session();
        let sdp = format!("v=0\r\na=ice-ufrag:node\r\na=ice-pwd:pass\r\n{sections}");
        let answer = SessionDescription { sdp, id: FIRST_OFFER_ID, ..Default::default() };
        let answer = response(signal_response::Message::Answer(answer));
        room.responses.try_send(Box::new(answer), true).unwrap();
        let begun = begin(&sessions, handle).await;
        assert_eq!(begun.is_err(), is_refused, "{sections}");
        if let Err(problem) = begun {
            assert_eq!(problem.into_response().status(), StatusCode::UNPROCESSABLE_ENTITY);
            assert!(room.responses.is_closed(), "the participant leaves");
        }
    }
}
