//! One client with an allocation, and its peer.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use zynk_net::{RecvBatch, SendBatch, SocketOptions, UdpSocket};

use zynk_benches::stun::{Answer, Conversation, Outcome, Request};

use crate::server::TurnServer;

/// The only channel that a client has (RFC 8656 section 12: the first there is).
pub(crate) const CHANNEL: u16 = 0x4000;
/// How long an answer is waited for, and how often.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 8;
/// Between looks for an answer.
const POLL: Duration = Duration::from_micros(200);

/// A socket and what it has to send.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) socket: UdpSocket,
    out: SendBatch,
}

impl Endpoint {
    fn new() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), SocketOptions::default())?;
        Ok(Self { socket, out: SendBatch::new() })
    }

    /// Sends datagrams of one size that lie side by side, segmented by the kernel where it can.
    pub(crate) fn send(&mut self, destination: SocketAddr, datagrams: &[u8], bytes: usize, now: Instant) {
        self.out.flush(&mut self.socket, now);
        self.out.send(&mut self.socket, destination, None, (datagrams, bytes), now);
    }

    /// Datagrams that the kernel took.
    pub(crate) fn sent(&self) -> u64 {
        self.out.stats().datagrams_sent
    }
}

/// A client, its allocation with a channel, and the peer at the channel's end, of which no other client has one.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) client: Endpoint,
    pub(crate) peer: Endpoint,
    /// Where the client's packets go.
    pub(crate) server: SocketAddr,
    /// Where the peer's packets go.
    pub(crate) relayed: SocketAddr,
    conversation: Conversation,
}

impl Relay {
    /// Allocates, and binds the channel.
    pub(crate) fn open(server: &TurnServer, arena: &mut RecvBatch) -> Result<Self> {
        let mut relay = Self {
            client: Endpoint::new()?,
            peer: Endpoint::new()?,
            server: server.address(),
            relayed: server.address(),
            conversation: Conversation::new(server.user().clone()),
        };
        let relayed = relay.exchange(Request::Allocate, arena)?;
        relay.relayed = relayed.context("the answer to an Allocate has no relayed address")?;
        relay.bind(arena)?;
        Ok(relay)
    }

    /// Keeps the allocation, the channel and the permission from ending for some minutes.
    pub(crate) fn renew(&mut self, arena: &mut RecvBatch) -> Result<()> {
        self.exchange(Request::Refresh, arena)?;
        self.bind(arena)
    }

    fn bind(&mut self, arena: &mut RecvBatch) -> Result<()> {
        let SocketAddr::V4(peer) = self.peer.socket.local_addr() else { bail!("the peer is on IPv4") };
        self.exchange(Request::ChannelBind { channel: CHANNEL, peer }, arena)?;
        Ok(())
    }

    /// Asks until there is a success, and returns the address in it.
    fn exchange(&mut self, request: Request, arena: &mut RecvBatch) -> Result<Option<SocketAddr>> {
        for _ in 0..ATTEMPTS {
            let (transaction, message) = self.conversation.ask(request);
            self.client.send(self.server, &message, message.len(), Instant::now());
            let begun = Instant::now();
            while begun.elapsed() < ANSWER_TIME_MAX {
                match arena.recv(&self.client.socket) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(POLL),
                    Err(error) => return Err(error.into()),
                    Ok(_) => {}
                }
                let answers = arena.datagrams().filter_map(|datagram| Answer::parse(datagram.payload));
                let Some(answer) = answers.into_iter().find(|answer| answer.transaction == transaction)
                else {
                    continue;
                };
                let outcome = self.conversation.take(&answer).with_context(|| format!("{request:?}"))?;
                if let Outcome::Success(relayed) = outcome {
                    return Ok(relayed);
                }
                break;
            }
        }
        bail!("the server does not answer {request:?}, or refuses the credentials")
    }
}

/// The address of a peer that never answers, another one for each number.
pub(crate) fn silent_peer(number: usize) -> SocketAddrV4 {
    let [.., high, low] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, 2, high, low), 9)
}
