//! Which workers have which room.
//!
//! ```text
//!   room ─► its first worker ─┬─ has budget ──────────────────────────────────► connection
//!                             └─ all of its workers are above their budget ─► another one, which joins the room
//! ```

use std::collections::HashMap;

use zynk_protocol::{ConnectionId, RoomSid};
use zynk_sfu_core::ShardIndex;

/// Rooms of one node. Further ones are refused.
const ROOMS_MAX: usize = 100_000;

/// Connections of one node. Further ones are refused.
const CONNECTIONS_MAX: usize = 500_000;

/// A worker joins a room whose workers are too busy if it is less busy than they are by this share of its time.
const BUSY_MARGIN: f32 = 0.2;

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

/// What a room may take of a worker before it is spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    /// Share of the worker's time, 0 to 1, whatever takes it.
    pub(crate) busy: f32,
    /// Connections of the room: `busy` is told with delay, and people often come in bursts.
    pub(crate) connections: usize,
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) worker: ShardIndex,
    /// The worker has joined the room just now, in which others are.
    pub(crate) joined: bool,
}

/// A connection was not placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceError {
    /// The node has [`ROOMS_MAX`] rooms or [`CONNECTIONS_MAX`] connections.
    Full,
    /// No worker is alive.
    NoWorker,
}

/// What a dead worker had of a room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) room: RoomSid,
    pub(crate) connections: Vec<ConnectionId>,
    /// The room's other workers. Without one the room is forgotten.
    pub(crate) left: Vec<ShardIndex>,
}

/// Rooms and their workers. A room stays where it was placed until it is closed, and may get further workers.
#[derive(Debug)]
pub(crate) struct Placement {
    budget: Budget,
    rooms: HashMap<RoomSid, Places>,
    /// Rooms of each worker.
    counts: Vec<usize>,
    /// Connections of all rooms.
    connections: usize,
}

/// Where a room is.
#[derive(Debug, Default)]
struct Places {
    /// In the order of joining.
    workers: Vec<ShardIndex>,
    /// Connections of each of them.
    counts: Vec<usize>,
    connections: HashMap<ConnectionId, ShardIndex>,
}

impl Places {
    /// The workers and the connections that each has.
    fn shares(&self) -> impl Iterator<Item = (ShardIndex, usize)> {
        self.workers.iter().copied().zip(self.counts.iter().copied())
    }

    fn count(&mut self, worker: ShardIndex) -> Option<&mut usize> {
        let index = self.workers.iter().position(|on| *on == worker)?;
        self.counts.get_mut(index)
    }
}

impl Placement {
    pub(crate) fn new(workers: usize, budget: Budget) -> Self {
        Self { budget, rooms: HashMap::new(), counts: vec![0; workers], connections: 0 }
    }

    /// The room's workers, in the order of joining.
    pub(crate) fn workers(&self, room: &RoomSid) -> &[ShardIndex] {
        self.rooms.get(room).map(|places| places.workers.as_slice()).unwrap_or_default()
    }

    /// The worker that has a connection; for one that is unknown the room's first, which says so.
    pub(crate) fn find(&self, room: &RoomSid, connection: ConnectionId) -> Option<ShardIndex> {
        let places = self.rooms.get(room)?;
        places.connections.get(&connection).or(places.workers.first()).copied()
    }

    /// Places a connection: with the least loaded of the room's workers that has budget for it, or else with another
    /// worker that has clearly less to do, or else with the least loaded of the room's after all. A room that is new goes
    /// to the least loaded worker: the least busy in steps of a tenth, then the one with the fewest connections, then
    /// the one with the fewest rooms (loads are reported with delay, and rooms often come in bursts).
    pub(crate) fn place(
        &mut self,
        room: &RoomSid,
        connection: ConnectionId,
        loads: &[WorkerLoad],
    ) -> Result<Placed, PlaceError> {
        let known = self.rooms.get(room);
        if let Some(worker) = known.and_then(|places| places.connections.get(&connection)) {
            return Ok(Placed { worker: *worker, joined: false });
        }
        if self.connections >= CONNECTIONS_MAX || (known.is_none() && self.rooms.len() >= ROOMS_MAX) {
            return Err(PlaceError::Full);
        }
        let none = Places::default();
        let places = known.unwrap_or(&none);
        let within = self.least_loaded_within(places, loads);
        let worker = match within {
            Some((worker, true)) => worker,
            _ => {
                let joining = self.joining(places, loads);
                joining.or(within.map(|(worker, _)| worker)).ok_or(PlaceError::NoWorker)?
            }
        };
        let joined = self.enter(room, connection, worker);
        Ok(Placed { worker, joined })
    }

