//! One client's stream.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use zynk_net::{ProxyHeaderError, ProxyHeaderReader};
use zynk_turn_core::{FiveTuple, Frame, PeerConnectionKey};

/// Bytes handed to TLS at once: one record.
const TLS_CHUNK_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: TcpStream,
    tls: Option<Box<rustls::ServerConnection>>,
    /// What a balancer puts in front, until it is whole.
    pub(super) header: Option<ProxyHeaderReader>,
    pub(super) five_tuple: FiveTuple,
    /// Tells streams apart that had the same place.
    pub(super) serial: u64,
    /// Bytes that are not a whole frame yet.
    inbound: Vec<u8>,
    /// Bytes to be sent, of which the first `sent` have left.
    outbound: Vec<u8>,
    sent: usize,
    pub(super) opened_at: Instant,
    /// Whether a whole message came.
    pub(super) has_spoken: bool,
    /// Whether an allocation hangs on it.
    pub(super) is_proven: bool,
    pub(super) stuck_since: Option<Instant>,
    /// The peer's connection that it is one with.
    pub(super) peer: Option<PeerConnectionKey>,
    /// To be closed when all has left.
    pub(super) is_closing: bool,
    has_said_goodbye: bool,
    /// There is more to read, but the peer does not take it.
    pub(super) is_held: bool,
    pub(super) is_readable: bool,
    pub(super) is_dirty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// There may be more.
    More,
    Drained,
    Closed,
    /// No TLS.
    Invalid,
}

/// What became of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderOutcome {
    /// It is there, and names the client if it does not speak for the balancer itself.
    Whole(Option<SocketAddr>),
    Incomplete,
    Closed,
    Invalid,
}

impl Stream {
    pub(super) fn new(
        socket: TcpStream,
        tls: Option<rustls::ServerConnection>,
        five_tuple: FiveTuple,
        serial: u64,
        now: Instant,
    ) -> Self {
        Self {
            socket,
            tls: tls.map(Box::new),
            header: None,
            five_tuple,
            serial,
            inbound: Vec::new(),
            outbound: Vec::new(),
            sent: 0,
            opened_at: now,
            has_spoken: false,
            is_proven: false,
            stuck_since: None,
            peer: None,
            is_closing: false,
            has_said_goodbye: false,
            is_held: false,
            is_readable: false,
            is_dirty: false,
        }
    }

    /// One that has come this far elsewhere: `received` came in the clear.
    pub(super) fn resume(&mut self, received: Vec<u8>) {
        self.inbound = received;
    }

