//! Janus (Debian's package `janus`) with its plugin VideoRoom, as a child process, and its HTTP API.
//!
//! Janus leaves out loopback when it gathers candidates. So it announces the machine's own address, and the
//! generator's sockets have it too; what goes from a machine to itself never leaves it.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    generator::{Signaling, http},
    machine,
    server::{command, spawn_on},
};

const BINARY: &str = "/usr/bin/janus";
const START_TIME_MAX: Duration = Duration::from_secs(15);
/// How long a publisher's feed may take to be there, and how often it is asked for.
const FEED_TIME_MAX: Duration = Duration::from_secs(5);
const FEED_RETRY: Duration = Duration::from_millis(20);
/// Lines of its log that are shown.
const LOG_LINES: usize = 3;
/// Polls until an answer is missing; each waits for up to 30 s when nothing happens.
const POLLS_MAX: usize = 100;

/// A running Janus. Dropping it ends it.
#[derive(Debug)]
pub struct JanusServer {
    child: Child,
    base: String,
    address: IpAddr,
    folder: tempfile::TempDir,
}

impl JanusServer {
    /// Whether it can be started here; if not, why.
    ///
    /// # Errors
    /// When it is not installed, or the machine has only loopback.
    pub fn check() -> Result<()> {
        ensure!(
            Path::new(BINARY).is_file(),
            "{BINARY} is missing: install it with `apt-get install -y --no-install-recommends janus`"
        );
        own_address().map(drop)
    }

