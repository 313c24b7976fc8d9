use std::path::PathBuf;

use zynk_auth::turn_expiry;

use super::*;

const FRANKFURT: (f64, f64) = (50.11, 8.68);
const VIRGINIA: (f64, f64) = (38.95, -77.45);
const SINGAPORE: (f64, f64) = (1.35, 103.82);

/// Addresses that `tests/places/city.mmdb` has in Frankfurt, Virginia and Singapore.
const GERMAN: &str = "192.0.2.7";
const AMERICAN: &str = "2001:db8:1::7";
const SINGAPOREAN: &str = "198.51.100.7";

fn relay(region: &str, place: Option<(f64, f64)>) -> RelayConfig {
    RelayConfig {
        region: region.into(),
        urls: vec![format!("turn:{region}.example.org:3478?transport=udp")],
        latitude: place.map(|(latitude, _)| latitude),
        longitude: place.map(|(_, longitude)| longitude),
        ..Default::default()
    }
}

fn config(relays: Vec<RelayConfig>) -> SignalingConfig {
    SignalingConfig { relays, ..Default::default() }
}

fn placed() -> SignalingConfig {
    let relays = vec![
        relay("eu", Some(FRANKFURT)),
        relay("us", Some(VIRGINIA)),
        relay("asia", Some(SINGAPORE)),
        relay("pole", Some((90.0, 45.0))),
        relay("fiji", Some((-17.7, 178.0))),
    ];
    let places = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/places/city.mmdb");
    SignalingConfig { geoip_database: places, ..config(relays) }
}

fn keys() -> KeyRing {
    KeyRing::new([("a".to_owned(), "one".into()), ("b".to_owned(), "two".into())])
}

fn relays(config: &SignalingConfig) -> Relays {
    Relays::new(config, &keys(), None).unwrap()
}

fn own(urls: &[&str]) -> Option<OwnRelay> {
    let urls = urls.iter().copied().map(str::to_owned).collect();
    Some(OwnRelay { urls, secret: TurnSecret::new("own") })
}

fn from(address: &str) -> ClientPlace {
    ClientPlace { address: Some(address.parse().unwrap()), region: None }
}

fn asking_for(region: &str) -> ClientPlace {
    ClientPlace { address: None, region: Some(region.into()) }
}

fn names<'a>(relays: &'a Relays, client: &ClientPlace) -> Vec<&'a str> {
    relays.chosen(client).into_iter().map(|region| region.name.as_str()).collect()
}

#[test]
fn the_nearest_relays_are_told() {
    let relays = relays(&placed());
    assert_eq!(names(&relays, &from(GERMAN)), ["eu", "pole"]);
    assert_eq!(names(&relays, &from(AMERICAN)), ["us", "pole"]);
    assert_eq!(names(&relays, &from("::ffff:198.51.100.7")), ["asia", "fiji"]);
}

#[test]
fn how_many_are_told_is_configured() {
    for (max, expected) in
        [(1, &["asia"][..]), (3, &["asia", "fiji", "pole"]), (9, &["asia", "fiji", "pole", "eu", "us"])]
    {
        let relays = relays(&SignalingConfig { relay_regions_max: max, ..placed() });
        assert_eq!(names(&relays, &from(SINGAPOREAN)), expected);
    }
}

#[test]
fn who_cannot_be_placed_is_told_the_first_four() {
    let relays = relays(&placed());
    for client in [ClientPlace::default(), from("10.0.0.1"), from("::1"), asking_for("mars"), asking_for("")]
    {
        assert_eq!(names(&relays, &client), ["eu", "us", "asia", "pole"], "{client:?}");
    }
}

#[test]
fn a_region_that_is_asked_for_comes_first() {
    let relays = relays(&placed());
    assert_eq!(names(&relays, &asking_for("us")), ["us", "pole"], "then what is nearest to it");
    let client = ClientPlace { region: Some("us".into()), ..from(SINGAPOREAN) };
    assert_eq!(names(&relays, &client), ["us", "pole"], "the client's word goes before its address");
    let nowhere = self::relays(&config(vec![relay("a", None), relay("b", None), relay("c", None)]));
    assert_eq!(names(&nowhere, &asking_for("c")), ["c", "a"]);
}

#[test]
fn equally_far_relays_keep_their_order() {
    let twins = vec![relay("b", Some(FRANKFURT)), relay("a", Some(FRANKFURT)), relay("c", Some((90.0, 0.0)))];
    let mut config = SignalingConfig { relay_regions_max: 3, ..placed() };
    config.relays = twins;
    assert_eq!(names(&relays(&config), &from(GERMAN)), ["b", "a", "c"]);
    config.relays.reverse();
    assert_eq!(names(&relays(&config), &from(GERMAN)), ["a", "b", "c"]);
}

#[test]
fn relays_without_a_place_come_after_the_others() {
    let config = config(vec![relay("x", None), relay("asia", Some(SINGAPORE)), relay("eu", Some(FRANKFURT))]);
    let relays = relays(&SignalingConfig { relay_regions_max: 3, ..config });
    assert_eq!(names(&relays, &asking_for("eu")), ["eu", "asia", "x"]);
}

