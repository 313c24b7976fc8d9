//! Identifiers. Each is a newtype, so that a track's id cannot be handed over as a participant's.
//!
//! The prefixes (`RM_`, `PA_`, `TR_`, `ND_`) are those of LiveKit's protocol; its Rust SDK refuses others.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The text is not an identifier of this kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text does not begin as identifiers of this kind do. The sender's fault.
    #[error("expected an identifier that starts with {prefix:?}")]
    Prefix {
        /// What it should begin with.
        prefix: &'static str,
    },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text as it goes over the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text as it goes over the wire, by value.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

macro_rules! free_text_id {
    ($(#[$doc:meta])* $name:ident) => {
        text_id!($(#[$doc])* $name);

        impl $name {
            /// Takes any text; limits on its length belong to whoever accepts it from the network.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }
        }

        /// Shows the length alone: what people call themselves and their rooms stays out of logs.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({} bytes)"), self.0.len())
            }
        }
    };
}

macro_rules! sid {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        text_id!($(#[$doc])* $name);

        impl $name {
            /// What every identifier of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an identifier from 64 random bits per word of `random`; equal words give equal ids.
            pub fn from_random(random: u128) -> Self {
                Self(format!(concat!($prefix, "{}"), random_suffix(random)))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.strip_prefix($prefix) {
                    Some(_) => Ok(Self(text.to_owned())),
                    None => Err(IdError::Prefix { prefix: $prefix }),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

free_text_id!(
    /// A room's name, chosen by the application. Unique among rooms that are open.
    RoomName
);
free_text_id!(
    /// Who a participant is, chosen by the application. Unique within a room.
    Identity
);
sid!(
    /// One life of a room, from its creation to its end.
    RoomSid,
    "RM_"
);
sid!(
    /// One stay of a participant in a room.
    ParticipantSid,
    "PA_"
);
sid!(
    /// A published track.
    TrackSid,
    "TR_"
);
sid!(
    /// A server process.
    NodeId,
    "ND_"
);

impl TrackSid {
    /// As LiveKit marks them: `TR_`, then `A`udio or `V`ideo, then the source (`C`amera, `M`icrophone,
    /// `S`creen, `s`creen audio; `U` when unknown), then the random part.
    pub fn for_track(kind: crate::MediaKind, source: crate::TrackSource, random: u128) -> Self {
        Self(format!("TR_{}{}{}", kind.letter(), source.letter(), random_suffix(random)))
    }
}

/// Twelve characters of the base-57 alphabet that LiveKit's ids use (no `0`, `1`, `I`, `O`, `l`): 70 bits.
pub fn random_suffix(mut random: u128) -> String {
    const ALPHABET: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut suffix = String::with_capacity(12);
    for _ in 0..12 {
        let digit = usize::try_from(random % 57).unwrap_or(0);
        suffix.push(char::from(ALPHABET.get(digit).copied().unwrap_or(b'2')));
        random /= 57;
    }
    suffix
}

/// One peer connection, as signaling names it towards the node that hosts it. Drawn at random, so that a
/// late event of a closed connection never meets a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MediaKind, TrackSource};

    #[test]
    fn sids_carry_prefix_and_twelve_characters() {
        let sid = ParticipantSid::from_random(u128::MAX);
        assert_eq!(sid.as_str().len(), 15);
        assert_eq!(sid.as_str().parse::<ParticipantSid>().unwrap(), sid);
        assert_ne!(sid, ParticipantSid::from_random(7));
    }

    #[test]
    fn track_sids_tell_kind_and_source() {
        let sid = TrackSid::for_track(MediaKind::Video, TrackSource::ScreenShare, 1);
        assert!(sid.as_str().starts_with("TR_VS"));
        let sid = TrackSid::for_track(MediaKind::Audio, TrackSource::Microphone, 1);
        assert!(sid.as_str().starts_with("TR_AM"));
    }

    #[test]
    fn names_stay_out_of_debug_output() {
        assert_eq!(format!("{:?}", Identity::new("alice")), "Identity(5 bytes)");
    }
}
