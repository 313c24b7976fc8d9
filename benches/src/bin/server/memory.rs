//! What participants and subscriptions take of memory.

use std::{path::Path, time::Duration};

use anyhow::Result;
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

/// Memory in KiB, by difference of the resident set.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    participants: usize,
    /// A server that has served a room of ten.
    empty_mib: f64,
    /// Everybody has joined, nobody publishes.
    idle_mib: f64,
    /// One publishes audio and video to all.
    subscribed_mib: f64,
    kib_per_idle_participant: f64,
    /// For one subscriber's subscription of one track, what the track itself takes included.
    kib_per_subscription: f64,
}

pub(crate) fn measure(binary: &Path, participants: usize) -> Result<Memory> {
    let server = ZynkServer::start(binary, None)?;
    let resident = || machine::resident_mib(server.pid());
    let mut generator = Generator::new(Box::new(Whip::zynk(server.url())))?;
    // Buffers that all share come into being, so that they are not counted for anybody.
    Topology::Fan(10).join(&mut generator, "warm-up", Load::CALL, 1)?;
    generator.run(SETTLE)?;
    generator.leave()?;
    generator.forget();
    generator.run(SETTLE)?;
    let empty_mib = resident();
    for number in 0..participants {
        let role = Role::Receive { audio: 1, video: 1, wait_for_media: false };
        generator.join(Participant {
            room: "idle".into(),
            name: format!("receiver{number}"),
            group: 0,
            role,
        })?;
    }
    generator.run(SETTLE)?;
    let idle_mib = resident();
    generator.join(Participant {
        room: "idle".into(),
        name: "publisher".into(),
        group: 0,
        role: Role::Publish(Load::CALL),
    })?;
    generator.run(FLOW)?;
    let subscribed_mib = resident();
    let kib = |more: f64, less: f64, count: usize| (more - less) * 1024.0 / count.max(1) as f64;
    Ok(Memory {
        participants,
        empty_mib,
        idle_mib,
        subscribed_mib,
        kib_per_idle_participant: kib(idle_mib, empty_mib, participants),
        kib_per_subscription: kib(subscribed_mib, idle_mib, 2 * participants),
    })
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "memory: {:.1} MiB, with {} idle participants {:.1} MiB, with a publisher's audio and video to all \
             {:.1} MiB\n  {:.1} KiB per idle participant, {:.1} KiB per subscription",
            self.empty_mib,
            self.participants,
            self.idle_mib,
            self.subscribed_mib,
            self.kib_per_idle_participant,
            self.kib_per_subscription
        )
    }
}
