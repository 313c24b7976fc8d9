//! Invalid packets against one room do not harm another of the same worker.
//!
//! `server --flood` of the benches measures the same at 200,000 packets a second; here the flood is in step with the
//! victims' packets, so that whatever is lost was not lost for want of room in the kernel or of time.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use str0m::{
    format::Codec,
    media::{Direction, MediaKind as RtcMediaKind},
};
use zynk_protocol::{ConnectionRole, ConnectionState, MediaKind};
use zynk_sfu_server::SfuConfig;

use crate::rig::{Client, Link, Rig, connected, run_until, track};

/// Packets of a victim, each behind a burst.
const ROUNDS: u32 = 200;
/// Invalid packets of a burst. They have room in a receive buffer of any Linux (`net.core.rmem_max`).
const BURST: u16 = 100;
/// As large as packets of video.
const PACKET_BYTES: usize = 1100;
/// From a burst's beginning until the packet behind it has arrived, for 99 of 100: it is at most as late as the burst
/// takes, a few milliseconds where nothing is optimised, but for what else the machine does.
const LATENCY_MAX: Duration = Duration::from_millis(250);

/// Where the packets come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// An address from which nobody joined.
    Wrong,
    /// The address of a publisher, under its SSRC; only the tag is wrong.
    Right,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_from_a_wrong_source_costs_others_no_packet() {
    flood(Source::Wrong).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_invalid_tags_from_the_right_source_costs_others_no_packet() {
    flood(Source::Right).await;
}

async fn flood(source: Source) {
    let bind = Ipv4Addr::LOCALHOST.into();
    // One worker, so that both rooms are its.
    let mut rig = Rig::with_config(SfuConfig { bind, workers: 1, ..SfuConfig::default() }).await;
    let mut attacker = Client::udp(9, Ipv4Addr::LOCALHOST);
    rig.open(&attacker, ConnectionRole::Publisher).await;
    rig.expect(&attacker, &track(9, MediaKind::Video), MediaKind::Video).await;
    let (mids, _) = rig.negotiate(&mut attacker, &[(RtcMediaKind::Video, Direction::SendOnly)]).await;
    run_until(&mut [&mut attacker], |_, _| {}, connected).await;
    rig.state(attacker.id, ConnectionState::Connected).await;
    let ssrc = *attacker.rtc.direct_api().stream_tx_by_mid(mids[0], None).unwrap().ssrc();

    rig.change_room().await;
    let (mut publisher, mut receiver) =
        (Client::udp(1, Ipv4Addr::LOCALHOST), Client::udp(2, Ipv4Addr::LOCALHOST));
    // Audio: nothing of it is asked for again, so that nothing that was lost arrives after all.
    let audio = track(1, MediaKind::Audio);
    rig.open(&publisher, ConnectionRole::Publisher).await;
    rig.expect(&publisher, &audio, MediaKind::Audio).await;
    let (mids, _) = rig.negotiate(&mut publisher, &[(RtcMediaKind::Audio, Direction::SendOnly)]).await;
    rig.open(&receiver, ConnectionRole::Single).await;
    rig.subscribe(&receiver, &audio).await;
    rig.negotiate(&mut receiver, &[(RtcMediaKind::Audio, Direction::RecvOnly)]).await;
    run_until(&mut [&mut publisher, &mut receiver], |_, _| {}, connected).await;
    rig.state(receiver.id, ConnectionState::Connected).await;

    let server: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.udp_ports()[0]).into();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut packet = vec![0x5a; PACKET_BYTES];
    let mut latencies = Vec::new();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let socket = match (&attacker.link, source) {
            (Link::Udp(own), Source::Right) => own,
            _ => &stranger,
        };
        for number in 0..BURST {
            let [s0, s1] = number.to_be_bytes();
            let [c0, c1, c2, c3] = ssrc.to_be_bytes();
            packet[..12].copy_from_slice(&[0x80, 96, s0, s1, 0, 0, 0, 0, c0, c1, c2, c3]);
            assert_eq!(socket.send_to(&packet, server).unwrap(), PACKET_BYTES);
        }
        publisher.write(mids[0], Codec::Opus, round, 120);
        // It fails when the packet does not come.
        run_until(
            &mut [&mut publisher, &mut receiver, &mut attacker],
            |_, _| {},
            |clients| clients[1].frames.iter().any(|(_, number)| *number == round),
        )
        .await;
        latencies.push(begun.elapsed());
    }
    assert_eq!(receiver.frames.len(), ROUNDS as usize);
    // The worker has looked at every invalid packet: the victims' were not first by luck.
    let invalid = f64::from(ROUNDS) * f64::from(BURST);
    rig.metric_reaches("zynk_sfu_datagrams_dropped_total{reason=\"refused\"}", |dropped| dropped >= invalid)
        .await;
    latencies.sort();
    let late = latencies[latencies.len() * 99 / 100];
    assert!(late < LATENCY_MAX, "{late:?}");
    assert!(attacker.connected && rig.sfu.health().is_ready());
    rig.end().await;
}
