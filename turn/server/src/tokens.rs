//! What a poll's token stands for.

use mio::Token;

/// What reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Waker,
    /// A UDP socket of clients.
    Socket,
    /// A TCP socket that listens for clients.
    Listener,
    /// A client's stream.
    Stream,
    /// A relay's socket.
    Relay,
    /// A peer's connection.
    Peer,
}

const KINDS: [Kind; 6] = [Kind::Waker, Kind::Socket, Kind::Listener, Kind::Stream, Kind::Relay, Kind::Peer];

/// Bits of a token that tell the kind; the rest is the index.
const KIND_BITS: u32 = 3;

pub(crate) fn token(kind: Kind, index: usize) -> Token {
    Token(index << KIND_BITS | kind as usize)
}

/// The kind and the index of a token.
pub(crate) fn split(token: Token) -> Option<(Kind, usize)> {
    let kind = KINDS.get(token.0 & ((1 << KIND_BITS) - 1))?;
    Some((*kind, token.0 >> KIND_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_were_made() {
        for kind in KINDS {
            for index in [0, 1, 70_000] {
                assert_eq!(split(token(kind, index)), Some((kind, index)));
            }
        }
    }
}
