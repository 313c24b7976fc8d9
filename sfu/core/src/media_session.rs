//! The media of one client in both directions: keys, sources, streams, reports.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use crate::{
    Transport,
    connection::{Path, SessionKeys},
    downstream::Downstream,
    media::{
        egress::NtpTime,
        extensions::ExtensionMap,
        nack::NackPair,
        packet_budget::PacketBudget,
        receiver::ReportBlock,
        srtp::{KeyError, Opener, Sealer},
    },
    upstream::Upstream,
};

/// How often sender and receiver reports go out: video wants them more often than audio, and a second costs little
/// (libwebrtc's interval for video).
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Reports and estimate wait so long for a packet that is sent to the client anyway: a timer of their own costs more
/// than they do.
const UPKEEP_WAITS: Duration = Duration::from_millis(25);
/// A client whose path was not nominated for so long has left it; until then another path of less priority does
/// not take its place. Browsers check the path in use every 2.5 s at least (libwebrtc,
/// `STRONG_AND_STABLE_WRITABLE_CONNECTION_PING_INTERVAL`).
const PATH_HELD: Duration = Duration::from_secs(5);

/// A client's clock that is off by so much more than before was set anew: five seconds, 32.32 fixed point.
const CLOCK_STEP: u64 = 5 << 32;

/// Keys of both directions.
#[derive(Debug)]
pub(crate) struct Protection {
    pub(crate) opener: Opener,
    pub(crate) sealer: Sealer,
}

/// The path that the client nominated.
#[derive(Clone, Copy, Debug)]
struct Nominated {
    path: Path,
    priority: u32,
    at: Instant,
}

/// Media of one client.
#[derive(Debug)]
pub(crate) struct MediaSession {
    pub(crate) protection: Option<Protection>,
    pub(crate) upstream: Upstream,
    /// What the client may send.
    pub(crate) budget: PacketBudget,
    pub(crate) downstream: Downstream,
    /// As negotiated for what we send.
    pub(crate) extensions: ExtensionMap,
    pub(crate) mixed_extension_forms: bool,
    /// Which section sends with an SSRC.
    pub(crate) streams: FxHashMap<u32, usize>,
    /// The source of our feedback.
    pub(crate) feedback_ssrc: u32,
    nominated: Option<Nominated>,
    /// Another path that it nominated since; the client's first packet from there makes it the one.
    candidate: Option<Path>,
    /// What our clock reads minus what the client's reads, in 32.32 fixed point seconds. One for all its streams, or
    /// they lose their sync.
    clock_offset: Option<i64>,
    /// Sources that are to be asked for a keyframe.
    pub(crate) keyframes_wanted: Vec<u32>,
    /// When reports are due, while there is something to report.
    report_at: Option<Instant>,
    /// Working memory.
    pub(crate) pairs: Vec<NackPair>,
    pub(crate) blocks: Vec<ReportBlock>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) feedback: Vec<u8>,
    /// It is in the shard's list of those to be served this turn.
    pub(crate) dirty: bool,
    /// Something else happened than that packets for it came: a timer, or something that it sent itself. Estimate,
    /// reports and feedback are looked at only then, not at each packet.
    pub(crate) attention: bool,
}

impl MediaSession {
    pub(crate) fn new(feedback_ssrc: u32) -> Self {
        Self {
            protection: None,
            upstream: Upstream::default(),
            budget: PacketBudget::default(),
            downstream: Downstream::default(),
            extensions: ExtensionMap::default(),
            mixed_extension_forms: false,
            streams: FxHashMap::default(),
            feedback_ssrc,
            nominated: None,
            candidate: None,
            clock_offset: None,
            keyframes_wanted: Vec::new(),
            report_at: None,
            pairs: Vec::new(),
            blocks: Vec::new(),
            scratch: Vec::new(),
            feedback: Vec::new(),
            dirty: false,
            attention: false,
        }
    }

    /// Takes the keys of the session. str0m was given others, so our counters begin at zero.
    pub(crate) fn set_keys(&mut self, keys: &SessionKeys) -> Result<(), KeyError> {
        let (opener, sealer) = keys.material.session(keys.role, 0)?;
        self.protection = Some(Protection { opener, sealer });
        Ok(())
    }

    /// The way to the client.
    pub(crate) fn path(&self) -> Option<Path> {
        self.nominated.map(|nominated| nominated.path)
    }

    /// The client nominates a path in an authenticated connectivity check (RFC 8445, section 7.3.1.5). Where it
    /// nominates several, that of the highest priority counts, as long as it goes on nominating that. True if there was
    /// no way to the client before.
    pub(crate) fn nominate(&mut self, now: Instant, path: Path, priority: u32) -> bool {
        let first = self.nominated.is_none();
        let takes_over = match &self.nominated {
            None => true,
            Some(current) => {
                current.path == path
                    || priority > current.priority
                    || now.saturating_duration_since(current.at) >= PATH_HELD
            }
        };
        if takes_over {
            self.nominated = Some(Nominated { path, priority, at: now });
            self.candidate = None;
        } else {
            self.candidate = Some(path);
        }
        first
    }

    /// Nothing comes on its path any more: the next one that the client nominates takes its place at once. Until then
    /// it is sent on.
    pub(crate) fn loosen_path(&mut self) {
        if let Some(nominated) = &mut self.nominated {
            nominated.priority = 0;
        }
    }

    /// A path is gone: the next one that the client nominates takes its place at once. What waited to be sent is too old
    /// by then.
    pub(crate) fn forget_path(&mut self, transport: Transport, remote: SocketAddr) {
        let is_gone = |path: &Path| path.transport == transport && path.remote == remote;
        self.nominated = self.nominated.take().filter(|nominated| !is_gone(&nominated.path));
        self.candidate = self.candidate.take().filter(|path| !is_gone(path));
        if self.nominated.is_none() {
            self.downstream.forget_queued();
        }
    }

