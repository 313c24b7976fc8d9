//! Datagrams that lie side by side, and how the kernel takes them.

use std::{io, time::Instant};

use quinn_udp::Transmit;

use super::{Route, SendStats};
use crate::UdpSocket;

/// EIO, the same number on every Unix; the standard library has no kind for it.
const EIO: i32 = 5;

/// Segments of up to this size fit every path: 1280, the least MTU of IPv6 (RFC 8200 section 5), minus the headers of
/// IPv6 and UDP. Whoever refuses them together and takes them alone does no segmentation.
const MODEST_SEGMENT_BYTES: usize = 1232;

/// Where datagrams go: a socket, or a kernel with a will of its own in tests.
pub(super) trait Sink {
    fn segments_max(&self) -> usize;
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<()>;
    fn give_up_segmentation(&mut self, now: Instant);
}

impl Sink for UdpSocket {
    fn segments_max(&self) -> usize {
        Self::segments_max(self)
    }

    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        Self::send(self, transmit)
    }

    fn give_up_segmentation(&mut self, now: Instant) {
        Self::give_up_segmentation(self, now);
    }
}

/// Datagrams with one route, few enough for one send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train<'a> {
    pub(super) route: Route,
    pub(super) contents: &'a [u8],
    /// Size of all datagrams but the last, which may be shorter. Not 0.
    pub(super) segment_bytes: usize,
}

/// What became of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Each datagram is sent, or dropped and counted.
    Done,
    /// The kernel's buffer is full. So many of the first datagrams are done.
    Blocked(usize),
    /// Nothing reaches this destination: what was not sent is dropped and counted.
    Unreachable,
}

impl<'a> Train<'a> {
    pub(super) fn datagrams(&self) -> usize {
        self.contents.len().div_ceil(self.segment_bytes)
    }

    /// The datagrams after so many of the first.
    pub(super) fn datagrams_from(&self, skipped: usize) -> impl Iterator<Item = &'a [u8]> {
        self.contents.chunks(self.segment_bytes).skip(skipped)
    }

    /// Sends it at once, or one datagram at a time when the kernel refuses that.
    pub(super) fn send(&self, socket: &mut impl Sink, stats: &mut SendStats, now: Instant) -> Progress {
        match self.attempt(self.contents, socket, stats) {
            Ok(()) => Progress::Done,
            Err(error) if self.datagrams() > 1 && may_concern_segments(&error) => {
                stats.segmentation_refused += 1;
                self.send_singly(socket, stats, now)
            }
            Err(error) => after_error(&error, self.datagrams(), stats),
        }
    }

    /// Finds out what the refusal was about as well. A bad destination refuses single datagrams too, and a narrow path
    /// those of this size: neither says anything about the segmentation of other sends.
    fn send_singly(&self, socket: &mut impl Sink, stats: &mut SendStats, now: Instant) -> Progress {
        for (done, datagram) in self.datagrams_from(0).enumerate() {
            let Err(error) = self.attempt(datagram, socket, stats) else {
                if done == 0 && self.segment_bytes <= MODEST_SEGMENT_BYTES {
                    socket.give_up_segmentation(now);
                }
                continue;
            };
            match after_error(&error, 1, stats) {
                Progress::Done => {}
                Progress::Blocked(_) => return Progress::Blocked(done),
                Progress::Unreachable => {
                    stats.dropped_unreachable += self.datagrams_from(done + 1).count() as u64;
                    return Progress::Unreachable;
                }
            }
        }
        Progress::Done
    }

    /// One system call for the train or a part of it.
    fn attempt(&self, contents: &[u8], socket: &mut impl Sink, stats: &mut SendStats) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.route.destination,
            ecn: None,
            contents,
            segment_size: (contents.len() > self.segment_bytes).then_some(self.segment_bytes),
            src_ip: self.route.source_ip,
        };
        socket.send(&transmit)?;
        stats.sends += 1;
        stats.datagrams_sent += contents.len().div_ceil(self.segment_bytes) as u64;
        stats.bytes_sent += contents.len() as u64;
        Ok(())
    }
}

/// Whether the kernel may have refused the segmentation only, or some of the segments for their size. Linux says
/// EMSGSIZE to segments larger than the path takes, in older versions EINVAL, and EIO or EINVAL where an interface does
/// no segmentation.
fn may_concern_segments(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
        || error.raw_os_error() == Some(EIO)
        || quinn_udp::is_msg_size_err(error)
}

/// Counts what an error drops.
fn after_error(error: &io::Error, datagrams: usize, stats: &mut SendStats) -> Progress {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, WouldBlock};
    let dropped = match error.kind() {
        WouldBlock => return Progress::Blocked(0),
        HostUnreachable | NetworkUnreachable | NetworkDown => {
            stats.dropped_unreachable += datagrams as u64;
            return Progress::Unreachable;
        }
        _ if quinn_udp::is_msg_size_err(error) => &mut stats.dropped_too_big,
        _ => &mut stats.dropped_failed,
    };
    *dropped += datagrams as u64;
    Progress::Done
}
