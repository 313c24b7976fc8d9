//! Waking up on time. A poll's own timeout is rounded to milliseconds.

use std::{
    io,
    time::{Duration, Instant},
};

use mio::{Registry, Token};

/// Wakes a poll at one time.
#[derive(Debug)]
pub(super) struct Timer {
    #[cfg(target_os = "linux")]
    descriptor: rustix::fd::OwnedFd,
    at: Option<Instant>,
}

impl Timer {
    /// A timer whose events have this token, where it has events.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd as _;

            use mio::{Interest, unix::SourceFd};
            use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            registry.register(&mut SourceFd(&descriptor.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Self { descriptor, at: None })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (registry, token);
            Ok(Self { at: None })
        }
    }

    /// To be called at its event: it has to be set again.
    pub(super) fn note_expired(&mut self) {
        self.at = None;
    }

    /// Wakes the poll at this time and not before; a time that has passed is now.
    /// Returns the timeout that the poll needs besides.
    pub(super) fn set(&mut self, at: Option<Instant>) -> io::Result<Option<Duration>> {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        #[cfg(target_os = "linux")]
        {
            use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

            if self.at != at {
                self.at = at;
                let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
                // Zero is never.
                let it_value = at.map_or(zero, |at| {
                    let left = left(at).max(Duration::from_nanos(1));
                    Timespec {
                        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                        tv_nsec: left.subsec_nanos().into(),
                    }
                });
                // Setting it also forgets that it expired, so that the next time is an event again.
                let value = Itimerspec { it_interval: zero, it_value };
                timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &value)?;
            }
            Ok(None)
        }
        #[cfg(not(target_os = "linux"))]
        {
            self.at = at;
            Ok(at.map(left))
        }
    }
}
