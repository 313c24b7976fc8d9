//! Calls over networks that change, in virtual time: what each subscriber gets, and how soon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use zynk_netlab::{Bitrate, LinkConfig as OneWay, Loss, Step};
use zynk_tests::{ClientKey, LinkConfig, World};

/// A camera's three encodings, kbit/s.
const CAMERA_KBPS: [u32; 3] = [150, 450, 1700];
const UDP_IP_BYTES: u16 = 28;
/// What a fall of the downlink to a fifth may cost: until it shows, a full queue, a keyframe.
const FREEZE_MAX: Duration = Duration::from_millis(1000);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Of a sender: its packets come at this rate, as from a browser's pacer.
fn good() -> LinkConfig {
    let delayed = OneWay::delayed(Duration::from_millis(20));
    LinkConfig { uplink: OneWay { rate: Bitrate::from_kbps(10_000), ..delayed.clone() }, downlink: delayed }
}

/// A downlink of so many kbit/s, each from so many seconds after joining.
fn downlink(steps: &[(u64, u64)]) -> LinkConfig {
    let step = |(at, kbps): &(u64, u64)| Step {
        at: seconds(*at),
        rate: Some(Bitrate::from_kbps(*kbps)),
        ..Step::default()
    };
    let downlink = OneWay {
        rate: Bitrate::from_kbps(steps[0].1),
        header_bytes: UDP_IP_BYTES,
        steps: steps.iter().map(step).collect(),
        ..OneWay::delayed(Duration::from_millis(20))
    };
    LinkConfig { downlink, ..good() }
}

/// Five people, of whom the first speaks, whose cameras are not in step.
fn people(world: &mut World, seed: u64) -> Vec<ClientKey> {
    let people: Vec<ClientKey> =
        (0..5).map(|index| world.join_to_send(&format!("sender-{index}"), good())).collect();
    world.run_for(seconds(1));
    for (index, person) in (0..).zip(&people) {
        world.run_for(Duration::from_millis((index * 31 + seed * 7) % 50));
        world.publish_layered_camera(*person, CAMERA_KBPS);
    }
    world.publish_microphone(people[0]);
    world.run_for(seconds(3));
    people
}

/// How much of its downlink a client gets while time passes.
fn used(world: &mut World, client: ClientKey, time: Duration) -> f64 {
    let before = world.downlink_stats(client);
    world.run_for(time);
    let after = world.downlink_stats(client);
    let served = after.served_bytes - before.served_bytes;
    served as f64 / (after.capacity_bytes - before.capacity_bytes) as f64
}

/// The encoding of each picture that a client has seen in the last second, the highest for each person.
fn encodings(world: &World, viewer: ClientKey, people: &[ClientKey]) -> Vec<Option<u32>> {
    let since = world.elapsed() - seconds(1);
    let highest = |person: &ClientKey| {
        let seen = world.viewer(viewer, *person, "camera")?;
        seen.decoded.iter().rev().take_while(|frame| frame.at >= since).map(|frame| frame.encoding).max()
    };
    people.iter().map(highest).collect()
}

/// What a client went through while its downlink changed, as one line of a table.
fn report(world: &World, viewer: ClientKey, what: &str) -> String {
    let queueing = world.downlink_stats(viewer).queueing_percentiles();
    format!("{what}: queue p95 {:.0} ms, estimate {} kbit/s", queueing.p95, world.estimate_kbps(viewer))
}

