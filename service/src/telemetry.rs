//! Logs and metrics.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Libraries that warn of single datagrams, which anybody can send without end. Of them only errors are logged, unless
/// the configuration names them.
const WARN_PER_DATAGRAM: &str = "dimpl=error,is::stun=error";

/// What is logged and how. Logs go to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `json`, one object a line, or `text`, for people.
    pub format: LogFormat,
    /// Least level that is logged (`error`, `warn`, `info`, `debug`, `trace`), also per module:
    /// `info,zynk_signaling=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into() }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people; coloured when standard error is a terminal.
    Text,
}

/// Logging cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The level is none. The operator's fault.
    #[error("{level:?} is not a log level: {reason}")]
    Level {
        /// What was configured.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else of this process logs already.
    #[error("logging is set up already")]
    Twice,
}

impl LogConfig {
    /// Whether logging can begin with it.
    pub fn check(&self) -> Result<(), TelemetryError> {
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<EnvFilter, TelemetryError> {
        let error = |reason: String| TelemetryError::Level { level: self.level.clone(), reason };
        // A word alone would be taken for a module, and nothing else be logged.
        for word in self.level.split(',').map(str::trim).filter(|part| !part.contains(['=', '['])) {
            if word.parse::<LevelFilter>().is_err() {
                return Err(error("take error, warn, info, debug, trace or off, or module=level".into()));
            }
        }
        EnvFilter::try_new(format!("{WARN_PER_DATAGRAM},{}", self.level))
            .map_err(|problem| error(problem.to_string()))
    }
}

/// Begins logging for the whole process.
pub fn init(config: &LogConfig) -> Result<LogControl, TelemetryError> {
    let filter = config.filter()?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let (set, result): (SetFilter, _) = match config.format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(move |filter| handle.reload(filter).is_ok()), builder.try_init())
        }
        LogFormat::Text => {
            let builder = builder.with_ansi(terminal).with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(move |filter| handle.reload(filter).is_ok()), builder.try_init())
        }
    };
    result.map_err(|_| TelemetryError::Twice)?;
    Ok(LogControl { set })
}

type SetFilter = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// Changes what is logged while the process runs.
pub struct LogControl {
    set: SetFilter,
}

impl LogControl {
    /// From now on the level of `config` holds; its format does not change.
    pub fn set_level(&self, config: &LogConfig) -> Result<(), TelemetryError> {
        let filter = config.filter()?;
        match (self.set)(filter) {
            true => Ok(()),
            false => Err(TelemetryError::Twice),
        }
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl").finish_non_exhaustive()
    }
}

/// Shows, in place of an address or a name, eight hexadecimal digits that are the same for the same value
/// within this process, and nowhere else. Lines of a log can be told apart and matched, not traced to people.
///
/// ```
/// use zynk_service::telemetry::Redacted;
///
/// tracing::debug!(participant = %Redacted("alice"), "joined");
/// assert_eq!(Redacted("alice").to_string(), Redacted("alice").to_string());
/// ```
#[derive(Clone, Copy)]
pub struct Redacted<T>(pub T);

impl<T: Hash> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        let digest = KEY.get_or_init(RandomState::new).hash_one(&self.0);
        write!(f, "~{:08x}", digest >> 32)
    }
}

impl<T: Hash> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A registry with what concerns the process as a whole: the `process_` family and `zynk_build_info`.
/// Roles register theirs in a sub-registry of their own prefix, `zynk_sfu` and so on.
pub fn registry(version: &'static str) -> Registry {
    let mut registry = Registry::default();
    registry.register("zynk_build", "The running version", Info::new([("version", version)]));
    registry.register_collector(Box::new(ProcessCollector));
    registry
}

/// Reads `/proc/self` at each scrape; names are those that Prometheus clients share. What cannot be read is
/// left out.
#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            let cpu = ConstCounter::new((stat.utime + stat.stime) as f64 / ticks);
            cpu.encode(encoder.encode_descriptor(
                "process_cpu",
                "Processor time used",
                Some(&Unit::Seconds),
                cpu_type(),
            )?)?;
            let page = procfs::page_size();
            gauge(
                &mut encoder,
                "process_resident_memory",
                "Resident memory",
                Some(&Unit::Bytes),
                stat.rss * page,
            )?;
            gauge(&mut encoder, "process_virtual_memory", "Virtual memory", Some(&Unit::Bytes), stat.vsize)?;
            let threads = u64::try_from(stat.num_threads).unwrap_or_default();
            gauge(&mut encoder, "process_threads", "Threads", None, threads)?;
            if let Ok(boot) = procfs::boot_time_secs() {
                let started = boot + stat.starttime / procfs::ticks_per_second();
                let help = "Start of the process, seconds since 1970";
                gauge(&mut encoder, "process_start_time", help, Some(&Unit::Seconds), started)?;
            }
        }
        if let Ok(count) = process.fd_count() {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", None, count as u64)?;
        }
        if let Ok(limits) = process.limits()
            && let procfs::process::LimitValue::Value(limit) = limits.max_open_files.soft_limit
        {
            gauge(&mut encoder, "process_max_fds", "Most file descriptors", None, limit)?;
        }
        Ok(())
    }
}

fn cpu_type() -> prometheus_client::metrics::MetricType {
    prometheus_client::metrics::MetricType::Counter
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacted_values_match_and_do_not_show() {
        let text = format!("{} {:?}", Redacted("alice"), Redacted("alice"));
        let (display, debug) = text.split_once(' ').unwrap();
        assert_eq!(display, debug);
        assert_eq!(display.len(), 9);
        assert!(!text.contains("alice"));
        assert_ne!(display, Redacted("bob").to_string());
    }

    #[test]
    fn the_process_family_is_there() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry("1.2.3")).unwrap();
        for line in [
            "zynk_build_info{version=\"1.2.3\"} 1",
            "# TYPE process_cpu_seconds counter",
            "# TYPE process_resident_memory_bytes gauge",
            "# TYPE process_open_fds gauge",
            "# TYPE process_start_time_seconds gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 500_000.0);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "the process is {age} s old");
    }

    #[test]
    fn a_flood_of_datagrams_is_no_flood_of_lines() {
        let enabled = |level: &str| {
            let config = LogConfig { level: level.into(), ..LogConfig::default() };
            let subscriber = tracing_subscriber::fmt().with_env_filter(config.filter().unwrap()).finish();
            tracing::subscriber::with_default(subscriber, || {
                (
                    tracing::enabled!(target: "dimpl::dtls12::engine", tracing::Level::WARN),
                    tracing::enabled!(target: "dimpl::dtls12::engine", tracing::Level::ERROR),
                    tracing::enabled!(target: "is::stun", tracing::Level::WARN),
                    tracing::enabled!(target: "zynk_sfu_core", tracing::Level::WARN),
                )
            })
        };
        assert_eq!(enabled("info"), (false, true, false, true));
        assert_eq!(enabled("debug,dimpl=warn"), (true, true, false, true));
    }

    #[test]
    fn a_wrong_level_is_named() {
        for level in ["zynk=loud", "loud", "info,loud"] {
            let config = LogConfig { level: level.into(), ..LogConfig::default() };
            let error = init(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{level:?} is not a log level")), "{error}");
        }
        for level in ["INFO", "warn,zynk_signaling=debug", "off", "info,zynk[span]=trace"] {
            let config = LogConfig { level: level.into(), ..LogConfig::default() };
            assert!(config.check().is_ok(), "{level}");
        }
    }
}