    /// An authentic packet came on a path. Clients send on the path that they have settled on.
    pub(crate) fn heard_on(&mut self, now: Instant, transport: Transport, remote: SocketAddr) {
        if let Some(candidate) = self.candidate
            && candidate.transport == transport
            && candidate.remote == remote
        {
            self.candidate = None;
            self.nominated = Some(Nominated { path: candidate, priority: 0, at: now });
        }
    }

    /// A time of the client's clock on ours. `report` is what its clock read when it sent a report that came at `now`.
    pub(crate) fn on_our_clock(&mut self, report: NtpTime, now: NtpTime) -> NtpTime {
        let offset = now.since(report);
        let kept = self.clock_offset.filter(|kept| kept.abs_diff(offset) < CLOCK_STEP);
        report.plus(*self.clock_offset.insert(kept.unwrap_or(offset)))
    }

    /// Reports are due from now on, if they are not already. True if that is new.
    pub(crate) fn report_soon(&mut self, now: Instant) -> bool {
        let new = self.report_at.is_none();
        if new {
            self.report_at = Some(now + REPORT_INTERVAL);
        }
        new
    }

    /// Whether reports are due; then the next are an interval later.
    pub(crate) fn take_report(&mut self, now: Instant) -> bool {
        let due = self.report_at.is_some_and(|at| at <= now);
        if due {
            self.report_at = None;
        }
        due
    }

    /// When reports are due or the estimate is to look at the time.
    fn upkeep_at(&self) -> Option<Instant> {
        self.downstream.estimate_at().into_iter().chain(self.report_at).min()
    }

    /// Whether they are: best seen to with a packet that is sent anyway.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.upkeep_at().is_some_and(|at| at <= now)
    }

    /// When something is to be done, packet or not. Without a path there is nothing that could be.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.nominated?;
        let upkeep = self.upkeep_at().map(|at| at + UPKEEP_WAITS);
        [self.upstream.next_timeout(), self.downstream.next_timeout(), upkeep].into_iter().flatten().min()
    }

    /// The round trip time, as reports tell it, else answers to NACKs.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.downstream.rtt().or(self.upstream.rtt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(transport: Transport, port: u16) -> Path {
        Path { transport, local: ([10, 0, 0, 1], 7882).into(), remote: ([10, 0, 0, 2], port).into() }
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn session() -> (MediaSession, Instant) {
        (MediaSession::new(1), Instant::now())
    }

    #[test]
    fn the_nominated_path_of_the_highest_priority_counts() {
        let (mut media, now) = session();
        let (udp, tcp) = (path(Transport::Udp, 1), path(Transport::Tcp, 2));
        media.nominate(now, tcp, 10);
        media.nominate(now, udp, 20);
        assert_eq!(media.path(), Some(udp));
        media.nominate(now, tcp, 10);
        assert_eq!(media.path(), Some(udp));
    }

    #[test]
    fn a_client_that_changes_its_network_is_followed_with_its_first_packet() {
        let (mut media, now) = session();
        let (wifi, cellular) = (path(Transport::Udp, 1), path(Transport::Udp, 2));
        media.nominate(now, wifi, 20);
        media.heard_on(now, Transport::Udp, cellular.remote);
        assert_eq!(media.path(), Some(wifi), "never nominated");
        media.nominate(now, cellular, 10);
        assert_eq!(media.path(), Some(wifi));
        media.heard_on(now, Transport::Udp, wifi.remote);
        assert_eq!(media.path(), Some(wifi), "what was still under way");
        media.heard_on(now, Transport::Udp, cellular.remote);
        assert_eq!(media.path(), Some(cellular));
    }

    #[test]
    fn a_path_that_is_nominated_no_more_gives_way() {
        let (mut media, now) = session();
        media.nominate(now, path(Transport::Udp, 1), 20);
        let later = now + PATH_HELD;
        media.nominate(later, path(Transport::Udp, 2), 10);
        assert_eq!(media.path(), Some(path(Transport::Udp, 2)));
    }

    #[test]
    fn a_loosened_path_is_sent_on_until_another_is_nominated() {
        let (mut media, now) = session();
        let (udp, tcp) = (path(Transport::Udp, 1), path(Transport::Tcp, 1));
        media.nominate(now, udp, 20);
        media.loosen_path();
        assert_eq!(media.path(), Some(udp));
        media.nominate(now, tcp, 10);
        assert_eq!(media.path(), Some(tcp));
    }

    #[test]
    fn a_closed_path_is_not_sent_on() {
        let (mut media, now) = session();
        let tcp = path(Transport::Tcp, 1);
        media.nominate(now, tcp, 20);
        media.forget_path(Transport::Tcp, tcp.remote);
        assert_eq!(media.path(), None);
    }

    #[test]
    fn clocks_of_clients_are_put_on_ours_by_one_offset() {
        let (mut media, _) = session();
        let second = 1_u64 << 32;
        let first = media.on_our_clock(NtpTime(100 * second), NtpTime(1000 * second));
        assert_eq!(first, NtpTime(1000 * second));
        let late = media.on_our_clock(NtpTime(110 * second), NtpTime(1010 * second + second / 2));
        assert_eq!(late, NtpTime(1010 * second), "late by half a second on its way");
        let set_anew = media.on_our_clock(NtpTime(500 * second), NtpTime(1020 * second));
        assert_eq!(set_anew, NtpTime(1020 * second));
    }
}
