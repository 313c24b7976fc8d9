//! Requests of the commands to a running server.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zynk_auth::{Claims, VideoGrants};

use crate::cli::ServerAddress;
use crate::token;

/// How long the server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Life of the token that goes with one request.
const TOKEN_TTL: Duration = Duration::from_secs(60);

/// A client for the requests of one command.
pub(crate) fn client() -> Result<Client> {
    Ok(Client::builder().timeout(REQUEST_TIMEOUT).build()?)
}

/// Calls a method of the room service.
pub(crate) async fn call_room_service(
    server: &ServerAddress,
    method: &str,
    grants: VideoGrants,
    body: &Value,
) -> Result<Value> {
    let base = base(&server.url);
    let url = format!("{}/twirp/livekit.RoomService/{method}", base.as_str().trim_end_matches('/'));
    send_for_json(server, client()?.post(url).json(body), grants).await
}

/// Where a resource of `/api/v1` is. The segments are escaped where they need it.
pub(crate) fn resource(server: &ServerAddress, segments: &[&str]) -> Result<Url> {
    let mut url = base(&server.url);
    let mut path = url.path_segments_mut().map_err(|()| anyhow!("the URL has no path"))?;
    path.pop_if_empty().extend(["api", "v1"]).extend(segments);
    drop(path);
    Ok(url)
}

/// Sends a request with a token for it, and reads the JSON that comes back.
pub(crate) async fn send_for_json(
    server: &ServerAddress,
    request: RequestBuilder,
    grants: VideoGrants,
) -> Result<Value> {
    let text = send(server, request, grants).await?;
    serde_json::from_str(&text).context("the server's answer is no JSON")
}

/// Sends a request with a token for it, and returns the body of a successful answer.
pub(crate) async fn send(
    server: &ServerAddress,
    request: RequestBuilder,
    grants: VideoGrants,
) -> Result<String> {
    let claims = Claims { video: grants, ..Claims::default() };
    let token = token::key_ring(&server.key)?.sign(&claims, TOKEN_TTL, SystemTime::now())?;
    let response = request
        .bearer_auth(token)
        .send()
        .await
        .with_context(|| format!("{} cannot be reached", server.url))?;
    let status = response.status();
    let text = response.text().await.context("the server's answer was cut off")?;
    if status.is_success() {
        return Ok(text);
    }
    let reason = match serde_json::from_str::<Refusal>(&text) {
        Ok(Refusal { code, msg }) => format!("{code}: {msg}"),
        Err(_) => text,
    };
    Err(anyhow!("the server answered {}: {reason}", status.as_u16()))
}

/// Reads what the server has answered as what it should be.
pub(crate) fn read<T: DeserializeOwned>(reply: Value) -> Result<T> {
    serde_json::from_value(reply).context("the server's answer cannot be read")
}

/// Where the server's HTTP is. SDKs take `ws:` and `wss:` URLs, so that people have those at hand.
pub(crate) fn base(url: &Url) -> Url {
    let is_websocket = matches!(url.scheme(), "ws" | "wss");
    let http = is_websocket.then(|| url.as_str().replacen("ws", "http", 1).parse().ok()).flatten();
    http.unwrap_or_else(|| url.clone())
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    msg: String,
}
