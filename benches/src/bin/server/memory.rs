//! What participants and subscriptions take of memory.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use zynk_benches::{
    generator::{Generator, Load, Participant, Role, signaling::Whip},
    machine,
    point::Topology,
    server::ZynkServer,
};

/// How long the server has after a change until its memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);
/// How long media flows until its memory is looked at.
const FLOW: Duration = Duration::from_secs(6);

/// How long is looked at whether all receive what they are to.
const CHECK: Duration = Duration::from_secs(1);
/// How many publishers' pairs of tracks each receiver takes in the end, where subscriptions are measured.
const PUBLISHERS: usize = 5;
/// Of how many participants without media there is a receiver where subscriptions are measured.
const IDLE_PER_RECEIVER: usize = 5;

/// Memory in KiB, by difference of the resident set.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    participants: usize,
    /// A server that has served a room of ten.
    empty_mib: f64,
    /// Everybody has joined, nobody publishes.
    idle_mib: f64,
    kib_per_idle_participant: f64,
    subscriptions: Subscriptions,
}

/// What subscriptions take, of audio and of video in equal parts, the tracks and their publishers aside.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Subscriptions {
    receivers: usize,
    /// Once for each receiver, with the first publisher's pair of tracks, this pair aside: the bandwidth estimate,
    /// the history of what was sent.
    kib_per_receiver: f64,
    /// For one subscriber's subscription of one further track: the slope over the publishers after the first.
    kib_per_subscription: f64,
}

/// What a server holds that has served a room of ten, so that buffers that all share are not counted for anybody.
struct Warm {
    server: ZynkServer,
    generator: Generator,
}

impl Warm {
    fn start(binary: &Path) -> Result<Self> {
        let server = ZynkServer::start(binary, None)?;
        let mut generator = Generator::new(Box::new(Whip::zynk(server.url())))?;
        Topology::Fan(10).join(&mut generator, "warm-up", Load::CALL, 1)?;
        generator.run(SETTLE)?;
        generator.leave()?;
        generator.forget();
        generator.run(SETTLE)?;
        Ok(Self { server, generator })
    }

    fn join(&mut self, name: String, role: Role) -> Result<()> {
        self.generator.join(Participant { room: "idle".into(), name, group: 0, role })?;
        Ok(())
    }

    /// Receivers without a publisher, with so many sections for audio and as many for video.
    fn join_receivers(&mut self, receivers: usize, sections: usize) -> Result<()> {
        for number in 0..receivers {
            let role = Role::Receive { audio: sections, video: sections, wait_for_media: false };
            self.join(format!("receiver{number}"), role)?;
        }
        Ok(())
    }

    /// Resident memory in KiB after a while.
    fn resident_kib(&mut self, after: Duration) -> Result<f64> {
        self.generator.run(after)?;
        Ok(machine::resident_mib(self.server.pid()) * 1024.0)
    }

    /// Checks that so many subscriptions of a publisher's pair of tracks are served.
    fn ensure_flow(&mut self, streams: usize) -> Result<()> {
        let window = self.generator.measure(CHECK)?.into_iter().next().context("nobody takes part")?;
        let wanted = f64::from(Load::CALL.packets_per_second()) * streams as f64 * CHECK.as_secs_f64();
        let received = window.received.packets as f64;
        ensure!(received > 0.8 * wanted, "of {wanted:.0} packets the receivers received {received:.0}");
        Ok(())
    }
}

pub(crate) fn measure(binary: &Path, participants: usize) -> Result<Memory> {
    let participants = participants.max(1);
    let mut warm = Warm::start(binary)?;
    let empty = warm.resident_kib(Duration::ZERO)?;
    warm.join_receivers(participants, 1)?;
    let idle = warm.resident_kib(SETTLE)?;
    drop(warm);
    Ok(Memory {
        participants,
        empty_mib: empty / 1024.0,
        idle_mib: idle / 1024.0,
        kib_per_idle_participant: (idle - empty) / participants as f64,
        subscriptions: measure_subscriptions(binary, participants.div_ceil(IDLE_PER_RECEIVER))?,
    })
}

fn measure_subscriptions(binary: &Path, receivers: usize) -> Result<Subscriptions> {
    let receivers = receivers.max(2);
    // What one receiver's server takes is, but for that one, what the tracks and their publishers take.
    let ([first, further], [first_alone, further_alone]) = (growth(binary, receivers)?, growth(binary, 1)?);
    let others = (receivers - 1) as f64;
    let kib_per_subscription = (further - further_alone) / (others * 2.0 * (PUBLISHERS - 1) as f64);
    let kib_per_receiver = (first - first_alone) / others - 2.0 * kib_per_subscription;
    Ok(Subscriptions { receivers, kib_per_receiver, kib_per_subscription })
}

/// What a server takes more when a first publisher's tracks are received, and when those of all others are, in KiB.
fn growth(binary: &Path, receivers: usize) -> Result<[f64; 2]> {
    let mut warm = Warm::start(binary)?;
    warm.join_receivers(receivers, PUBLISHERS)?;
    let none = warm.resident_kib(SETTLE)?;
    warm.join("publisher0".into(), Role::Publish(Load::CALL))?;
    let first = warm.resident_kib(FLOW)?;
    for number in 1..PUBLISHERS {
        warm.join(format!("publisher{number}"), Role::Publish(Load::CALL))?;
    }
    let all = warm.resident_kib(FLOW)?;
    warm.ensure_flow(receivers * PUBLISHERS)?;
    Ok([first - none, all - first])
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Subscriptions { receivers, kib_per_receiver, kib_per_subscription } = self.subscriptions;
        write!(
            f,
            "memory: {:.1} MiB, with {} idle participants {:.1} MiB: {:.1} KiB for each\n  \
             {receivers} receivers of {PUBLISHERS} publishers: {kib_per_receiver:.1} KiB for each receiver of media, \
             {kib_per_subscription:.1} KiB for each subscription",
            self.empty_mib, self.participants, self.idle_mib, self.kib_per_idle_participant,
        )
    }
}
