//! Rooms of many clients on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use zynk_client::{ClientOptions, Command, Event, PeerConnections};
use zynk_protocol::{
    DataKind,
    livekit::{self, data_packet},
};
use zynk_tests::{
    LiveServer,
    traffic::{Participant, eventually},
};

/// How long each room runs.
const RUN: Duration = Duration::from_secs(30);
/// How long it may take until everybody receives everything, and until the last packet has arrived.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
const CIDS: [&str; 2] = ["camera", "microphone"];

/// Waits until every receiver gets both of the publisher's tracks.
async fn everything_flows(publisher: &Participant, receivers: &[&Participant]) {
    for receiver in receivers {
        for cid in CIDS {
            let flows = eventually(SETTLE_LIMIT, async || {
                receiver.received(publisher, cid).await.frames.complete > 0
            });
            let names = (receiver.identity(), publisher.identity());
            assert!(flows.await, "{} does not get the {cid} of {}", names.0, names.1);
        }
    }
}

/// Asserts that every receiver got everything since its first packet, up to the last frame that was sent.
async fn nothing_was_lost(publisher: &Participant, receivers: &[&Participant]) {
    for receiver in receivers {
        for (cid, rate) in CIDS.into_iter().zip([25, 50]) {
            let last = publisher.frames_sent(cid) - 1;
            eventually(SETTLE_LIMIT, async || {
                let frames = receiver.received(publisher, cid).await.frames;
                frames.last == Some(last) && frames.missing == 0
            })
            .await;
            let stats = receiver.received(publisher, cid).await;
            let who = format!("{} of {}'s {cid}: {stats:?}", receiver.identity(), publisher.identity());
            assert_eq!(stats.frames.last, Some(last), "{who}");
            let (missing, duplicates) = (stats.frames.missing, stats.frames.duplicate_packets);
            assert_eq!((stats.lost, stats.recovered, missing, duplicates), (0, 0, 0, 0), "{who}");
            // A loaded machine sends less often; it must not have sent next to nothing.
            assert!(stats.frames.complete > RUN.as_secs() * rate / 2, "{who}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_people_lose_nothing_in_thirty_seconds() {
    let server = LiveServer::start();
    let epoch = Instant::now();
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol", "dave", "erin", "frank"] {
        let mut person = Participant::join(&server, "six", name, epoch).await.unwrap();
        person.publish_microphone().await.unwrap();
        person.publish_camera(500_000).await.unwrap();
        people.push(person);
    }
    let others = |index: usize| {
        let others = people.iter().enumerate().filter(move |(other, _)| *other != index);
        others.map(|(_, person)| person).collect::<Vec<_>>()
    };
    for (index, publisher) in people.iter().enumerate() {
        everything_flows(publisher, &others(index)).await;
    }
    tokio::time::sleep(RUN).await;
    for person in &people {
        person.stop_media().await;
    }
    for (index, publisher) in people.iter().enumerate() {
        nothing_was_lost(publisher, &others(index)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_listeners_lose_nothing_in_thirty_seconds() {
    let server = LiveServer::start();
    let epoch = Instant::now();
    let mut speaker = Participant::join(&server, "hall", "speaker", epoch).await.unwrap();
    speaker.publish_microphone().await.unwrap();
    speaker.publish_camera(500_000).await.unwrap();
    let mut listeners = Vec::new();
    for number in 0..50 {
        let name = format!("listener-{number}");
        listeners.push(Participant::join(&server, "hall", &name, epoch).await.unwrap());
    }
    let listeners: Vec<&Participant> = listeners.iter().collect();
    everything_flows(&speaker, &listeners).await;
    tokio::time::sleep(RUN).await;
    speaker.stop_media().await;
    nothing_was_lost(&speaker, &listeners).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_and_two_carry_media_and_data_to_each_other() {
    media_and_data_flow(&LiveServer::start(), &["alice", "bob"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_on_two_workers_carry_media_and_data_to_each_other() {
    let server = LiveServer::start_spread();
    media_and_data_flow(&server, &["alice", "bob", "carol", "dave"]).await;
    let relayed = "zynk_sfu_relay_packets_total{result=\"received\"}";
    assert!(eventually(SETTLE_LIMIT, async || metric(&server, relayed).await > 0.0).await);
    assert_eq!(metric(&server, "zynk_sfu_sessions_panicked_total").await, 0.0);
}

async fn metric(server: &LiveServer, name: &str) -> f64 {
    let metrics = reqwest::get(format!("{}/metrics", server.url())).await.unwrap().text().await.unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// Everybody publishes, with one connection or with two, and gets media and messages of everybody else.
async fn media_and_data_flow(server: &LiveServer, names: &[&str]) {
    let mut people = Vec::new();
    for (name, connections) in
        names.iter().zip([PeerConnections::Single, PeerConnections::Dual].iter().cycle())
    {
        let options = ClientOptions { connections: *connections, ..ClientOptions::default() };
        let mut person = Participant::join_with(server, "pair", name, options).await.unwrap();
        person.publish_microphone().await.unwrap();
        person.publish_camera(500_000).await.unwrap();
        people.push(person);
    }
    let all = 0..people.len();
    let pairs = all.clone().flat_map(|sender| all.clone().map(move |receiver| (sender, receiver)));
    for (sender, receiver) in pairs.filter(|(sender, receiver)| sender != receiver) {
        let (sender, receiver) = (&people[sender], &people[receiver]);
        everything_flows(sender, &[receiver]).await;
        let mut events = receiver.client.events();
        for kind in [DataKind::Reliable, DataKind::Lossy] {
            let user = livekit::UserPacket { payload: b"hello".to_vec(), ..Default::default() };
            let value = Some(data_packet::Value::User(user));
            let packet = Box::new(livekit::DataPacket { value, ..Default::default() });
            sender.client.command(Command::SendData { kind, packet }).await.unwrap();
            // What others said to everybody comes as well.
            let is_ours = |event: Event| match event {
                Event::Data { kind: came, packet } => {
                    came == kind && packet.participant_identity == sender.identity()
                }
                _ => false,
            };
            let received =
                tokio::time::timeout(SETTLE_LIMIT, async { while !is_ours(events.recv().await.unwrap()) {} });
            let names = (sender.identity(), receiver.identity());
            assert!(received.await.is_ok(), "no {kind:?} message from {} to {}", names.0, names.1);
        }
    }
}
