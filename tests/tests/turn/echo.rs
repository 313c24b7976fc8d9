//! coturn's peer that sends everything back, `turnutils_peer`.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::Family;

const START_LIMIT: Duration = Duration::from_secs(10);
/// Between looks whether it listens.
const POLL: Duration = Duration::from_millis(10);
/// How long an echo is waited for until there is another call.
const ECHO_LIMIT: Duration = Duration::from_millis(50);

/// A running echo at a port and at the one after it. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Echo(Child);

impl Echo {
    /// Starts it, and waits until it answers.
    pub(crate) fn start(family: Family, port: u16) -> Self {
        let mut command = Command::new("turnutils_peer");
        command.args(["-L", &family.loopback().to_string(), "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let echo = Self(child);
        let begun = Instant::now();
        for port in [port, port + 1] {
            while !answers(SocketAddr::new(family.loopback(), port)) {
                assert!(begun.elapsed() < START_LIMIT, "{command:?} does not answer");
                std::thread::sleep(POLL);
            }
        }
        echo
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answers(peer: SocketAddr) -> bool {
    let socket = UdpSocket::bind((peer.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(ECHO_LIMIT)).unwrap();
    let mut answer = [0; 64];
    socket.connect(peer).is_ok()
        && socket.send(b"hello").is_ok()
        && socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"hello")
}
