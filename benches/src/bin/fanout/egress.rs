//! The media plane's way out alone: header, extensions, payload and seal, next to the bare AES-GCM seal of the same
//! run; and the way in, opening what a publisher sealed.

use std::time::Instant;

use anyhow::{Context, Result};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::Serialize;
use zynk_benches::median::median;
use zynk_sfu_core::media::{
    egress::{EgressConfig, EgressStream, Outgoing, PATCH_BYTES_MAX, PayloadPatch, RtxConfig},
    extensions::{ExtensionKind, ExtensionMap, SendTime},
    srtp::{DtlsRole, KeyingMaterial, Opener, Profile, Sealer},
    store::{FrameInfo, PacketInfo, PacketStore, StoreConfig},
};

pub(crate) const ROUNDS: usize = 5;
/// Packets a round, over all receivers.
const PACKETS: usize = 200_000;
/// Parts of a round; the bare seal is measured between them.
const SLICES: usize = 20;
/// Packets between two looks at the clock, at least.
const SAMPLE_PACKETS: usize = 100;
/// Octets of the arena for one packet.
pub(crate) const STRIDE: usize = 1536;
/// The header of our packets: fixed, transport sequence, mid.
pub(crate) const HEADER_BYTES: usize = 24;

/// What is measured in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Path {
    /// The payload is encrypted from the store into the arena.
    Forward,
    /// A payload descriptor is changed on the way.
    Patch,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    path: Path,
    profile: Profile,
    receivers: usize,
    payload_bytes: usize,
    /// Streams per receiver, of which one sends.
    streams: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    path: Path,
    profile: &'static str,
    receivers: usize,
    payload_bytes: usize,
    streams: usize,
    /// Per packet and receiver.
    ns: f64,
    /// The AES-GCM seal alone; none for AES-CM.
    bare_seal_ns: Option<f64>,
    ratio: Option<f64>,
    allocations: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct OpenRow {
    profile: &'static str,
    payload_bytes: usize,
    /// Per received packet: parse, authenticate, decrypt, replay window.
    ns: f64,
    allocations: f64,
}

/// Ways out, in several sizes.
pub(crate) fn rows() -> Result<Vec<Row>> {
    let gcm = |receivers, payload_bytes| Case {
        path: Path::Forward,
        profile: Profile::AeadAes128Gcm,
        receivers,
        payload_bytes,
        streams: 2,
    };
    let mut cases = Vec::new();
    for payload_bytes in [100, 1100] {
        cases.extend([1, 10, 100, 500].map(|receivers| gcm(receivers, payload_bytes)));
    }
    let large = gcm(100, 1100);
    cases.push(Case { path: Path::Patch, ..large });
    cases.extend([10, 50].map(|streams| Case { streams, ..large }));
    cases.push(Case { profile: Profile::AeadAes256Gcm, ..large });
    cases.push(Case { profile: Profile::Aes128CmHmacSha1_80, ..large });
    cases.into_iter().map(measure).collect()
}

/// Ways in.
pub(crate) fn open_rows() -> Result<Vec<OpenRow>> {
    let cases = [
        (Profile::AeadAes128Gcm, 100),
        (Profile::AeadAes128Gcm, 1100),
        (Profile::AeadAes256Gcm, 1100),
        (Profile::Aes128CmHmacSha1_80, 1100),
    ];
    cases.into_iter().map(|(profile, bytes)| measure_open(profile, bytes)).collect()
}

