//! The proxy on the loopback interface.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use super::*;
use crate::{Bitrate, LinkConfig, Loss, Probability};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Shorter than it, for what must not come.
const IMPATIENCE: Duration = Duration::from_millis(200);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (length, source) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, source)
}

fn nothing_comes(socket: &UdpSocket) {
    socket.set_read_timeout(Some(IMPATIENCE)).unwrap();
    let error = socket.recv_from(&mut [0; 9]).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// A target with a proxy before it.
struct Lab {
    target: UdpSocket,
    address: SocketAddr,
    running: RunningProxy,
}

impl Lab {
    fn start(config: ProxyConfig) -> Self {
        let target = udp();
        let forward = ProxyConfig::new("127.0.0.1:0".parse().unwrap(), target.local_addr().unwrap()).forward;
        let proxy = Proxy::bind(ProxyConfig { forward, ..config }).unwrap();
        let address = proxy.local_addrs()[0];
        Self { target, address, running: proxy.spawn().unwrap() }
    }

    fn client(&self) -> UdpSocket {
        let client = udp();
        client.connect(self.address).unwrap();
        client
    }

    /// Waits until the figures are such; asking is all there is to wait for.
    fn wait_for(&self, done: impl Fn(&ProxyStats) -> bool) -> ProxyStats {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.running.controller().stats().unwrap();
            if done(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "{stats}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn delays_are_kept_to_a_fraction_of_a_millisecond() {
    let link = |us| LinkConfig::delayed(Duration::from_micros(us));
    let (upstream, downstream) = (link(10_300), link(5_200));
    let lab = Lab::start(ProxyConfig { upstream, downstream, ..ProxyConfig::default() });
    let client = lab.client();
    let round_trips = (0..30u8).map(|number| {
        let sent = Instant::now();
        client.send(&[number]).unwrap();
        let (payload, source) = receive(&lab.target);
        lab.target.send_to(&payload, source).unwrap();
        assert_eq!(receive(&client), (vec![number], lab.address));
        sent.elapsed()
    });
    let round_trips: Vec<Duration> = round_trips.collect();
    let (least, delays) = (round_trips.iter().min().unwrap(), Duration::from_micros(15_500));
    // The others may have met a busy machine. With timeouts in whole milliseconds, no way back takes less than 1.5 ms
    // more.
    assert!(*least >= delays && *least < delays + ms(1), "{round_trips:?}");
    let stats = lab.running.stop().unwrap();
    assert_eq!((stats.clients_total, stats.upstream.delivered, stats.downstream.delivered), (1, 30, 30));
    assert_eq!((stats.refused, stats.overflow, stats.unsent, stats.unreachable), (0, 0, 0, 0));
}

#[test]
fn the_largest_and_the_smallest_datagram_pass() {
    let lab = Lab::start(ProxyConfig::default());
    let client = lab.client();
    for length in [65_507, 0, 1] {
        client.send(&vec![7; length]).unwrap();
        let (payload, source) = receive(&lab.target);
        assert_eq!(payload, vec![7; length]);
        lab.target.send_to(&payload, source).unwrap();
        assert_eq!(receive(&client).0, payload);
    }
}

#[test]
fn the_target_sees_each_client_at_an_address_of_its_own() {
    let lab = Lab::start(ProxyConfig::default());
    let clients = [(1, lab.client()), (2, lab.client()), (3, lab.client())];
    let sources = clients.iter().map(|(number, client)| {
        client.send(&[*number]).unwrap();
        let (payload, source) = receive(&lab.target);
        assert_eq!(payload, [*number]);
        source
    });
    let sources: Vec<SocketAddr> = sources.collect();
    for (index, (number, client)) in clients.iter().enumerate().rev() {
        lab.target.send_to(&[number * 10], sources[index]).unwrap();
        assert_eq!(receive(client).0, [number * 10]);
    }
    let again = &clients[0].1;
    again.send(b"again").unwrap();
    assert_eq!(receive(&lab.target).1, sources[0]);
    // Whoever is not the target does not get through.
    udp().send_to(b"stranger", sources[0]).unwrap();
    nothing_comes(again);
    assert_eq!(lab.running.stop().unwrap().downstream.sent, 3);
}

#[test]
fn several_targets_have_an_address_each() {
    let targets = [udp(), udp()];
    let listen = "127.0.0.1:0".parse().unwrap();
    let forward = targets.iter().map(|target| Forward { listen, target: target.local_addr().unwrap() });
    let config = ProxyConfig { forward: forward.collect(), shared: true, ..ProxyConfig::default() };
    let proxy = Proxy::bind(config).unwrap();
    let addresses = proxy.local_addrs();
    let running = proxy.spawn().unwrap();
    let client = udp();
    for (number, (address, target)) in (0..).zip(addresses.iter().zip(&targets)) {
        client.send_to(&[number], address).unwrap();
        let (payload, source) = receive(target);
        assert_eq!(payload, [number]);
        target.send_to(b"answer", source).unwrap();
        assert_eq!(receive(&client).1, *address);
    }
    assert_eq!(running.stop().unwrap().clients_total, 2);
}

/// Which of so many datagrams arrive.
fn survivors(seed: u64) -> Vec<u8> {
    let upstream = LinkConfig { loss: Loss::bursts(Probability::new(0.3), 2.0), ..LinkConfig::IDEAL };
    let lab = Lab::start(ProxyConfig { upstream, seed, ..ProxyConfig::default() });
    let client = lab.client();
    for number in 0..100 {
        client.send(&[number]).unwrap();
    }
    let stats = lab.wait_for(|stats| stats.upstream.sent == 100);
    (0..stats.upstream.delivered).map(|_| receive(&lab.target).0[0]).collect()
}

#[test]
fn the_seed_says_what_is_lost() {
    let first = survivors(1);
    assert!((40..95).contains(&first.len()), "{first:?}");
    assert_eq!(first, survivors(1));
    assert_ne!(first, survivors(2));
}

#[test]
fn clients_do_not_lose_the_same_datagrams() {
    let upstream = LinkConfig { loss: Loss::uniform(0.5), ..LinkConfig::IDEAL };
    let lab = Lab::start(ProxyConfig { upstream, ..ProxyConfig::default() });
    let clients = [lab.client(), lab.client()];
    for number in 0..100 {
        for (index, client) in (0..).zip(&clients) {
            client.send(&[index, number]).unwrap();
        }
    }
    let stats = lab.wait_for(|stats| stats.upstream.sent == 200);
    let arrived: Vec<_> = (0..stats.upstream.delivered).map(|_| receive(&lab.target).0).collect();
    let of = |index| arrived.iter().filter(|pair| pair[0] == index).map(|pair| pair[1]).collect::<Vec<_>>();
    assert!(!of(0).is_empty() && of(0) != of(1), "{arrived:?}");
}

/// The longest that a datagram waits when two clients send at once.
fn longest_wait(shared: bool) -> Duration {
    // 10 ms each.
    let upstream = LinkConfig { rate: Bitrate::from_kbps(1000), ..LinkConfig::IDEAL };
    let lab = Lab::start(ProxyConfig { upstream, shared, ..ProxyConfig::default() });
    let clients = [lab.client(), lab.client()];
    for _ in 0..10 {
        for client in &clients {
            client.send(&[0; 1250]).unwrap();
        }
    }
    (0..20).for_each(|_| drop(receive(&lab.target)));
    lab.running.stop().unwrap().upstream.queueing.max()
}

#[test]
fn clients_share_a_link_if_asked() {
    assert!(longest_wait(false) <= ms(90));
    assert!(longest_wait(true) > ms(90));
}

#[test]
fn further_clients_than_allowed_are_dropped_and_counted() {
    let lab = Lab::start(ProxyConfig { clients_max: 2, ..ProxyConfig::default() });
    let clients = [lab.client(), lab.client(), lab.client()];
    for round in 0..2 {
        for (index, client) in (0..).zip(&clients) {
            client.send(&[index, round]).unwrap();
        }
        assert_eq!([receive(&lab.target).0, receive(&lab.target).0], [[0, round], [1, round]]);
    }
    let stats = lab.wait_for(|stats| stats.refused == 2);
    assert_eq!((stats.clients, stats.clients_total), (2, 2));
}

#[test]
fn idle_clients_are_forgotten_and_may_come_back() {
    for shared in [false, true] {
        let lab = Lab::start(ProxyConfig { idle: ms(40), shared, ..ProxyConfig::default() });
        let client = lab.client();
        client.send(b"first").unwrap();
        assert_eq!(receive(&lab.target).0, b"first");
        lab.wait_for(|stats| stats.clients == 0);
        client.send(b"second").unwrap();
        assert_eq!(receive(&lab.target).0, b"second");
        let stats = lab.running.stop().unwrap();
        assert_eq!((stats.clients_total, stats.upstream.delivered), (2, 2), "counts outlive the client");
    }
}

#[test]
fn what_all_links_hold_is_bounded_and_given_back() {
    let hold = LinkConfig::delayed(Duration::from_secs(3600));
    let upstream = hold.clone();
    // Nobody is forgotten while the test looks.
    let idle = Duration::from_secs(3600);
    let lab = Lab::start(ProxyConfig { upstream, held_bytes_max: 5000, idle, ..ProxyConfig::default() });
    let clients = [lab.client(), lab.client()];
    for client in clients.iter().cycle().take(20) {
        client.send(&[0; 1000]).unwrap();
    }
    let stats = lab.wait_for(|stats| stats.upstream.sent + stats.overflow == 20);
    assert_eq!((stats.upstream.held, stats.overflow), (4, 16));

    let lab = Lab::start(ProxyConfig { held_bytes_max: 5000, idle: ms(40), ..ProxyConfig::default() });
    lab.running.controller().set_links(hold, LinkConfig::IDEAL).unwrap();
    let client = lab.client();
    client.send(&[0; 4500]).unwrap();
    lab.wait_for(|stats| stats.upstream.held == 1);
    lab.wait_for(|stats| stats.clients == 0);
    client.send(&[0; 4500]).unwrap();
    assert_eq!(lab.wait_for(|stats| stats.upstream.held == 2).overflow, 0);
}

#[test]
fn a_target_that_is_not_there_yet_is_reached_later() {
    let lab = Lab::start(ProxyConfig::default());
    let Lab { target, running, address } = lab;
    let place = target.local_addr().unwrap();
    drop(target);
    let client = udp();
    client.send_to(b"nobody", address).unwrap();
    let lab = Lab { target: udp(), running, address };
    lab.wait_for(|stats| stats.unreachable > 0);
    let target = UdpSocket::bind(place).unwrap();
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"somebody", address).unwrap();
    assert_eq!(receive(&target).0, b"somebody");
}

#[test]
fn links_change_while_it_runs() {
    let lab = Lab::start(ProxyConfig::default());
    let (old, controller) = (lab.client(), lab.running.controller());
    old.send(b"1").unwrap();
    assert_eq!(receive(&lab.target).0, b"1");
    let dead = LinkConfig { loss: Loss::uniform(1.0), ..LinkConfig::IDEAL };
    controller.set_links(dead, LinkConfig::IDEAL).unwrap();
    let new = lab.client();
    old.send(b"2").unwrap();
    new.send(b"2").unwrap();
    lab.wait_for(|stats| stats.upstream.lost_random == 2);
    controller.set_links(LinkConfig::IDEAL, LinkConfig::IDEAL).unwrap();
    old.send(b"3").unwrap();
    assert_eq!(receive(&lab.target).0, b"3");
    let bad = LinkConfig { repeat: Some(Duration::ZERO), ..LinkConfig::IDEAL };
    assert!(matches!(controller.set_links(bad, LinkConfig::IDEAL), Err(ProxyError::Config(_))));
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let taken = udp().local_addr().unwrap();
    let other = udp();
    let config = ProxyConfig::new(other.local_addr().unwrap(), taken);
    let error = Proxy::bind(config).unwrap_err().to_string();
    assert!(error.contains(&other.local_addr().unwrap().to_string()), "{error}");
    assert!(matches!(Proxy::bind(ProxyConfig::default()), Err(ProxyError::Config(_))));
}

#[test]
fn a_controller_that_outlives_the_proxy_is_told() {
    let lab = Lab::start(ProxyConfig::default());
    let controller = lab.running.controller().clone();
    lab.running.stop().unwrap();
    assert!(matches!(controller.stats(), Err(ProxyError::Ended)));
    assert!(matches!(controller.stop(), Err(ProxyError::Ended)));
}

#[test]
fn figures_are_a_table_or_json() {
    let link = LinkConfig { rate: Bitrate::from_kbps(1000), loss: Loss::uniform(1.0), ..LinkConfig::IDEAL };
    let lab = Lab::start(ProxyConfig { upstream: link, clients_max: 1, ..ProxyConfig::default() });
    let client = lab.client();
    client.send(&[0; 1250]).unwrap();
    let stats = lab.wait_for(|stats| stats.upstream.lost_random == 1);
    lab.client().send(b"too many").unwrap();
    let stats = ProxyStats { elapsed: ms(100), ..lab.wait_for(|now| now.refused > stats.refused) };
    let table = stats.to_string();
    for row in [
        "                                upstream          downstream\n",
        "sent                                   1                   0\n",
        "lost at random              1 (100.00 %)                   0\n",
        "sent, kbit/s                         100                   0\n",
        "\n0.1 s, 1 clients; 1 refused: too many clients\n",
    ] {
        assert!(table.contains(row), "{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&stats.to_json(7).unwrap()).unwrap();
    assert_eq!(json["seed"], 7);
    assert_eq!(json["upstream"]["lost_random"], 1);
    assert_eq!(json["upstream"]["queueing_ms"]["p99"], 0.0);
    assert_eq!(json["downstream"]["utilisation"], serde_json::Value::Null);
}
