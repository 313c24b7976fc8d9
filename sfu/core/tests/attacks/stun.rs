//! ICE's binding requests, true and forged: T36.

use str0m::ice::{StunMessage, TransId};

use crate::client::Client;
use crate::dtls::provider;

/// A binding request (RFC 8445, section 7.1), as the client could send it.
#[derive(Clone, Debug)]
pub struct Check {
    pub username: String,
    pub password: Option<String>,
    pub controlling: bool,
    pub tie_breaker: u64,
    pub priority: u32,
    pub nominates: bool,
}

impl Check {
    /// One that a client's credentials make authentic.
    pub fn of(client: &mut Client) -> Self {
        let own = client.rtc.direct_api().local_ice_credentials().ufrag;
        Self {
            username: format!("{}:{own}", client.server.ufrag),
            password: Some(client.server.pass.clone()),
            controlling: true,
            tie_breaker: 1,
            priority: 1,
            nominates: false,
        }
    }

    pub fn nominating(self) -> Self {
        Self { nominates: true, priority: u32::MAX, ..self }
    }

    pub fn with_password(self, password: Option<&str>) -> Self {
        Self { password: password.map(str::to_owned), ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (id, nominates) = (TransId::new(), self.nominates);
        let message = StunMessage::binding_request(
            &self.username,
            id,
            self.controlling,
            self.tie_breaker,
            self.priority,
            nominates,
        );
        let mut buffer = vec![0; 512];
        let password = self.password.as_ref().map(|password| password.as_bytes());
        let sha1 = |key: &[u8], parts: &[&[u8]]| provider().sha1_hmac_provider.sha1_hmac(key, parts);
        let length = message.to_bytes(password, &mut buffer, sha1).unwrap();
        buffer.truncate(length);
        buffer
    }
}

/// Adds a nomination of the highest priority behind the integrity of a message (RFC 8489, section 14.5: to be
/// ignored).
pub fn after_integrity(message: &[u8]) -> Vec<u8> {
    const FINGERPRINT_BYTES: usize = 8;
    let mut forged = message[..message.len() - FINGERPRINT_BYTES].to_vec();
    forged.extend_from_slice(&[0x00, 0x25, 0, 0]);
    forged.extend_from_slice(&[0x00, 0x24, 0, 4, 0xff, 0xff, 0xff, 0xff]);
    let length = (forged.len() - 20) as u16;
    forged[2..4].copy_from_slice(&length.to_be_bytes());
    forged
}

/// A message for a connection, then attributes of any kind and length.
pub fn random_attributes(seed: u64, username: &str) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    const KINDS: [u16; 22] = [
        0x0001, 0x0006, 0x0008, 0x0009, 0x000a, 0x000c, 0x000d, 0x0012, 0x0013, 0x0014, 0x0015, 0x0016,
        0x0020, 0x0024, 0x0025, 0x001c, 0x8022, 0x8023, 0x8028, 0x8029, 0x802a, 0xc057,
    ];
    let mut attributes = Vec::new();
    let mut add = |kind: u16, value: &[u8], length: u16| {
        attributes.extend_from_slice(&kind.to_be_bytes());
        attributes.extend_from_slice(&length.to_be_bytes());
        attributes.extend_from_slice(value);
        attributes.resize(attributes.len().next_multiple_of(4), 0);
    };
    add(0x0006, username.as_bytes(), username.len() as u16);
    for _ in 0..draw(6) {
        let kind = KINDS[draw(KINDS.len() as u64) as usize];
        let value: Vec<u8> = (0..draw(28)).map(|_| draw(256) as u8).collect();
        // Mostly true; the last may reach beyond the message.
        let length = if draw(8) == 0 { draw(64) as u16 } else { value.len() as u16 };
        add(kind, &value, length);
    }
    let kinds = [0x0001_u16, 0x0011, 0x0101, 0x0111, 0x0003, 0x0115];
    let kind = kinds[draw(kinds.len() as u64) as usize].to_be_bytes();
    let length = (attributes.len() as u16).to_be_bytes();
    [&kind[..], &length, &[0x21, 0x12, 0xa4, 0x42], &[7; 12], &attributes].concat()
}
