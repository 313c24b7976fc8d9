//! The program `netlab`, as a user runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, UdpSocket},
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn netlab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netlab"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A running `netlab` before `target`, and where it listens.
fn start(target: &UdpSocket, arguments: &[&str]) -> (Child, SocketAddr, BufReader<ChildStderr>) {
    let forward = format!("--forward=127.0.0.1:0={}", target.local_addr().unwrap());
    let mut child = netlab(&[&[forward.as_str()], arguments].concat()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    let Some((address, _)) = line.split_once(" -> ") else { panic!("{line}") };
    (child, address.parse().unwrap(), errors)
}

fn finish(child: Child, mut errors: BufReader<ChildStderr>) -> Output {
    let output = child.wait_with_output().unwrap();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert!(output.status.success(), "{rest}");
    output
}

#[test]
fn it_ends_after_its_time_with_figures_as_json() {
    let target = udp();
    let (child, address, errors) =
        start(&target, &["--duration=1s", "--json", "--seed=3", "--upstream=delay_ms = 5, duplicate = 1"]);
    udp().send_to(b"hello", address).unwrap();
    for _ in 0..2 {
        assert_eq!(target.recv_from(&mut [0; 9]).unwrap().0, 5);
    }
    let output = finish(child, errors);
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&figures["seed"], &figures["clients_total"]), (&3.into(), &1.into()));
    assert_eq!(figures["upstream"]["delivered"], 2);
    assert!(figures["elapsed_s"].as_f64().unwrap() >= 1.0);
}

#[test]
fn a_signal_ends_it_with_a_table() {
    for signal in ["INT", "TERM"] {
        let target = udp();
        let (child, address, errors) = start(&target, &[]);
        udp().send_to(b"hello", address).unwrap();
        target.recv_from(&mut [0; 9]).unwrap();
        let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let output = finish(child, errors);
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("delivered                              1                   0"), "{table}");
    }
}

#[test]
fn what_it_does_not_understand_it_says() {
    for (arguments, expected) in [
        (&["--forward=127.0.0.1:0=127.0.0.1:9", "--both=delay = 1"][..], "netlab: --both: "),
        (&["--forward=192.0.2.1:1=127.0.0.1:9"], "netlab: cannot listen on UDP 192.0.2.1:1: "),
        (&[], "netlab: name where to listen"),
    ] {
        let output = netlab(arguments).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.starts_with(expected), "{errors}");
    }
}
