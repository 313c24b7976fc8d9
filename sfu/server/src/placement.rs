//! Which worker has which room.

use std::collections::HashMap;

use zynk_protocol::RoomSid;
use zynk_sfu_core::ShardIndex;

/// Rooms of one node. Further ones are refused.
const ROOMS_MAX: usize = 100_000;

/// How busy a worker is, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WorkerLoad {
    /// Share of the time in which it worked, 0 to 1.
    pub(crate) busy: f32,
    /// Connections it serves.
    pub(crate) connections: u64,
    /// Whether it can take rooms at all.
    pub(crate) alive: bool,
}

/// A room was not placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceError {
    /// The node has [`ROOMS_MAX`] rooms.
    Full,
    /// No worker is alive.
    NoWorker,
}

/// Rooms and their workers. A room stays where it was placed until it is closed.
#[derive(Debug)]
pub(crate) struct Placement {
    rooms: HashMap<RoomSid, ShardIndex>,
    /// Rooms of each worker.
    counts: Vec<usize>,
}

impl Placement {
    pub(crate) fn new(workers: usize) -> Self {
        Self { rooms: HashMap::new(), counts: vec![0; workers] }
    }

    /// The worker of a room that was placed.
    pub(crate) fn find(&self, room: &RoomSid) -> Option<ShardIndex> {
        self.rooms.get(room).copied()
    }

    /// The worker of a room; a room that has none, or one that is dead, gets the least loaded one: the least busy in steps of a
    /// tenth, then the one with the fewest connections, then the one with the fewest rooms (loads are
    /// reported with delay, and rooms often come in bursts).
    pub(crate) fn place(&mut self, room: &RoomSid, loads: &[WorkerLoad]) -> Result<ShardIndex, PlaceError> {
        if let Some(worker) = self.find(room) {
            if loads.get(usize::from(worker.0)).is_some_and(|load| load.alive) {
                return Ok(worker);
            }
            self.forget(worker);
        }
        if self.rooms.len() >= ROOMS_MAX {
            return Err(PlaceError::Full);
        }
        let (worker, _) = (0u8..=u8::MAX)
            .zip(loads.iter().zip(&self.counts))
            .filter(|(_, (load, _))| load.alive)
            .min_by_key(|(_, (load, rooms))| (tenths(load.busy), load.connections, **rooms))
            .ok_or(PlaceError::NoWorker)?;
        if let Some(count) = self.counts.get_mut(usize::from(worker)) {
            *count += 1;
        }
        self.rooms.insert(room.clone(), ShardIndex(worker));
        Ok(ShardIndex(worker))
    }

    /// Forgets a room and returns the worker it had.
    pub(crate) fn close(&mut self, room: &RoomSid) -> Option<ShardIndex> {
        let worker = self.rooms.remove(room)?;
        if let Some(count) = self.counts.get_mut(usize::from(worker.0)) {
            *count = count.saturating_sub(1);
        }
        Some(worker)
    }

    /// Forgets the rooms of a worker that is dead: they are gone with it.
    fn forget(&mut self, dead: ShardIndex) {
        self.rooms.retain(|_, worker| *worker != dead);
        if let Some(count) = self.counts.get_mut(usize::from(dead.0)) {
            *count = 0;
        }
    }

    /// Forgets all rooms and returns them.
    pub(crate) fn close_all(&mut self) -> Vec<(RoomSid, ShardIndex)> {
        self.counts.fill(0);
        self.rooms.drain().collect()
    }
}

fn tenths(share: f32) -> u8 {
    // Saturates: shares are between 0 and 1.
    (share * 10.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(number: u128) -> RoomSid {
        RoomSid::from_random(number)
    }

    fn load(busy: f32, connections: u64) -> WorkerLoad {
        WorkerLoad { busy, connections, alive: true }
    }

    #[test]
    fn a_room_stays_where_it_was_placed() {
        let mut placement = Placement::new(2);
        let first = placement.place(&room(1), &[load(0.0, 0), load(0.0, 0)]).unwrap();
        assert_eq!(first, ShardIndex(0));
        assert_eq!(placement.place(&room(1), &[load(0.9, 50), load(0.0, 0)]), Ok(first));
        assert_eq!(placement.close(&room(1)), Some(first));
        assert_eq!(placement.find(&room(1)), None);
        assert_eq!(placement.close(&room(1)), None);
    }

    #[test]
    fn the_least_loaded_worker_gets_the_room() {
        let mut placement = Placement::new(3);
        let loads = [load(0.35, 1), load(0.12, 9), load(0.18, 8)];
        assert_eq!(placement.place(&room(1), &loads), Ok(ShardIndex(2)));
        // A burst of rooms spreads although no load has been reported yet.
        let mut placement = Placement::new(3);
        let counts: Vec<u8> =
            (0..6).map(|number| placement.place(&room(number), &[load(0.0, 0); 3]).unwrap().0).collect();
        assert_eq!(counts, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_dead_worker_gets_none() {
        let mut placement = Placement::new(2);
        let loads = [WorkerLoad::default(), load(1.0, 100)];
        assert_eq!(placement.place(&room(1), &loads), Ok(ShardIndex(1)));
        assert_eq!(placement.place(&room(2), &[WorkerLoad::default(); 2]), Err(PlaceError::NoWorker));
    }

    #[test]
    fn a_room_leaves_a_worker_that_died() {
        let mut placement = Placement::new(2);
        let alive = [load(0.0, 0), load(0.5, 0)];
        assert_eq!(placement.place(&room(1), &alive), Ok(ShardIndex(0)));
        assert_eq!(placement.place(&room(2), &alive), Ok(ShardIndex(0)));
        let loads = [WorkerLoad::default(), load(0.5, 0)];
        assert_eq!(placement.place(&room(1), &loads), Ok(ShardIndex(1)));
        assert_eq!(placement.find(&room(2)), None, "what the dead worker had is forgotten");
        assert_eq!(placement.place(&room(3), &[WorkerLoad::default(); 2]), Err(PlaceError::NoWorker));
    }

    #[test]
    fn rooms_are_bounded() {
        let mut placement = Placement::new(1);
        for number in 0..ROOMS_MAX as u128 {
            placement.place(&room(number), &[load(0.0, 0)]).unwrap();
        }
        assert_eq!(placement.place(&room(u128::MAX), &[load(0.0, 0)]), Err(PlaceError::Full));
        placement.close(&room(0)).unwrap();
        assert!(placement.place(&room(u128::MAX), &[load(0.0, 0)]).is_ok());
        assert_eq!(placement.close_all().len(), ROOMS_MAX);
    }
}
