//! What is wrong, in words for operators.

use serde_path_to_error::Error;

use super::segment_text;

/// Least similarity (Jaro-Winkler, 0 to 1) of a key that is suggested in place of an unknown one.
const SUGGESTION_SIMILARITY_MIN: f64 = 0.75;

/// Words that mark a key whose value must not be shown.
const SECRET_WORDS: [&str; 5] = ["secret", "password", "credential", "token", "key"];

/// What serde did not like, and where.
pub(super) struct Failure {
    pub(super) path: Vec<String>,
    message: String,
    unknown: bool,
}

impl Failure {
    pub(super) fn new(error: &Error<toml::de::Error>) -> Self {
        let message = error.inner().message().to_owned();
        let mut path: Vec<String> = error.path().iter().map(segment_text).collect();
        // Serde tells the section of an unknown key, and the key in its message alone.
        let unknown = message.starts_with("unknown field");
        if unknown
            && let Some(field) = quoted(&message).next()
            && path.last().map(String::as_str) != Some(field)
        {
            path.push(field.to_owned());
        }
        Self { path, message, unknown }
    }

    /// Whether a value at `key` has to do with it.
    pub(super) fn concerns(&self, key: &[String]) -> bool {
        self.path.starts_with(key) || (self.unknown && key.starts_with(&self.path))
    }

    pub(super) fn is_unknown_key(&self) -> bool {
        self.unknown
    }

    /// The path with dots; positions in lists in brackets.
    pub(super) fn key(&self) -> String {
        let mut text = String::new();
        for segment in &self.path {
            if segment.bytes().all(|byte| byte.is_ascii_digit()) {
                text.push_str(&format!("[{segment}]"));
            } else {
                text.push_str(if text.is_empty() { "" } else { "." });
                text.push_str(segment);
            }
        }
        text
    }

    /// The message, reworded where serde speaks of Rust's types.
    pub(super) fn problem(&self) -> String {
        if self.unknown {
            return self.unknown_key();
        }
        for kind in ["invalid type: ", "invalid value: "] {
            if let Some((found, expected)) =
                self.message.strip_prefix(kind).and_then(|rest| rest.split_once(", expected "))
            {
                let found = if self.is_secret() { kind_alone(found) } else { with_article(found) };
                return format!("expected {}, found {found}", plain(expected));
            }
        }
        if self.is_secret() { "not acceptable".into() } else { self.message.clone() }
    }

    fn unknown_key(&self) -> String {
        let mut names = quoted(&self.message);
        let unknown = names.next().unwrap_or_default();
        let similarity = |name: &str| strsim::jaro_winkler(unknown, name);
        let best = names.max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        match best.filter(|name| similarity(name) >= SUGGESTION_SIMILARITY_MIN) {
            Some(name) => format!("unknown key; did you mean {name}?"),
            None => "unknown key".into(),
        }
    }

    fn is_secret(&self) -> bool {
        self.path.iter().any(|segment| {
            let segment = segment.to_lowercase();
            SECRET_WORDS.iter().any(|word| segment.contains(word))
        })
    }
}

/// The parts of a message between backticks.
fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// What was expected, without Rust's names.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "nonzero u16" | "nonzero u32" => "an integer, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a section",
        expected if expected.starts_with("struct ") => "a section",
        expected => expected,
    }
}

/// `string "x"` becomes `a string "x"`.
fn with_article(found: &str) -> String {
    let found = found.replace("sequence", "list").replace("map", "section").replace('`', "");
    let article = if found.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {found}")
}

/// `string "x"` becomes `a string`.
fn kind_alone(found: &str) -> String {
    with_article(found.split([' ', '`']).next().unwrap_or_default())
}
