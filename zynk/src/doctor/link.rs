//! A way to a server: UDP, TCP or TLS, and the messages that come and go on it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use zynk_turn_core::{Frame, next_frame};

use super::tls;

/// How long one step may take: a connection, or an answer.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// When a request over UDP is sent anew for the first time; then after twice as long, and so on (RFC 8489, section
/// 6.2.1).
const RETRANSMISSION_TIMEOUT: Duration = Duration::from_millis(250);

/// Longest message that is read.
const MESSAGE_BYTES_MAX: usize = 2_048;

/// A byte stream: TCP, or TLS over it.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// How messages are cut out of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By their own length, as TURN has it (RFC 8656, section 12.5).
    Turn,
    /// By two bytes before each, as ICE has it (RFC 4571).
    Ice,
}

/// What carries messages.
pub(super) enum Link {
    Datagrams(UdpSocket),
    Stream { stream: Box<dyn ByteStream>, framing: Framing, received: Vec<u8> },
}

/// Why there is no link, or no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// Nobody said anything.
    #[error("no answer within {} s", STEP_TIMEOUT.as_secs())]
    Silent,
    /// The machine says that nothing listens there.
    #[error("connection refused")]
    Refused,
    /// The network says that there is no way.
    #[error("{0}")]
    Unreachable(io::Error),
    /// The other side hung up, or said what is no message.
    #[error("the connection was closed")]
    Closed,
    /// TLS failed.
    #[error("{0}")]
    Tls(#[from] tls::TlsError),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Silent,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::InvalidData => Self::Closed,
            _ => Self::Unreachable(error),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Datagrams(_)) { "Datagrams" } else { "Stream" })
    }
}

/// Opens a TCP connection.
pub(super) async fn connect_tcp(server: SocketAddr) -> Result<TcpStream, LinkError> {
    let stream = timeout(STEP_TIMEOUT, TcpStream::connect(server)).await.map_err(|_| LinkError::Silent)??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The unspecified address of the family of another.
pub(super) fn any_like(ip: IpAddr) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    }
}

impl Link {
    /// A UDP socket of its own towards a server. Sends nothing.
    pub(super) async fn udp(server: SocketAddr) -> Result<Self, LinkError> {
        let socket = UdpSocket::bind(any_like(server.ip())).await?;
        // So that the kernel tells when nothing listens there.
        socket.connect(server).await?;
        Ok(Self::Datagrams(socket))
    }

    pub(super) fn stream(stream: impl ByteStream + 'static, framing: Framing) -> Self {
        Self::Stream { stream: Box::new(stream), framing, received: Vec::new() }
    }

    /// Our own address, where a socket has one to itself.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Datagrams(socket) => socket.local_addr().ok(),
            Self::Stream { .. } => None,
        }
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagrams(socket) => socket.send(message).await.map(drop),
            Self::Stream { stream, framing, .. } => {
                if *framing == Framing::Ice {
                    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                    stream.write_all(&length.to_be_bytes()).await?;
                }
                stream.write_all(message).await?;
                stream.flush().await
            }
        }
    }

    /// The next message. May be called anew when it was given up waiting for.
    pub(super) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Datagrams(socket) => {
                let mut buffer = vec![0; MESSAGE_BYTES_MAX];
                let length = socket.recv(&mut buffer).await?;
                buffer.truncate(length);
                Ok(buffer)
            }
            Self::Stream { stream, framing, received } => loop {
                if let Some(message) = cut(*framing, received)? {
                    return Ok(message);
                }
                if stream.read_buf(received).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            },
        }
    }

    /// Sends a message, again and again over UDP, until `accept` has found what it wants in what comes back. Says how
    /// long the answer to the last message sent has taken.
    pub(super) async fn exchange<T>(
        &mut self,
        message: &[u8],
        mut accept: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<(T, Duration), LinkError> {
        let end = Instant::now() + STEP_TIMEOUT;
        let mut pause = match self {
            Self::Datagrams(_) => RETRANSMISSION_TIMEOUT,
            Self::Stream { .. } => STEP_TIMEOUT,
        };
        loop {
            let sent_at = Instant::now();
            self.send(message).await?;
            let until = end.min(sent_at + pause);
            while let Ok(received) = tokio::time::timeout_at(until.into(), self.receive()).await {
                if let Some(found) = accept(&received?) {
                    return Ok((found, sent_at.elapsed()));
                }
            }
            if Instant::now() >= end {
                return Err(LinkError::Silent);
            }
            pause *= 2;
        }
    }
}

/// Takes the first message out of what a stream has brought.
fn cut(framing: Framing, received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let (skip, length) = match framing {
        Framing::Turn => match next_frame(received) {
            Frame::Complete(length) => (0, length),
            Frame::Incomplete => return Ok(None),
            Frame::Invalid => return Err(io::ErrorKind::InvalidData.into()),
        },
        Framing::Ice => match received.first_chunk() {
            Some(length) => (2, usize::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
    };
    if received.len() < skip + length {
        return Ok(None);
    }
    let mut message = received.split_off(skip);
    *received = message.split_off(length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_out_of_streams() {
        let mut received = vec![0, 2, 7, 8, 0, 1, 9, 0];
        assert_eq!(cut(Framing::Ice, &mut received).unwrap(), Some(vec![7, 8]));
        assert_eq!(cut(Framing::Ice, &mut received).unwrap(), Some(vec![9]));
        assert_eq!(cut(Framing::Ice, &mut received).unwrap(), None);
        let mut received = vec![0x40, 0, 0, 1, 5, 0, 0, 0, 0x40];
        assert_eq!(cut(Framing::Turn, &mut received).unwrap().unwrap().len(), 8);
        assert_eq!(cut(Framing::Turn, &mut received).unwrap(), None);
        assert!(cut(Framing::Turn, &mut b"HTTP/1.1 400".to_vec()).is_ok_and(|found| found.is_none()));
        assert!(cut(Framing::Turn, &mut b"\x15\x03\x03\x00\x02\x02\x28\x00".to_vec()).is_err());
    }
}
