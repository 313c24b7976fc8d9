//! A small Internet of network namespaces, inside a sandbox of the test's own.
//!
//! ```text
//!   alice 10.1.0.2 ── nat-alice  192.0.2.1  ┐                    ┌ server    198.18.0.10
//!                                           ├── bridge (cable) ──┤ relay-eu  198.18.1.10
//!   bob   10.2.0.2 ── nat-bob    198.18.4.1 ┘                    └ relay-us  198.18.2.10
//! ```
//!
//! Everything goes away with the sandbox: it has its own processes, mounts and networks. The addresses are from RFC
//! 2544's range for benchmarks, and private ones behind the NATs; alice's NAT has one of RFC 5737's, which the database of
//! places knows.

use std::process::{Command, Output, Stdio};

use crate::rig::sandbox::Sandbox;

/// The server's address.
pub(crate) const SERVER: &str = "198.18.0.10";
/// Relays: the region's name, and the address.
pub(crate) const RELAYS: [(&str, &str); 2] = [("eu", "198.18.1.10"), ("us", "198.18.2.10")];

/// Clients, the addresses of their NATs towards everybody, and the part of the private networks that differs.
const CLIENTS: [(&str, &str, u8); 2] = [("alice", "192.0.2.1", 1), ("bob", "198.18.4.1", 2)];

/// What a client's network lets through towards the world. All of it without a word to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firewall {
    /// No UDP.
    NoUdp,
    /// TCP to the server's page and signaling, and to port 443 of anybody.
    WebOnly,
}

/// The namespaces.
pub(crate) struct Internet {
    sandbox: Sandbox,
}

impl Internet {
    pub(crate) fn new() -> Self {
        let internet = Self { sandbox: Sandbox::new() };
        let mut script = "set -e
            mount -t tmpfs none /run
            ip netns add cable
            ip -n cable link add bridge type bridge
            ip -n cable link set bridge up\n"
            .to_owned();
        let public = [("server".to_owned(), SERVER)].into_iter();
        let public = public.chain(RELAYS.map(|(region, address)| (format!("relay-{region}"), address)));
        for (name, address) in public {
            script += &machine(&name);
            script += &plugged_in(&name, address);
        }
        for (name, public, private) in CLIENTS {
            let nat = format!("nat-{name}");
            script += &machine(name);
            script += &machine(&nat);
            script += &plugged_in(&nat, public);
            script += &format!(
                "ip link add home netns {nat} type veth peer name wan netns {name}
                 ip -n {nat} address add 10.{private}.0.1/24 dev home
                 ip -n {nat} link set home up
                 ip -n {name} address add 10.{private}.0.2/24 dev wan
                 ip -n {name} link set wan up
                 ip -n {name} route add default via 10.{private}.0.1
                 ip netns exec {nat} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
                 ip netns exec {nat} nft -f - <<'RULES'
                 add table ip nat
                 add chain ip nat leaving {{ type nat hook postrouting priority srcnat; }}
                 add rule ip nat leaving oifname wan masquerade random,fully-random\nRULES\n"
            );
        }
        let output = internet.sandbox.command("sh").args(["-c", &script]).output().expect("sh starts");
        assert!(
            output.status.success(),
            "namespaces with NATs cannot be made: this test needs root (or user namespaces), iproute2 and nftables, and \
             a kernel with bridges, veth and masquerading: {}",
            text(&output)
        );
        internet
    }

    /// A command that will run `program` on a machine.
    pub(crate) fn on(&self, machine: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.sandbox.command("ip");
        command.args(["netns", "exec", machine]).arg(program).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZYNK_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Puts a firewall into a client's NAT.
    pub(crate) fn close(&self, client: &str, firewall: Firewall) {
        let drop = match firewall {
            Firewall::NoUdp => "meta l4proto udp drop".to_owned(),
            Firewall::WebOnly => format!(
                "meta l4proto udp drop
                 add rule inet wall passing iifname home tcp dport 443 accept
                 add rule inet wall passing iifname home ip daddr {SERVER} tcp dport {{ 7880, 8080 }} accept
                 add rule inet wall passing iifname home drop"
            ),
        };
        let rules = format!(
            "add table inet wall
             add chain inet wall passing {{ type filter hook forward priority 0; policy accept; }}
             add rule inet wall passing {drop}"
        );
        let output = self.on(&format!("nat-{client}"), "nft").args([rules]).output().expect("nft starts");
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Ends every process.
    pub(crate) fn end(&mut self) {
        self.sandbox.kill();
    }
}

/// A namespace with loopback alone.
fn machine(name: &str) -> String {
    format!(
        "ip netns add {name}
         ip netns exec {name} sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'
         ip -n {name} link set lo up\n"
    )
}

/// Its interface `wan` on the bridge.
fn plugged_in(name: &str, address: &str) -> String {
    let port = name.replace("relay", "r");
    format!(
        "ip link add wan netns {name} type veth peer name {port} netns cable
         ip -n cable link set {port} master bridge up
         ip -n {name} address add {address}/32 dev wan
         ip -n {name} link set wan up
         ip -n {name} route add 198.18.0.0/15 dev wan
         ip -n {name} route add 192.0.2.0/24 dev wan\n"
    )
}

/// Both outputs of a command.
pub(crate) fn text(output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{stdout}{stderr}")
}
