//! Many allocations: how long they take to be made, and what they take of memory.
//!
//! One socket is all clients: each sends from an address of its own in 127.1.0.0/16, so that the server sees as many
//! 5-tuples. So the generator's sockets are not in the way of the server's.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use zynk_benches::machine;
use zynk_net::{RecvBatch, SendBatch, SocketOptions, UdpSocket};

use zynk_benches::stun::{Answer, Login, Request, Transaction};

use crate::{
    relay::{CHANNEL, silent_peer},
    server::{Program, TurnServer},
};

/// What one socket can be, by the addresses that it sends from.
pub(crate) const ALLOCATIONS_MAX: usize = 60_000;
/// Requests that wait for an answer at a time.
const WAITING_MAX: usize = 64;
/// When a request is repeated (RFC 8489 section 6.2.1), and how often it is sent before that is the end.
const REPEAT_AFTER: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 8;
/// How long the server has after a change until its memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// Figures of one server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Allocations {
    pub(crate) server: String,
    pub(crate) allocations: usize,
    /// From the first request to the last answer: a refusal and an Allocate each.
    pub(crate) open_seconds: f64,
    /// The server's CPU time for it.
    pub(crate) open_cpu_seconds: f64,
    /// Requests that were repeated, because an answer did not come.
    pub(crate) repeated: u64,
    /// Resident memory for each, by difference.
    pub(crate) resident_kib: f64,
    /// The same with a channel, which brings a permission.
    pub(crate) resident_with_channel_kib: f64,
    /// What the kernel's slabs grew by for each while they were opened: sockets, mostly. The machine's other processes
    /// are in it.
    pub(crate) slab_kib: f64,
}

/// Starts a fresh server and opens so many.
pub(crate) fn measure(program: &Program, allocations: usize) -> Result<Allocations> {
    ensure!(allocations <= ALLOCATIONS_MAX, "at most {ALLOCATIONS_MAX} allocations");
    let server = TurnServer::start(program)?;
    let mut clients = Clients::new(allocations)?;
    let resident = || {
        std::thread::sleep(SETTLE);
        machine::resident_mib(server.pid()) * 1024.0
    };
    let (empty, slab) = (resident(), slab_kib());
    let cpu = machine::CpuTimes::of(server.pid());
    let begun = Instant::now();
    clients.ask(&server, |_| Request::Allocate)?;
    let open_seconds = begun.elapsed().as_secs_f64();
    let open_cpu_seconds = machine::CpuTimes::of(server.pid()).since(&cpu).as_secs_f64();
    let slab = slab_kib() - slab;
    let idle = resident();
    clients.ask(&server, |number| Request::ChannelBind { channel: CHANNEL, peer: silent_peer(number) })?;
    let bound = resident();
    let each = |kib: f64| kib / allocations as f64;
    Ok(Allocations {
        server: server.name().to_owned(),
        allocations,
        open_seconds,
        open_cpu_seconds,
        repeated: clients.repeated,
        resident_kib: each(idle - empty),
        resident_with_channel_kib: each(bound - empty),
        slab_kib: each(slab),
    })
}

impl fmt::Display for Allocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, allocations, open_seconds, open_cpu_seconds, repeated, .. } = self;
        write!(
            f,
            "{server}: {allocations} allocations in {open_seconds:.2} s ({open_cpu_seconds:.2} s of CPU, {repeated} \
             requests repeated); resident for each {:.2} KiB, with a channel {:.2} KiB; the kernel's slabs {:.2} KiB",
            self.resident_kib, self.resident_with_channel_kib, self.slab_kib
        )
    }
}

struct Clients {
    socket: UdpSocket,
    out: SendBatch,
    arena: RecvBatch,
    clients: Vec<Client>,
    repeated: u64,
}

#[derive(Debug, Default)]
struct Client {
    login: Option<Login>,
    /// The request that waits for an answer.
    waiting: Option<Waiting>,
    is_done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    transaction: Transaction,
    since: Instant,
    attempts: u32,
}

