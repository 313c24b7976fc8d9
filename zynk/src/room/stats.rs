//! `zynk room stats`: what flows in a room, in three tables.

use zynk_signaling::{
    EncodingStats, GivenLayers, ParticipantStats, RoomStats, SubscriptionStats, TrackStats, TransportStats,
    WantedLayers,
};

use crate::table::{columns, printable};

const CONNECTIONS: [&str; 9] =
    ["PARTICIPANT", "QUALITY", "CONNECTION", "VIA", "RTT", "UP", "DOWN", "ESTIMATE", "QUEUE"];
const TRACKS: [&str; 10] =
    ["PUBLISHER", "TRACK", "SOURCE", "CODEC", "RECEIVERS", "ENCODING", "RATE", "FPS", "LOSS", "JITTER"];
const SUBSCRIPTIONS: [&str; 11] = [
    "RECEIVER",
    "PUBLISHER",
    "TRACK",
    "SOURCE",
    "STATE",
    "GIVEN",
    "WANTED",
    "RATE",
    "LOSS",
    "JITTER",
    "RESENT",
];

/// The tables of a room.
pub(super) fn tables(stats: &RoomStats) -> String {
    let mut connections = vec![CONNECTIONS.map(str::to_owned)];
    let mut tracks = vec![TRACKS.map(str::to_owned)];
    let mut subscriptions = vec![SUBSCRIPTIONS.map(str::to_owned)];
    for participant in &stats.participants {
        let who = printable(&participant.identity);
        let quality = quality(participant);
        if participant.connections.is_empty() {
            let empty = std::array::from_fn(|_| "-".to_owned());
            connections.push(with_first(empty, [who.clone(), quality.clone()]));
        }
        for connection in &participant.connections {
            connections.push(connection_row(&who, &quality, connection));
        }
        for track in &participant.tracks {
            tracks.extend(track.encodings.iter().map(|encoding| encoding_row(&who, track, encoding)));
        }
        subscriptions.extend(participant.subscriptions.iter().map(|one| subscription_row(&who, one)));
    }
    let seconds = stats.interval_ms as f64 / 1000.0;
    let mut text = format!(
        "room {}  {}  node {}  rates over {seconds:.1} s\n",
        printable(&stats.room),
        stats.sid,
        stats.node
    );
    if stats.truncated {
        text.push_str("the room is too large: something is left out\n");
    }
    for table in [columns(&connections), columns(&tracks), columns(&subscriptions)] {
        text.push('\n');
        text.push_str(&table);
    }
    text
}

fn with_first<const N: usize, const M: usize>(mut row: [String; N], first: [String; M]) -> [String; N] {
    for (cell, text) in row.iter_mut().zip(first) {
        *cell = text;
    }
    row
}

fn quality(participant: &ParticipantStats) -> String {
    match (&participant.quality, participant.score) {
        (Some(quality), Some(score)) => format!("{quality} {score:.1}"),
        _ => "-".to_owned(),
    }
}

fn connection_row(who: &str, quality: &str, connection: &TransportStats) -> [String; 9] {
    let state = if connection.connected { "" } else { " (down)" };
    let queue = if connection.congested { " (congested)" } else { "" };
    [
        who.to_owned(),
        quality.to_owned(),
        format!("{}{state}", word(&connection.role)),
        connection.transport.map_or("-".to_owned(), |transport| word(&transport)),
        connection.rtt_ms.map_or("-".to_owned(), ms),
        rate(connection.upstream_bps),
        rate(connection.downstream_bps),
        connection.estimate_bps.map_or("-".to_owned(), rate),
        format!("{}{queue}", ms(connection.queue_ms)),
    ]
}

fn encoding_row(who: &str, track: &TrackStats, encoding: &EncodingStats) -> [String; 10] {
    let mut name = encoding.rid.clone().unwrap_or_else(|| "-".to_owned());
    if track.backup {
        name.push_str(" (backup)");
    }
    let rate = match encoding.active {
        _ if track.muted => "muted".to_owned(),
        true => rate(encoding.bitrate_bps),
        false => "idle".to_owned(),
    };
    [
        who.to_owned(),
        track.sid.clone(),
        word(&track.source),
        track.codec.clone(),
        track.subscribers.to_string(),
        printable(&name),
        rate,
        encoding.fps.map_or("-".to_owned(), |fps| fps.to_string()),
        loss(encoding.loss),
        ms(encoding.jitter_ms),
    ]
}

fn subscription_row(who: &str, subscription: &SubscriptionStats) -> [String; 11] {
    [
        who.to_owned(),
        printable(&subscription.publisher),
        subscription.track.clone(),
        word(&subscription.source),
        subscription.state.as_str().to_owned(),
        subscription.given.as_ref().map_or("-".to_owned(), given),
        wanted(&subscription.wanted),
        rate(subscription.bitrate_bps),
        loss(subscription.loss),
        subscription.jitter_ms.map_or("-".to_owned(), ms),
        subscription.packets_resent.to_string(),
    ]
}

