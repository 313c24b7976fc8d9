//! Our own binary as a child process on the server's core.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{generator::RelayAccess, machine, stun::User};

/// The password of the user of its relay.
const RELAY_PASSWORD: &str = "wonderland";

/// How long it may take to start.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// A running `zynk dev` with one worker, on free ports of loopback. Dropping it ends it.
#[derive(Debug)]
pub struct ZynkServer {
    child: Child,
    url: String,
    relay: Option<RelayAccess>,
    log: tempfile::NamedTempFile,
}

impl ZynkServer {
    /// The binary beside the running program.
    ///
    /// # Errors
    /// When there is none.
    pub fn binary() -> Result<PathBuf> {
        let program = std::env::current_exe()?;
        let binary = program.with_file_name("zynk");
        ensure!(
            binary.is_file(),
            "{} is missing: build it with `cargo build --release -p zynk`, or name another with --zynk",
            binary.display()
        );
        Ok(binary)
    }

    /// Starts it on core 0, holding datagrams back between so many milliseconds (as configured, if none). The calling thread is to run on the generator's core and does so afterwards.
    ///
    /// # Errors
    /// When it does not start; what it wrote is part of the error.
    pub fn start(binary: &Path, hold_back_ms: Option<(u64, u64)>) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let mut command = command(binary);
        command
            .args(["dev", "--port", "0", "--print-ports", "--announce", "127.0.0.1", "--workers", "1"])
            .args(["--log-level", "warn"])
            .env("ZYNK_SFU__BIND", "127.0.0.1")
            .env("ZYNK_TURN__BIND", r#"["127.0.0.1"]"#)
            .env("ZYNK_TURN__RELAY_BIND", r#"["127.0.0.1"]"#)
            .env("ZYNK_TURN__USERS__BENCH", RELAY_PASSWORD)
            .env("ZYNK_TURN__LIMITS__USER_ALLOCATIONS_MAX", "0")
            .env("ZYNK_TURN__LIMITS__UNAUTHENTICATED_ANSWERS_PER_S_MAX", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen()?);
        if let Some((min, max)) = hold_back_ms {
            command.env("ZYNK_SFU__HOLD_BACK_MS_MIN", min.to_string());
            command.env("ZYNK_SFU__HOLD_BACK_MS_MAX", max.to_string());
        }
        let child = spawn_on(&mut command, machine::SERVER_CORE);
        let mut child = child.with_context(|| format!("cannot start {}", binary.display()))?;
        let output = child.stdout.take().context("its standard output")?;
        let mut server = Self { child, url: String::new(), relay: None, log };
        let (sender, lines) = mpsc::channel();
        // Reads on for as long as the server lives, so that it never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let Ok(ports) = lines.recv_timeout(START_TIME_MAX) else {
            bail!("{} did not start:\n{}", binary.display(), server.log());
        };
        let ports: serde_json::Value = serde_json::from_str(&ports).context("--print-ports")?;
        let http = ports.get("http").and_then(serde_json::Value::as_u64).context("--print-ports")?;
        server.url = format!("http://127.0.0.1:{http}");
        let at = |port: u64| Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, u16::try_from(port).ok()?));
        let udp = ports.get("udp").and_then(serde_json::Value::as_array).context("--print-ports")?;
        server.relay =
            ports.get("turn").and_then(serde_json::Value::as_u64).and_then(at).map(|relay| RelayAccess {
                server: relay,
                user: User { name: "bench".to_owned(), password: RELAY_PASSWORD.to_owned() },
                peers: udp.iter().filter_map(|port| at(port.as_u64()?)).collect(),
            });
        Ok(server)
    }

    /// Base URL of its HTTP.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its relay, by which its media can be reached.
    pub fn relay(&self) -> Option<&RelayAccess> {
        self.relay.as_ref()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

impl Drop for ZynkServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that ends with this process, however that ends: where there is `setpriv` (util-linux), the kernel
/// sees to it; else a killed program leaves its servers behind.
pub fn command(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.is_file() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Starts a process whose threads all stay on a core.
///
/// # Errors
/// When it does not start, or the core cannot be used.
pub fn spawn_on(command: &mut Command, core: usize) -> Result<Child> {
    // A child has its parent's core.
    machine::pin(core)?;
    let child = command.spawn();
    machine::pin(machine::GENERATOR_CORE)?;
    Ok(child?)
}
