//! `zynk room`: the rooms of a running server, through its server API.

mod stats;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};
use zynk_auth::{Claims, VideoGrants};

use crate::cli::{RoomCommand, ServerAddress};
use crate::token;

/// How long the server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Life of the token that goes with one request.
const TOKEN_TTL: Duration = Duration::from_secs(60);

/// What the command prints.
pub(crate) async fn execute(command: &RoomCommand) -> Result<String> {
    match command {
        RoomCommand::List { json, server } => {
            let grants = VideoGrants { room_list: true, ..VideoGrants::default() };
            let reply = call(server, "ListRooms", grants, &json!({})).await?;
            if *json {
                return Ok(format!("{reply}\n"));
            }
            Ok(table(serde_json::from_value(reply).context("the server's answer cannot be read")?))
        }
        RoomCommand::Delete { names, server } => {
            let mut output = String::new();
            for name in names {
                let grants = VideoGrants { room_create: true, ..VideoGrants::default() };
                call(server, "DeleteRoom", grants, &json!({ "room": name })).await.context(name.clone())?;
                output.push_str(&format!("deleted {name}\n"));
            }
            Ok(output)
        }
        RoomCommand::Stats { room, json, server } => {
            let grants = VideoGrants { room_admin: true, room: room.clone(), ..VideoGrants::default() };
            let mut url = base(server);
            let path = ["api", "v1", "rooms", room, "stats"];
            url.path_segments_mut().map_err(|()| anyhow!("the URL has no path"))?.pop_if_empty().extend(path);
            let reply = send(server, client()?.get(url), grants).await?;
            if *json {
                return Ok(format!("{reply}\n"));
            }
            Ok(stats::tables(&serde_json::from_value(reply).context("the server's answer cannot be read")?))
        }
    }
}

fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?)
}

async fn call(server: &ServerAddress, method: &str, grants: VideoGrants, body: &Value) -> Result<Value> {
    let base = base(server);
    let url = format!("{}/twirp/livekit.RoomService/{method}", base.as_str().trim_end_matches('/'));
    send(server, client()?.post(url).json(body), grants).await
}

/// Sends a request with a token for it, and reads the JSON that comes back.
async fn send(
    server: &ServerAddress,
    request: reqwest::RequestBuilder,
    grants: VideoGrants,
) -> Result<Value> {
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
        return serde_json::from_str(&text).context("the server's answer is no JSON");
    }
    let reason = match serde_json::from_str::<TwirpError>(&text) {
        Ok(TwirpError { code, msg }) => format!("{code}: {msg}"),
        Err(_) => text,
    };
    Err(anyhow!("the server answered {}: {reason}", status.as_u16()))
}

/// Where the server's HTTP is. SDKs take `ws:` and `wss:` URLs, so that people have those at hand.
fn base(server: &ServerAddress) -> reqwest::Url {
    let text = server.url.as_str();
    let is_websocket = matches!(server.url.scheme(), "ws" | "wss");
    let http = is_websocket.then(|| text.replacen("ws", "http", 1).parse().ok()).flatten();
    http.unwrap_or_else(|| server.url.clone())
}

#[derive(Deserialize)]
struct TwirpError {
    code: String,
    msg: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Rooms {
    rooms: Vec<Room>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Room {
    sid: String,
    name: String,
    #[serde(alias = "numParticipants")]
    num_participants: u32,
    #[serde(alias = "creationTime")]
    creation_time: Seconds,
}

/// proto3 JSON writes 64-bit integers as text; readers take both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Text(String),
    Number(u64),
}

impl Default for Seconds {
    fn default() -> Self {
        Self::Number(0)
    }
}

fn table(Rooms { rooms }: Rooms) -> String {
    let header = ["NAME", "PARTICIPANTS", "CREATED", "SID"].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(header).chain(rooms.into_iter().map(row)).collect();
    columns(&rows)
}

/// Rows of cells, each column as wide as its widest cell.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Whoever names something decides what it contains: a terminal must not obey it.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn row(room: Room) -> [String; 4] {
    let seconds = match room.creation_time {
        Seconds::Text(text) => text.parse().unwrap_or(0),
        Seconds::Number(number) => number,
    };
    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX)));
    [
        printable(&room.name),
        room.num_participants.to_string(),
        humantime::format_rfc3339_seconds(created).to_string(),
        room.sid,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_listed_in_columns() {
        let reply = json!({"rooms": [
            {"name": "a long name", "sid": "RM_1", "numParticipants": 12, "creationTime": "1700000000"},
            {"name": "b\u{1b}[2J", "sid": "RM_2", "num_participants": 0, "creation_time": 0, "more": {}},
        ]});
        assert_eq!(
            table(serde_json::from_value(reply).unwrap()),
            "NAME         PARTICIPANTS  CREATED               SID\n\
             a long name  12            2023-11-14T22:13:20Z  RM_1\n\
             b\u{fffd}[2J        0             1970-01-01T00:00:00Z  RM_2\n"
        );
        assert_eq!(table(serde_json::from_value(json!({})).unwrap()), "NAME  PARTICIPANTS  CREATED  SID\n");
    }
}
