//! DTLS as an attacker uses it: keys that are taken out, hellos and records made by hand.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, KeyingMaterial as Exported, ProtocolVersion,
};
use zynk_sfu_core::media::srtp::Profile;

use crate::client::new_certificate;

/// Kinds of records (RFC 5246, section 6.2.1).
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;

thread_local! {
    /// What was exported last.
    static EXPORTED: RefCell<Option<(Profile, Vec<u8>)>> = const { RefCell::new(None) };
    /// Changes what clients send over DTLS, where it returns something.
    static FORGER: RefCell<Option<Forger>> = const { RefCell::new(None) };
}

pub fn provider() -> &'static CryptoProvider {
    static PROVIDER: OnceLock<CryptoProvider> = OnceLock::new();
    PROVIDER.get_or_init(str0m::crypto::from_feature_flags)
}

pub fn take_exported() -> Option<(Profile, Vec<u8>)> {
    EXPORTED.take()
}

type Forger = Box<dyn Fn(&[u8]) -> Option<Vec<u8>>>;

/// From now on, what clients of this thread send over DTLS is changed so.
pub fn forge(forger: impl Fn(&[u8]) -> Option<Vec<u8>> + 'static) {
    FORGER.set(Some(Box::new(forger)));
}

#[derive(Debug)]
pub struct Tap;

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
        Ok(Box::new(TappedDtls(inner)))
    }
}

#[derive(Debug)]
struct TappedDtls(Box<dyn DtlsInstance>);

impl DtlsInstance for TappedDtls {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        match self.0.poll_output(buffer) {
            DtlsOutput::KeyingMaterial(exported, profile) => {
                let known = Profile::from_id(profile_number(profile)).unwrap();
                EXPORTED.set(Some((known, exported.to_vec())));
                DtlsOutput::KeyingMaterial(Exported::new(&vec![0; exported.len()]), profile)
            }
            other => other,
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        let forged = FORGER.with_borrow(|forger| forger.as_ref()?(data));
        let sent = self.0.send_application_data(forged.as_deref().unwrap_or(data))?;
        Ok(if sent > 0 { data.len() } else { 0 })
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}

fn profile_number(profile: str0m::crypto::dtls::SrtpProfile) -> u16 {
    use str0m::crypto::dtls::SrtpProfile;
    match profile {
        SrtpProfile::AES128_CM_SHA1_80 => 1,
        SrtpProfile::AEAD_AES_128_GCM => 7,
        SrtpProfile::AEAD_AES_256_GCM => 8,
        _ => 0,
    }
}

/// The first datagram of a client that could go on with the handshake.
pub fn client_hello(now: Instant) -> Vec<u8> {
    let mut instance = attacker(now);
    let mut buffer = vec![0; 2048];
    loop {
        if let DtlsOutput::Packet(packet) = instance.poll_output(&mut buffer) {
            return packet.to_vec();
        }
    }
}

/// A DTLS client with a certificate of its own.
pub fn attacker(now: Instant) -> Box<dyn DtlsInstance> {
    let provider = provider().dtls_provider;
    let mut instance = provider.new_dtls(&new_certificate(), now, DtlsVersion::Dtls12, None).unwrap();
    instance.set_active(true);
    instance.handle_timeout(now).unwrap();
    instance
}

/// A ClientHello that offers nothing but a suite without encryption, `TLS_RSA_WITH_NULL_SHA`.
pub fn null_hello() -> Vec<u8> {
    let mut body = vec![0xfe, 0xfd];
    body.extend_from_slice(&[0x66; 32]);
    // No session, no cookie, one suite, no compression, no extensions.
    body.extend_from_slice(&[0, 0, 0, 2, 0x00, 0x02, 1, 0]);
    record(HANDSHAKE, 0, 0, &handshake(1, 0, body.len(), 0, &body))
}

/// A fragment of a handshake message (RFC 6347, section 4.2.2).
pub fn handshake(kind: u8, number: u16, length: usize, offset: usize, fragment: &[u8]) -> Vec<u8> {
    let three = |value: usize| (value as u32).to_be_bytes()[1..].to_vec();
    let number = number.to_be_bytes();
    [&[kind][..], &three(length), &number, &three(offset), &three(fragment.len()), fragment].concat()
}

/// A record (RFC 6347, section 4.1).
pub fn record(kind: u8, epoch: u16, sequence: u64, fragment: &[u8]) -> Vec<u8> {
    let length = (fragment.len() as u16).to_be_bytes();
    [&[kind, 0xfe, 0xfd], &epoch.to_be_bytes()[..], &sequence.to_be_bytes()[2..], &length, fragment].concat()
}

/// A record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub kind: u8,
    pub epoch: u16,
    pub sequence: u64,
    pub fragment: &'a [u8],
}

/// The records of a datagram.
pub fn records(datagram: &[u8]) -> Vec<Record<'_>> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some((header, after)) = rest.split_at_checked(13) {
        let epoch = u16::from_be_bytes([header[3], header[4]]);
        let sequence = u64::from_be_bytes(header[3..11].try_into().unwrap()) & ((1 << 48) - 1);
        let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
        found.push(Record { kind: header[0], epoch, sequence, fragment: &after[..length] });
        rest = &after[length..];
    }
    found
}
