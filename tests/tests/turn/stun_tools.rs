//! coturn's tools for STUN alone, `turnutils_stunclient` and `turnutils_natdiscovery`. Both end with 0 whatever
//! happens; what was understood they print:
//! ```text
//! 0: : IPv4. UDP reflexive addr: 127.0.0.1:52860
//! ```

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::program;
use crate::server::{Family, Transport, TurnUnderTest};

const LIMIT: Duration = Duration::from_secs(20);
const DTLS_LIMIT: Duration = Duration::from_secs(10);

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

/// Asks for the own address over DTLS 1.2, as OpenSSL speaks it.
pub(crate) fn binding_over_dtls(turn: &TurnUnderTest, family: Family) {
    // RFC 8489 section 5: Binding, no attributes, the cookie, a transaction id.
    const REQUEST: &[u8; 20] = b"\x00\x01\x00\x00\x21\x12\xa4\x42over 1.2 ok?";
    let mut client = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-quiet", "-connect"])
        .arg(turn.address(Transport::Dtls, family).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(REQUEST).unwrap();
    input.flush().unwrap();
    let mut output = client.stdout.take().unwrap();
    let (sender, answers) = mpsc::channel();
    std::thread::spawn(move || {
        let mut answer = [0; 20];
        let read = output.read_exact(&mut answer);
        sender.send(read.map(|()| answer))
    });
    let answer = answers.recv_timeout(DTLS_LIMIT);
    let _ = client.kill();
    let _ = client.wait();
    let answer = answer.expect("there is an answer in time").unwrap();
    assert_eq!((&answer[..2], &answer[4..]), (&[1, 1][..], &REQUEST[4..]));
}
