//! TURN servers as child processes on the server's core.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use zynk_benches::{
    machine,
    server::{ZynkServer, command, spawn_on},
};

use zynk_benches::stun::{Answer, Request, User};

/// Debian's package `coturn`.
const COTURN: &str = "/usr/bin/turnserver";
const START_TIME_MAX: Duration = Duration::from_secs(15);
/// How long an answer is waited for until it is asked for again.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(50);
/// Between looks whether it listens.
const POLL: Duration = Duration::from_millis(10);
const REALM: &str = "bench.test";

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// coturn with one relay thread, without TCP, TLS, DTLS, a log and quotas.
    Coturn,
    /// Any other.
    Template {
        /// What it is called in the table.
        name: String,
        /// The words of its command line, see [`Program::template`].
        words: Vec<String>,
        /// The text of its configuration, in which the same is replaced.
        config: Option<String>,
    },
}

impl Program {
    /// From `NAME=COMMAND`. The command's words are what spaces separate; in them `{port}` is replaced by the UDP port
    /// of 127.0.0.1 to listen at, `{user}`, `{password}` and `{realm}` by the credentials to accept, `{folder}` by a
    /// folder of its own, and `{config}` by the file there that is made of `config`. `env NAME=VALUE… PROGRAM…` sets
    /// variables.
    pub(crate) fn template(text: &str, config: Option<String>) -> Result<Self> {
        let (name, command) = text.split_once('=').context("a server is NAME=COMMAND")?;
        let words = command.split_whitespace().map(str::to_owned).collect();
        Ok(Self::Template { name: name.to_owned(), words, config })
    }

    /// Ours, the binary beside the running program: one worker, without TCP, TLS, DTLS and quotas.
    pub(crate) fn zynk() -> Result<Self> {
        let words =
            [&*ZynkServer::binary()?.to_string_lossy(), "run", "--config", "{config}"].map(str::to_owned);
        let config = Some(include_str!("zynk.toml").to_owned());
        Ok(Self::Template { name: "zynk".to_owned(), words: words.to_vec(), config })
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Coturn => "coturn",
            Self::Template { name, .. } => name,
        }
    }

    /// Whether it can be started here; if not, why.
    pub(crate) fn check(&self) -> Result<()> {
        if matches!(self, Self::Coturn) && !Path::new(COTURN).is_file() {
            bail!(
                "{COTURN} is missing: install it with `apt-get install -y --no-install-recommends coturn`, or leave it \
                 out with --no-coturn"
            );
        }
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16, user: &User) -> Result<Command> {
        let path = |name: &str| folder.join(name).display().to_string();
        match self {
            Self::Coturn => {
                let mut command = command(Path::new(COTURN));
                command.args(["-n", "--listening-ip", "127.0.0.1", "--listening-port", &port.to_string()]);
                command.args(["--relay-threads", "1", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli"]);
                command.args(["--lt-cred-mech", "--user", &format!("{}:{}", user.name, user.password)]);
                command.args(["--realm", REALM, "--allow-loopback-peers"]);
                command.args(["--min-port", "10000", "--max-port", "65535"]);
                command.args(["--log-file", "/dev/null", "--no-stdout-log"]);
                command.args(["--userdb", &path("users"), "--pidfile", &path("pid")]);
                Ok(command)
            }
            Self::Template { words, config, .. } => {
                let fill = |text: &str| {
                    text.replace("{port}", &port.to_string())
                        .replace("{user}", &user.name)
                        .replace("{password}", &user.password)
                        .replace("{realm}", REALM)
                        .replace("{config}", &path("config"))
                        .replace("{folder}", &folder.display().to_string())
                };
                if let Some(config) = config {
                    fs::write(path("config"), fill(config))?;
                }
                let mut words = words.iter().map(|word| fill(word));
                let program = words.next().context("the server's command is empty")?;
                let mut command = command(&PathBuf::from(program));
                command.args(words);
                Ok(command)
            }
        }
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct TurnServer {
    name: String,
    child: Child,
    address: SocketAddrV4,
    user: User,
    folder: tempfile::TempDir,
}

impl TurnServer {
    /// Starts it on core 0 and waits until it answers.
    pub(crate) fn start(program: &Program) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let user = User { name: "alice".into(), password: "wonderland".into() };
        // Free a moment ago; nothing else here takes ports that it did not ask for by number.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = program.command(folder.path(), port, &user)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn_on(&mut command, machine::SERVER_CORE)
            .with_context(|| format!("cannot start {}", program.name()))?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut server = Self { name: program.name().to_owned(), child, address, user, folder };
        let begun = Instant::now();
        while !server.answers()? {
            let ended = server.child.try_wait()?.is_some();
            if ended || begun.elapsed() > START_TIME_MAX {
                bail!("{} did not start:\n{}", server.name, server.log());
            }
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    fn answers(&self) -> Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        socket.send_to(&Request::Binding.write(*b"transaction.", None), self.address())?;
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).unwrap_or(0);
        Ok(answer.get(..length).and_then(Answer::parse).is_some_and(|answer| answer.error().is_none()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.into()
    }

    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    /// The end of what it wrote.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
