//! Configuration in layers: defaults, then a TOML file, then the environment, then flags.
//!
//! ```
//! use serde::Deserialize;
//! use zynk_service::config::Loader;
//!
//! #[derive(Deserialize, Default)]
//! #[serde(deny_unknown_fields, default)]
//! struct Config { bind: String, limits: Limits }
//! #[derive(Deserialize, Default)]
//! #[serde(deny_unknown_fields, default)]
//! struct Limits { rooms_max: u32 }
//!
//! let config: Config = Loader::new()
//!     .file("zynk.toml", "bind = '127.0.0.1'\n[limits]\nrooms_max = 10")
//!     .environment("ZYNK", [("ZYNK_LIMITS__ROOMS_MAX", "20")])
//!     .load()
//!     .unwrap();
//! assert_eq!((config.bind.as_str(), config.limits.rooms_max), ("127.0.0.1", 20));
//!
//! let error = Loader::new().file("zynk.toml", "[limits]\nroom_max = 10").load::<Config>().err().unwrap();
//! assert_eq!(error.to_string(), "zynk.toml:2:1: limits.room_max: unknown key; did you mean rooms_max?");
//! ```

mod example;
mod locate;
mod problem;

use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

pub use example::example_toml;

/// Largest file that a `*_file` key may name. A larger one is refused: it is not a secret.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Collects the layers and reads them into a type, whose serde attributes decide what is allowed.
#[derive(Clone, Debug, Default)]
pub struct Loader {
    file: Option<(String, String)>,
    settings: Vec<Setting>,
    secrets: Vec<Vec<String>>,
}

/// One value from outside the file.
#[derive(Clone, Debug)]
struct Setting {
    origin: Origin,
    key: Vec<String>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Environment(String),
    Flag(String),
}

impl Loader {
    /// Defaults alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the file's text; `name` is for messages.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.file = Some((name.into(), text.into()));
        self
    }

    /// Adds environment variables. `PREFIX_A__B_C` sets `a.b_c`: two underscores go one section down. A
    /// variable that names no section and no key is left alone: orchestrators set `ZYNK_PORT` and the like.
    #[must_use]
    pub fn environment<N: AsRef<str>, V: Into<String>>(
        mut self,
        prefix: &str,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        for (name, value) in variables {
            let name = name.as_ref();
            let Some(path) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')) else {
                continue;
            };
            let key: Vec<String> = path.split("__").map(str::to_lowercase).collect();
            let origin = Origin::Environment(name.to_owned());
            self.settings.push(Setting { origin, key, text: value.into() });
        }
        self
    }

    /// Adds a flag that sets `key` (`a.b_c`).
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>, key: &str, value: impl Into<String>) -> Self {
        let key = key.split('.').map(str::to_owned).collect();
        self.settings.push(Setting { origin: Origin::Flag(flag.into()), key, text: value.into() });
        self
    }

    /// Declares a secret: `a.b` may also be given as `a.b_file`, a path whose content, without the last line
    /// break, is the value. `a.*` declares every key of a section, `a.*.b` the key of every section of a list.
    #[must_use]
    pub fn secret(mut self, key: &str) -> Self {
        self.secrets.push(key.split('.').map(str::to_owned).collect());
        self
    }

    /// Reads the layers.
    pub fn load<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let base = match &self.file {
            Some((name, text)) => text.parse::<Table>().map_err(|error| {
                let at = locate::position(text, error.span().map_or(0, |span| span.start));
                ConfigError {
                    place: at.in_file(name),
                    key: String::new(),
                    problem: error.message().to_owned(),
                }
            })?,
            None => Table::new(),
        };
        // Each text is first taken for what it looks like, and for a string when that does not fit.
        let mut settings: Vec<(Setting, Guess)> =
            self.settings.iter().map(|setting| (setting.clone(), Guess::Typed)).collect();
        loop {
            let mut table = base.clone();
            for (setting, guess) in &settings {
                insert(&mut table, &setting.key, guess.value(&setting.text)).map_err(|()| ConfigError {
                    place: setting.origin.to_string(),
                    key: setting.key.join("."),
                    problem: "goes below a key that is no section".into(),
                })?;
            }
            self.resolve_secrets(&mut table)?;
            let failure = match serde_path_to_error::deserialize::<_, T>(Value::Table(table)) {
                Ok(config) => return Ok(config),
                Err(failure) => problem::Failure::new(&failure),
            };
            let culprit = settings.iter().position(|(setting, _)| failure.concerns(&setting.key));
            match culprit.and_then(|index| settings.get_mut(index).map(|found| (index, found))) {
                Some((index, (setting, _))) if failure.is_unknown_key() && setting.is_foreign() => {
                    settings.remove(index);
                }
                Some((_, (_, guess @ Guess::Typed))) if !failure.is_unknown_key() => *guess = Guess::Text,
                Some((_, (setting, _))) => return Err(self.error(&failure, Some(&setting.origin))),
                None => return Err(self.error(&failure, None)),
            }
        }
    }

    /// An error about `key`, at the place that set it, for rules that go beyond types.
    pub fn error_at(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let segments: Vec<String> = key.split('.').map(str::to_owned).collect();
        let origin = self.settings.iter().rfind(|setting| setting.key == segments).map(|found| &found.origin);
        let place = self.place(&segments, origin, false);
        ConfigError { place, key: key.to_owned(), problem: problem.into() }
    }

    fn error(&self, failure: &problem::Failure, origin: Option<&Origin>) -> ConfigError {
        let place = self.place(&failure.path, origin, failure.is_unknown_key());
        ConfigError { place, key: failure.key(), problem: failure.problem() }
    }

    fn place(&self, path: &[String], origin: Option<&Origin>, of_key: bool) -> String {
        match (origin, &self.file) {
            (Some(origin), _) => origin.to_string(),
            (None, Some((name, text))) => locate::find(text, path, of_key).in_file(name),
            (None, None) => "defaults".into(),
        }
    }

    fn resolve_secrets(&self, table: &mut Table) -> Result<(), ConfigError> {
        for secret in &self.secrets {
            let Some((name, pattern)) = secret.split_last() else { continue };
            for section in section_paths(table, pattern) {
                self.resolve_secrets_in(table, &section, name)?;
            }
        }
        Ok(())
    }

    fn resolve_secrets_in(
        &self,
        table: &mut Table,
        section: &[String],
        name: &str,
    ) -> Result<(), ConfigError> {
        let Some(section_table) = find_section(table, section) else { return Ok(()) };
        let files: Vec<(String, Value)> = section_table
            .iter()
            .filter(|(key, _)| match key.strip_suffix("_file") {
                Some(stem) => name == "*" || stem == name,
                None => false,
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, path) in files {
            let dotted = [section, std::slice::from_ref(&key)].concat().join(".");
            let problem = |problem: String| self.error_at(&dotted, problem);
            let Some(path) = path.as_str() else {
                return Err(problem("expected a path, as a string".into()));
            };
            let stem = key.trim_end_matches("_file").to_owned();
            if section_table.contains_key(&stem) {
                return Err(problem(format!("{stem} is set as well; only one of them may be")));
            }
            let value = read_secret(Path::new(path)).map_err(|error| problem(format!("{path}: {error}")))?;
            section_table.remove(&key);
            section_table.insert(stem, Value::String(value));
        }
        Ok(())
    }
}

