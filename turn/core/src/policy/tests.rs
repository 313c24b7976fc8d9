use super::*;

fn verdict(policy: &PeerPolicy, ip: &str) -> Verdict {
    policy.verdict(ip.parse().unwrap())
}

/// Every way to write an IPv4 address as an IPv6 address.
fn spellings(ip: &str) -> Vec<String> {
    let v4: Ipv4Addr = ip.parse().unwrap();
    let [a, b, c, d] = v4.octets();
    let hex = format!("{a:02x}{b:02x}:{c:02x}{d:02x}");
    let inverted = format!("{:02x}{:02x}:{:02x}{:02x}", !a, !b, !c, !d);
    vec![
        ip.to_owned(),
        format!("::ffff:{ip}"),
        format!("::{ip}"),
        format!("::ffff:0:{ip}"),
        format!("64:ff9b::{ip}"),
        format!("2002:{hex}::1"),
        format!("2001:0:808:808:0:0:{inverted}"), // Teredo's client
        format!("2001:0:{hex}::f7f7:f7f7"),       // Teredo's server; the client is 8.8.8.8
        format!("2606:4700::5efe:{ip}"),          // ISATAP in a public network
        format!("2606:4700::200:5efe:{ip}"),
    ]
}

#[test]
fn what_is_not_for_everybody_is_denied_in_every_spelling() {
    let policy = PeerPolicy::default();
    let denied = [
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.2",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.168.1.1",
        "198.19.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
    ];
    for ip in denied {
        for spelling in spellings(ip) {
            assert_eq!(verdict(&policy, &spelling), Verdict::Denied, "{spelling}");
        }
    }
    for ip in [
        "0.0.0.0",
        "::",
        "::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "100::1",
        "2001:db8::1",
        "64:ff9b:1::1",
        "3fff::1",
        "5f00::1",
        "::ffff:0.0.0.0",
        "::ffff:0:0:1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "0:1::1",
    ] {
        assert_eq!(verdict(&policy, ip), Verdict::Denied, "{ip}");
    }
}

#[test]
fn public_addresses_are_allowed_in_every_spelling() {
    let policy = PeerPolicy::default();
    for ip in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "169.253.1.1", "223.255.255.255"] {
        for spelling in spellings(ip) {
            assert_eq!(verdict(&policy, &spelling), Verdict::Allowed, "{spelling}");
        }
    }
    for ip in ["2606:4700::1111", "2a00:1450:4001::1", "2001:4860::8888"] {
        assert_eq!(verdict(&policy, ip), Verdict::Allowed, "{ip}");
    }
}

#[test]
fn the_operators_lists_win_and_denial_wins_over_permission() {
    let policy = PeerPolicy {
        deny: vec!["8.8.8.0/24".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
        allow: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ..PeerPolicy::default()
    };
    for spelling in spellings("8.8.8.8") {
        assert_eq!(verdict(&policy, &spelling), Verdict::Denied, "{spelling}");
    }
    assert_eq!(verdict(&policy, "10.2.3.4"), Verdict::Allowed);
    assert_eq!(verdict(&policy, "::ffff:10.2.3.4"), Verdict::Allowed, "it is the same address");
    assert_eq!(verdict(&policy, "64:ff9b::10.2.3.4"), Verdict::Denied, "that is another way to it");
    assert_eq!(verdict(&policy, "10.1.3.4"), Verdict::Denied);
    assert_eq!(verdict(&policy, "fd12::1"), Verdict::Allowed);
    assert_eq!(verdict(&policy, "fc12::1"), Verdict::Denied);
}

#[test]
fn of_this_machine_only_relays_and_services_are_reached() {
    let service = "127.0.0.1:7882".parse().unwrap();
    let policy = PeerPolicy {
        own: vec!["93.184.216.34".parse().unwrap(), "2606:4700::9".parse().unwrap()],
        services: vec![service],
        ..PeerPolicy::default()
    };
    for ip in ["93.184.216.34", "::ffff:93.184.216.34", "2606:4700::9", "127.0.0.1"] {
        assert_eq!(verdict(&policy, ip), Verdict::PortsOnly, "{ip}");
    }
    assert_eq!(verdict(&policy, "2002:5db8:d822::1"), Verdict::Denied, "a way around it");
    assert_eq!(verdict(&policy, "127.0.0.2"), Verdict::Denied);
    assert!(policy.is_service(service) && !policy.is_service("127.0.0.1:22".parse().unwrap()));
}

#[test]
fn a_network_that_is_allowed_does_not_open_the_machine_in_it() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let policy = PeerPolicy {
        allow: vec!["10.1.0.0/16".parse().unwrap(), "10.1.0.4/32".parse().unwrap()],
        own: vec![ip("10.1.0.2")],
        machine: vec![ip("127.0.0.1"), ip("10.1.0.2"), ip("10.1.0.3"), ip("10.1.0.4"), ip("93.184.216.34")],
        ..PeerPolicy::default()
    };
    assert_eq!(policy.verdict(ip("10.1.0.9")), Verdict::Allowed);
    assert_eq!(policy.verdict(ip("10.1.0.2")), Verdict::PortsOnly, "relays are there");
    for ours in ["10.1.0.3", "127.0.0.1", "93.184.216.34", "::ffff:10.1.0.3"] {
        assert_eq!(policy.verdict(ip(ours)), Verdict::Denied, "{ours}");
    }
    assert_eq!(policy.verdict(ip("10.1.0.4")), Verdict::Allowed, "listed by itself");
}
