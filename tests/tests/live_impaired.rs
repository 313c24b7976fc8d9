//! A call whose media crosses a bad network, on real sockets: the server announces an address at which `netlab` listens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use zynk_netlab::{
    LinkConfig, Loss,
    proxy::{Forward, Proxy, ProxyConfig, ProxyStats, RunningProxy},
};
use zynk_tests::{
    LiveServer,
    traffic::{Participant, eventually},
};

/// Where the server is bound.
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What it announces.
const ANNOUNCED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const LIMIT: Duration = Duration::from_secs(20);

/// A server whose media comes and goes through a proxy.
struct Lab {
    server: LiveServer,
    proxy: RunningProxy,
}

impl Lab {
    /// The same link in both directions.
    fn start(link: LinkConfig) -> Self {
        let mut command = Command::new(LiveServer::binary());
        command.args(["dev", "--port", "0", "--print-ports", "--announce", &ANNOUNCED.to_string()]);
        // Else clients could go around the proxy.
        command.env("ZYNK_SFU__BIND", SERVER.to_string()).env("ZYNK_SFU__ICE_TCP", "false");
        let server = LiveServer::start_command(command);
        let forward = server.udp_ports().into_iter().map(|port| Forward {
            listen: SocketAddr::new(ANNOUNCED, port),
            target: SocketAddr::new(SERVER, port),
        });
        let config = ProxyConfig {
            forward: forward.collect(),
            upstream: link.clone(),
            downstream: link,
            ..ProxyConfig::default()
        };
        Self { server, proxy: Proxy::bind(config).unwrap().spawn().unwrap() }
    }

    fn stats(&self) -> ProxyStats {
        self.proxy.controller().stats().unwrap()
    }

    /// Two participants; the first publishes a camera and the second receives it.
    async fn pair(&self) -> [Participant; 2] {
        let epoch = Instant::now();
        let mut alice = Participant::join(&self.server, "lab", "alice", epoch).await.unwrap();
        let bob = Participant::join(&self.server, "lab", "bob", epoch).await.unwrap();
        alice.publish_camera(500_000).await.unwrap();
        [alice, bob]
    }
}

async fn frames(receiver: &Participant, publisher: &Participant) -> u64 {
    receiver.received(publisher, "camera").await.frames.complete
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_survives_losses_on_both_ways() {
    let link = LinkConfig { loss: Loss::uniform(0.05), ..LinkConfig::delayed(Duration::from_millis(20)) };
    let lab = Lab::start(link);
    let [alice, bob] = lab.pair().await;
    assert!(eventually(LIMIT, async || frames(&bob, &alice).await >= 250).await);
    alice.stop_media().await;
    let last = alice.frames_sent("camera") - 1;
    eventually(LIMIT, async || {
        let frames = bob.received(&alice, "camera").await.frames;
        frames.last == Some(last) && frames.missing == 0
    })
    .await;
    let (stats, lab) = (bob.received(&alice, "camera").await, lab.stats());
    // If the very last packet is lost, nobody knows of it.
    assert!(stats.frames.last >= Some(last - 1) && stats.frames.missing <= 1, "{stats:?}");
    assert!(stats.recovered > 5, "{stats:?}");
    let mean = stats.frames.latency_sum / stats.frames.packets as u32;
    assert!(mean >= Duration::from_millis(40), "two links, not {mean:?}");
    for (link, name) in [(&lab.upstream, "upstream"), (&lab.downstream, "downstream")] {
        let share = link.lost_random as f64 / link.sent as f64;
        assert!((0.02..0.1).contains(&share), "{name}:\n{lab}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_outlives_an_outage() {
    let lab = Lab::start(LinkConfig::IDEAL);
    let [alice, bob] = lab.pair().await;
    assert!(eventually(LIMIT, async || frames(&bob, &alice).await >= 25).await);
    let dead = LinkConfig { loss: Loss::uniform(1.0), ..LinkConfig::IDEAL };
    lab.proxy.controller().set_links(dead.clone(), dead).unwrap();
    let sent = lab.stats().upstream.lost_random + 100;
    assert!(eventually(LIMIT, async || lab.stats().upstream.lost_random >= sent).await, "{}", lab.stats());
    let before = frames(&bob, &alice).await;
    lab.proxy.controller().set_links(LinkConfig::IDEAL, LinkConfig::IDEAL).unwrap();
    assert!(eventually(LIMIT, async || frames(&bob, &alice).await >= before + 25).await, "{}", lab.stats());
    let gap = bob.received(&alice, "camera").await.frames.longest_gap;
    assert!(gap >= Duration::from_millis(500), "it has noticed nothing: {gap:?}");
}
