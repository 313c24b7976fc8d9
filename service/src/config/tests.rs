use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

/// The server's settings.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Where to listen.
    bind: String,
    /// API keys.
    keys: std::collections::BTreeMap<String, String>,
    /// Signaling.
    signaling: Signaling,
    /// Media.
    sfu: Sfu,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Signaling {
    /// Seconds that a room stays open before anybody has joined, which is a rather long explanation of a
    /// short name so that it needs to be broken.
    empty_timeout_s: u32,
    /// Whether rooms are created by joining.
    auto_create: bool,
    /// The region.
    region: Option<String>,
    /// Servers.
    servers: Vec<Server>,
}

impl Default for Signaling {
    fn default() -> Self {
        Self { empty_timeout_s: 300, auto_create: true, region: None, servers: Vec::new() }
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Server {
    /// Its addresses.
    urls: Vec<String>,
    /// Its password.
    password: String,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Sfu {
    /// UDP port.
    udp_port: u16,
    /// Share.
    load_max: f64,
}

fn error(loader: Loader) -> String {
    loader.load::<Config>().unwrap_err().to_string()
}

fn file_error(text: &str) -> String {
    error(Loader::new().file("zynk.toml", text))
}

#[test]
fn nothing_gives_the_defaults() {
    assert_eq!(Loader::new().load::<Config>().unwrap(), Config::default());
    assert_eq!(Loader::new().file("zynk.toml", "").load::<Config>().unwrap().signaling.empty_timeout_s, 300);
}

#[test]
fn later_layers_win() {
    let file = "bind = 'file'\n[signaling]\nempty_timeout_s = 1\nauto_create = false\n[sfu]\nudp_port = 1";
    let config: Config = Loader::new()
        .flag("--udp-port", "sfu.udp_port", "3")
        .file("zynk.toml", file)
        .environment("ZYNK", [("ZYNK_SIGNALING__EMPTY_TIMEOUT_S", "2"), ("OTHER_BIND", "x")])
        .load()
        .unwrap();
    assert_eq!(config.bind, "file");
    assert_eq!(config.signaling.empty_timeout_s, 2);
    assert!(!config.signaling.auto_create);
    assert_eq!(config.sfu.udp_port, 3);
}

#[test]
fn flags_win_over_the_environment_when_given_after_it() {
    let config: Config = Loader::new()
        .environment("ZYNK", [("ZYNK_BIND", "environment")])
        .flag("--bind", "bind", "flag")
        .load()
        .unwrap();
    assert_eq!(config.bind, "flag");
}

#[test]
fn texts_become_what_the_key_needs() {
    let config: Config = Loader::new()
        .environment(
            "ZYNK",
            [
                ("ZYNK_BIND", "7880"),
                ("ZYNK_SIGNALING__REGION", "true"),
                ("ZYNK_SIGNALING__AUTO_CREATE", "false"),
                ("ZYNK_KEYS__DEVKEY", "12"),
                ("ZYNK_SFU__LOAD_MAX", "0.5"),
                ("ZYNK_SIGNALING__SERVERS", "[{ urls = ['turn:a'] }]"),
            ],
        )
        .load()
        .unwrap();
    assert_eq!((config.bind.as_str(), config.signaling.region.as_deref()), ("7880", Some("true")));
    assert!(!config.signaling.auto_create);
    assert_eq!(config.keys["devkey"], "12");
    assert_eq!(config.signaling.servers[0].urls, ["turn:a"]);
}

#[test]
fn a_wrong_type_names_key_line_and_column() {
    let text = "bind = ''\n\n[signaling]\n  empty_timeout_s = \"abc\"\n";
    assert_eq!(
        file_error(text),
        "zynk.toml:4:21: signaling.empty_timeout_s: expected an integer, 0 or more, found a string \"abc\""
    );
    assert_eq!(
        file_error("signaling.auto_create = 1"),
        "zynk.toml:1:25: signaling.auto_create: expected a boolean, found an integer 1"
    );
    assert_eq!(
        file_error("[sfu]\nudp_port = 65536"),
        "zynk.toml:2:12: sfu.udp_port: expected an integer, 0 or more, found an integer 65536"
    );
    assert_eq!(
        file_error("signaling = 3"),
        "zynk.toml:1:13: signaling: expected a section, found an integer 3"
    );
}

#[test]
fn lists_are_counted() {
    let text = "[[signaling.servers]]\nurls = []\n[[signaling.servers]]\nurls = [\"a\",\n  5]\n";
    assert_eq!(
        file_error(text),
        "zynk.toml:5:3: signaling.servers[1].urls[1]: expected a string, found an integer 5"
    );
}

#[test]
fn unknown_keys_suggest_the_nearest() {
    assert_eq!(
        file_error("[signaling]\nempty_timeout = 5"),
        "zynk.toml:2:1: signaling.empty_timeout: unknown key; did you mean empty_timeout_s?"
    );
    assert_eq!(file_error("[signalling]"), "zynk.toml:1:2: signalling: unknown key; did you mean signaling?");
    assert_eq!(file_error("xyz = 1"), "zynk.toml:1:1: xyz: unknown key");
}

#[test]
fn broken_toml_names_the_place() {
    let message = file_error("bind = 'a'\nsfu = [1,\n");
    assert!(message.starts_with("zynk.toml:"), "{message}");
    let message = file_error("bind = 'a'\nbind = 'b'\n");
    assert!(message.starts_with("zynk.toml:2:1: "), "{message}");
}

#[test]
fn environment_and_flags_are_named() {
    let loader = Loader::new().environment("ZYNK", [("ZYNK_SIGNALING__EMPTY_TIMEOUT_S", "soon")]);
    assert_eq!(
        error(loader),
        "environment variable ZYNK_SIGNALING__EMPTY_TIMEOUT_S: signaling.empty_timeout_s: \
         expected an integer, 0 or more, found a string \"soon\""
    );
    assert_eq!(
        error(Loader::new().environment("ZYNK", [("ZYNK_SFU__UDP", "1")])),
        "environment variable ZYNK_SFU__UDP: sfu.udp: unknown key; did you mean udp_port?"
    );
    assert_eq!(
        error(Loader::new().flag("--udp-port", "sfu.udp_port", "x")),
        "flag --udp-port: sfu.udp_port: expected an integer, 0 or more, found a string \"x\""
    );
}

#[test]
fn variables_of_orchestrators_are_left_alone() {
    let variables = [("ZYNK_PORT", "tcp://10.0.0.1:7880"), ("ZYNK_SERVICE_HOST", "10.0.0.1")];
    assert_eq!(Loader::new().environment("ZYNK", variables).load::<Config>().unwrap(), Config::default());
}

#[test]
fn secrets_come_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, "s3cret\n").unwrap();
    let text = format!("[keys]\nprod_file = {:?}\nother = 'x'", path.to_str().unwrap());
    let config: Config = Loader::new().file("zynk.toml", text).secret("keys.*").load().unwrap();
    assert_eq!(config.keys["prod"], "s3cret");
    assert_eq!(config.keys["other"], "x");
    assert!(!config.keys.contains_key("prod_file"));
}

#[test]
fn secret_files_that_cannot_be_read_are_named() {
    let loader = |text: &str| Loader::new().file("zynk.toml", text).secret("keys.*");
    let message = error(loader("[keys]\na_file = '/nonexistent/file'"));
    assert!(message.starts_with("zynk.toml:2:10: keys.a_file: /nonexistent/file: No such file"), "{message}");
    let message = error(loader("[keys]\na_file = '/nonexistent/file'\na = 'x'"));
    assert_eq!(message, "zynk.toml:2:10: keys.a_file: a is set as well; only one of them may be");
    assert_eq!(
        error(loader("[keys]\na_file = 1")),
        "zynk.toml:2:10: keys.a_file: expected a path, as a string"
    );
}

#[test]
fn secrets_of_a_list_of_sections_come_from_files_too() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Relays {
        turn: Turn,
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Turn {
        relays: Vec<Relay>,
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Relay {
        secret: Option<String>,
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, "s3cret\n").unwrap();
    let list = "[[turn.relays]]\nsecret = 'x'\n[[turn.relays]]\n[[turn.relays]]\nsecret_file = ";
    let loader = |path: &str| Loader::new().file("zynk.toml", format!("{list}{path:?}"));
    let declared = |path: &str| loader(path).secret("turn.relays.*.secret");
    let relays: Relays = declared(path.to_str().unwrap()).load().unwrap();
    let secrets: Vec<_> = relays.turn.relays.iter().map(|relay| relay.secret.as_deref()).collect();
    assert_eq!(secrets, [Some("x"), None, Some("s3cret")]);
    let message = declared("/nonexistent/file").load::<Relays>().unwrap_err().to_string();
    assert!(
        message.starts_with("zynk.toml:5:15: turn.relays.2.secret_file: /nonexistent/file: "),
        "{message}"
    );
    assert!(Loader::new().secret("turn.relays.*.secret").load::<Config>().is_ok(), "there is no such list");
}

#[test]
fn secrets_are_not_shown() {
    let message = file_error("keys = 'devkey: hunter2'");
    assert_eq!(message, "zynk.toml:1:8: keys: expected a section, found a string");
    let message = file_error("[[signaling.servers]]\npassword = ['hunter2']");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn rules_beyond_types_name_their_place() {
    let loader = Loader::new().file("zynk.toml", "[sfu]\nudp_port = 1\nload_max = 2.0").flag(
        "--udp-port",
        "sfu.udp_port",
        "2",
    );
    assert_eq!(
        loader.error_at("sfu.load_max", "at most 1").to_string(),
        "zynk.toml:3:12: sfu.load_max: at most 1"
    );
    assert_eq!(loader.error_at("sfu.udp_port", "taken").to_string(), "flag --udp-port: sfu.udp_port: taken");
}

#[test]
fn the_example_has_every_key_and_changes_nothing() {
    let defaults = Table::try_from(Config::default()).unwrap();
    let example = example_toml::<Config>(&defaults);
    assert_eq!(
        example,
        "\
# Where to listen.
#bind = \"\"

# API keys.
[keys]

# Media.
[sfu]
# Share.
#load_max = 0.0

# UDP port.
#udp_port = 0

# Signaling.
[signaling]
# Whether rooms are created by joining.
#auto_create = true

# Seconds that a room stays open before anybody has joined, which is a rather long explanation of a
# short name so that it needs to be broken.
#empty_timeout_s = 300

# The region.
#region = \"\"

# Servers.
#[[signaling.servers]]
# Its password.
#password = \"\"
# Its addresses.
#urls = []

"
    );
    assert_eq!(Loader::new().file("example", example).load::<Config>().unwrap(), Config::default());
}