pub(crate) fn print(rows: &[Row], open: &[OpenRow]) {
    println!(
        "{:<8} {:<14} {:>9} {:>6} {:>8} {:>7} {:>10} {:>6} {:>12}",
        "path", "profile", "receivers", "bytes", "streams", "ns", "bare seal", "ratio", "allocations"
    );
    let or_dash = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for row in rows {
        println!(
            "{:<8} {:<14} {:>9} {:>6} {:>8} {:>7.0} {:>10} {:>6} {:>12.3}",
            format!("{:?}", row.path).to_lowercase(),
            row.profile,
            row.receivers,
            row.payload_bytes,
            row.streams,
            row.ns,
            or_dash(row.bare_seal_ns, 0),
            or_dash(row.ratio, 2),
            row.allocations
        );
    }
    for row in open {
        println!(
            "{:<8} {:<14} {:>9} {:>6} {:>8} {:>7.0} {:>10} {:>6} {:>12.3}",
            "open", row.profile, "", row.payload_bytes, "", row.ns, "-", "-", row.allocations
        );
    }
}

fn name(profile: Profile) -> &'static str {
    match profile {
        Profile::AeadAes128Gcm => "AES-128-GCM",
        Profile::AeadAes256Gcm => "AES-256-GCM",
        _ => "AES-CM/SHA1-80",
    }
}

fn session(profile: Profile, number: usize) -> Result<(Opener, Sealer)> {
    let octets: Vec<u8> =
        (0..profile.keying_material_bytes()).map(|at| (at * 31 + number * 7) as u8).collect();
    // A session with itself: what one half seals the other opens.
    let material = KeyingMaterial::new(profile, &octets)?;
    let (_, sealer) = material.session(DtlsRole::Server, 0)?;
    let (opener, _) = material.session(DtlsRole::Client, 0)?;
    Ok((opener, sealer))
}

/// One receiver: its session and its streams, of which the first sends.
struct Receiver {
    sealer: Sealer,
    streams: Vec<EgressStream>,
    next_sequence: u64,
    transport_sequence: u16,
}

impl Receiver {
    fn new(profile: Profile, streams: usize, number: usize) -> Result<Self> {
        let (_, mut sealer) = session(profile, number)?;
        let mut extensions = ExtensionMap::default();
        extensions.set(3, ExtensionKind::TransportSequence);
        extensions.set(4, ExtensionKind::Mid);
        let streams = (0..streams as u32)
            .map(|at| {
                let config = EgressConfig {
                    mid: "v0",
                    extensions: &extensions,
                    mixed_forms: true,
                    ssrc: 10_000 + 2 * at,
                    rtx: Some((10_001 + 2 * at, 100)),
                    rtx_config: RtxConfig::default(),
                };
                EgressStream::new(&mut sealer, config)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { sealer, streams, next_sequence: 100, transport_sequence: 0 })
    }
}

/// A key of the library, to seal with and nothing else.
pub(crate) struct Bare {
    key: LessSafeKey,
    counter: u64,
}

impl Bare {
    pub(crate) fn new(profile: Profile, number: usize) -> Result<Self> {
        let (algorithm, bytes) = match profile {
            Profile::AeadAes256Gcm => (&AES_256_GCM, 32),
            _ => (&AES_128_GCM, 16),
        };
        let key = UnboundKey::new(algorithm, &vec![number as u8; bytes]).ok().context("a key")?;
        Ok(Self { key: LessSafeKey::new(key), counter: 0 })
    }

    pub(crate) fn seal(&mut self, buffer: &mut [u8], payload_bytes: usize) -> Result<()> {
        self.counter += 1;
        let [a, b, c, d, e, f, g, h] = self.counter.to_be_bytes();
        let nonce = Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h]);
        let (header, rest) = buffer.split_at_mut_checked(HEADER_BYTES).context("room")?;
        let (body, rest) = rest.split_at_mut_checked(payload_bytes).context("room")?;
        let tag = rest.get_mut(..16).context("room")?;
        self.key.seal_in_place_scatter(nonce, Aad::from(&*header), body, &[], tag).ok().context("a seal")
    }
}

