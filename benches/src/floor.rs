//! The least that a server could do: one thread that waits for a packet, opens it, and for every receiver seals
//! it and sends it with a system call of its own. No timers, reports, rooms or estimates; no two packets leave
//! together.
//!
//! ```text
//!   generator's thread, core 1                       core 0
//!   the publishers' rhythm ─► one sealed packet ───► recv, open
//!   N sockets, drained each 10 ms ◄───────────────── N × (seal, sendto)      its CPU time is the floor
//! ```

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::Serialize;
use zynk_sfu_core::media::srtp::Profile;

use crate::{
    generator::{Arena, Clock, Load, Rhythm, Socket},
    machine,
};

/// Octets of the header that a forwarded packet has: fixed, transport sequence, mid.
const HEADER_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How often the thread looks whether it is to end.
const WAIT: Duration = Duration::from_millis(100);
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// What the floor cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Floor {
    /// CPU time for each packet that left, in microseconds.
    pub us_per_packet: f64,
    /// Packets that left, each second.
    pub packets_per_second: f64,
    /// Part of a core.
    pub cpu: f64,
}

/// Measures it for publishers with the given numbers of receivers.
///
/// # Errors
/// When sockets or the core cannot be had.
pub fn measure(receivers: &[usize], load: Load, profile: Profile, duration: Duration) -> Result<Floor> {
    let sockets: Vec<Vec<Socket>> = receivers
        .iter()
        .map(|count| (0..*count).map(|_| Socket::bind(LOOPBACK, None)).collect::<Result<_, _>>())
        .collect::<Result<_, _>>()
        .context("no sockets")?;
    let targets = sockets.iter().map(|group| group.iter().map(Socket::local).collect()).collect();
    let relay = Socket::bind(LOOPBACK, None)?;
    let address = relay.local();
    let io = relay.duplicate()?;
    io.set_nonblocking(false)?;
    io.set_read_timeout(Some(WAIT))?;
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let stop = stop.clone();
        std::thread::spawn(move || relay_packets(&io, targets, profile, &stop))
    };
    let sent = send_rhythm(&sockets, address, load, profile, duration);
    stop.store(true, Ordering::Relaxed);
    let relayed = thread.join().map_err(|_| anyhow!("the floor's thread panicked"))??;
    sent?;
    Ok(Floor {
        us_per_packet: relayed.cpu.as_secs_f64() * 1e6 / relayed.packets.max(1) as f64,
        packets_per_second: relayed.packets as f64 / duration.as_secs_f64(),
        cpu: relayed.cpu.as_secs_f64() / duration.as_secs_f64(),
    })
}

/// The publishers' side, and the receivers'.
fn send_rhythm(
    sockets: &[Vec<Socket>],
    relay: SocketAddr,
    load: Load,
    profile: Profile,
    duration: Duration,
) -> Result<()> {
    let key = Key::new(profile)?;
    let publisher = Socket::bind(LOOPBACK, None)?;
    let mut arena = Arena::new(Clock::now());
    let start = Instant::now();
    let mut rhythms: Vec<Rhythm> = (0..sockets.len() as u64)
        .map(|number| Rhythm::new(load, start + Duration::from_micros(1_370 * (number % 24))))
        .collect();
    let mut due: BinaryHeap<Reverse<(Instant, usize)>> = rhythms
        .iter()
        .enumerate()
        .filter_map(|(at, rhythm)| Some(Reverse((rhythm.next_at()?, at))))
        .collect();
    let mut counter = 0;
    let mut packet = vec![0; 2048];
    let mut next_drain = start;
    while start.elapsed() < duration {
        while let Some(Reverse((at, number))) = due.peek().copied()
            && at <= Instant::now()
        {
            due.pop();
            let Some(rhythm) = rhythms.get_mut(number) else { break };
            let payload = rhythm.advance().payload_bytes();
            counter += 1;
            if let Some(front) = packet.first_chunk_mut::<4>() {
                *front = (number as u32).to_be_bytes();
            }
            let bytes = key.seal(&mut packet, payload, counter)?;
            publisher.send(relay, packet.get(..bytes).unwrap_or_default());
            due.extend(rhythm.next_at().map(|at| Reverse((at, number))));
        }
        if Instant::now() >= next_drain {
            next_drain += DRAIN_INTERVAL;
            for socket in sockets.iter().flatten() {
                while arena.recv(socket, |_| {}) {}
            }
        }
        let next = due.peek().map_or(next_drain, |Reverse((at, _))| *at).min(next_drain);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

struct Relayed {
    packets: u64,
    cpu: Duration,
}

fn relay_packets(
    io: &UdpSocket,
    targets: Vec<Vec<SocketAddr>>,
    profile: Profile,
    stop: &AtomicBool,
) -> Result<Relayed> {
    machine::pin(machine::SERVER_CORE)?;
    let key = Key::new(profile)?;
    let mut packet = vec![0; 2048];
    let mut out = vec![0; 2048];
    let (mut packets, mut counter) = (0, 1 << 40);
    let begun = machine::thread_cpu();
    while !stop.load(Ordering::Relaxed) {
        let Ok(bytes) = io.recv(&mut packet) else { continue };
        let payload = key.open(&mut packet, bytes)?;
        let number = packet.first_chunk::<4>().map_or(0, |front| u32::from_be_bytes(*front));
        for target in targets.get(number as usize).into_iter().flatten() {
            counter += 1;
            let plain = packet.get(..HEADER_BYTES + payload).unwrap_or_default();
            if let Some(room) = out.get_mut(..plain.len()) {
                room.copy_from_slice(plain);
            }
            let bytes = key.seal(&mut out, payload, counter)?;
            let _ = io.send_to(out.get(..bytes).unwrap_or_default(), target);
            packets += 1;
        }
    }
    Ok(Relayed { packets, cpu: machine::thread_cpu() - begun })
}

/// AES-GCM with the nonce in the header, where a packet has its source and numbers.
struct Key(LessSafeKey);

impl Key {
    fn new(profile: Profile) -> Result<Self> {
        let (algorithm, bytes) = match profile {
            Profile::AeadAes256Gcm => (&AES_256_GCM, 32),
            _ => (&AES_128_GCM, 16),
        };
        Ok(Self(LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; bytes]).ok().context("a key")?)))
    }

    /// Returns the octets of the packet.
    fn seal(&self, packet: &mut [u8], payload: usize, counter: u64) -> Result<usize> {
        let (header, rest) = packet.split_at_mut_checked(HEADER_BYTES).context("room")?;
        let (body, rest) = rest.split_at_mut_checked(payload).context("room")?;
        let tag = rest.get_mut(..TAG_BYTES).context("room")?;
        if let Some(place) = header.last_chunk_mut::<8>() {
            *place = counter.to_be_bytes();
        }
        let sealed = self.0.seal_in_place_scatter(nonce(counter), Aad::from(&*header), body, &[], tag);
        sealed.ok().context("a seal")?;
        Ok(HEADER_BYTES + payload + TAG_BYTES)
    }

    /// Returns the octets of the payload.
    fn open(&self, packet: &mut [u8], bytes: usize) -> Result<usize> {
        let packet = packet.get_mut(..bytes).context("room")?;
        let (header, body) = packet.split_at_mut_checked(HEADER_BYTES).context("a header")?;
        let counter = header.last_chunk::<8>().map_or(0, |place| u64::from_be_bytes(*place));
        let plain = self.0.open_in_place(nonce(counter), Aad::from(&*header), body);
        Ok(plain.ok().context("the floor's packet is not authentic")?.len())
    }
}

fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}
