//! The trait and the choice of its backend.

use std::sync::Arc;

use async_trait::async_trait;
use zynk_protocol::RoomName;

use crate::{MemoryStore, RoomRecord, SqliteStore};

/// Most rooms that a store keeps. When it is full, new rooms are refused with [`StoreError::Full`]; changes
/// to those that are there go on.
pub const ROOMS_MAX: usize = 100_000;

/// Storage. What a call has stored when it returns `Ok`, every later call sees.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores `room` unless one of its name is there. Returns the one that is there afterwards.
    async fn create_room(&self, room: &RoomRecord) -> Result<RoomRecord, StoreError>;

    /// Stores `room`, in place of any of the same name.
    async fn put_room(&self, room: &RoomRecord) -> Result<(), StoreError>;

    /// The room of this name.
    async fn room(&self, name: &RoomName) -> Result<Option<RoomRecord>, StoreError>;

    /// All rooms, in the order of their names (by bytes).
    async fn rooms(&self) -> Result<Vec<RoomRecord>, StoreError>;

    /// Forgets the room of this name. Returns whether it was there.
    async fn delete_room(&self, name: &RoomName) -> Result<bool, StoreError>;
}

/// A store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No backend of that scheme. The operator's fault.
    #[error("store URL must begin with `memory:` or `sqlite:`, not {scheme:?}")]
    UnknownScheme {
        /// The URL up to its first colon.
        scheme: String,
    },
    /// The URL names no place. The operator's fault.
    #[error("store URL `sqlite:` needs a path, as in `sqlite:zynk.db`")]
    NoPath,
    /// The backend failed: a full disk, a locked or damaged file.
    #[error("store: {0}")]
    Backend(String),
    /// The file was written by a newer version. The operator's fault.
    #[error("store has schema version {found}, this version knows up to {known}")]
    TooNew {
        /// The file's version.
        found: i64,
        /// The newest that can be read.
        known: i64,
    },
    /// [`ROOMS_MAX`] rooms are stored.
    #[error("store is full: {ROOMS_MAX} rooms")]
    Full,
    /// The backend has stopped.
    #[error("store is closed")]
    Closed,
}

/// Whether [`connect`] knows what `url` names. Opens nothing.
pub fn check_url(url: &str) -> Result<(), StoreError> {
    match url.split_once(':').unwrap_or((url, "")) {
        ("memory", _) => Ok(()),
        ("sqlite", "") => Err(StoreError::NoPath),
        ("sqlite", _) => Ok(()),
        (scheme, _) => Err(StoreError::UnknownScheme { scheme: scheme.to_owned() }),
    }
}

/// Opens the store that `url` names: `memory:`, gone with the process, or `sqlite:<path>`, a file that is
/// made when missing.
pub async fn connect(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    check_url(url)?;
    match url.strip_prefix("sqlite:") {
        Some(path) => Ok(Arc::new(SqliteStore::open(path).await?)),
        None => Ok(Arc::new(MemoryStore::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_scheme_selects_the_backend() {
        assert!(connect("memory:").await.is_ok());
        assert!(matches!(connect("sqlite:").await, Err(StoreError::NoPath)));
        let error = connect("mysql://user:password@host").await.err().unwrap().to_string();
        assert_eq!(error, "store URL must begin with `memory:` or `sqlite:`, not \"mysql\"");
    }
}
