//! Cores, clocks, and what the kernel says of processes.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// Where servers run.
pub const SERVER_CORE: usize = 0;
/// Where the generator runs.
pub const GENERATOR_CORE: usize = 1;

/// Puts the calling thread, and what it starts from now on, on a core.
///
/// # Errors
/// When the machine has no such core, or the process may not use it.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("core {core} cannot be used; two are needed"))
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

/// CPU time of this process, all threads.
pub fn own_cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU time of every thread of a process, user and system, in nanoseconds. On loopback that includes the
/// delivery into the receivers' sockets, which the kernel does in the sender's name.
#[derive(Clone, Debug, Default)]
pub struct CpuTimes(HashMap<u32, u64>);

impl CpuTimes {
    /// Of a running process; empty if there is none.
    pub fn of(pid: u32) -> Self {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Self::default() };
        let one = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let ns = text.split_whitespace().next()?.parse().ok()?;
            Some((task.file_name().to_str()?.parse().ok()?, ns))
        };
        Self(tasks.flatten().filter_map(one).collect())
    }

    /// What was used since `earlier`. Threads that ended since are missing.
    pub fn since(&self, earlier: &Self) -> Duration {
        let used = |(tid, ns): (&u32, &u64)| ns.saturating_sub(earlier.0.get(tid).copied().unwrap_or(0));
        Duration::from_nanos(self.0.iter().map(used).sum())
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.0.len()
    }
}

/// Resident memory of a process, in MiB.
pub fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// The load average of one, five and fifteen minutes, as the kernel writes it.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// How long each core was busy since boot.
#[derive(Clone, Debug, Default)]
pub struct CoreTimes(Vec<f64>);

impl CoreTimes {
    /// Now.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let cores = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
        let busy = |line: &str| {
            let ticks: Vec<f64> =
                line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
            // Everything but idle and waiting for disks, in ticks of 10 ms.
            let idle: f64 = ticks.iter().skip(3).take(2).sum();
            (ticks.iter().sum::<f64>() - idle) / 100.0
        };
        Self(cores.map(busy).collect())
    }

    /// Seconds that a core was busy since `earlier`.
    pub fn busy_since(&self, earlier: &Self, core: usize) -> f64 {
        let at = |times: &Self| times.0.get(core).copied().unwrap_or(f64::NAN);
        at(self) - at(earlier)
    }
}

/// Datagrams that the kernel dropped at the UDP sockets with these ports, since they were made.
pub fn udp_drops(ports: &BTreeSet<u16>) -> u64 {
    let text = fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let one = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = words.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports.contains(&port).then(|| words.last()?.parse::<u64>().ok()).flatten()
    };
    text.lines().skip(1).filter_map(one).sum()
}
