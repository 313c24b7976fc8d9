use secrecy::ExposeSecret as _;

use super::*;

const KEY: &str = "[keys]\nmain = \"0123456789abcdef0123456789abcdef\"\n";

/// Writes a file with `text` and reads it as `zynk run` does.
fn run(text: &str, flags: ServerFlags) -> Result<Config> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zynk.toml");
    std::fs::write(&path, text).unwrap();
    let result = load(&RunArguments { config: Some(path.clone()), roles: Vec::new(), server: flags });
    result.map_err(|error| {
        let folder = format!("{}/", directory.path().display());
        anyhow::anyhow!(format!("{error:#}").replace(&folder, ""))
    })
}

fn error(text: &str) -> String {
    run(text, ServerFlags::default()).unwrap_err().to_string()
}

#[test]
fn the_committed_example_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config.example.toml");
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == example(false).unwrap(),
        "run `make config-example` and commit deploy/config.example.toml"
    );
}

#[test]
fn the_example_is_the_defaults() {
    let config: Config = Loader::new().file("example", example(false).unwrap()).load().unwrap();
    let text = |config: &Config| toml::to_string(config).unwrap();
    assert_eq!(text(&config), text(&Config::default()));
}

#[test]
fn every_key_of_the_example_can_be_set() {
    // Every commented-out assignment is one that the configuration takes.
    let example = example(false).unwrap();
    let active: String = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let config = Loader::new().file("example", &active).load::<Config>();
    assert!(config.is_ok(), "{}\n{active}", config.err().unwrap());
}

#[test]
fn dev_has_the_well_known_key_and_loopback() {
    let config = load_dev(&ServerFlags::default()).unwrap();
    assert_eq!(config.keys["devkey"].expose_secret(), "secret");
    assert_eq!((config.bind, config.port), (Ipv4Addr::LOCALHOST.into(), 7880));
    assert_eq!((config.sfu.ice_tcp_port, config.sfu.udp_port_first), (7881, 7882));
    assert!(config.guests.access);
    assert!(config.turn.tell_addresses && !Config::default().turn.tell_addresses);
}

#[test]
fn the_relay_of_dev_is_where_media_answers_it() {
    let bound = |announce: &[&str]| {
        let announce = announce.iter().map(|ip| ip.parse().unwrap()).collect();
        load_dev(&ServerFlags { announce, ..ServerFlags::default() }).unwrap().turn.relay_bind
    };
    let loopback: std::net::IpAddr = Ipv4Addr::LOCALHOST.into();
    assert_eq!(bound(&["127.0.0.1", "127.0.0.2"]), [loopback]);
    assert!(bound(&["127.0.0.1", "192.0.2.1"]).is_empty() && bound(&[]).is_empty());
}

#[test]
fn port_zero_frees_every_port_that_is_not_set() {
    let flags = ServerFlags { port: Some(0), udp_port: Some(9000), ..ServerFlags::default() };
    let config = load_dev(&flags).unwrap();
    assert_eq!((config.port, config.sfu.ice_tcp_port, config.sfu.udp_port_first), (0, 0, 9000));
}

#[test]
fn flags_win_over_the_file() {
    let flags = ServerFlags {
        bind: Some("::1".parse().unwrap()),
        announce: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        workers: Some(3),
        ..ServerFlags::default()
    };
    let config = run(&format!("bind = '0.0.0.0'\nport = 9\n{KEY}[sfu]\nworkers = 1"), flags).unwrap();
    assert_eq!(config.bind.to_string(), "::1");
    assert_eq!((config.port, config.sfu.workers), (9, 3));
    assert_eq!(config.sfu.announce.len(), 2);
}

#[test]
fn mistakes_name_file_line_column_and_key() {
    assert_eq!(
        error(&format!("{KEY}[signaling.room]\nempty_timeout = 3")),
        "zynk.toml:4:1: signaling.room.empty_timeout: unknown key; did you mean empty_timeout_s?"
    );
    assert_eq!(
        error("port = \"abc\""),
        "zynk.toml:1:8: port: expected an integer, 0 or more, found a string \"abc\""
    );
}

#[test]
fn keys_are_needed_and_long() {
    assert!(error("").starts_with("zynk.toml:1:1: keys: no API key"), "{}", error(""));
    let message = error("[keys]\nmain = 'short'");
    assert_eq!(message, "zynk.toml:2:8: keys.main: the secret has 5 characters, at least 32 are needed");
}

#[test]
fn a_local_bus_needs_all_roles() {
    let message = error(&format!("roles = ['sfu']\n{KEY}"));
    assert_eq!(message, "zynk.toml:1:9: roles: the bus `local:` needs sfu and signaling in one process");
    assert!(error(&format!("roles = ['web']\n{KEY}")).starts_with("zynk.toml:1:10: roles[0]: "));
}

#[test]
fn relays_that_no_client_could_use_are_named() {
    let relay = "[[signaling.relays]]\nregion = 'eu'\nurls = ['turn:eu.example.org?transport=udp']\n";
    let with = |more: &str| run(&format!("{KEY}{relay}{more}"), ServerFlags::default());
    let error = |more: &str| with(more).unwrap_err().to_string();
    assert_eq!(with("latitude = 50\nlongitude = 8.7").unwrap().signaling.relays[0].latitude, Some(50.0));
    assert_eq!(
        error("latitude = 95.5\nlongitude = 0"),
        "zynk.toml:6:12: signaling.relays.0.latitude: 95.5 is not within -90 to 90 degrees"
    );
    assert_eq!(
        error(relay),
        "zynk.toml:7:10: signaling.relays.1.region: there is another entry for eu; urls takes several"
    );
    let url = error("[[signaling.relays]]\nregion = 'us'\nurls = ['turn:us.example.org', 'us.example.org']");
    let expected = "zynk.toml:8:32: signaling.relays.1.urls.1: \"us.example.org\" is no turn: or turns: URL";
    assert!(url.starts_with(expected), "{url}");
    assert_eq!(
        error("lattitude = 1"),
        "zynk.toml:6:1: signaling.relays[0].lattitude: unknown key; did you mean latitude?"
    );
    let file = error("secret_file = '/nonexistent/secret'");
    let expected = "zynk.toml:6:15: signaling.relays.0.secret_file: /nonexistent/secret: No such file";
    assert!(file.starts_with(expected), "{file}");
    let ttl = error("[signaling]\nrelay_credentials_ttl_s = 5");
    assert_eq!(ttl, "zynk.toml:7:27: signaling.relay_credentials_ttl_s: must be 60 to 31536000");
}

#[test]
fn a_missing_file_is_named() {
    let error = check(Some(Path::new("/nonexistent/zynk.toml"))).unwrap_err();
    assert!(format!("{error:#}").starts_with("/nonexistent/zynk.toml: No such file"));
}

#[test]
fn an_example_with_a_key_can_be_used_as_it_is() {
    let config = run(&example(true).unwrap(), ServerFlags::default()).unwrap();
    let (name, secret) = config.keys.iter().next().unwrap();
    assert!(name.starts_with("API") && name.len() == 15, "{name}");
    assert_eq!(secret.expose_secret().len(), 43);
    assert_ne!(example(true).unwrap(), example(true).unwrap());
}

#[test]
fn flags_are_named_in_errors_and_dev_checks_them_too() {
    let flags = || ServerFlags { log_level: Some("loud".into()), ..ServerFlags::default() };
    for error in [load_dev(&flags()).unwrap_err(), run(KEY, flags()).unwrap_err()] {
        let error = error.to_string();
        assert!(error.starts_with("flag --log-level: log.level: \"loud\" is not a log level"), "{error}");
    }
}
