//! Probes: short runs of packets at a rate of their own, to learn whether the path carries it.

use std::time::{Duration, Instant};

use crate::media::{bitrate::Bitrate, twcc::ProbeClusterId};

/// How many probes wait or run at a time.
pub const PROBES_MAX: usize = 4;
/// A probe that could not begin for so long is dropped: its reason is gone.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A probe for which there was nothing to send is tried again after this.
const RETRY: Duration = Duration::from_millis(10);
/// A probe this far behind its schedule is abandoned: catching up would measure a rate nobody asked for
/// (libwebrtc's `max_probe_delay`).
const DELAY_MAX: Duration = Duration::from_millis(20);

/// A probe to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeCluster {
    /// Marks its packets in the send history.
    pub id: ProbeClusterId,
    /// Its rate.
    pub rate: Bitrate,
    /// It ends when so many bytes …
    pub bytes_min: u32,
    /// … in so many packets are sent.
    pub packets_min: u16,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    cluster: ProbeCluster,
    queued_at: Instant,
    begins_at: Instant,
    started_at: Option<Instant>,
    bytes: u32,
    packets: u16,
}

impl Probe {
    /// When its next packet is due.
    fn next_at(&self) -> Instant {
        let Some(started_at) = self.started_at else { return self.begins_at };
        let ns = u64::from(self.bytes) * 8_000_000_000 / self.cluster.rate.as_bps().max(1);
        started_at + Duration::from_nanos(ns)
    }
}

/// The probes of one pacer, first come first served.
#[derive(Debug, Default)]
pub(super) struct Prober {
    probes: [Option<Probe>; PROBES_MAX],
}

impl Prober {
    /// Queues a probe; when all places are taken, in the last place.
    pub(super) fn push(&mut self, now: Instant, cluster: ProbeCluster) {
        let probe = Probe { cluster, queued_at: now, begins_at: now, started_at: None, bytes: 0, packets: 0 };
        let free = self.probes.iter().position(Option::is_none).unwrap_or(PROBES_MAX - 1);
        if let Some(place) = self.probes.get_mut(free) {
            *place = Some(probe);
        }
    }

    /// Whether no probe waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.probes.first(), None | Some(None))
    }

    /// The probe whose next packet is due. Begins the first one, drops those that are too late.
    pub(super) fn due(&mut self, now: Instant) -> Option<ProbeClusterId> {
        loop {
            let probe = self.probes.first_mut()?.as_mut()?;
            let (since, late_max) = match probe.started_at {
                Some(_) => (probe.next_at(), DELAY_MAX),
                None => (probe.queued_at, WAIT_MAX),
            };
            let late = now.saturating_duration_since(since);
            if late > late_max {
                self.abandon();
                continue;
            }
            if probe.next_at() > now {
                return None;
            }
            probe.started_at.get_or_insert(now);
            return Some(probe.cluster.id);
        }
    }

    /// Whether a probe has begun.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.probes.first(), Some(Some(Probe { started_at: Some(_), .. })))
    }

    /// When the next packet of a probe is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.probes.first()?.map(|probe| probe.next_at())
    }

    /// A useful size of padding: two milliseconds' worth, at most an Ethernet payload.
    pub(super) fn packet_bytes(&self) -> u16 {
        let rate = self.probes.first().copied().flatten().map_or(Bitrate::ZERO, |probe| probe.cluster.rate);
        rate.bytes_in(Duration::from_millis(2)).min(1200) as u16
    }

    /// Notes a packet of the running probe.
    pub(super) fn on_sent(&mut self, bytes: u16) {
        let Some(Some(probe)) = self.probes.first_mut() else { return };
        probe.bytes = probe.bytes.saturating_add(u32::from(bytes));
        probe.packets = probe.packets.saturating_add(1);
        if probe.bytes >= probe.cluster.bytes_min && probe.packets >= probe.cluster.packets_min {
            self.abandon();
        }
    }

    /// There was nothing to send for the first probe. One that has not begun waits: a stream may be about to.
    pub(super) fn starve(&mut self, now: Instant) {
        match self.probes.first_mut() {
            Some(Some(probe)) if probe.bytes == 0 => {
                probe.started_at = None;
                probe.begins_at = now + RETRY;
            }
            _ => self.abandon(),
        }
    }

    /// Ends the first probe.
    pub(super) fn abandon(&mut self) {
        self.probes.rotate_left(1);
        if let Some(last) = self.probes.last_mut() {
            *last = None;
        }
    }
}
