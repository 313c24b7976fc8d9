//! A participant's way from one room's task to another's.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};
use zynk_protocol::{ConnectionId, Identity, NodeEvent, NodeId, RoomName};

use super::{Door, RoomTask};
use crate::admin::AdminError;
use crate::room::{MoveId, RoomInput, SessionId, Traveller};
use crate::route::Route;

/// Events of the node that wait to be passed on to the other room. With more, the rest is lost, and what the client then
/// misses makes it start over.
const LATE_EVENTS_MAX: usize = 1_024;

/// A participant between two rooms: whoever drops it ends the session.
#[derive(Debug)]
pub(crate) struct Parcel {
    traveller: Box<Traveller>,
    door: Door,
    route: oneshot::Sender<Route>,
    /// What the node tells the room that it has left; ends when that is all.
    late: mpsc::Receiver<NodeEvent>,
}

impl Parcel {
    pub(crate) fn connections(&self) -> Vec<ConnectionId> {
        self.traveller.connections()
    }

    /// Takes the events that are to be passed on.
    pub(crate) fn take_late(&mut self) -> mpsc::Receiver<NodeEvent> {
        std::mem::replace(&mut self.late, mpsc::channel(1).1)
    }
}

/// Somebody whose requests are being stopped.
#[derive(Debug)]
struct Leaving {
    destination: RoomName,
    route: oneshot::Sender<Route>,
    reply: oneshot::Sender<Result<Option<Parcel>, AdminError>>,
}

/// Moves that have begun here.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// One for each session at most.
    leaving: HashMap<SessionId, Leaving>,
    last: u64,
    /// The outcome of the departure that is being handled.
    pub(super) departed: Option<(MoveId, Result<Box<Traveller>, AdminError>)>,
    late: HashMap<MoveId, mpsc::Sender<NodeEvent>>,
}

impl Moves {
    pub(super) fn pass_on(&mut self, number: MoveId, event: NodeEvent) {
        if let Some(late) = self.late.get(&number)
            && late.try_send(event).is_err()
        {
            tracing::warn!("an event of a participant that has moved is lost");
        }
    }

    pub(super) fn passed_all(&mut self, number: MoveId) {
        self.late.remove(&number);
    }
}

impl RoomTask {
    /// Has a participant's requests stopped: it leaves when all that were made have been handled.
    pub(super) fn begin_move(
        &mut self,
        identity: &Identity,
        destination: RoomName,
        node: &NodeId,
        reply: oneshot::Sender<Result<Option<Parcel>, AdminError>>,
    ) {
        let session = match self.room.check_departure(identity) {
            Ok(_) if *node != self.node => return drop(reply.send(Ok(None))),
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (route, next) = oneshot::channel();
        let door = self.sessions.get(&session).filter(|_| !self.moves.leaving.contains_key(&session));
        if door.is_some_and(|door| door.switches.try_send(next).is_ok()) {
            self.moves.leaving.insert(session, Leaving { destination, route, reply });
        } else {
            drop(reply.send(Err(AdminError::FailedPrecondition("the participant is being moved"))));
        }
    }

    pub(super) async fn depart(&mut self, session: SessionId) {
        let Some(Leaving { destination, route, reply }) = self.moves.leaving.remove(&session) else { return };
        self.moves.last += 1;
        let number = MoveId(self.moves.last);
        let (late_in, late) = mpsc::channel(LATE_EVENTS_MAX);
        self.moves.late.insert(number, late_in);
        self.handle(RoomInput::Depart { session, number, destination });
        // What the room had the node do comes before what the other room wants of it.
        self.flush().await;
        let result = match self.moves.departed.take() {
            Some((of, result)) if of == number => result,
            _ => Err(AdminError::Unavailable("the room did not answer")),
        };
        let door = self.sessions.remove(&session);
        let outcome = match (result, door) {
            (Ok(traveller), Some(door)) => Ok(Some(Parcel { traveller, door, route, late })),
            // Its queue was full at the last moment.
            (Ok(traveller), None) => {
                self.strand(&traveller).await;
                Err(AdminError::Unavailable("the participant is reconnecting"))
            }
            (Err(error), door) => {
                self.moves.late.remove(&number);
                self.sessions.extend(door.map(|door| (session, door)));
                Err(error)
            }
        };
        if let Err(Ok(Some(parcel))) = reply.send(outcome) {
            // Nobody takes it any more.
            self.strand(&parcel.traveller).await;
        }
    }

    async fn strand(&mut self, traveller: &Traveller) {
        self.handle(RoomInput::Stranded { connections: traveller.connections() });
        self.flush().await;
    }

    pub(super) async fn arrive(
        &mut self,
        parcel: Box<Parcel>,
        reply: oneshot::Sender<Result<(), Box<Parcel>>>,
    ) {
        if *parcel.traveller.node() != self.node || self.node_lost {
            return drop(reply.send(Err(parcel)));
        }
        let Parcel { traveller, door, route, .. } = *parcel;
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(session, door);
        self.handle(RoomInput::Arrive { session, traveller });
        // What it is told first lists the whole room, as the answer to a join does.
        self.beginning = Some(session);
        self.flush().await;
        self.beginning = None;
        drop(route.send(Route { mailbox: self.mailbox.clone(), session }));
        drop(reply.send(Ok(())));
    }
}