#[test]
fn the_own_relay_is_always_told() {
    let url = ["turn:own.example.org"];
    let alone = Relays::new(&config(Vec::new()), &keys(), own(&url)).unwrap();
    let sid = ParticipantSid::from_random(1);
    let servers = alone.ice_servers(&ClientPlace::default(), &sid, SystemTime::UNIX_EPOCH);
    assert_eq!(servers.len(), 1);
    assert_eq!(servers[0].urls, url);
    let expected = TurnSecret::new("own").credential(&servers[0].username);
    assert_eq!(servers[0].credential, expected.expose_secret());

    let elsewhere =
        Relays::new(&SignalingConfig { region: "home".into(), ..placed() }, &keys(), own(&url)).unwrap();
    assert_eq!(names(&elsewhere, &from(GERMAN)), ["eu", "pole", "home"]);
    assert_eq!(names(&elsewhere, &ClientPlace::default()), ["home", "eu", "us", "asia"]);
    assert_eq!(names(&elsewhere, &asking_for("home")), ["home", "eu"]);

    // In a region that is configured it has that region's place.
    let config = SignalingConfig { region: "us".into(), ..placed() };
    let american = Relays::new(&config, &keys(), own(&url)).unwrap();
    assert_eq!(names(&american, &from(GERMAN)), ["eu", "pole", "us"]);
    assert_eq!(names(&american, &from(AMERICAN)), ["us", "pole"]);
    let servers = american.ice_servers(&from(AMERICAN), &sid, SystemTime::UNIX_EPOCH);
    let urls: Vec<_> = servers.iter().flat_map(|server| &server.urls).collect();
    let expected = [
        "turn:own.example.org",
        "turn:us.example.org:3478?transport=udp",
        "turn:pole.example.org:3478?transport=udp",
    ];
    assert_eq!(urls, expected);

    assert!(names(&Relays::new(&config, &keys(), own(&[])).unwrap(), &from(GERMAN)) == ["eu", "pole"]);
}

#[test]
fn credentials_name_the_participant_and_their_end() {
    let mut config = SignalingConfig { relay_credentials_ttl_s: 3_600, ..config(vec![relay("eu", None)]) };
    config.relays.push(RelayConfig { secret: Some("north".into()), ..relay("us", None) });
    let sid = ParticipantSid::from_random(7);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let servers = relays(&config).ice_servers(&ClientPlace::default(), &sid, now);
    let secrets = [keys().turn_secrets().remove(0), TurnSecret::new("north")];
    assert_eq!(servers.len(), 2);
    for (server, secret) in servers.iter().zip(secrets) {
        assert_eq!(server.username, format!("1700003600:{sid}"));
        assert_eq!(turn_expiry(&server.username), Some(now + Duration::from_secs(3_600)));
        assert_eq!(server.credential, secret.credential(&server.username).expose_secret());
        assert!(
            server.urls.iter().all(|url| !url.contains(sid.as_str()) && !url.contains(&server.credential))
        );
    }
}

#[test]
fn regions_are_listed_by_distance_where_they_have_signaling() {
    let mut config = placed();
    assert!(relays(&config).settings(&from(GERMAN)).regions.is_empty());
    for index in [0, 2] {
        config.relays[index].signal_url = format!("wss://{}.example.org", config.relays[index].region);
    }
    let listed = |client: &ClientPlace| {
        let regions = relays(&config).settings(client).regions;
        regions.into_iter().map(|region| (region.region, region.url, region.distance)).collect::<Vec<_>>()
    };
    let (eu, asia) = ("wss://eu.example.org", "wss://asia.example.org");
    let expected = [("asia".into(), asia.into(), 0), ("eu".into(), eu.into(), 10_258_400)];
    assert_eq!(listed(&from(SINGAPOREAN)), expected);
    let expected = [("eu".into(), eu.into(), 0), ("asia".into(), asia.into(), 0)];
    assert_eq!(listed(&from("10.0.0.1")), expected, "distances are not known");
}

#[test]
fn what_cannot_work_is_said() {
    let error =
        |config: &SignalingConfig, keys: &KeyRing| Relays::new(config, keys, None).unwrap_err().to_string();
    let no_key = error(&config(vec![relay("eu", None)]), &KeyRing::default());
    assert_eq!(no_key, "signaling.relays: eu has no secret, and there is no API key to make one from");
    let config = SignalingConfig { geoip_database: "/nonexistent/city.mmdb".into(), ..placed() };
    let missing = error(&config, &keys());
    assert!(
        missing.starts_with("signaling.geoip_database: /nonexistent/city.mmdb: No such file"),
        "{missing}"
    );
    let twice =
        error(&SignalingConfig { relays: vec![relay("eu", None), relay("eu", None)], ..config }, &keys());
    assert!(twice.starts_with("signaling.relays.0.region: latitude and longitude are needed"), "{twice}");
}

#[test]
fn addresses_of_clients_are_not_shown() {
    let shown = format!("{:?}", from("192.0.2.7"));
    assert!(!shown.contains("192.0.2"), "{shown}");
}

#[test]
fn addresses_of_tls_without_a_name_are_known() {
    for url in [
        "turns:203.0.113.7:443?transport=tcp",
        "turns:203.0.113.7",
        "turns:[2001:db8::1]:5349",
        "turns:[2001:db8::1]",
    ] {
        assert!(is_secure_without_name(url), "{url}");
    }
    for url in
        ["turns:relay.example.org:443?transport=tcp", "turns:relay.example.org", "turn:203.0.113.7:3478"]
    {
        assert!(!is_secure_without_name(url), "{url}");
    }
}