fn measure(case: Case) -> Result<Row> {
    let mut receivers = (0..case.receivers)
        .map(|number| Receiver::new(case.profile, case.streams, number))
        .collect::<Result<Vec<_>>>()?;
    let mut store = PacketStore::new(StoreConfig::VIDEO);
    let mut arena = vec![0; case.receivers * STRIDE];
    let mut sequence = 0;
    // The sequence maps fill and the store's chunks come into being.
    let warm_up = 2048;
    let payload = vec![0x42; case.payload_bytes];
    turns(&case, warm_up, &payload, &mut receivers, &mut store, &mut arena, &mut sequence, &mut Vec::new())?;

    let turns_a_slice = (PACKETS / case.receivers / SLICES).max(1);
    let with_bare = case.profile != Profile::Aes128CmHmacSha1_80;
    let mut bare =
        (0..case.receivers).map(|number| Bare::new(case.profile, number)).collect::<Result<Vec<_>>>()?;
    let (mut samples, mut bare_samples) = (Vec::with_capacity(PACKETS), Vec::with_capacity(PACKETS));
    let (mut ours, mut floor, mut allocations) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        samples.clear();
        bare_samples.clear();
        // In turns, so that what else the machine does falls on both.
        for _ in 0..SLICES {
            let mut outcome = Ok(());
            let counted = allocation_counter::measure(|| {
                outcome = turns(
                    &case,
                    turns_a_slice,
                    &payload,
                    &mut receivers,
                    &mut store,
                    &mut arena,
                    &mut sequence,
                    &mut samples,
                );
            });
            outcome?;
            allocations += counted.count_total;
            if with_bare {
                bare_turns(&case, turns_a_slice, &mut bare, &mut arena, &mut bare_samples)?;
            }
        }
        ours.push(median(&mut samples));
        if with_bare {
            floor.push(median(&mut bare_samples));
        }
    }
    let ns = median(&mut ours);
    let bare_seal_ns = with_bare.then(|| median(&mut floor));
    Ok(Row {
        path: case.path,
        profile: name(case.profile),
        receivers: case.receivers,
        payload_bytes: case.payload_bytes,
        streams: case.streams,
        ns,
        bare_seal_ns,
        ratio: bare_seal_ns.map(|bare| ns / bare),
        allocations: allocations as f64 / (ROUNDS * SLICES * turns_a_slice * case.receivers) as f64,
    })
}

/// One packet to all receivers, `turns` times; a sample is nanoseconds per packet and receiver, the store's share
/// included.
#[expect(clippy::too_many_arguments, reason = "the bench's whole state")]
fn turns(
    case: &Case,
    turns: usize,
    payload: &[u8],
    receivers: &mut [Receiver],
    store: &mut PacketStore,
    arena: &mut [u8],
    sequence: &mut u64,
    samples: &mut Vec<f64>,
) -> Result<()> {
    let patch = match case.path {
        Path::Forward => None,
        Path::Patch => Some(PayloadPatch { at: 2, bytes: 3, octets: [7; PATCH_BYTES_MAX] }),
    };
    let turns_a_sample = (SAMPLE_PACKETS / case.receivers).max(1);
    let arrived = Instant::now();
    for _ in 0..turns / turns_a_sample {
        let begin = Instant::now();
        for _ in 0..turns_a_sample {
            *sequence += 1;
            let info = PacketInfo {
                sequence: *sequence,
                timestamp: *sequence as u32 * 3000,
                marker: true,
                frame: FrameInfo::default(),
                arrived,
                audio_level: None,
                orientation: None,
                playout_delay: None,
                capture_time: None,
            };
            let handle = store.insert(info, &[], payload)?;
            for (receiver, buffer) in receivers.iter_mut().zip(arena.chunks_exact_mut(STRIDE)) {
                let packet = store.get(handle).context("the packet just kept")?;
                let out = Outgoing {
                    payload_type: 96,
                    rtx_payload_type: Some(97),
                    sequence: receiver.next_sequence,
                    timestamp: info.timestamp.wrapping_add(777),
                    marker: info.marker,
                    patch,
                    descriptor: None,
                    transport_sequence: receiver.transport_sequence,
                    send_time: SendTime(0),
                };
                receiver.next_sequence += 1;
                receiver.transport_sequence = receiver.transport_sequence.wrapping_add(1);
                let stream = receiver.streams.first_mut().context("a stream")?;
                let bytes = stream.write(&receiver.sealer, buffer, &packet, handle, 0, &out)?;
                std::hint::black_box(bytes);
            }
        }
        let packets = (turns_a_sample * receivers.len()) as f64;
        if samples.len() < samples.capacity() {
            samples.push(begin.elapsed().as_nanos() as f64 / packets);
        }
    }
    Ok(())
}

