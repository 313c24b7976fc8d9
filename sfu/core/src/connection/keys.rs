//! Keying material on its way from DTLS to the media plane.
//!
//! ```text
//!   Connection::new ─ lays down a KeySlot ─► Rtc::new ─► new_dtls ─ takes it up ─► TappedDtls
//!   DTLS is up ─► TappedDtls::poll_output ───► KeySlot: the session's keys ─► Opener, Sealer
//! ```
//! str0m is given none: RTP and RTCP never enter or leave it. So it can seal nothing that would repeat a nonce under
//! the session's keys, and makes no ciphers.

use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use str0m::{
    config::{CryptoProvider, DtlsCert},
    crypto::{
        CryptoError,
        dtls::{
            DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, DtlsVersion, ProtocolVersion, SrtpProfile,
        },
    },
};

use crate::media::srtp::{DtlsRole, KeyingMaterial, Profile};

/// What the handshake of one connection yields.
#[derive(Debug)]
pub(crate) struct SessionKeys {
    pub(crate) material: KeyingMaterial,
    pub(crate) role: DtlsRole,
}

/// Where the keys of one connection are laid down, once.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySlot(Arc<Mutex<Option<SessionKeys>>>);

impl KeySlot {
    /// Takes the keys out, if they have come.
    pub(super) fn take(&self) -> Option<SessionKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, keys: SessionKeys) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
    }
}

thread_local! {
    /// The slot of the connection that is being made on this thread: str0m makes its DTLS instance with nothing
    /// but a certificate, by a provider that all connections share.
    static MAKING: RefCell<Option<KeySlot>> = const { RefCell::new(None) };
}

/// Runs `make`, in which str0m makes the DTLS instance of one connection, whose keys will come to `slot`.
pub(super) fn with_slot<T>(slot: &KeySlot, make: impl FnOnce() -> T) -> T {
    MAKING.set(Some(slot.clone()));
    let made = make();
    MAKING.set(None);
    made
}

/// `provider` with its DTLS tapped.
pub(super) fn tapped(provider: CryptoProvider) -> CryptoProvider {
    static TAP: TappedProvider = TappedProvider;
    CryptoProvider { dtls_provider: &TAP, ..provider }
}

#[derive(Debug)]
struct TappedProvider;

impl DtlsProvider for TappedProvider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        str0m::crypto::from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let provider = str0m::crypto::from_feature_flags().dtls_provider;
        let inner = provider.new_dtls(certificate, now, version, mtu)?;
        Ok(Box::new(TappedDtls { inner, slot: MAKING.take().unwrap_or_default() }))
    }
}

struct TappedDtls {
    inner: Box<dyn DtlsInstance>,
    slot: KeySlot,
}

impl fmt::Debug for TappedDtls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TappedDtls")
    }
}

impl DtlsInstance for TappedDtls {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        let role = if self.inner.is_active() { DtlsRole::Client } else { DtlsRole::Server };
        match self.inner.poll_output(buffer) {
            DtlsOutput::KeyingMaterial(exported, profile) => {
                match profile_of(profile).map(|profile| KeyingMaterial::new(profile, &exported)) {
                    Some(Ok(material)) => self.slot.put(SessionKeys { material, role }),
                    // Without keys no media flows; the rest of the connection is unharmed.
                    Some(Err(error)) => tracing::warn!(%error, "unusable keying material"),
                    None => tracing::warn!(%profile, "an SRTP profile that the media plane lacks"),
                }
                // In their place str0m hears once more what it has heard just before, and goes on polling.
                DtlsOutput::Connected
            }
            other => other,
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}

fn profile_of(profile: SrtpProfile) -> Option<Profile> {
    Some(match profile {
        SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
        SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
        SrtpProfile::AES128_CM_SHA1_80 => Profile::Aes128CmHmacSha1_80,
        _ => return None,
    })
}
