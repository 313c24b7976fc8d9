//! One point of a table: who is in which room, and the figures of a server that serves them.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use zynk_sfu_core::media::srtp::Profile;

use crate::{
    generator::{Generator, Group, Joined, Load, Participant, Role, Window},
    histogram::Percentiles,
    machine::{self, CoreTimes, CpuTimes},
    median::median,
};

/// Between a publisher's packets of audio.
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
/// Time between the last join and the first window: bandwidth estimates rise, keyframes arrive.
const SETTLE: Duration = Duration::from_secs(3);

/// Who is in which room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topology {
    /// One publishes, all others receive.
    Fan(usize),
    /// Rooms of participants that each publish and receive as many as there are others. A participant is two
    /// connections. WHEP plays the tracks in their order, so everybody receives the same ones.
    Rooms(usize, usize),
}

impl Topology {
    /// One room in which everybody publishes.
    pub fn mesh(participants: usize) -> Self {
        Self::Rooms(1, participants)
    }

    fn shape(self) -> (usize, usize, usize, usize) {
        match self {
            Self::Fan(receivers) => (1, 1, receivers, 1),
            Self::Rooms(rooms, size) => (rooms, size, size, size.saturating_sub(1)),
        }
    }

    /// Publishers in all rooms.
    pub fn publishers(self) -> usize {
        let (rooms, publishers, ..) = self.shape();
        rooms * publishers
    }

    /// Subscriptions of a publisher's pair of tracks, in all rooms.
    pub fn streams(self) -> usize {
        let (rooms, _, receivers, each) = self.shape();
        rooms * receivers * each
    }

    /// How many receivers each publisher has.
    pub fn receivers(self) -> Vec<usize> {
        let (rooms, publishers, receivers, each) = self.shape();
        let one = |publisher: usize| if publisher < each { receivers } else { 0 };
        (0..rooms).flat_map(|_| (0..publishers).map(one)).collect()
    }

    /// Lets everybody join, one after the other: the publishers of a room, then its receivers.
    ///
    /// # Errors
    /// When somebody cannot.
    pub fn join(self, generator: &mut Generator, prefix: &str, load: Load, group: Group) -> Result<Joins> {
        let (rooms, publishers, receivers, each) = self.shape();
        let mut joins = Joins::default();
        for room in 0..rooms {
            let participant = |generator: &mut Generator, name: String, role| {
                let room = format!("{prefix}{room}");
                generator.join(Participant { room, name, group, role })
            };
            for number in 0..publishers {
                let name = format!("publisher{number}");
                joins.publishers.push(participant(generator, name, Role::Publish(load))?);
            }
            for number in 0..receivers {
                let audio = if load.audio { each } else { 0 };
                let video = if load.video { each } else { 0 };
                let role = Role::Receive { audio, video, wait_for_media: true };
                // The last one's join ended with a packet: without a pause of any length, each would begin in step with
                // the publisher.
                generator.run(AUDIO_INTERVAL * (number as u32 * 37 % 100) / 100)?;
                joins.receivers.push(participant(generator, format!("receiver{number}"), role)?);
            }
        }
        Ok(joins)
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fan(receivers) => write!(f, "fan {receivers}"),
            Self::Rooms(1, size) => write!(f, "mesh {size}"),
            Self::Rooms(rooms, size) => write!(f, "rooms {rooms}x{size}"),
        }
    }
}

/// As on a command line: `fan:100`, `mesh:6`, `rooms:10x6`.
impl FromStr for Topology {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = "a point is fan:N, mesh:N or rooms:RxN";
        let (kind, size) = text.split_once([':', ' ']).context(wanted)?;
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0).context(wanted);
        Ok(match kind {
            "fan" => Self::Fan(number(size)?),
            "mesh" => Self::mesh(number(size)?.max(2)),
            "rooms" => {
                let (rooms, size) = size.split_once('x').context(wanted)?;
                Self::Rooms(number(rooms)?, number(size)?.max(2))
            }
            _ => bail!(wanted),
        })
    }
}

/// Everybody who joined.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Joins {
    pub publishers: Vec<Joined>,
    pub receivers: Vec<Joined>,
}

/// The figures of one window, or the medians of several.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    /// Packets of media that receivers received, each second.
    pub packets_per_second: f64,
    /// All RTP that they received.
    pub mbit_per_second: f64,
    /// Gaps in sequence numbers; nothing is asked for again.
    pub loss_percent: f64,
    /// What was published for somebody and not delivered: lost, or not forwarded.
    pub short_percent: f64,
    /// From the publisher to the kernel's timestamp at the receiver's socket.
    pub latency_ms: Percentiles,
    /// Of one core, all threads of the server, user and system.
    pub server_cpu_percent: f64,
    /// The same for each packet delivered.
    pub us_per_packet: f64,
    /// Resident memory of the server.
    pub resident_mib: f64,
    /// Of one core.
    pub generator_cpu_percent: f64,
    /// The same for each packet received.
    pub generator_us_per_packet: f64,
    /// What else the server's core and the generator's did.
    pub other_percent: [f64; 2],
    /// How late a packet of a publisher left, at most.
    pub late_ms: f64,
}