    /// Starts it on core 0: its defaults, or with so many event loops for all connections instead of a thread
    /// for each.
    ///
    /// # Errors
    /// When it does not start; the end of its log is part of the error.
    pub fn start(event_loops: Option<usize>) -> Result<Self> {
        Self::check()?;
        let address = own_address()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let folder = tempfile::tempdir()?;
        let loops = event_loops.map_or_else(String::new, |loops| format!("event_loops = {loops}\n"));
        let library = "/usr/lib/x86_64-linux-gnu/janus";
        let others = |kind: &str, keep: &str| -> String {
            let names = fs::read_dir(format!("{library}/{kind}")).into_iter().flatten().flatten();
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            let names = names.filter(|name| name.ends_with(".so") && !name.contains(keep));
            names.collect::<Vec<_>>().join(",")
        };
        let main = format!(
            "general: {{\nplugins_folder = \"{library}/plugins\"\ntransports_folder = \"{library}/transports\"\n\
             events_folder = \"{library}/events\"\nloggers_folder = \"{library}/loggers\"\ndebug_level = 3\n\
             session_timeout = 0\n{loops}}}\nnat: {{\nice_enforce_list = \"{address}\"\n}}\n\
             plugins: {{\ndisable = \"{}\"\n}}\ntransports: {{\ndisable = \"{}\"\n}}\n",
            others("plugins", "videoroom"),
            others("transports", "libjanus_http")
        );
        let api = format!(
            "general: {{\njson = \"compact\"\nbase_path = \"/janus\"\nhttp = true\nport = {port}\n\
             ip = \"127.0.0.1\"\nhttps = false\n}}\nadmin: {{\nadmin_http = false\n}}\n"
        );
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
        write("janus.jcfg", &main)?;
        write("janus.transport.http.jcfg", &api)?;
        write("janus.plugin.videoroom.jcfg", "general: {\n}\n")?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = command(Path::new(BINARY));
        command
            .arg(format!("--configs-folder={}", folder.path().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = spawn_on(&mut command, machine::SERVER_CORE).context("cannot start Janus")?;
        let mut server = Self { child, base: format!("http://127.0.0.1:{port}/janus"), address, folder };
        let begun = Instant::now();
        while http::request("GET", &format!("{}/info", server.base), &[], "").is_err() {
            let ended = server.child.try_wait()?.is_some();
            if ended || begun.elapsed() > START_TIME_MAX {
                bail!("Janus did not start:\n{}", server.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address that it announces.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
    }

    /// Its API.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn signaling(&self) -> Result<Janus> {
        Janus::connect(&self.base)
    }
}

impl Drop for JanusServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address that this machine has towards others. No packet is sent.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let reached = socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| socket.local_addr());
    let address = reached.map(|address| address.ip()).ok().filter(|ip| !ip.is_loopback());
    address.context("Janus leaves out loopback, and this machine has no other address")
}

/// VideoRoom: who publishes offers, who subscribes is offered.
#[derive(Debug)]
pub struct Janus {
    /// The session's URL.
    session: String,
    transactions: u64,
    /// By name, in the order of creation.
    rooms: HashMap<String, Room>,
    /// Subscribers' handles by room and name, between offer and answer.
    waiting: HashMap<(String, String), u64>,
}

#[derive(Debug)]
struct Room {
    id: u64,
    /// Publishers' names and ids.
    feeds: Vec<(String, u64)>,
}

impl Janus {
    fn connect(base: &str) -> Result<Self> {
        let mut janus = Self {
            session: base.to_owned(),
            transactions: 0,
            rooms: HashMap::new(),
            waiting: HashMap::new(),
        };
        let id = id_of(&janus.post("", json!({ "janus": "create" }))?)?;
        janus.session = format!("{base}/{id}");
        Ok(janus)
    }

    fn post(&mut self, path: &str, mut message: Value) -> Result<Value> {
        self.transactions += 1;
        if let Some(object) = message.as_object_mut() {
            object.insert("transaction".into(), self.transaction().into());
        }
        let headers = [("Content-Type", "application/json")];
        let answer =
            http::request("POST", &format!("{}{path}", self.session), &headers, &message.to_string())?;
        let answer: Value = serde_json::from_str(&answer.body).context("Janus' answer")?;
        check(&answer)?;
        Ok(answer)
    }

    fn transaction(&self) -> String {
        format!("t{}", self.transactions)
    }

    fn attach(&mut self) -> Result<u64> {
        id_of(&self.post("", json!({ "janus": "attach", "plugin": "janus.plugin.videoroom" }))?)
    }

    /// Sends a message that is answered by an event, and waits for it.
    fn message(&mut self, handle: u64, body: Value, jsep: Option<Value>) -> Result<Value> {
        let mut message = json!({ "janus": "message", "body": body });
        if let (Some(jsep), Some(object)) = (jsep, message.as_object_mut()) {
            object.insert("jsep".into(), jsep);
        }
        self.post(&format!("/{handle}"), message)?;
        let transaction = self.transaction();
        for _ in 0..POLLS_MAX {
            let answer = http::request("GET", &format!("{}?maxev=50", self.session), &[], "")?;
            let events: Value = serde_json::from_str(&answer.body).context("Janus' events")?;
            let events = match events {
                Value::Array(events) => events,
                event => vec![event],
            };
            // The others say who came and went, and how the media is.
            let ours = events.into_iter().find(|event| text(event, "/transaction") == Some(&transaction));
            if let Some(event) = ours {
                check(&event)?;
                return Ok(event);
            }
        }
        bail!("Janus does not answer a message to handle {handle}")
    }

    fn room(&mut self, name: &str) -> Result<u64> {
        if let Some(room) = self.rooms.get(name) {
            return Ok(room.id);
        }
        let id = 1000 + self.rooms.len() as u64;
        let handle = self.attach()?;
        let body = json!({
            "request": "create", "room": id, "publishers": 1000, "bitrate": 0,
            "audiocodec": "opus", "videocodec": "vp8",
        });
        self.post(&format!("/{handle}"), json!({ "janus": "message", "body": body }))?;
        self.rooms.insert(name.to_owned(), Room { id, feeds: Vec::new() });
        Ok(id)
    }
}

impl Signaling for Janus {
    fn server_offers(&self) -> bool {
        true
    }

    fn publish(&mut self, room: &str, name: &str, offer: &str) -> Result<String> {
        let id = self.room(room)?;
        let handle = self.attach()?;
        let body =
            json!({ "request": "joinandconfigure", "ptype": "publisher", "room": id, "display": name });
        let event = self.message(handle, body, Some(json!({ "type": "offer", "sdp": offer })))?;
        let feed = event.pointer("/plugindata/data/id").and_then(Value::as_u64).context("no id")?;
        if let Some(room) = self.rooms.get_mut(room) {
            room.feeds.push((name.to_owned(), feed));
        }
        Ok(text(&event, "/jsep/sdp").context("no answer in Janus' event")?.to_owned())
    }

    fn play(&mut self, room: &str, name: &str, _offer: Option<&str>) -> Result<String> {
        let id = self.room(room)?;
        let handle = self.attach()?;
        let number = |name: &str| name.trim_start_matches(char::is_alphabetic).to_owned();
        let feeds = &self.rooms.get(room).context("the room")?.feeds;
        // Nobody receives what he publishes himself.
        let others = feeds.iter().filter(|(feed, _)| feeds.len() == 1 || number(feed) != number(name));
        let streams: Vec<Value> = others.map(|(_, feed)| json!({ "feed": feed })).collect();
        let body = json!({ "request": "join", "ptype": "subscriber", "room": id, "streams": streams });
        // A feed comes into being some time after its publisher believes to be connected.
        let begun = Instant::now();
        let event = loop {
            match self.message(handle, body.clone(), None) {
                Err(error)
                    if error.to_string().contains("No such feed") && begun.elapsed() < FEED_TIME_MAX =>
                {
                    std::thread::sleep(FEED_RETRY);
                }
                event => break event?,
            }
        };
        self.waiting.insert((room.to_owned(), name.to_owned()), handle);
        Ok(text(&event, "/jsep/sdp").context("no offer in Janus' event")?.to_owned())
    }

    fn answer(&mut self, room: &str, name: &str, answer: &str) -> Result<()> {
        let handle = self.waiting.remove(&(room.to_owned(), name.to_owned())).context("no offer")?;
        let jsep = json!({ "type": "answer", "sdp": answer });
        self.message(handle, json!({ "request": "start" }), Some(jsep)).map(drop)
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn id_of(answer: &Value) -> Result<u64> {
    answer.pointer("/data/id").and_then(Value::as_u64).context("Janus' answer has no id")
}

/// Errors of the API and of the plugin.
fn check(answer: &Value) -> Result<()> {
    let error = text(answer, "/error/reason").or_else(|| text(answer, "/plugindata/data/error"));
    match error {
        Some(error) => bail!("Janus says: {error}"),
        None => Ok(()),
    }
}
