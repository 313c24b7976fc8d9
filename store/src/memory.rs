//! A store that is gone with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use zynk_protocol::RoomName;

use crate::{ROOMS_MAX, RoomRecord, Store, StoreError};

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Bounded by [`ROOMS_MAX`]: further rooms are refused.
    rooms: Mutex<BTreeMap<RoomName, RoomRecord>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing panics while it holds the lock, so that a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RoomName, RoomRecord>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_room(&self, room: &RoomRecord) -> Result<RoomRecord, StoreError> {
        let mut rooms = self.lock();
        if let Some(existing) = rooms.get(&room.name) {
            return Ok(existing.clone());
        }
        insert(&mut rooms, room)?;
        Ok(room.clone())
    }

    async fn put_room(&self, room: &RoomRecord) -> Result<(), StoreError> {
        insert(&mut self.lock(), room)
    }

    async fn room(&self, name: &RoomName) -> Result<Option<RoomRecord>, StoreError> {
        Ok(self.lock().get(name).cloned())
    }

    async fn rooms(&self) -> Result<Vec<RoomRecord>, StoreError> {
        Ok(self.lock().values().cloned().collect())
    }

    async fn delete_room(&self, name: &RoomName) -> Result<bool, StoreError> {
        Ok(self.lock().remove(name).is_some())
    }
}

fn insert(rooms: &mut BTreeMap<RoomName, RoomRecord>, room: &RoomRecord) -> Result<(), StoreError> {
    if rooms.len() >= ROOMS_MAX && !rooms.contains_key(&room.name) {
        return Err(StoreError::Full);
    }
    rooms.insert(room.name.clone(), room.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zynk_protocol::RoomSid;

    crate::store_conformance!(memory, async { (MemoryStore::new(), ()) });

    #[tokio::test]
    async fn a_full_store_refuses_new_rooms_only() {
        let store = MemoryStore::new();
        let room =
            |i: usize| RoomRecord::new(RoomName::new(format!("r{i}")), RoomSid::from_random(i as u128), 0);
        for i in 0..ROOMS_MAX {
            store.put_room(&room(i)).await.unwrap();
        }
        assert!(matches!(store.put_room(&room(ROOMS_MAX)).await, Err(StoreError::Full)));
        assert!(matches!(store.create_room(&room(ROOMS_MAX)).await, Err(StoreError::Full)));
        store.put_room(&room(0)).await.unwrap();
        assert!(store.delete_room(&room(0).name).await.unwrap());
        store.create_room(&room(ROOMS_MAX)).await.unwrap();
    }
}
