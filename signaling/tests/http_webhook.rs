//! Webhooks as their receivers see them, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::sync::mpsc;
use zynk_auth::KeyRing;
use zynk_protocol::livekit;
use zynk_signaling::{WebhookConfig, WebhookDispatcher, WebhookSender};

const DEADLINE: Duration = Duration::from_secs(10);

/// A receiver that answers with the statuses of its script, then with 200.
#[derive(Clone)]
struct Receiver {
    script: Arc<Mutex<Vec<u16>>>,
    seen: mpsc::UnboundedSender<(HeaderMap, Bytes)>,
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    receiver.seen.send((headers, body)).unwrap();
    let status = {
        let mut script = receiver.script.lock().unwrap();
        if script.is_empty() { 200 } else { script.remove(0) }
    };
    let status = StatusCode::from_u16(status).unwrap();
    let location = HeaderValue::from_static("/elsewhere");
    if status.is_redirection() {
        (status, [(header::LOCATION, location)]).into_response()
    } else {
        status.into_response()
    }
}

async fn receiver(script: &[u16]) -> (String, mpsc::UnboundedReceiver<(HeaderMap, Bytes)>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let state = Receiver { script: Arc::new(Mutex::new(script.to_vec())), seen };
    let app =
        Router::new().route("/hook", post(receive)).route("/elsewhere", post(receive)).with_state(state);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}/hook"), requests)
}

fn keys() -> Arc<KeyRing> {
    Arc::new(KeyRing::single("key", "a secret of sufficient length"))
}

fn config(urls: &[&str]) -> WebhookConfig {
    WebhookConfig {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        retry_delay_ms_min: 1,
        retry_delay_ms_max: 5,
        request_timeout_ms: 5_000,
        ..Default::default()
    }
}

fn dispatch(config: &WebhookConfig) -> (WebhookSender, tokio::task::JoinHandle<()>) {
    let (sender, dispatcher) = WebhookDispatcher::new(config, keys()).unwrap();
    (sender, tokio::spawn(dispatcher.run()))
}

fn event(id: &str, room: &str) -> livekit::WebhookEvent {
    livekit::WebhookEvent {
        event: "room_started".into(),
        id: id.into(),
        created_at: 1_700_000_000,
        room: Some(livekit::Room {
            sid: "RM_x".into(),
            name: room.into(),
            num_participants: 2,
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn next(requests: &mut mpsc::UnboundedReceiver<(HeaderMap, Bytes)>) -> (HeaderMap, Bytes) {
    tokio::time::timeout(DEADLINE, requests.recv()).await.expect("a webhook").unwrap()
}

/// The rest of what was received, once the dispatcher has ended.
async fn all_ids(
    sender: WebhookSender,
    dispatcher: tokio::task::JoinHandle<()>,
    requests: &mut mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
) -> Vec<String> {
    drop(sender);
    tokio::time::timeout(DEADLINE, dispatcher).await.expect("the dispatcher ends").unwrap();
    let mut ids = Vec::new();
    while let Ok((_, body)) = requests.try_recv() {
        let event: livekit::WebhookEvent = serde_json::from_slice(&body).unwrap();
        ids.push(event.id);
    }
    ids
}

#[tokio::test]
async fn webhooks_are_signed_as_livekit_signs() {
    let (url, mut requests) = receiver(&[]).await;
    let (sender, _dispatcher) = dispatch(&config(&[&url]));
    sender.send(event("EV_1", "studio")).await.unwrap();
    let (headers, body) = next(&mut requests).await;
    assert_eq!(headers["content-type"], "application/webhook+json");
    let token = headers["authorization"].to_str().unwrap();
    assert!(!token.contains(' '), "no scheme before the token");
    let claims = keys().verify_webhook(token, &body, SystemTime::now()).unwrap();
    assert_eq!(claims.issuer, "key");
    assert!(claims.remaining_life(SystemTime::now()) <= Duration::from_secs(300));
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "event": "room_started", "id": "EV_1", "createdAt": "1700000000",
            "room": {"sid": "RM_x", "name": "studio", "numParticipants": 2},
        })
    );
}

#[tokio::test]
async fn refusals_that_may_pass_are_repeated_in_order() {
    let (url, mut requests) = receiver(&[500, 503, 429]).await;
    let (sender, dispatcher) = dispatch(&config(&[&url]));
    for id in ["EV_1", "EV_2", "EV_3"] {
        sender.send(event(id, "studio")).await.unwrap();
    }
    assert_eq!(
        all_ids(sender, dispatcher, &mut requests).await,
        ["EV_1", "EV_1", "EV_1", "EV_1", "EV_2", "EV_3"]
    );
}

#[tokio::test]
async fn other_refusals_and_redirects_are_final() {
    let (url, mut requests) = receiver(&[400, 302]).await;
    let (sender, dispatcher) = dispatch(&config(&[&url]));
    for id in ["EV_1", "EV_2", "EV_3"] {
        sender.send(event(id, "studio")).await.unwrap();
    }
    assert_eq!(all_ids(sender, dispatcher, &mut requests).await, ["EV_1", "EV_2", "EV_3"]);
}

#[tokio::test]
async fn repetitions_end() {
    let (url, mut requests) = receiver(&[500; 5]).await;
    let (sender, dispatcher) = dispatch(&config(&[&url]));
    for id in ["EV_1", "EV_2"] {
        sender.send(event(id, "studio")).await.unwrap();
    }
    let mut expected = vec!["EV_1"; 5];
    expected.push("EV_2");
    assert_eq!(all_ids(sender, dispatcher, &mut requests).await, expected);
}

#[tokio::test]
async fn a_dead_receiver_does_not_hold_up_another() {
    let (url, mut requests) = receiver(&[]).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let (sender, dispatcher) = dispatch(&WebhookConfig { retries_max: 2, ..config(&[&dead, &url]) });
    for id in ["EV_1", "EV_2"] {
        sender.send(event(id, "studio")).await.unwrap();
    }
    assert_eq!(all_ids(sender, dispatcher, &mut requests).await, ["EV_1", "EV_2"]);
}

#[tokio::test]
async fn a_full_queue_drops_and_tells_how_many() {
    // The first request fails long enough for the queue of 100 to fill behind it.
    let (url, mut requests) = receiver(&[500]).await;
    let patient = WebhookConfig { retry_delay_ms_min: 500, retry_delay_ms_max: 500, ..config(&[&url]) };
    let (sender, dispatcher) = dispatch(&patient);
    sender.send(event("EV_first", "studio")).await.unwrap();
    next(&mut requests).await;
    for number in 0..150 {
        sender.send(event(&format!("EV_{number}"), "studio")).await.unwrap();
    }
    assert_eq!(
        serde_json::from_slice::<livekit::WebhookEvent>(&next(&mut requests).await.1).unwrap().id,
        "EV_first"
    );
    let (_, body) = next(&mut requests).await;
    let first_waiting: livekit::WebhookEvent = serde_json::from_slice(&body).unwrap();
    assert_eq!(first_waiting.id, "EV_0");
    sender.send(event("EV_last", "studio")).await.unwrap();
    drop(sender);
    tokio::time::timeout(DEADLINE, dispatcher).await.unwrap().unwrap();
    let mut last = None;
    let mut count = 0;
    while let Ok((_, body)) = requests.try_recv() {
        last = Some(body);
        count += 1;
    }
    let json: serde_json::Value = serde_json::from_slice(&last.unwrap()).unwrap();
    assert_eq!((json["id"].as_str(), json["numDropped"].as_i64()), (Some("EV_last"), Some(50)));
    assert_eq!(count, 100, "99 that waited, and the last");
}
