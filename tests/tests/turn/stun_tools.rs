//! coturn's tools for STUN alone, `turnutils_stunclient` and `turnutils_natdiscovery`. Both end with 0 whatever
//! happens; what was understood they print:
//! ```text
//! 0: : IPv4. UDP reflexive addr: 127.0.0.1:52860
//! ```

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::program;
use crate::server::{Family, Transport, TurnUnderTest};

const LIMIT: Duration = Duration::from_secs(20);

/// Asks for the own address.
pub(crate) fn stunclient(turn: &TurnUnderTest, family: Family) {
    ask(Command::new("turnutils_stunclient"), turn, family);
}

/// Asks for the own address, and what can be found out from there by `mode`; returns what was printed.
pub(crate) fn natdiscovery(turn: &TurnUnderTest, family: Family, mode: &str) -> String {
    let mut command = Command::new("turnutils_natdiscovery");
    command.arg(mode);
    ask(command, turn, family)
}

fn ask(mut command: Command, turn: &TurnUnderTest, family: Family) -> String {
    let server = turn.address(Transport::Udp, family);
    command.args(["-p", &server.port().to_string(), &server.ip().to_string()]);
    let output = program::run(&mut command, LIMIT).output;
    let reflexive = output.lines().find_map(|line| line.split_once("UDP reflexive addr: "));
    let (_, address) = reflexive.unwrap_or_else(|| panic!("no address was learned:\n{output}"));
    // It writes IPv6 addresses without brackets.
    let (ip, port) = address.trim().rsplit_once(':').unwrap();
    let learned = SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
    assert_eq!(learned.ip(), family.loopback());
    if let Some((_, local)) = output.lines().find_map(|line| line.split_once("Local addr: : ")) {
        assert_eq!(
            local.rsplit_once(':').unwrap().1,
            port,
            "without a NAT both ports are the same:\n{output}"
        );
    }
    output
}
