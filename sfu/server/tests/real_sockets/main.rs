//! A media node on real sockets, with str0m clients over UDP and ICE-TCP, and the test as signaling.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod flood;
mod rig;

use std::{
    collections::BTreeSet,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
};

use zynk_protocol::{
    MediaTransport::{Tcp, Udp},
    NodeAction, NodeEvent,
};
use zynk_sfu_server::SfuConfig;

use rig::{Client, Rig, call, call_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_udp_and_tcp() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let publisher = Client::udp(1, Ipv4Addr::LOCALHOST);
    let receivers = vec![Client::udp(2, Ipv4Addr::LOCALHOST), Client::tcp(3, tcp)];
    let rig = call(rig, publisher, receivers, 40).await;
    rig.metric_reaches("zynk_sfu_rooms", |rooms| rooms == 1.0).await;
    rig.metric_reaches("zynk_sfu_connections", |connections| connections == 3.0).await;
    rig.metric_reaches("zynk_sfu_tcp_connections", |connections| connections == 1.0).await;
    rig.metric_reaches("zynk_sfu_rtp_packets_total{direction=\"downstream\"}", |packets| packets > 200.0)
        .await;
    assert_eq!(rig.metric("zynk_sfu_datagrams_dropped_total{reason=\"send_full\"}"), 0.0);
    // Frames of video leave as runs of equal size.
    let datagrams = rig.metric("zynk_sfu_datagrams_total{direction=\"downstream\"}");
    let calls = rig.metric("zynk_sfu_send_calls_total");
    assert!(calls < datagrams, "{calls} sends for {datagrams} datagrams");
    let sum = |metric: &str, labels: &str| -> f64 {
        (0..2).map(|worker| rig.metric(&format!("{metric}{{{labels}worker=\"{worker}\"}}"))).sum()
    };
    // Two receivers of a track of each kind.
    for kind in ["audio", "video"] {
        let labels = format!("kind=\"{kind}\",");
        assert_eq!(sum("zynk_sfu_first_media_seconds_count", &labels), 2.0, "{kind}");
        assert!(sum("zynk_sfu_first_media_seconds_sum", &labels) < 30.0, "{kind}");
    }
    let turns = sum("zynk_sfu_forward_seconds_count", "");
    assert!((20.0..=sum("zynk_sfu_loop_seconds_count", "")).contains(&turns), "{turns}");
    assert!(sum("zynk_sfu_forward_seconds_sum", "") > 0.0);
    assert!(rig.sfu.health().is_ready());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_over_tcp() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let publisher = Client::tcp(1, tcp);
    let rig = call(rig, publisher, vec![Client::udp(2, Ipv4Addr::LOCALHOST)], 20).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_bound_to_all_addresses_answers_from_the_one_that_was_called() {
    let rig = Rig::new(Ipv4Addr::UNSPECIFIED, &[Ipv4Addr::new(127, 0, 0, 2)]).await;
    let publisher = Client::udp(1, Ipv4Addr::new(127, 0, 0, 3));
    let rig = call(rig, publisher, vec![Client::udp(2, Ipv4Addr::new(127, 0, 0, 4))], 10).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_spread_over_two_workers() {
    let bind = Ipv4Addr::LOCALHOST.into();
    let mut rig =
        Rig::with_config(SfuConfig { bind, workers: 2, spread_connections: 2, ..SfuConfig::default() }).await;
    rig.late_binding = true;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let ports: BTreeSet<u16> = rig.sfu.udp_ports().iter().copied().collect();
    let publisher = Client::udp(1, Ipv4Addr::LOCALHOST);
    let receivers =
        vec![Client::udp(2, Ipv4Addr::LOCALHOST), Client::udp(3, Ipv4Addr::LOCALHOST), Client::tcp(4, tcp)];
    let (mut rig, clients) = call_with(rig, publisher, receivers, 40).await;
    let used: BTreeSet<u16> =
        clients.iter().flat_map(|client| &client.sources).map(SocketAddr::port).collect();
    assert!(used.is_superset(&ports), "{used:?} of {ports:?}");
    rig.metric_reaches("zynk_sfu_rooms", |rooms| rooms == 2.0).await;
    rig.metric_reaches("zynk_sfu_tracks", |tracks| tracks == 2.0).await;
    rig.metric_reaches("zynk_sfu_connections", |connections| connections == 4.0).await;
    // Two of the receivers are on the other worker: what they both receive comes there once.
    let upstream = "zynk_sfu_rtp_packets_total{direction=\"upstream\"}";
    let received = "zynk_sfu_relay_packets_total{result=\"received\"}";
    rig.metric_reaches(received, |packets| packets > 100.0).await;
    rig.metric_reaches(upstream, |packets| packets >= rig.metric(received)).await;
    assert_eq!(rig.metric("zynk_sfu_relay_packets_total{result=\"dropped\"}"), 0.0);
    // Both tell their share of the room.
    rig.command(NodeAction::ReportRoom { request: 5, shares: 1 }).await;
    let mut connections = Vec::new();
    for _ in 0..2 {
        let report = rig.notice(|event| match event {
            NodeEvent::RoomReport(report) => Some(report.clone()),
            _ => None,
        });
        let report = report.await;
        assert_eq!((report.request, report.shares, report.truncated), (5, 2, false));
        connections.extend(report.connections);
    }
    connections.sort_by_key(|connection| connection.connection.0);
    assert_eq!(connections.iter().map(|one| one.connection.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let [publisher, receivers @ ..] = &connections[..] else { unreachable!("there are four") };
    assert_eq!((publisher.tracks.len(), publisher.subscriptions.len()), (2, 0));
    for encoding in publisher.tracks.iter().flat_map(|track| &track.encodings) {
        assert!(encoding.packets > 0 && encoding.lost == 0, "{encoding:?}");
    }
    for receiver in receivers {
        assert_eq!((receiver.tracks.len(), receiver.subscriptions.len()), (0, 2));
        assert!(receiver.subscriptions.iter().all(|one| one.negotiated && one.packets > 0), "{receiver:?}");
    }
    let transports = connections.iter().map(|one| one.transport.unwrap()).collect::<Vec<_>>();
    assert_eq!(transports, [Udp, Udp, Udp, Tcp]);
    rig.command(NodeAction::CloseRoom).await;
    rig.metric_reaches("zynk_sfu_rooms", |rooms| rooms == 0.0).await;
    rig.end().await;
}

/// Bytes of memory that this process holds.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_sockets_neither_fill_memory_nor_keep_clients_out() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let before = resident_bytes();
    // Both ends are in this process: it may run out of file descriptors first, which is as good a test.
    let mut idle: Vec<TcpStream> = (0..10_000).map_while(|_| TcpStream::connect(tcp).ok()).collect();
    assert!(idle.len() >= 500, "only {} connections", idle.len());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes for {} sockets", idle.len());
    // Descriptors for the clients of the call.
    idle.truncate(idle.len() - 50);
    let receivers = vec![Client::tcp(2, tcp), Client::udp(3, Ipv4Addr::LOCALHOST)];
    let rig = call(rig, Client::tcp(1, tcp), receivers, 10).await;
    assert!(rig.metric("zynk_sfu_tcp_accepted_total{result=\"silent\"}") > 200.0);
    assert!(rig.sfu.health().is_ready());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_disturbs_nobody() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let ports = rig.sfu.udp_ports().to_vec();
    let noise = std::thread::spawn(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for number in 0..2_000u32 {
            // Every first byte, so every kind of packet of RFC 7983, of every size.
            let mut packet = vec![0x5a; number as usize % 1_400 + 1];
            packet[0] = number as u8;
            for port in &ports {
                let _ = socket.send_to(&packet, (Ipv4Addr::LOCALHOST, *port));
            }
            if number % 20 == 0 {
                let mut stream = TcpStream::connect(tcp).unwrap();
                let _ = stream.write_all(&packet);
            }
        }
    });
    let receivers = vec![Client::udp(2, Ipv4Addr::LOCALHOST), Client::tcp(3, tcp)];
    let rig = call(rig, Client::udp(1, Ipv4Addr::LOCALHOST), receivers, 20).await;
    noise.join().unwrap();
    rig.metric_reaches("zynk_sfu_datagrams_dropped_total{reason=\"refused\"}", |dropped| dropped > 100.0)
        .await;
    assert!(rig.sfu.health().is_ready());
    rig.end().await;
}
