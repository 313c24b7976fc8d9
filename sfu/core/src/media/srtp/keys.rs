//! From the DTLS exporter's octets to session keys.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{aes_cm_hmac::AesCmHmac, gcm::Gcm, opener::Opener, sealer::Sealer, transform::Transform};

/// Octets of an HMAC-SHA1 authentication key (RFC 3711, section 8.2).
const AUTH_KEY_BYTES: usize = 20;

/// What protects the packets of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// AES-128 in Galois/counter mode, 16 octets of tag (RFC 7714).
    AeadAes128Gcm,
    /// AES-256 in Galois/counter mode, 16 octets of tag (RFC 7714).
    AeadAes256Gcm,
    /// AES-128 in counter mode with 10 octets of HMAC-SHA1 (RFC 3711), which every WebRTC peer has.
    Aes128CmHmacSha1_80,
}

impl Profile {
    /// The profile's number in DTLS's `use_srtp` extension (RFC 5764, section 4.1.2; RFC 7714, section 14.2).
    pub const fn id(self) -> u16 {
        match self {
            Self::Aes128CmHmacSha1_80 => 0x0001,
            Self::AeadAes128Gcm => 0x0007,
            Self::AeadAes256Gcm => 0x0008,
        }
    }

    /// The profile of a number in `use_srtp`; `None` if we do not have it.
    pub const fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0001 => Some(Self::Aes128CmHmacSha1_80),
            0x0007 => Some(Self::AeadAes128Gcm),
            0x0008 => Some(Self::AeadAes256Gcm),
            _ => None,
        }
    }

    /// Octets of one side's master key.
    pub const fn master_key_bytes(self) -> usize {
        match self {
            Self::AeadAes256Gcm => 32,
            Self::AeadAes128Gcm | Self::Aes128CmHmacSha1_80 => 16,
        }
    }

    /// Octets of one side's master salt.
    pub const fn master_salt_bytes(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            Self::Aes128CmHmacSha1_80 => 14,
        }
    }

    /// Octets that the DTLS exporter yields: both sides' keys and salts (RFC 5764, section 4.2).
    pub const fn keying_material_bytes(self) -> usize {
        2 * (self.master_key_bytes() + self.master_salt_bytes())
    }

    /// Octets that protection adds to an RTP packet.
    pub const fn rtp_overhead_bytes(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 16,
            Self::Aes128CmHmacSha1_80 => 10,
        }
    }

    /// Octets that protection adds to an RTCP packet, its index included.
    pub const fn rtcp_overhead_bytes(self) -> usize {
        self.rtp_overhead_bytes() + 4
    }
}

/// Our part in the DTLS handshake; it decides whose keys are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsRole {
    /// We sent the ClientHello (`a=setup:active`).
    Client,
    /// We answered it (`a=setup:passive`).
    Server,
}

/// Why keys could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The exporter's output has not the profile's length; the DTLS implementation's fault.
    #[error("keying material of {actual} octets where the profile has {expected}")]
    Length {
        /// What the profile needs.
        expected: usize,
        /// What was given.
        actual: usize,
    },
    /// The cryptography library refused; no input causes that.
    #[error("the cryptography library refused a key")]
    Refused,
}

impl From<Unspecified> for KeyError {
    fn from(_: Unspecified) -> Self {
        Self::Refused
    }
}

/// What the DTLS exporter yields for `EXTRACTOR-dtls_srtp`: client key, server key, client salt, server salt, in
/// this order (RFC 5764, section 4.2). Zeroed when dropped.
pub struct KeyingMaterial {
    profile: Profile,
    /// In the heap, so that a move of this value leaves no copy behind.
    octets: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for KeyingMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyingMaterial").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl KeyingMaterial {
    /// Takes a copy of the exporter's output.
    ///
    /// # Errors
    /// [`KeyError::Length`] unless it has exactly [`Profile::keying_material_bytes`].
    pub fn new(profile: Profile, exported: &[u8]) -> Result<Self, KeyError> {
        let expected = profile.keying_material_bytes();
        if exported.len() != expected {
            return Err(KeyError::Length { expected, actual: exported.len() });
        }
        Ok(Self { profile, octets: Zeroizing::new(exported.to_vec()) })
    }