impl Clients {
    fn new(number: usize) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), SocketOptions::default())?;
        let clients = (0..number).map(|_| Client::default()).collect();
        Ok(Self { socket, out: SendBatch::new(), arena: RecvBatch::new(), clients, repeated: 0 })
    }

    /// Lets every client ask until it has a success.
    fn ask(&mut self, server: &TurnServer, request: impl Fn(usize) -> Request) -> Result<()> {
        self.clients.iter_mut().for_each(|client| client.is_done = false);
        let (mut begun, mut done, mut looked) = (0, 0, Instant::now());
        // Those that have begun and are not done.
        while done < self.clients.len() {
            let now = Instant::now();
            while begun < self.clients.len() && begun - done < WAITING_MAX {
                self.send(server, begun, request(begun), 1, now);
                begun += 1;
            }
            self.out.flush(&mut self.socket, now);
            match self.arena.recv(&self.socket) {
                Ok(_) => done += self.take_answers(server, &request, now)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
            if now.duration_since(looked) > REPEAT_AFTER / 4 {
                looked = now;
                self.repeat(server, &request, begun, now)?;
            }
        }
        Ok(())
    }

    /// Returns how many clients are done by what has arrived.
    fn take_answers(
        &mut self,
        server: &TurnServer,
        request: &impl Fn(usize) -> Request,
        now: Instant,
    ) -> Result<usize> {
        let mut again = Vec::new();
        let mut done = 0;
        for datagram in self.arena.datagrams() {
            let Some(answer) = Answer::parse(datagram.payload) else { continue };
            let number = number_of(answer.transaction);
            let Some(client) = self.clients.get_mut(number) else { continue };
            let Some(_) = client.waiting.take_if(|waiting| waiting.transaction == answer.transaction) else {
                continue;
            };
            match answer.error() {
                None => {
                    client.is_done = true;
                    done += 1;
                }
                Some(401 | 438) => {
                    client.login = Some(Login::new(server.user(), &answer)?);
                    again.push(number);
                }
                Some(error) => bail!(
                    "{} answers {error} to client {number}; its log ends with:\n{}",
                    server.name(),
                    server.log()
                ),
            }
        }
        for number in again {
            self.send(server, number, request(number), 1, now);
        }
        Ok(done)
    }

    /// Repeats what has waited too long.
    fn repeat(
        &mut self,
        server: &TurnServer,
        request: &impl Fn(usize) -> Request,
        begun: usize,
        now: Instant,
    ) -> Result<()> {
        let late = |waiting: &Waiting| now.duration_since(waiting.since) > REPEAT_AFTER;
        let late: BTreeMap<usize, u32> = self
            .clients
            .iter()
            .enumerate()
            .take(begun)
            .filter_map(|(number, client)| Some((number, client.waiting.filter(late)?.attempts)))
            .collect();
        for (number, attempts) in late {
            ensure!(attempts < ATTEMPTS, "{} does not answer client {number}", server.name());
            self.repeated += 1;
            self.send(server, number, request(number), attempts + 1, now);
        }
        Ok(())
    }

    fn send(&mut self, server: &TurnServer, number: usize, request: Request, attempts: u32, now: Instant) {
        let Some(client) = self.clients.get_mut(number) else { return };
        let transaction = match client.waiting {
            // A repetition is the same message.
            Some(waiting) => waiting.transaction,
            None => transaction_of(number, client.login.is_some(), request),
        };
        client.waiting = Some(Waiting { transaction, since: now, attempts });
        let message = request.write(transaction, client.login.as_ref());
        self.out.push(server.address(), Some(source(number)), &message);
    }
}

/// The address that a client sends from.
fn source(number: usize) -> IpAddr {
    let [.., high, low] = (number + 1).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

fn transaction_of(number: usize, signed: bool, request: Request) -> Transaction {
    let [.., a, b, c, d] = number.to_be_bytes();
    let kind = u8::from(matches!(request, Request::Allocate)) * 2 + u8::from(signed);
    [a, b, c, d, kind, b'a', b'l', b'l', b'o', b'c', b'a', b't']
}

fn number_of(transaction: Transaction) -> usize {
    let [a, b, c, d, ..] = transaction;
    u32::from_be_bytes([a, b, c, d]) as usize
}

/// The kernel's slabs, in KiB.
fn slab_kib() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let slab = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    slab.and_then(|text| text.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(f64::NAN)
}
