use super::*;

const BUDGET: Budget = Budget { busy: 0.6, connections: 3 };

fn room(number: u128) -> RoomSid {
    RoomSid::from_random(number)
}

fn load(busy: f32, connections: u64) -> WorkerLoad {
    WorkerLoad { busy, connections, alive: true }
}

/// Places the next connection; its worker.
fn place(placement: &mut Placement, number: u128, loads: &[WorkerLoad]) -> Result<u8, PlaceError> {
    let connection = ConnectionId(placement.connections as u64);
    placement.place(&room(number), connection, loads).map(|placed| placed.worker.0)
}

#[test]
fn a_room_stays_where_it_was_placed() {
    let mut placement = Placement::new(2, BUDGET);
    assert_eq!(place(&mut placement, 1, &[load(0.0, 0), load(0.0, 0)]), Ok(0));
    assert_eq!(place(&mut placement, 1, &[load(0.5, 50), load(0.0, 0)]), Ok(0));
    assert_eq!(placement.workers(&room(1)), [ShardIndex(0)]);
    assert_eq!(placement.close(&room(1)), [ShardIndex(0)]);
    assert_eq!(placement.find(&room(1), ConnectionId(0)), None);
    assert_eq!(placement.close(&room(1)), []);
}

#[test]
fn the_least_loaded_worker_gets_the_room() {
    let mut placement = Placement::new(3, BUDGET);
    let loads = [load(0.35, 1), load(0.12, 9), load(0.18, 8)];
    assert_eq!(place(&mut placement, 1, &loads), Ok(2));
    // A burst of rooms spreads although no load has been reported yet.
    let mut placement = Placement::new(3, BUDGET);
    let places: Vec<u8> =
        (0..6).map(|number| place(&mut placement, number, &[load(0.0, 0); 3]).unwrap()).collect();
    assert_eq!(places, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_room_with_too_many_connections_is_spread_and_evenly_filled() {
    let mut placement = Placement::new(3, BUDGET);
    let loads = [load(0.0, 0); 3];
    let placed: Vec<(u8, bool)> = (0..11)
        .map(|id| placement.place(&room(1), ConnectionId(id), &loads).unwrap())
        .map(|placed| (placed.worker.0, placed.joined))
        .collect();
    let on = |worker: u8| placed.iter().filter(|(on, _)| *on == worker).count();
    assert_eq!(placed[..4], [(0, false), (0, false), (0, false), (1, true)]);
    assert_eq!(placed[6], (2, true));
    assert_eq!([on(0), on(1), on(2)], [4, 4, 3], "above the budget of all the least loaded goes on");
    assert_eq!(placement.workers(&room(1)), [0, 1, 2].map(ShardIndex));
    for id in 0..11 {
        assert_eq!(placement.find(&room(1), ConnectionId(id)).unwrap().0, placed[id as usize].0);
    }
    assert_eq!(placement.find(&room(1), ConnectionId(99)), Some(ShardIndex(0)), "unknown");
    // What is closed makes room again, and what is known is not placed twice.
    placement.forget(&room(1), ConnectionId(1));
    placement.forget(&room(1), ConnectionId(2));
    let again = placement.place(&room(1), ConnectionId(0), &loads).unwrap();
    assert_eq!((again, placement.connections), (Placed { worker: ShardIndex(0), joined: false }, 9));
    let next = placement.place(&room(1), ConnectionId(11), &loads).unwrap();
    assert_eq!(next, Placed { worker: ShardIndex(0), joined: false });
}

#[test]
fn a_busy_room_is_spread_to_a_worker_that_is_clearly_less_busy() {
    for (loads, expected) in
        [([0.59, 0.0], 0), ([0.7, 0.55], 0), ([0.7, 0.49], 1), ([1.0, 0.61], 0), ([1.0, 0.59], 1)]
    {
        let mut placement = Placement::new(2, BUDGET);
        assert_eq!(place(&mut placement, 1, &[load(0.0, 0); 2]), Ok(0));
        assert_eq!(place(&mut placement, 1, &loads.map(|busy| load(busy, 0))), Ok(expected), "{loads:?}");
    }
    // Both are busy: no third, and the less busy of them.
    let mut placement = Placement::new(2, BUDGET);
    place(&mut placement, 1, &[load(0.0, 0); 2]).unwrap();
    place(&mut placement, 1, &[load(0.9, 0), load(0.0, 0)]).unwrap();
    assert_eq!(place(&mut placement, 1, &[load(0.9, 0), load(0.7, 0)]), Ok(1));
    assert_eq!(place(&mut placement, 1, &[load(0.3, 0), load(0.7, 0)]), Ok(0));
}

#[test]
fn a_dead_worker_gets_none() {
    let mut placement = Placement::new(2, BUDGET);
    let loads = [WorkerLoad::default(), load(1.0, 100)];
    assert_eq!(place(&mut placement, 1, &loads), Ok(1));
    assert_eq!(place(&mut placement, 2, &[WorkerLoad::default(); 2]), Err(PlaceError::NoWorker));
    // Nor does a room get a dead one for a second.
    let full = [WorkerLoad::default(), load(1.0, 100)];
    for _ in 0..5 {
        assert_eq!(place(&mut placement, 1, &full), Ok(1));
    }
}

#[test]
fn what_a_dead_worker_had_is_forgotten_and_the_rest_goes_on() {
    let mut placement = Placement::new(2, BUDGET);
    let alive = [load(0.0, 0), load(0.0, 0)];
    for id in 0..4 {
        placement.place(&room(1), ConnectionId(id), &alive).unwrap();
    }
    placement.place(&room(2), ConnectionId(9), &[load(0.0, 0), load(0.5, 0)]).unwrap();
    assert_eq!(placement.counts, [2, 1]);
    let mut lost = placement.bury(ShardIndex(0));
    lost.iter_mut().for_each(|lost| lost.connections.sort_unstable());
    lost.sort_by_key(|lost| lost.connections.len());
    let ids = |ids: &[u64]| ids.iter().map(|id| ConnectionId(*id)).collect::<Vec<_>>();
    assert_eq!(lost[0], Lost { room: room(2), connections: ids(&[9]), left: Vec::new() });
    assert_eq!(lost[1], Lost { room: room(1), connections: ids(&[0, 1, 2]), left: vec![ShardIndex(1)] });
    assert_eq!((placement.workers(&room(2)), placement.connections), ([].as_slice(), 1));
    assert_eq!(placement.find(&room(1), ConnectionId(0)), Some(ShardIndex(1)));
    let loads = [WorkerLoad::default(), load(0.9, 0)];
    assert_eq!(place(&mut placement, 1, &loads), Ok(1));
    assert_eq!(placement.bury(ShardIndex(0)), []);
}

#[test]
fn rooms_are_bounded() {
    let mut placement = Placement::new(1, BUDGET);
    let loads = [load(0.0, 0)];
    for number in 0..ROOMS_MAX as u128 {
        place(&mut placement, number, &loads).unwrap();
    }
    assert_eq!(place(&mut placement, u128::MAX, &loads), Err(PlaceError::Full));
    assert!(place(&mut placement, 1, &loads).is_ok(), "a room that there is");
    placement.close(&room(0));
    assert!(place(&mut placement, u128::MAX, &loads).is_ok());
    assert_eq!(placement.close_all().len(), ROOMS_MAX);
    assert_eq!(placement.connections, 0);
}

#[test]
fn connections_are_bounded() {
    let mut placement = Placement::new(1, BUDGET);
    let loads = [load(0.0, 0)];
    for id in 0..CONNECTIONS_MAX as u64 {
        placement.place(&room(1), ConnectionId(id), &loads).unwrap();
    }
    let next = ConnectionId(CONNECTIONS_MAX as u64);
    assert_eq!(placement.place(&room(1), next, &loads), Err(PlaceError::Full));
    placement.forget(&room(1), ConnectionId(7));
    assert!(placement.place(&room(1), next, &loads).is_ok());
}

#[test]
fn a_connection_changes_rooms_without_changing_workers() {
    let mut placement = Placement::new(2, BUDGET);
    let loads = [load(0.0, 0); 2];
    for (number, id) in [(1, 0), (1, 1), (2, 2)] {
        placement.place(&room(number), ConnectionId(id), &loads).unwrap();
    }
    let adopt =
        |placement: &mut Placement, from, to, id| placement.adopt(&room(from), &room(to), ConnectionId(id));
    let first = Placed { worker: ShardIndex(0), joined: true };
    assert_eq!(adopt(&mut placement, 1, 2, 0), Some(first), "the room is spread");
    assert_eq!(adopt(&mut placement, 1, 2, 1), Some(Placed { joined: false, ..first }));
    assert_eq!(placement.find(&room(2), ConnectionId(1)), Some(ShardIndex(0)));
    assert_eq!((placement.workers(&room(2)), placement.connections), (&[1, 0].map(ShardIndex)[..], 3));
    assert_eq!(adopt(&mut placement, 1, 2, 1), None, "it is not there any more");
    // A room without connections begins with it.
    assert_eq!(adopt(&mut placement, 2, 3, 0), Some(Placed { joined: false, ..first }));
    assert_eq!(placement.close(&room(3)), [ShardIndex(0)]);
}