    /// Reads what a balancer puts in front. Tells the client's address once that is whole, if the balancer names one.
    pub(super) fn read_header(&mut self, chunk: &mut [u8]) -> HeaderOutcome {
        let Some(header) = &mut self.header else { return HeaderOutcome::Whole(None) };
        loop {
            let wanted = header.wanted().min(chunk.len());
            let piece = chunk.get_mut(..wanted).unwrap_or_default();
            match self.socket.read(piece) {
                Ok(0) => return HeaderOutcome::Closed,
                Ok(count) => match header.push(piece.get(..count).unwrap_or_default()) {
                    Ok(None) => {}
                    Ok(Some(client)) => {
                        self.header = None;
                        return HeaderOutcome::Whole(client);
                    }
                    Err(ProxyHeaderError) => return HeaderOutcome::Invalid,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return HeaderOutcome::Incomplete,
                Err(_) => return HeaderOutcome::Closed,
            }
        }
    }

    /// Reads at most about `bytes_max` bytes into the buffer of what came.
    pub(super) fn read(&mut self, chunk: &mut [u8], bytes_max: usize) -> ReadOutcome {
        let mut total = 0;
        // What the session holds already, if the handshake was done elsewhere.
        if let Some(tls) = &mut self.tls
            && !take_plaintext(tls, chunk, &mut self.inbound)
        {
            return ReadOutcome::Closed;
        }
        while total < bytes_max {
            let result = match &mut self.tls {
                None => self.socket.read(chunk),
                Some(tls) => match tls.read_tls(&mut self.socket) {
                    Ok(0) => Ok(0),
                    Ok(count) => {
                        if tls.process_new_packets().is_err() {
                            // The alert says why.
                            let _ = tls.write_tls(&mut self.socket);
                            return ReadOutcome::Invalid;
                        }
                        total += count;
                        if !take_plaintext(tls, chunk, &mut self.inbound) {
                            return ReadOutcome::Closed;
                        }
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(0) => return ReadOutcome::Closed,
                Ok(count) => {
                    total += count;
                    self.inbound.extend_from_slice(chunk.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ReadOutcome::Drained,
                Err(_) => return ReadOutcome::Closed,
            }
        }
        ReadOutcome::More
    }

    /// Hands out whole frames. False if what comes is none.
    pub(super) fn take_frames(&mut self, mut on_frame: impl FnMut(&[u8])) -> bool {
        let mut at = 0;
        let understood = loop {
            let rest = self.inbound.get(at..).unwrap_or_default();
            match super::frame_of(rest) {
                Frame::Complete(bytes) => {
                    self.has_spoken = true;
                    on_frame(rest.get(..bytes).unwrap_or_default());
                    at += bytes;
                }
                Frame::Incomplete => break true,
                Frame::Invalid => break false,
            }
        };
        self.inbound.drain(..at);
        if self.inbound.is_empty() && self.inbound.capacity() > 64 * 1024 {
            self.inbound = Vec::new();
        }
        understood
    }

    /// What came and was no frame: the peer's, once both are one.
    pub(super) fn take_inbound(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inbound)
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.outbound.extend_from_slice(bytes);
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.outbound.len() - self.sent
    }

    /// Whether all has left, what TLS holds included.
    pub(super) fn is_flushed(&self) -> bool {
        self.waiting() == 0 && self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Says goodbye, where the protocol has a word for it, before all that waits has left.
    pub(super) fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls
            && self.outbound.len() == self.sent
            && !std::mem::replace(&mut self.has_said_goodbye, true)
        {
            tls.send_close_notify();
        }
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self, now: Instant) -> io::Result<()> {
        let before = self.waiting();
        let result = match &mut self.tls {
            None => write_out(&mut self.socket, &self.outbound, &mut self.sent),
            Some(tls) => write_tls(tls, &mut self.socket, &self.outbound, &mut self.sent),
        };
        if self.sent == self.outbound.len() {
            self.outbound.clear();
            self.sent = 0;
            if self.outbound.capacity() > 64 * 1024 {
                self.outbound = Vec::new();
            }
        } else if self.sent > 64 * 1024 {
            self.outbound.drain(..self.sent);
            self.sent = 0;
        }
        self.stuck_since = stuck_since(self.stuck_since, before, self.waiting(), self.is_flushed(), now);
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }
}

/// Moves what a session has decrypted to `inbound`. False if the other side has said that there is no more.
fn take_plaintext(tls: &mut rustls::ServerConnection, chunk: &mut [u8], inbound: &mut Vec<u8>) -> bool {
    loop {
        match tls.reader().read(chunk) {
            Ok(0) => return false,
            Ok(count) => inbound.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Since when nothing is taken although something waits. Progress begins the time anew.
pub(super) fn stuck_since(
    known: Option<Instant>,
    before: usize,
    left: usize,
    is_flushed: bool,
    now: Instant,
) -> Option<Instant> {
    match left {
        _ if is_flushed => None,
        left if left < before => Some(now),
        _ => known.or(Some(now)),
    }
}

/// Writes until all has left, or the socket is full.
pub(super) fn write_out(socket: &mut TcpStream, bytes: &[u8], sent: &mut usize) -> io::Result<()> {
    while let Some(rest) = bytes.get(*sent..).filter(|rest| !rest.is_empty()) {
        match socket.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_tls(
    tls: &mut rustls::ServerConnection,
    socket: &mut TcpStream,
    bytes: &[u8],
    sent: &mut usize,
) -> io::Result<()> {
    loop {
        // One record at a time: what TLS holds waits outside of our bounds.
        while tls.wants_write() {
            match tls.write_tls(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let rest = bytes.get(*sent..).unwrap_or_default();
        if rest.is_empty() || tls.is_handshaking() {
            return Ok(());
        }
        let chunk = rest.get(..rest.len().min(TLS_CHUNK_BYTES)).unwrap_or_default();
        *sent += tls.writer().write(chunk)?;
    }
}
