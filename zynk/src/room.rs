//! `zynk room`: the rooms of a running server, through its server API.

mod stats;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;
use zynk_auth::VideoGrants;

use crate::cli::RoomCommand;
use crate::server_api;
use crate::table::{columns, printable};

/// What the command prints.
pub(crate) async fn execute(command: &RoomCommand) -> Result<String> {
    match command {
        RoomCommand::List { json, server } => {
            let grants = VideoGrants { room_list: true, ..VideoGrants::default() };
            let reply = server_api::call_room_service(server, "ListRooms", grants, &json!({})).await?;
            if *json {
                return Ok(format!("{reply}\n"));
            }
            Ok(table(server_api::read(reply)?))
        }
        RoomCommand::Delete { names, server } => {
            let mut output = String::new();
            for name in names {
                let grants = VideoGrants { room_create: true, ..VideoGrants::default() };
                let body = json!({ "room": name });
                server_api::call_room_service(server, "DeleteRoom", grants, &body)
                    .await
                    .context(name.clone())?;
                output.push_str(&format!("deleted {name}\n"));
            }
            Ok(output)
        }
        RoomCommand::Stats { room, json, server } => {
            let grants = VideoGrants { room_admin: true, room: room.clone(), ..VideoGrants::default() };
            let url = server_api::resource(server, &["rooms", room, "stats"])?;
            let reply = server_api::send_for_json(server, server_api::client()?.get(url), grants).await?;
            if *json {
                return Ok(format!("{reply}\n"));
            }
            Ok(stats::tables(&server_api::read(reply)?))
        }
    }
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
