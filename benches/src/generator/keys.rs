//! The session's SRTP keys, taken from str0m's DTLS on their way: media goes past str0m.
//!
//! str0m itself is given zeros, so that whatever it may seal repeats no nonce under the session's keys.

use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use str0m::{
    config::DtlsCert,
    crypto::{
        CryptoError, CryptoProvider,
        dtls::{
            DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, DtlsVersion, KeyingMaterial as ForStr0m,
            ProtocolVersion, SrtpProfile,
        },
    },
};
use zynk_sfu_core::media::srtp::{DtlsRole, KeyingMaterial, Opener, Profile, Sealer};

type Keys = Result<(Opener, Sealer), String>;

/// Where the keys of one session are laid down.
#[derive(Clone, Default)]
pub(super) struct KeySlot(Arc<Mutex<Option<Keys>>>);

impl KeySlot {
    pub(super) fn take(&self) -> Option<Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, keys: Keys) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
    }
}

thread_local! {
    /// The slot of the session that is being made on this thread.
    static MAKING: RefCell<Option<KeySlot>> = const { RefCell::new(None) };
}

/// Runs `make`, in which str0m makes its DTLS instance, whose keys will come to `slot`.
pub(super) fn with_slot<T>(slot: &KeySlot, make: impl FnOnce() -> T) -> T {
    MAKING.set(Some(slot.clone()));
    let made = make();
    MAKING.set(None);
    made
}

/// str0m's cryptography with its DTLS tapped.
pub(super) fn tapped() -> Arc<CryptoProvider> {
    static TAP: Tap = Tap;
    static TAPPED: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    TAPPED.get_or_init(|| Arc::new(CryptoProvider { dtls_provider: &TAP, ..provider().clone() })).clone()
}

/// One certificate for all participants: making one takes longer than a handshake.
pub(super) fn certificate() -> Option<DtlsCert> {
    static CERTIFICATE: OnceLock<Option<DtlsCert>> = OnceLock::new();
    CERTIFICATE.get_or_init(|| provider().dtls_provider.generate_certificate()).clone()
}

fn provider() -> &'static CryptoProvider {
    static PROVIDER: OnceLock<CryptoProvider> = OnceLock::new();
    PROVIDER.get_or_init(str0m::crypto::from_feature_flags)
}

#[derive(Debug)]
struct Tap;

impl DtlsProvider for Tap {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        provider().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = provider().dtls_provider.new_dtls(certificate, now, version, mtu)?;
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
                self.slot.put(session(&exported, profile, role));
                let zeros = vec![0_u8; exported.len()];
                DtlsOutput::KeyingMaterial(ForStr0m::new(&zeros), profile)
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

fn session(exported: &[u8], profile: SrtpProfile, role: DtlsRole) -> Keys {
    let profile = match profile {
        SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
        SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
        SrtpProfile::AES128_CM_SHA1_80 => Profile::Aes128CmHmacSha1_80,
        other => return Err(format!("the server chose the SRTP profile {other}, which is not known here")),
    };
    let material = KeyingMaterial::new(profile, exported).map_err(|error| error.to_string())?;
    material.session(role, 0).map_err(|error| error.to_string())
}
