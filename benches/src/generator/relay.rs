//! A way through a TURN relay (RFC 8656): an allocation, with a channel to each address of the server's media.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::stun::{Answer, Conversation, Outcome, Request, User, channel_header};

/// The first channel there is (RFC 8656, section 12).
const FIRST_CHANNEL: u16 = 0x4000;
/// How long an answer is waited for, and how often.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 8;

/// Where a relay is, who may use it, and to whom it is to relay.
#[derive(Clone, Debug)]
pub struct RelayAccess {
    /// Its address.
    pub server: SocketAddrV4,
    /// Its user.
    pub user: User,
    /// What is sent to, and comes from, these goes through it.
    pub peers: Vec<SocketAddrV4>,
}

/// A client's way through a relay.
#[derive(Debug)]
pub(super) struct RelayedWay {
    pub(super) server: SocketAddr,
    pub(super) relayed: SocketAddr,
    peers: Vec<SocketAddr>,
}

impl RelayedWay {
    /// Allocates, and binds a channel for each peer. The socket blocks meanwhile.
    pub(super) fn open(socket: &UdpSocket, access: &RelayAccess) -> Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        let server = SocketAddr::V4(access.server);
        let mut conversation = Conversation::new(access.user.clone());
        let mut ask = |request| ask(socket, server, &mut conversation, request);
        let relayed = ask(Request::Allocate)?.context("an Allocate without a relayed address")?;
        for (channel, peer) in (FIRST_CHANNEL..).zip(&access.peers) {
            ask(Request::ChannelBind { channel, peer: *peer })?;
        }
        socket.set_nonblocking(true)?;
        let peers = access.peers.iter().map(|peer| SocketAddr::V4(*peer)).collect();
        Ok(Self { server, relayed, peers })
    }

    /// The header for a peer.
    pub(super) fn header(&self, peer: SocketAddr, length: usize) -> Option<[u8; 4]> {
        let index = self.peers.iter().position(|known| *known == peer)?;
        Some(channel_header(FIRST_CHANNEL + u16::try_from(index).ok()?, length))
    }

    /// The peer and the data of what the relay has sent.
    pub(super) fn open_message<'a>(&self, message: &'a mut [u8]) -> Option<(SocketAddr, &'a mut [u8])> {
        let (&mut [c0, c1, l0, l1], data) = message.split_first_chunk_mut()?;
        let index = u16::from_be_bytes([c0, c1]).checked_sub(FIRST_CHANNEL)?;
        let peer = self.peers.get(usize::from(index))?;
        Some((*peer, data.get_mut(..usize::from(u16::from_be_bytes([l0, l1])))?))
    }
}

/// Asks until there is a success, and returns the address in it.
fn ask(
    socket: &UdpSocket,
    server: SocketAddr,
    conversation: &mut Conversation,
    request: Request,
) -> Result<Option<SocketAddr>> {
    for _ in 0..ATTEMPTS {
        let (transaction, message) = conversation.ask(request);
        socket.send_to(&message, server)?;
        let mut buffer = [0; 1500];
        let length = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            received => received?,
        };
        let answer = buffer.get(..length).and_then(Answer::parse);
        let Some(answer) = answer.filter(|answer| answer.transaction == transaction) else { continue };
        let outcome = conversation.take(&answer).with_context(|| format!("{request:?}"))?;
        if let Outcome::Success(relayed) = outcome {
            return Ok(relayed);
        }
    }
    bail!("the relay does not answer {request:?}, or refuses the credentials")
}