#[test]
fn a_call_follows_its_downlink_down_and_up() {
    for seed in 1..=3 {
        let mut world = World::new(seed);
        let people = people(&mut world, seed);
        let viewer = world.join("viewer", downlink(&[(0, 5000), (20, 1000), (40, 400), (60, 5000)]));
        world.watch(viewer);
        let joined = world.elapsed();
        for (kbps, highest) in [(5000, 2), (1000, 1), (400, 0), (5000, 2)] {
            world.run_for(seconds(1));
            let lost = world.downlink_stats(viewer).lost_queue;
            world.run_for(seconds(4));
            let lost = world.downlink_stats(viewer).lost_queue - lost;
            let seen = encodings(&world, viewer, &people);
            assert!(seen.iter().flatten().all(|encoding| *encoding <= highest), "seed {seed}: {seen:?}");
            if highest == 2 {
                let all_rose = seen.iter().all(|encoding| *encoding >= Some(1));
                assert!(seen[0] == Some(2) && all_rose, "seed {seed}: {seen:?} after 5 s of {kbps} kbit/s");
            }
            assert!(lost < 60, "seed {seed}: {lost} lost once a second of {kbps} kbit/s had passed");
            world.run_for(seconds(3));
            let used = used(&mut world, viewer, seconds(12));
            println!(
                "{}, {:.0} % used",
                report(&world, viewer, &format!("seed {seed}, {kbps} kbit/s")),
                used * 100.0
            );
            assert!(used >= 0.82, "seed {seed}: {used:.3} of {kbps} kbit/s");
        }
        let end = world.elapsed();
        let queueing = world.downlink_stats(viewer).queueing_percentiles();
        assert!(queueing.p95 < 60.0, "seed {seed}: {queueing:?}");
        for person in &people {
            let seen = world.viewer(viewer, *person, "camera").unwrap();
            let freezes = seen.freezes(joined + seconds(2), end, Duration::from_millis(500));
            println!("seed {seed}: pauses {:?}, freezes {freezes:?}", seen.pauses());
            assert!(freezes.iter().all(|(from, to)| *to - *from < FREEZE_MAX), "seed {seed}: {freezes:?}");
        }
        let listener = world.listener(viewer, people[0], "microphone").unwrap();
        let concealed = listener.concealed(joined + seconds(2), end);
        println!("seed {seed}: {:.2} % concealed", concealed * 100.0);
        assert!(concealed < 0.02, "seed {seed}: {concealed}");
    }
}

#[test]
fn a_narrow_downlink_is_shared_by_twenty_five() {
    let seed = 1;
    let mut world = World::new(seed);
    let cameras: Vec<ClientKey> =
        (0..25).map(|index| world.join_to_send(&format!("sender-{index}"), good())).collect();
    world.run_for(seconds(1));
    for (index, camera) in (0..).zip(&cameras) {
        world.run_for(Duration::from_millis((index * 37 + seed * 11) % 40));
        world.publish_layered_camera(*camera, CAMERA_KBPS);
    }
    world.publish_microphone(cameras[3]);
    world.publish_screen(cameras[7], 800);
    world.run_for(seconds(2));
    let viewer = world.join("viewer", downlink(&[(0, 3000)]));
    world.watch(viewer);
    world.run_for(seconds(5));
    let used = used(&mut world, viewer, seconds(15));
    println!("{}, {:.1} % used", report(&world, viewer, &format!("seed {seed}")), used * 100.0);
    assert!(used >= 0.88, "seed {seed}: {used:.3}");
    let (from, to) = (world.elapsed() - seconds(17), world.elapsed());
    for (sender, cid) in [(cameras[7], "screen"), (cameras[3], "camera")] {
        let seen = world.viewer(viewer, sender, cid).unwrap();
        let freezes = seen.freezes(from, to, Duration::from_millis(500));
        assert!(freezes.is_empty() && seen.pauses().is_empty(), "seed {seed}: {cid} {freezes:?}");
    }
    let seen = encodings(&world, viewer, &cameras);
    assert!(seen[3] >= Some(1), "seed {seed}: who speaks is seen best, {seen:?}");
    assert!(seen.iter().flatten().count() >= 23, "seed {seed}: {seen:?}");
}

#[test]
fn a_lossy_link_is_healed() {
    for seed in 1..=3 {
        let mut world = World::new(seed);
        let lossy = LinkConfig::lossy(0.1, Duration::from_millis(75));
        let sender = world.join_to_send("sender", good());
        world.publish_layered_camera(sender, CAMERA_KBPS);
        world.run_for(seconds(2));
        let viewer = world.join("viewer", lossy);
        world.watch(viewer);
        world.run_for(seconds(40));
        let (from, to) = (world.elapsed() - seconds(30), world.elapsed());
        let seen = world.viewer(viewer, sender, "camera").unwrap();
        let frozen = seen.frozen(from, to, Duration::from_millis(400));
        let share = frozen.as_secs_f64() / 30.0;
        println!(
            "{}, {:.2} % frozen {:?}",
            report(&world, viewer, &format!("seed {seed}")),
            share * 100.0,
            encodings(&world, viewer, &[sender])
        );
        assert!(share <= 0.01, "seed {seed}: {share}");
    }
}

