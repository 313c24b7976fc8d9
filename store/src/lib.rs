//! What outlives a session, and with some backends the process: rooms.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use zynk_protocol::{RoomName, RoomSid};
//! use zynk_store::RoomRecord;
//!
//! let store = zynk_store::connect("memory:").await?;
//! let room = RoomRecord::new(RoomName::new("lobby"), RoomSid::from_random(7), 1_700_000_000_000);
//! store.put_room(&room).await?;
//! assert_eq!(store.room(&room.name).await?, Some(room));
//! # Ok::<(), zynk_store::StoreError>(())
//! # }).unwrap();
//! ```
//!
//! - [`Store`]: the verbs; [`connect`] picks the backend by the URL's scheme.
//! - [`RoomRecord`]: what is kept of a room.
//! - [`store_conformance!`]: the tests that every backend passes.

mod conformance;
mod memory;
mod record;
mod sqlite;
mod store;

pub use memory::MemoryStore;
pub use record::RoomRecord;
pub use sqlite::SqliteStore;
pub use store::{ROOMS_MAX, Store, StoreError, check_url, connect};