fn given(given: &GivenLayers) -> String {
    let mut text = given.rid.clone().unwrap_or_else(|| given.encoding.to_string());
    for (letter, layer) in [('S', given.spatial), ('T', given.temporal)] {
        if let Some(layer) = layer {
            text.push_str(&format!(" {letter}{layer}"));
        }
    }
    if let Some(fps) = given.fps {
        text.push_str(&format!(" {fps} fps"));
    }
    printable(&text)
}

fn wanted(wanted: &WantedLayers) -> String {
    let mut text = wanted.rid.clone().unwrap_or_else(|| word(&wanted.quality));
    if let Some((width, height)) = wanted.size {
        text.push_str(&format!(" {width}x{height}"));
    }
    if let Some(fps) = wanted.fps {
        text.push_str(&format!(" {fps} fps"));
    }
    if let Some(priority) = wanted.priority {
        text.push_str(&format!(" #{priority}"));
    }
    printable(&text)
}

/// A value as JSON spells it.
fn word(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned));
    text.unwrap_or_default()
}

fn rate(bps: u64) -> String {
    match bps {
        0..1_000 => format!("{bps} bit/s"),
        1_000..1_000_000 => format!("{} kbit/s", bps / 1_000),
        _ => format!("{:.1} Mbit/s", bps as f64 / 1e6),
    }
}

fn ms(ms: f32) -> String {
    format!("{ms:.1} ms")
}

fn loss(share: Option<f32>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_room_is_told_in_three_tables() {
        let stats: RoomStats = serde_json::from_value(json!({
            "room": "standup\u{7}", "sid": "RM_1", "node": "ND_1", "interval_ms": 1004, "truncated": true,
            "participants": [
                {
                    "sid": "PA_1", "identity": "alice", "name": "Alice", "quality": "good", "score": 3.94,
                    "connections": [{
                        "role": "publisher", "connected": true, "transport": "udp", "rtt_ms": 20.25,
                        "upstream_bps": 1_540_000, "downstream_bps": 0, "estimate_bps": null,
                        "queue_ms": 0.0, "congested": false,
                    }],
                    "tracks": [{
                        "sid": "TR_1", "name": "", "kind": "video", "source": "camera", "codec": "video/VP8",
                        "backup": false, "muted": false, "subscribers": 1,
                        "encodings": [
                            {"rid": "q", "active": true, "bitrate_bps": 140_500, "fps": 15, "packets": 10,
                             "packets_lost": 1, "loss": 0.1, "jitter_ms": 2.0},
                            {"rid": "f", "active": false, "bitrate_bps": 0, "fps": 0, "packets": 0,
                             "packets_lost": 0, "loss": null, "jitter_ms": 0.0},
                        ],
                    }],
                    "subscriptions": [],
                },
                {
                    "sid": "PA_2", "identity": "bob\u{1b}[2J", "name": "", "quality": null, "score": null,
                    "connections": [], "tracks": [],
                    "subscriptions": [{
                        "track": "TR_1", "publisher": "alice", "kind": "video", "source": "camera",
                        "state": "flowing",
                        "given": {"encoding": 0, "rid": "q", "spatial": null, "temporal": 1, "fps": 15},
                        "wanted": {"quality": "high", "encoding": 1, "rid": "f", "size": [1280, 720],
                                   "fps": null, "priority": 1},
                        "bitrate_bps": 900, "packets": 9, "bytes": 9000, "packets_resent": 3,
                        "packets_lost": 0, "loss": 0.0, "jitter_ms": null,
                    }],
                },
            ],
        }))
        .unwrap();
        assert_eq!(
            tables(&stats),
            "room standup\u{fffd}  RM_1  node ND_1  rates over 1.0 s\n\
             the room is too large: something is left out\n\
             \n\
             PARTICIPANT  QUALITY   CONNECTION  VIA  RTT      UP          DOWN     ESTIMATE  QUEUE\n\
             alice        good 3.9  publisher   udp  20.2 ms  1.5 Mbit/s  0 bit/s  -         0.0 ms\n\
             bob\u{fffd}[2J      -         -           -    -        -           -        -         -\n\
             \n\
             PUBLISHER  TRACK  SOURCE  CODEC      RECEIVERS  ENCODING  RATE        FPS  LOSS    JITTER\n\
             alice      TR_1   camera  video/VP8  1          q         140 kbit/s  15   10.0 %  2.0 ms\n\
             alice      TR_1   camera  video/VP8  1          f         idle        0    -       0.0 ms\n\
             \n\
             RECEIVER  PUBLISHER  TRACK  SOURCE  STATE    GIVEN        WANTED         RATE       LOSS   \
             JITTER  RESENT\n\
             bob\u{fffd}[2J   alice      TR_1   camera  flowing  q T1 15 fps  f 1280x720 #1  900 bit/s  0.0 %  \
             -       3\n"
        );
    }
}