fn bare_turns(
    case: &Case,
    turns: usize,
    keys: &mut [Bare],
    arena: &mut [u8],
    samples: &mut Vec<f64>,
) -> Result<()> {
    let turns_a_sample = (SAMPLE_PACKETS / case.receivers).max(1);
    for _ in 0..turns / turns_a_sample {
        let begin = Instant::now();
        for _ in 0..turns_a_sample {
            for (key, buffer) in keys.iter_mut().zip(arena.chunks_exact_mut(STRIDE)) {
                key.seal(buffer, case.payload_bytes)?;
            }
        }
        samples.push(begin.elapsed().as_nanos() as f64 / (turns_a_sample * keys.len()) as f64);
    }
    Ok(())
}

/// A publisher's packets, opened in batches that were sealed outside the clock.
fn measure_open(profile: Profile, payload_bytes: usize) -> Result<OpenRow> {
    let (mut opener, mut sealer) = session(profile, 0)?;
    let mut stream = sealer.stream(1)?;
    let mut packets = vec![vec![0; HEADER_BYTES + payload_bytes + 16]; SAMPLE_PACKETS];
    let mut index = 1000u64;
    let (mut rounds, mut allocations) = (Vec::new(), 0);
    let samples_a_round = PACKETS / SAMPLE_PACKETS / 4;
    for round in 0..=ROUNDS {
        let mut samples = Vec::with_capacity(samples_a_round);
        for _ in 0..samples_a_round {
            for packet in &mut packets {
                index += 1;
                let [s0, s1] = (index as u16).to_be_bytes();
                let header = [
                    0x90, 96, s0, s1, 0, 0, 0, 0, 0, 0, 0, 1, 0xbe, 0xde, 0, 2, 0x31, 0, 0, 0x41, b'v', b'0',
                    0, 0,
                ];
                packet.get_mut(..HEADER_BYTES).context("room")?.copy_from_slice(&header);
                packet.resize(HEADER_BYTES + payload_bytes + 16, 0);
                let end = HEADER_BYTES + payload_bytes;
                let bytes = sealer.seal_rtp(&mut stream, packet, HEADER_BYTES, end, index)?;
                packet.truncate(bytes);
            }
            let mut outcome = Ok(());
            let mut elapsed = std::time::Duration::ZERO;
            let counted = allocation_counter::measure(|| {
                let begin = Instant::now();
                for packet in &mut packets {
                    match opener.open_rtp(packet) {
                        Ok(opened) => {
                            std::hint::black_box(opened);
                        }
                        Err(error) => outcome = Err(error),
                    }
                }
                elapsed = begin.elapsed();
            });
            outcome?;
            // The first round makes the source known.
            if round > 0 {
                allocations += counted.count_total;
            }
            samples.push(elapsed.as_nanos() as f64 / SAMPLE_PACKETS as f64);
        }
        if round > 0 {
            rounds.push(median(&mut samples));
        }
    }
    Ok(OpenRow {
        profile: name(profile),
        payload_bytes,
        ns: median(&mut rounds),
        allocations: allocations as f64 / (ROUNDS * samples_a_round * SAMPLE_PACKETS) as f64,
    })
}
