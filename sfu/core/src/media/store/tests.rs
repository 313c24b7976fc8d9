use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

fn info(sequence: u64, arrived: Instant) -> PacketInfo {
    PacketInfo {
        sequence,
        timestamp: sequence as u32 * 3000,
        marker: false,
        frame: FrameInfo::default(),
        arrived,
        audio_level: None,
        orientation: None,
        playout_delay: None,
        capture_time: None,
    }
}

const SMALL: StoreConfig =
    StoreConfig { packets_max: 64, bytes_max: 4096, chunk_bytes: 1024, age_max: Duration::from_millis(100) };

#[test]
fn a_packet_is_found_as_it_came() {
    let now = start();
    let mut store = PacketStore::new(StoreConfig::VIDEO);
    assert_eq!(store.memory_bytes(), 0);
    let first = store.insert(info(1, now), b"dd", b"payload").unwrap();
    let second = store.insert(info(2, now), b"", b"").unwrap();
    let packet = store.get(first).unwrap();
    assert_eq!((packet.info.sequence, packet.descriptor, packet.payload), (1, &b"dd"[..], &b"payload"[..]));
    let packet = store.get(second).unwrap();
    assert_eq!((packet.info.sequence, packet.descriptor, packet.payload), (2, &b""[..], &b""[..]));
}

#[test]
fn packets_give_way_by_number() {
    let now = start();
    let mut store = PacketStore::new(SMALL);
    let handles: Vec<_> = (0..100).map(|n| store.insert(info(n, now), b"", b"x").unwrap()).collect();
    assert!(handles[..36].iter().all(|handle| store.get(*handle).is_none()));
    assert!(handles[36..].iter().enumerate().all(|(n, handle)| {
        store.get(*handle).is_some_and(|packet| packet.info.sequence == n as u64 + 36)
    }));
}

#[test]
fn packets_give_way_by_octets() {
    let now = start();
    let mut store = PacketStore::new(SMALL);
    let handles: Vec<_> =
        (0..20).map(|n| store.insert(info(n, now), b"", &[n as u8; 400]).unwrap()).collect();
    // Two fit a chunk, four chunks there are.
    assert_eq!(handles.iter().filter(|handle| store.get(**handle).is_some()).count(), 8);
    assert!(handles[12..].iter().enumerate().all(|(n, handle)| {
        store.get(*handle).is_some_and(|packet| packet.payload == [n as u8 + 12; 400])
    }));
    let too_large = store.insert(info(21, now), &[0; 24], &[0; 1001]);
    assert_eq!(too_large, Err(StoreError::TooLarge { bytes: 1025, max: 1024 }));
    assert!(store.insert(info(21, now), &[0; 24], &[0; 1000]).is_ok());
    assert!(store.insert(info(22, now), &[0; 256], &[]).is_err(), "no descriptor is that long");
}

#[test]
fn memory_follows_the_rate() {
    let start = start();
    let mut store = PacketStore::new(SMALL);
    // 400 octets every 60 ms: what is younger than 100 ms fits two chunks.
    for n in 0..100u64 {
        store.insert(info(n, start + Duration::from_millis(60) * n as u32), b"", &[0; 400]).unwrap();
    }
    assert!(store.chunks.len() <= 3, "{} chunks", store.chunks.len());
    let memory = store.memory_bytes();
    let now = start + Duration::from_secs(60);
    store.expire(now);
    assert!(store.memory_bytes() < memory / 4);
    let handle = store.insert(info(100, now), b"", b"again").unwrap();
    assert_eq!(store.get(handle).unwrap().payload, b"again");
}

#[test]
fn no_memory_is_kept_for_packets_that_no_slot_names() {
    let now = start();
    let mut store = PacketStore::new(StoreConfig { packets_max: 16, ..SMALL });
    // Sixteen packets of 40 octets fit one chunk; with the one being filled that makes two.
    for n in 0..1000 {
        store.insert(info(n, now), b"", &[0; 40]).unwrap();
        assert!(store.chunks.len() <= 2);
    }
}

#[test]
fn old_packets_are_not_sent_again() {
    let start = start();
    let mut store = PacketStore::new(SMALL);
    let handle = store.insert(info(1, start), b"", b"x").unwrap();
    assert!(store.get_recent(handle, start + Duration::from_millis(100)).is_some());
    assert!(store.get_recent(handle, start + Duration::from_millis(101)).is_none());
    assert!(store.get(handle).is_some());
}

proptest! {
    #[test]
    fn what_is_found_is_what_was_kept(
        packets in prop::collection::vec((0usize..300, 0u8..20, 0u64..30, any::<bool>()), 1..400),
    ) {
        let start = start();
        let mut store = PacketStore::new(SMALL);
        let mut now = start;
        let mut kept = Vec::new();
        for (n, (bytes, descriptor, pause, expire)) in packets.into_iter().enumerate() {
            now += Duration::from_millis(pause);
            if expire {
                store.expire(now);
            }
            let payload = vec![n as u8; bytes];
            let descriptor = vec![!(n as u8); usize::from(descriptor)];
            let handle = store.insert(info(n as u64, now), &descriptor, &payload).unwrap();
            kept.push((handle, descriptor, payload));
            prop_assert!(store.chunks.len() <= 4 && store.slots.len() <= 64);
            prop_assert!(store.get(handle).is_some());
            let mut gap_allowed = true;
            for (n, (handle, descriptor, payload)) in kept.iter().enumerate() {
                match store.get(*handle) {
                    None => prop_assert!(gap_allowed, "a hole at {}", n),
                    Some(packet) => {
                        gap_allowed = false;
                        prop_assert_eq!(packet.info.sequence, n as u64);
                        prop_assert_eq!(packet.descriptor, &descriptor[..]);
                        prop_assert_eq!(packet.payload, &payload[..]);
                    }
                }
            }
        }
    }
}