/// A row of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Whose.
    pub server: String,
    /// Which.
    pub point: String,
    /// Medians, figure by figure.
    pub median: Figures,
    /// All windows.
    pub windows: Vec<Figures>,
    /// Threads of the server.
    pub threads: usize,
    /// From the request to its answer, and to the connection: medians.
    pub join_parts_ms: [f64; 2],
    /// From the request to the first packet: p50 and p95.
    pub join_ms: [f64; 2],
    /// Datagrams that the kernel dropped at the generator's sockets: with any, losses are not the server's alone.
    pub generator_drops: u64,
    /// The same at the server's sockets: it is overloaded.
    pub server_drops: u64,
    /// Connections that were let down.
    pub failures: u64,
    /// Packets opened, and those of them that were not authentic.
    pub opened: [u64; 2],
    /// The negotiated protection.
    pub profile: &'static str,
    /// When the point began.
    pub load_average: String,
    /// The floor of the same run, before and after the point, in microseconds for each packet.
    pub floor_us_per_packet: Option<[f64; 2]>,
    /// `us_per_packet` by the mean of both.
    pub floor_ratio: Option<f64>,
}

/// Everybody joins, then windows are measured.
///
/// # Errors
/// When somebody cannot join.
pub fn measure(
    server: &str,
    pid: Option<u32>,
    generator: &mut Generator,
    topology: Topology,
    load: Load,
    windows: usize,
    duration: Duration,
) -> Result<Row> {
    let load_average = machine::load_average();
    let joins = topology.join(generator, "room", load, 0)?;
    generator.run(SETTLE)?;
    let published = topology.receivers();
    let mut figures = Vec::new();
    let mut opened = [0, 0];
    for _ in 0..windows {
        let (figure, window) = one_window(pid, generator, duration)?;
        let wanted =
            f64::from(load.packets_per_second()) * topology.streams() as f64 * duration.as_secs_f64();
        // Publishers that nobody receives count for nothing.
        let sent = window.sent as f64 / published.len().max(1) as f64 * topology.streams() as f64;
        let short_percent = 100.0 * (1.0 - window.received.packets as f64 / sent.min(wanted).max(1.0));
        figures.push(Figures { short_percent, ..figure });
        opened[0] += window.received.opened;
        opened[1] += window.received.refused;
    }
    let join_ms = |part: f64, until: fn(&Joined) -> Option<Duration>| {
        let mut times: Vec<f64> =
            joins.receivers.iter().filter_map(|joined| Some(until(joined)?.as_secs_f64() * 1e3)).collect();
        times.sort_by(f64::total_cmp);
        times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
    };
    Ok(Row {
        server: server.to_owned(),
        point: topology.to_string(),
        median: middle(&figures),
        windows: figures,
        threads: pid.map_or(0, |pid| CpuTimes::of(pid).threads()),
        join_parts_ms: [
            join_ms(0.5, |joined| Some(joined.answered)),
            join_ms(0.5, |joined| Some(joined.connected)),
        ],
        join_ms: [join_ms(0.5, |joined| joined.first_packet), join_ms(0.95, |joined| joined.first_packet)],
        generator_drops: generator.drops(),
        server_drops: generator.server_drops(),
        failures: generator.failures(),
        opened,
        profile: generator.profile().map_or("none", profile_name),
        load_average,
        floor_us_per_packet: None,
        floor_ratio: None,
    })
}

fn one_window(pid: Option<u32>, generator: &mut Generator, duration: Duration) -> Result<(Figures, Window)> {
    let server_before = pid.map(CpuTimes::of).unwrap_or_default();
    let (cores_before, own_before, begun) = (CoreTimes::now(), machine::own_cpu(), Instant::now());
    let window = generator.measure(duration)?.into_iter().next().context("nobody takes part")?;
    let seconds = begun.elapsed().as_secs_f64();
    let server = pid.map(CpuTimes::of).unwrap_or_default().since(&server_before).as_secs_f64();
    let own = (machine::own_cpu() - own_before).as_secs_f64();
    let cores = CoreTimes::now();
    let other = |core, own: f64| 100.0 * (cores.busy_since(&cores_before, core) - own) / seconds;
    let received = window.received;
    let packets = received.packets.max(1) as f64;
    let expected = received.packets as f64 + received.lost.max(0) as f64;
    let figures = Figures {
        packets_per_second: received.packets as f64 / seconds,
        mbit_per_second: received.octets as f64 * 8.0 / 1e6 / seconds,
        loss_percent: 100.0 * received.lost.max(0) as f64 / expected.max(1.0),
        short_percent: 0.0,
        latency_ms: window.latencies.percentiles(),
        server_cpu_percent: 100.0 * server / seconds,
        us_per_packet: server * 1e6 / packets,
        resident_mib: pid.map_or(f64::NAN, machine::resident_mib),
        generator_cpu_percent: 100.0 * own / seconds,
        generator_us_per_packet: own * 1e6 / packets,
        other_percent: [other(machine::SERVER_CORE, server), other(machine::GENERATOR_CORE, own)],
        late_ms: generator.late_max().as_secs_f64() * 1e3,
    };
    Ok((figures, window))
}