    /// Notes that a worker has a connection of a room. Returns whether it has joined others in that by it.
    fn enter(&mut self, room: &RoomSid, connection: ConnectionId, worker: ShardIndex) -> bool {
        let places = self.rooms.entry(room.clone()).or_default();
        let joins = !places.workers.contains(&worker);
        let joined = joins && !places.workers.is_empty();
        if joins {
            places.workers.push(worker);
            places.counts.push(0);
            if let Some(count) = self.counts.get_mut(usize::from(worker.0)) {
                *count += 1;
            }
        }
        places.connections.insert(connection, worker);
        if let Some(count) = places.count(worker) {
            *count += 1;
        }
        self.connections += 1;
        joined
    }

    /// The least loaded of a room's workers that are alive, and whether it has budget for another connection: those that
    /// have come first.
    fn least_loaded_within(&self, places: &Places, loads: &[WorkerLoad]) -> Option<(ShardIndex, bool)> {
        let workers = places.shares().filter_map(|(worker, connections)| {
            let load = loads.get(usize::from(worker.0)).filter(|load| load.alive)?;
            let is_full = load.busy >= self.budget.busy || connections >= self.budget.connections;
            Some((worker, (is_full, tenths(load.busy), connections)))
        });
        workers.min_by_key(|(_, load)| *load).map(|(worker, (is_full, ..))| (worker, !is_full))
    }

    /// The worker that a room without budget should get, or a new one.
    fn joining(&self, places: &Places, loads: &[WorkerLoad]) -> Option<ShardIndex> {
        let others = (0u8..=u8::MAX)
            .map(ShardIndex)
            .zip(loads.iter().zip(&self.counts))
            .filter(|(worker, (load, _))| load.alive && !places.workers.contains(worker));
        let least = others.min_by_key(|(_, (load, rooms))| (tenths(load.busy), load.connections, **rooms));
        let (worker, (candidate, _)) = least?;
        // Of two workers that are equally busy the other one gains nothing, but one that has its share of connections.
        let gains = |(worker, connections): (ShardIndex, usize)| {
            let load = loads.get(usize::from(worker.0)).copied().unwrap_or_default();
            !load.alive || connections >= self.budget.connections || candidate.busy + BUSY_MARGIN <= load.busy
        };
        let is_new = places.workers.is_empty();
        let is_worth_it = candidate.busy < self.budget.busy && places.shares().all(gains);
        (is_new || is_worth_it).then_some(worker)
    }

    /// Moves a connection to another room. It stays on its worker, which joins that room if it is not in it. None if there
    /// is no such connection.
    pub(crate) fn adopt(&mut self, from: &RoomSid, to: &RoomSid, connection: ConnectionId) -> Option<Placed> {
        let worker = *self.rooms.get(from)?.connections.get(&connection)?;
        self.forget(from, connection);
        let joined = self.enter(to, connection, worker);
        Some(Placed { worker, joined })
    }

    /// Whether a worker has any.
    pub(crate) fn has_rooms(&self, worker: ShardIndex) -> bool {
        self.counts.get(usize::from(worker.0)).is_some_and(|rooms| *rooms > 0)
    }

    /// A connection has been closed.
    pub(crate) fn forget(&mut self, room: &RoomSid, connection: ConnectionId) {
        if let Some(places) = self.rooms.get_mut(room)
            && let Some(worker) = places.connections.remove(&connection)
        {
            self.connections -= 1;
            if let Some(count) = places.count(worker) {
                *count -= 1;
            }
        }
    }

    /// Forgets a room and returns the workers it had.
    pub(crate) fn close(&mut self, room: &RoomSid) -> Vec<ShardIndex> {
        let Some(places) = self.rooms.remove(room) else { return Vec::new() };
        self.connections -= places.connections.len();
        for worker in &places.workers {
            if let Some(count) = self.counts.get_mut(usize::from(worker.0)) {
                *count = count.saturating_sub(1);
            }
        }
        places.workers
    }

    /// Forgets what a dead worker had, and returns it.
    pub(crate) fn bury(&mut self, dead: ShardIndex) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (room, places) in &mut self.rooms {
            let Some(index) = places.workers.iter().position(|worker| *worker == dead) else { continue };
            places.workers.remove(index);
            places.counts.remove(index);
            let connections: Vec<ConnectionId> =
                places.connections.extract_if(|_, on| *on == dead).map(|(id, _)| id).collect();
            self.connections -= connections.len();
            lost.push(Lost { room: room.clone(), connections, left: places.workers.clone() });
        }
        self.rooms.retain(|_, places| !places.workers.is_empty());
        if let Some(count) = self.counts.get_mut(usize::from(dead.0)) {
            *count = 0;
        }
        lost
    }

    /// Forgets all rooms and returns them.
    pub(crate) fn close_all(&mut self) -> Vec<(RoomSid, Vec<ShardIndex>)> {
        self.counts.fill(0);
        self.connections = 0;
        self.rooms.drain().map(|(room, places)| (room, places.workers)).collect()
    }
}

fn tenths(share: f32) -> u8 {
    // Saturates: shares are between 0 and 1.
    (share * 10.0) as u8
}

#[cfg(test)]
mod tests;