/// How a call with one who speaks is heard over a downlink that loses so many percent.
fn heard(seed: u64, percent: u32, protect_audio: bool) -> (World, Heard) {
    let mut world = World::with_audio_protection(seed, protect_audio);
    let sender = world.join_to_send("sender", good());
    world.publish_microphone(sender);
    world.run_for(seconds(2));
    let loss = Loss::uniform(f64::from(percent) / 100.0);
    let downlink = OneWay { loss, ..good().downlink };
    let viewer = world.join("viewer", LinkConfig { downlink, ..good() });
    // Until loss is known nothing is done about it.
    world.run_for(seconds(20));
    let (from, before) = (world.elapsed(), world.shard_stats());
    world.run_for(seconds(60));
    let (to, after) = (world.elapsed(), world.shard_stats());
    let listener = world.listener(viewer, sender, "microphone").unwrap();
    let heard = Heard {
        concealed: listener.concealed(from, to),
        with: [0, 1, 2].map(|earlier| listener.concealed_with(earlier, from, to)),
        payload_bytes: after.rtp_bytes_sent - before.rtp_bytes_sent,
        redundant_bytes: after.rtp_bytes_redundant - before.rtp_bytes_redundant,
    };
    (world, heard)
}

/// Shares of audio that are concealed, and what it takes.
struct Heard {
    concealed: f64,
    /// If there had been no earlier payloads in each packet, one, or two.
    with: [f64; 3],
    payload_bytes: u64,
    redundant_bytes: u64,
}

#[test]
fn audio_is_protected_where_packets_are_lost() {
    for (percent, at_most, times) in [(0, 0.0, 1.0), (5, 0.01, 2.0), (10, 0.02, 3.0), (20, 0.02, 3.0)] {
        for seed in 1..=3 {
            let (world, plain) = heard(seed, percent, false);
            assert_eq!(world.shard_stats().rtp_packets_protected, 0, "off");
            let (_, protected) = heard(seed, percent, true);
            let shares = protected.with.map(|share| format!("{:.2}", share * 100.0)).join(", ");
            let grown =
                protected.payload_bytes as f64 / (protected.payload_bytes - protected.redundant_bytes) as f64;
            println!(
                "{percent} % lost, seed {seed}: {:.2} % concealed without, {:.2} % with protection, {grown:.2} times \
                 the payload; with 0, 1, 2 earlier payloads {shares} %",
                plain.concealed * 100.0,
                protected.concealed * 100.0,
            );
            let lost = f64::from(percent) / 100.0;
            assert!((plain.concealed - lost).abs() <= lost / 3.0, "{percent} %, seed {seed}");
            assert!(protected.concealed <= at_most, "{percent} %, seed {seed}: {}", protected.concealed);
            assert!((grown - times).abs() < 0.3, "{percent} %, seed {seed}: {grown}");
        }
    }
}

#[test]
fn audio_is_protected_beside_video_that_wants_more_than_there_is() {
    for seed in 1..=3 {
        let mut world = World::with_audio_protection(seed, true);
        let people = people(&mut world, seed);
        let narrow = downlink(&[(0, 2000)]);
        let lossy = OneWay { loss: Loss::uniform(0.1), ..narrow.downlink };
        let viewer = world.join("viewer", LinkConfig { downlink: lossy, ..good() });
        world.watch(viewer);
        world.run_for(seconds(20));
        let (from, before) = (world.elapsed(), world.shard_stats());
        world.run_for(seconds(30));
        let (to, after) = (world.elapsed(), world.shard_stats());
        let listener = world.listener(viewer, people[0], "microphone").unwrap();
        let (plain, concealed) = (listener.concealed_with(0, from, to), listener.concealed(from, to));
        let protected = after.rtp_packets_protected - before.rtp_packets_protected;
        println!(
            "{}: {:.2} % concealed, {:.2} % without protection, {protected} packets protected",
            report(&world, viewer, &format!("seed {seed}")),
            concealed * 100.0,
            plain * 100.0
        );
        assert!(concealed <= 0.02 && plain > 0.07, "seed {seed}: {concealed}, {plain}");
    }
}

#[test]
fn what_is_lost_in_a_full_queue_is_no_reason_to_send_more() {
    for seed in 1..=3 {
        let mut world = World::with_audio_protection(seed, true);
        let people = people(&mut world, seed);
        let viewer = world.join("viewer", downlink(&[(0, 3000), (15, 400), (35, 3000)]));
        world.watch(viewer);
        world.run_for(seconds(50));
        let lost = world.downlink_stats(viewer).lost_queue;
        let heard = world.received(viewer, people[0], "microphone").packets;
        let protected = world.shard_stats().rtp_packets_protected;
        println!("seed {seed}: {lost} packets lost in the queue, {protected} of {heard} of audio protected");
        assert!(lost > 0, "seed {seed}");
        assert!(protected * 20 <= heard, "seed {seed}: {protected} of {heard}");
    }
}