    /// The negotiated profile.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Both halves of the session: what opens the peer's packets and what seals ours.
    ///
    /// `srtcp_index_first` is the first SRTCP index that the sealer uses: 0 when it is the session's only
    /// writer, [`super::SRTCP_INDEX_SHARED`] when another one may have begun at 0.
    ///
    /// # Errors
    /// [`KeyError::Refused`] if the cryptography library fails.
    pub fn session(&self, role: DtlsRole, srtcp_index_first: u32) -> Result<(Opener, Sealer), KeyError> {
        let client = self.side(DtlsRole::Client)?;
        let server = self.side(DtlsRole::Server)?;
        let (ours, theirs) = match role {
            DtlsRole::Client => (client, server),
            DtlsRole::Server => (server, client),
        };
        Ok((Opener::new(self.profile, theirs), Sealer::new(self.profile, ours, srtcp_index_first)))
    }

    fn side(&self, side: DtlsRole) -> Result<SessionKeys, KeyError> {
        let (key_bytes, salt_bytes) = (self.profile.master_key_bytes(), self.profile.master_salt_bytes());
        let number = match side {
            DtlsRole::Client => 0,
            DtlsRole::Server => 1,
        };
        let key_at = number * key_bytes;
        let salt_at = 2 * key_bytes + number * salt_bytes;
        let key = self.octets.get(key_at..key_at + key_bytes).ok_or(KeyError::Refused)?;
        let salt = self.octets.get(salt_at..salt_at + salt_bytes).ok_or(KeyError::Refused)?;
        SessionKeys::derive(self.profile, key, salt)
    }
}

/// One direction's transforms, with expanded keys.
pub(super) struct SessionKeys {
    pub(super) rtp: Transform,
    pub(super) rtcp: Transform,
}

impl SessionKeys {
    /// RFC 3711, section 4.3, with a key derivation rate of zero: the keys of a session never change.
    pub(super) fn derive(profile: Profile, master_key: &[u8], master_salt: &[u8]) -> Result<Self, KeyError> {
        let transform = |encryption: u8, authentication: u8, salting: u8| {
            let mut key = Zeroizing::new([0u8; 32]);
            let mut salt = Zeroizing::new([0u8; 14]);
            let key = key.get_mut(..profile.master_key_bytes()).ok_or(KeyError::Refused)?;
            let salt = salt.get_mut(..profile.master_salt_bytes()).ok_or(KeyError::Refused)?;
            derive(profile, master_key, master_salt, encryption, key)?;
            derive(profile, master_key, master_salt, salting, salt)?;
            Ok::<_, KeyError>(match profile {
                Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => Transform::Gcm(Gcm::new(key, salt)?),
                Profile::Aes128CmHmacSha1_80 => {
                    let mut auth = Zeroizing::new([0u8; AUTH_KEY_BYTES]);
                    derive(profile, master_key, master_salt, authentication, auth.as_mut_slice())?;
                    Transform::AesCmHmac(Box::new(AesCmHmac::new(key, salt, auth.as_slice())?))
                }
            })
        };
        Ok(Self { rtp: transform(0, 1, 2)?, rtcp: transform(3, 4, 5)? })
    }
}

/// One key of RFC 3711's section 4.3.1: AES in counter mode under the master key, its block made of the salt and
/// the label. A salt of 12 octets counts as one of 14 that ends in zeros (RFC 7714, section 11).
pub(super) fn derive(
    profile: Profile,
    master_key: &[u8],
    master_salt: &[u8],
    label: u8,
    out: &mut [u8],
) -> Result<(), KeyError> {
    let algorithm = match profile {
        Profile::AeadAes256Gcm => &AES_256,
        Profile::AeadAes128Gcm | Profile::Aes128CmHmacSha1_80 => &AES_128,
    };
    let mut block = [0u8; 16];
    for (to, from) in block.iter_mut().zip(master_salt) {
        *to = *from;
    }
    block[7] ^= label;
    out.fill(0);
    EncryptingKey::ctr(UnboundCipherKey::new(algorithm, master_key)?)?
        .less_safe_encrypt(out, EncryptionContext::Iv128(FixedLength::from(block)))?;
    Ok(())
}