/// Where a configuration is wrong, and how. Its text never contains a value of a key that sounds secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// `file:line:column`, `environment variable X` or `flag --x`.
    pub place: String,
    /// The dotted key; empty if the file cannot be parsed at all.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, problem } = self;
        if key.is_empty() { write!(f, "{place}: {problem}") } else { write!(f, "{place}: {key}: {problem}") }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

impl Setting {
    /// Whether it may have been meant for something else.
    fn is_foreign(&self) -> bool {
        matches!(self.origin, Origin::Environment(_)) && self.key.len() == 1
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guess {
    Typed,
    Text,
}

impl Guess {
    fn value(self, text: &str) -> Value {
        let typed = match self {
            Self::Typed => format!("value = {text}").parse::<Table>().ok(),
            Self::Text => None,
        };
        typed
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(text.to_owned()))
    }
}

/// Sets the value at `key`, making sections on the way; fails where a value stands in the way.
fn insert(table: &mut Table, key: &[String], value: Value) -> Result<(), ()> {
    match key {
        [] => Err(()),
        [last] => {
            table.insert(last.clone(), value);
            Ok(())
        }
        [section, rest @ ..] => {
            let section = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            insert(section.as_table_mut().ok_or(())?, rest, value)
        }
    }
}

/// The section at `path`, in which a number is a place in a list.
fn find_section<'t>(table: &'t mut Table, path: &[String]) -> Option<&'t mut Table> {
    match path.split_first() {
        Some((first, rest)) => find_section_in(table.get_mut(first)?, rest),
        None => Some(table),
    }
}

fn find_section_in<'t>(value: &'t mut Value, path: &[String]) -> Option<&'t mut Table> {
    match (value, path.split_first()) {
        (Value::Table(table), _) => find_section(table, path),
        (Value::Array(items), Some((index, rest))) => {
            find_section_in(items.get_mut(index.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
    }
}

/// The sections that a pattern stands for: `*` in it is every place in a list.
fn section_paths(table: &Table, pattern: &[String]) -> Vec<Vec<String>> {
    let Some((first, rest)) = pattern.split_first() else { return vec![Vec::new()] };
    let below = table.get(first).map(|value| section_paths_in(value, rest));
    below_segment(first, below.unwrap_or_default())
}

fn section_paths_in(value: &Value, pattern: &[String]) -> Vec<Vec<String>> {
    match (value, pattern.split_first()) {
        (Value::Array(items), Some((every, rest))) if every == "*" => {
            let one = |(index, item)| below_segment(&format!("{index}"), section_paths_in(item, rest));
            items.iter().enumerate().flat_map(one).collect()
        }
        (Value::Table(table), _) => section_paths(table, pattern),
        _ => Vec::new(),
    }
}

fn below_segment(segment: &str, paths: Vec<Vec<String>>) -> Vec<Vec<String>> {
    paths.into_iter().map(|path| [vec![segment.to_owned()], path].concat()).collect()
}

fn read_secret(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > SECRET_FILE_BYTES_MAX {
        return Err(format!("{length} bytes, a secret has at most {SECRET_FILE_BYTES_MAX}"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok(text
        .strip_suffix('\n')
        .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text))
        .to_owned())
}

/// One step of a path, as text.
fn segment_text(segment: &Segment) -> String {
    match segment {
        Segment::Seq { index } => index.to_string(),
        Segment::Map { key } => key.clone(),
        Segment::Enum { variant } => variant.clone(),
        Segment::Unknown => "?".into(),
    }
}

#[cfg(test)]
mod tests;
