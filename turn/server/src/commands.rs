//! How a worker is told what to do.
//!
//! To stop and to drain are no messages in a queue: they are heard also by a worker whose queue is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use mio::Waker;
use tokio::sync::oneshot;
use zynk_turn_core::{AllocationId, AllocationReport, ServerConfig};

use crate::handover::TlsClient;
use crate::server::TurnError;
use crate::streams::StreamSettings;
use crate::tls::Certificate;

/// Commands that wait for a worker. When there are as many, who sends the next is told that the relay is busy.
const COMMANDS_MAX: usize = 64;

/// Connections that wait for a worker after another listener has accepted them. Further ones are closed.
const HANDED_OVER_MAX: usize = 256;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    /// Tell all allocations.
    List(oneshot::Sender<Vec<AllocationReport>>),
    /// End an allocation.
    Kick(AllocationId),
    /// Take no new ones.
    Drain,
    /// End.
    Stop,
    /// Take another configuration.
    Configure(Box<WorkerSettings>),
}

/// What can change while a worker runs.
#[derive(Debug)]
pub(crate) struct WorkerSettings {
    pub(crate) server: ServerConfig,
    pub(crate) streams: StreamSettings,
    pub(crate) certificate: Certificate,
}

/// A worker as the rest sees it.
#[derive(Clone, Debug)]
pub(crate) struct WorkerDoor {
    commands: Sender<WorkerCommand>,
    handed_over: Sender<Box<TlsClient>>,
    signals: Arc<Signals>,
    waker: Arc<Waker>,
}

/// The worker's side.
#[derive(Debug)]
pub(crate) struct Commands {
    received: Receiver<WorkerCommand>,
    signals: Arc<Signals>,
}

#[derive(Debug, Default)]
struct Signals {
    stop: AtomicBool,
    drain: AtomicBool,
}

/// A way to a worker that wakes up by `waker`; its commands, and the connections that others hand over to it.
pub(crate) fn door(waker: Arc<Waker>) -> (WorkerDoor, Commands, Receiver<Box<TlsClient>>) {
    let (commands, received) = crossbeam_channel::bounded(COMMANDS_MAX);
    let (handed_over, taken) = crossbeam_channel::bounded(HANDED_OVER_MAX);
    let signals = Arc::new(Signals::default());
    let door = WorkerDoor { commands, handed_over, signals: Arc::clone(&signals), waker };
    (door, Commands { received, signals }, taken)
}

impl WorkerDoor {
    /// Queues a command. [`WorkerCommand::Stop`] and [`WorkerCommand::Drain`] need no room.
    pub(crate) fn send(&self, command: WorkerCommand) -> Result<(), TurnError> {
        match command {
            WorkerCommand::Stop => self.signals.stop.store(true, Ordering::Release),
            WorkerCommand::Drain => self.signals.drain.store(true, Ordering::Release),
            command => self.commands.try_send(command).map_err(|_| TurnError::Busy)?,
        }
        self.wake()
    }

    /// Queues a connection, or closes it if there is no room.
    pub(crate) fn hand_over(&self, client: TlsClient) -> Result<(), TurnError> {
        self.handed_over.try_send(Box::new(client)).map_err(|_| TurnError::Busy)?;
        // It is taken at the next turn at the latest.
        let _ = self.wake();
        Ok(())
    }

    fn wake(&self) -> Result<(), TurnError> {
        self.waker.wake().map_err(|_| TurnError::Busy)
    }
}

impl Commands {
    /// The next one, if there is one.
    pub(crate) fn try_recv(&self) -> Result<WorkerCommand, TryRecvError> {
        match () {
            () if self.signals.stop.swap(false, Ordering::AcqRel) => Ok(WorkerCommand::Stop),
            () if self.signals.drain.swap(false, Ordering::AcqRel) => Ok(WorkerCommand::Drain),
            () => self.received.try_recv(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_keeps_nobody_from_stopping() {
        let poll = mio::Poll::new().unwrap();
        let (door, commands, _taken) = door(Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap()));
        let kick = || WorkerCommand::Kick(AllocationId(7));
        (0..COMMANDS_MAX).for_each(|_| door.send(kick()).unwrap());
        assert!(matches!(door.send(kick()), Err(TurnError::Busy)));
        door.send(WorkerCommand::Drain).unwrap();
        door.send(WorkerCommand::Stop).unwrap();
        assert!(matches!(commands.try_recv(), Ok(WorkerCommand::Stop)));
        assert!(matches!(commands.try_recv(), Ok(WorkerCommand::Drain)));
        assert!(matches!(commands.try_recv(), Ok(WorkerCommand::Kick(_))), "each signal is heard once");
    }
}
