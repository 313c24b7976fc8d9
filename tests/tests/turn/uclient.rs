//! coturn's load generator, `turnutils_uclient`, as a client that says whether everything it sent came back.
//!
//! Its exit code is 255 when it cannot allocate, bind or connect, and 0 otherwise, however much was lost. It says
//! what was lost in its last lines:
//! ```text
//! 4: : start_mclient: tot_send_msgs=20, tot_recv_msgs=20
//! 4: : Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)
//! ```

use std::process::Command;
use std::time::Duration;

use crate::echo::Echo;
use crate::program::{self, Finished};
use crate::server::{Authentication, Family, Transport, TurnUnderTest};

/// It begins to send at whole seconds only, and waits ten for what is missing.
const LIMIT: Duration = Duration::from_secs(40);
const MESSAGES: &str = "10";

/// Who sends back what a client sends, and through addresses of which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An echo.
    Echo(Family),
    /// Two echoes, for RTP and RTCP: each client has two allocations, at an even port and at the next one.
    EchoPair(Family),
    /// An echo of this family, for clients with relayed addresses of both.
    Dual(Family),
    /// The clients send to each other's relayed addresses.
    EachOther(Family),
}

/// One invocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uclient {
    transport: Transport,
    server: Family,
    peer: Peer,
    flags: &'static [&'static str],
    wrong_password: bool,
    verify: bool,
}

impl Uclient {
    /// A client that reaches the server over `transport` at its address of the family `server`.
    pub(crate) fn new(
        transport: Transport,
        server: Family,
        peer: Peer,
        flags: &'static [&'static str],
    ) -> Self {
        Self { transport, server, peer, flags, wrong_password: false, verify: false }
    }

    /// One that does not know the password, or the secret.
    pub(crate) fn with_wrong_password(self) -> Self {
        Self { wrong_password: true, ..self }
    }

    /// One that trusts the server's certificate and no other.
    pub(crate) fn verifying(self) -> Self {
        Self { verify: true, ..self }
    }

    /// Runs it to its end.
    pub(crate) fn run(self, turn: &TurnUnderTest) -> Outcome {
        let mut command = Command::new("turnutils_uclient");
        command.args(["-n", MESSAGES, "-u", turn.user()]);
        match turn.authentication {
            _ if self.wrong_password && turn.authentication == Authentication::User => {
                command.args(["-w", "wrong"])
            }
            _ if self.wrong_password => command.args(["-W", "wrong"]),
            Authentication::User => command.args(["-w", turn.password()]),
            Authentication::Secret => command.args(["-W", turn.secret()]),
        };
        match self.transport {
            Transport::Udp => {}
            Transport::Tcp => _ = command.arg("-t"),
            Transport::Tls => _ = command.args(["-t", "-S"]),
            Transport::Dtls => _ = command.arg("-S"),
        }
        if self.verify {
            command.arg("-E").arg(turn.certificate());
        }
        command.args(self.flags);
        let relayed = match self.peer {
            Peer::Echo(family) | Peer::EchoPair(family) | Peer::Dual(family) | Peer::EachOther(family) => {
                family
            }
        };
        match self.peer {
            // Both families in one allocation.
            Peer::Dual(_) => command.arg("-Z"),
            _ if relayed == Family::V6 => command.arg("-x"),
            _ if self.server == Family::V6 => command.arg("-X"),
            _ => &mut command,
        };
        let mut echo = None;
        if let Peer::EachOther(_) = self.peer {
            command.arg("-y");
        } else {
            let port = turn.peer_port();
            echo = Some(Echo::start(relayed, port));
            command.args(["-e", &relayed.loopback().to_string(), "-r", &port.to_string()]);
        }
        if let Peer::Echo(_) | Peer::Dual(_) = self.peer {
            command.arg("-c");
        }
        let server = turn.address(self.transport, self.server);
        command.args(["-p", &server.port().to_string(), &server.ip().to_string()]);
        let outcome = Outcome(program::run(&mut command, LIMIT));
        drop(echo);
        outcome
    }
}

/// What it said.
#[derive(Debug)]
pub(crate) struct Outcome(Finished);

impl Outcome {
    /// Asserts that messages were sent and that each came back.
    pub(crate) fn assert_relayed(&self) {
        let Finished { status, output } = &self.0;
        assert!(status.success(), "it ended with {status}:\n{output}");
        let counts = output.lines().rev().find(|line| line.contains("tot_send_msgs=")).unwrap_or_default();
        let [sent, received] = ["tot_send_msgs=", "tot_recv_msgs="].map(|name| number_after(counts, name));
        assert!(sent >= Some(10), "{sent:?} messages were sent:\n{output}");
        assert_eq!(received, sent, "messages were lost:\n{output}");
        assert!(
            output.contains("Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)"),
            "messages were lost:\n{output}"
        );
    }

    /// Asserts that the server refused it an allocation.
    pub(crate) fn assert_refused(&self) {
        let Finished { status, output } = &self.0;
        assert_eq!(status.code(), Some(255), "{output}");
        assert!(output.contains("Cannot complete Allocation"), "{output}");
    }
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
