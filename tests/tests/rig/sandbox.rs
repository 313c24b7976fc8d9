//! A network and process namespace of the test's own.
//!
//! ```text
//! this test ──stdin──> cat (process 1 of the namespace; ends when the pipe does)
//!                       ├─ zynk          lo 127.0.0.1
//!                       ├─ node, python  zynk0 198.51.100.1 ──veth── zynk1
//!                       └─ browsers
//! ```
//!
//! When the test ends, however it ends, the pipe closes, process 1 exits and the kernel takes every
//! process, interface and socket of the namespace with it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The namespace's address that is not loopback: Firefox never sends media to 127.0.0.1.
/// From RFC 5737's documentation ranges.
pub(crate) const VETH_ADDRESS: &str = "198.51.100.1";
/// A name of that address, inside the namespace: Firefox takes no relay over TLS without one. From RFC 6761's names for
/// tests.
pub(crate) const HOST_NAME: &str = "zynk.test";

const SETUP: &str = "set -e
ip link set lo up
ip link add zynk0 type veth peer name zynk1
ip address add 198.51.100.1/24 dev zynk0
ip link set zynk0 up
ip link set zynk1 up
ip route add default dev zynk0
hosts=$(mktemp)
chmod 644 $hosts
{ cat /etc/hosts; echo; echo 198.51.100.1 zynk.test; } > $hosts
mount --bind $hosts /etc/hosts
rm $hosts
echo ready
exec cat";

/// A namespace; see the module's comment.
pub(crate) struct Sandbox {
    unshare: Child,
    first_process: u32,
    needs_user_namespace: bool,
}

impl Sandbox {
    /// Makes the namespace. Without root a user namespace is made around it.
    pub(crate) fn new() -> Self {
        let needs_user_namespace = !is_root();
        let mut command = Command::new("unshare");
        command.args(["--net", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]);
        if needs_user_namespace {
            command.args(["--user", "--map-root-user"]);
        }
        let mut unshare = command
            .args(["sh", "-c", SETUP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux) starts");
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().expect("stdout is piped"))
            .read_line(&mut line)
            .expect("unshare's output is text");
        assert_eq!(
            line.trim(),
            "ready",
            "no network namespace could be made: this test needs root, or user namespaces, and iproute2"
        );
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let first_process = std::fs::read_to_string(&children)
            .expect("the kernel lists a process's children")
            .trim()
            .parse()
            .expect("unshare has one child");
        Self { unshare, first_process, needs_user_namespace }
    }

    /// A command that will run `program` inside the namespace.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.first_process.to_string()).args(["--net", "--pid", "--mount"]);
        if self.needs_user_namespace {
            command.args(["--user", "--preserve-credentials"]);
        }
        // Mount namespaces do not share a working directory: name it.
        command.arg(format!("--wd={}", env!("CARGO_MANIFEST_DIR"))).arg("--").arg(program.as_ref());
        command
    }

    /// Ends every process in the namespace now.
    pub(crate) fn kill(&mut self) {
        drop(self.unshare.stdin.take());
        // `unshare` ends with its child; its exit status says nothing about the test.
        let _ = self.unshare.wait();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1).map(str::to_owned))
        .is_some_and(|effective| effective == "0")
}
