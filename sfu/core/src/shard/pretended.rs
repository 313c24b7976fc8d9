//! Connections that are up without a handshake, with keys that are known, and what is left when all are gone: for tests
//! and fuzzing alone.

use super::{EndpointKey, Shard};
use crate::{
    connection::{Path, SessionKeys},
    media::srtp::{DtlsRole, KeyError, KeyingMaterial},
};
#[cfg(feature = "test-keys")]
use {
    crate::{connection::ConnectionEvent, endpoint::Endpoint},
    zynk_protocol::ConnectionId,
};

impl Shard {
    /// As if ICE had found `path` and DTLS had yielded `material`, the client having begun. A connection that has keys
    /// keeps those that it has.
    pub(crate) fn pretend_connected(
        &mut self,
        key: EndpointKey,
        path: Path,
        material: KeyingMaterial,
    ) -> Result<(), KeyError> {
        let now = self.now;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return Ok(()) };
        endpoint.connection.pretend_connected();
        if endpoint.media.protection.is_none() {
            endpoint.media.set_keys(&SessionKeys { material, role: DtlsRole::Server })?;
            endpoint.media.nominate(now, path, 1);
            self.demux.add_address(now, path.transport, path.remote, key, |_| true);
        }
        self.open_streams(key);
        Ok(())
    }

    /// Same, and then as if the connection had said that it is up. False if there is none, or it is.
    #[cfg(feature = "test-keys")]
    pub(crate) fn connect(&mut self, id: ConnectionId, path: Path, material: KeyingMaterial) -> bool {
        let Some(key) = self.endpoint_of(id) else { return false };
        let has_keys = |endpoint: &Endpoint| endpoint.media.protection.is_some();
        if self.endpoints.get(key.0).is_none_or(has_keys)
            || self.pretend_connected(key, path, material).is_err()
        {
            return false;
        }
        self.handle_event(key, ConnectionEvent::Connected);
        self.drain(key);
        true
    }

    /// The tables in which something is left.
    #[cfg(feature = "test-keys")]
    pub(crate) fn leftovers(&self) -> Vec<&'static str> {
        let tables = [
            ("rooms", self.rooms.is_empty()),
            ("endpoints", self.endpoints.is_empty() && self.by_id.is_empty()),
            ("tracks", self.tracks.is_empty() && self.by_sid.is_empty()),
            ("subscriptions", self.subscriptions.is_empty() && self.waiting.is_empty()),
            ("relay", self.relay.is_empty()),
            ("routes", self.demux.is_empty()),
            ("deliveries", self.deliveries.is_empty()),
            ("dirty", self.dirty.is_empty() && self.media_dirty.is_empty()),
            ("put off", self.put_off.is_empty() && self.media_put_off.is_empty()),
            (
                "timers",
                self.timers.is_empty() && self.negotiations.is_empty() && self.media_timers.is_empty(),
            ),
        ];
        tables.into_iter().filter(|(_, is_empty)| !is_empty).map(|(name, _)| name).collect()
    }
}