fn middle(figures: &[Figures]) -> Figures {
    let of = |part: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(part).collect();
        median(&mut values)
    };
    Figures {
        packets_per_second: of(|f| f.packets_per_second),
        mbit_per_second: of(|f| f.mbit_per_second),
        loss_percent: of(|f| f.loss_percent),
        short_percent: of(|f| f.short_percent),
        latency_ms: Percentiles {
            p50: of(|f| f.latency_ms.p50),
            p95: of(|f| f.latency_ms.p95),
            p99: of(|f| f.latency_ms.p99),
            max: of(|f| f.latency_ms.max),
        },
        server_cpu_percent: of(|f| f.server_cpu_percent),
        us_per_packet: of(|f| f.us_per_packet),
        resident_mib: of(|f| f.resident_mib),
        generator_cpu_percent: of(|f| f.generator_cpu_percent),
        generator_us_per_packet: of(|f| f.generator_us_per_packet),
        other_percent: [of(|f| f.other_percent[0]), of(|f| f.other_percent[1])],
        late_ms: of(|f| f.late_ms),
    }
}

/// The name of a profile in a table.
pub fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::AeadAes128Gcm => "AES-128-GCM",
        Profile::AeadAes256Gcm => "AES-256-GCM",
        _ => "AES-CM/SHA1-80",
    }
}

/// The heading over [`Row`]s.
pub const HEADING: &str = concat!(
    "server        point         pkt/s  Mbit/s  loss%  short%  p50/p95/p99/max ms       cpu%  us/pkt  floor  ratio",
    "  RSS MiB  thr  answer/up/join p50/p95 ms  gen%  us/pkt  drops  other%    load"
);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { latency_ms: latency, other_percent: [server_core, generator_core], .. } = self.median;
        let floor =
            self.floor_us_per_packet.map_or_else(|| "-".into(), |[a, b]| format!("{:.2}", (a + b) / 2.0));
        let ratio = self.floor_ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
        let latency = format!("{:.2}/{:.2}/{:.2}/{:.1}", latency.p50, latency.p95, latency.p99, latency.max);
        write!(
            f,
            "{:<12}  {:<11}  {:>6.0}  {:>6.1}  {:>5.2}  {:>6.2}  {:<22}  {:>5.1}  {:>6.2}  {:>5}  {:>5}  {:>7.1}  {:>3}  {:>25}  {:>4.0}  {:>6.2}  {:>5}  {:>3.0}/{:<3.0}  {}",
            self.server,
            self.point,
            self.median.packets_per_second,
            self.median.mbit_per_second,
            self.median.loss_percent,
            self.median.short_percent,
            latency,
            self.median.server_cpu_percent,
            self.median.us_per_packet,
            floor,
            ratio,
            self.median.resident_mib,
            self.threads,
            format!(
                "{:.1}/{:.1}/{:.1}/{:.0}",
                self.join_parts_ms[0], self.join_parts_ms[1], self.join_ms[0], self.join_ms[1]
            ),
            self.median.generator_cpu_percent,
            self.median.generator_us_per_packet,
            self.generator_drops,
            server_core,
            generator_core,
            self.load_average,
        )?;
        let [opened, refused] = self.opened;
        if self.generator_drops + self.server_drops + self.failures + refused > 0 || opened == 0 {
            write!(
                f,
                "\n  dropped at the generator's sockets: {}, at the server's: {}; connections failed: {}; \
                 sampled packets authentic: {opened}, not: {refused}",
                self.generator_drops, self.server_drops, self.failures
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_and_counted() {
        let fan: Topology = "fan:100".parse().unwrap();
        assert_eq!((fan.publishers(), fan.streams(), fan.receivers()), (1, 100, vec![100]));
        let rooms: Topology = "rooms:2x3".parse().unwrap();
        assert_eq!((rooms.publishers(), rooms.streams()), (6, 12));
        assert_eq!(rooms.receivers(), [3, 3, 0, 3, 3, 0]);
        assert_eq!("mesh 6".parse::<Topology>().unwrap(), Topology::Rooms(1, 6));
        for wrong in ["fan", "fan:0", "rooms:3", "star:3", "mesh:x"] {
            assert!(wrong.parse::<Topology>().is_err(), "{wrong}");
        }
    }
}
