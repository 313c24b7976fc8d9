//! Talking to a proxy that runs.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use mio::Waker;

use super::{ProxyConfigError, ProxyError, ProxyStats};
use crate::link::LinkConfig;

/// Commands that wait for the proxy. When full, the caller waits.
const COMMANDS_MAX: usize = 16;

pub(super) enum Command {
    Stats(SyncSender<ProxyStats>),
    SetLinks(Box<[LinkConfig; 2]>, SyncSender<()>),
    Stop,
}

/// Speaks to a proxy from any thread.
#[derive(Clone, Debug)]
pub struct Controller {
    commands: SyncSender<Command>,
    waker: Arc<Waker>,
}

impl Controller {
    pub(super) fn new(waker: Waker) -> (Self, Commands) {
        let (commands, received) = sync_channel(COMMANDS_MAX);
        (Self { commands, waker: Arc::new(waker) }, Commands { received })
    }

    /// What happened so far.
    pub fn stats(&self) -> Result<ProxyStats, ProxyError> {
        let (answer, answered) = sync_channel(1);
        self.send(Command::Stats(answer))?;
        answered.recv().map_err(|_| ProxyError::Ended)
    }

    /// Changes what the links do, for all clients; their steps count from now. What is under way arrives as planned.
    /// Returns when it is done: what is sent after that passes the new links.
    pub fn set_links(&self, upstream: LinkConfig, downstream: LinkConfig) -> Result<(), ProxyError> {
        upstream.check().map_err(ProxyConfigError::Upstream)?;
        downstream.check().map_err(ProxyConfigError::Downstream)?;
        let (answer, answered) = sync_channel(1);
        self.send(Command::SetLinks(Box::new([upstream, downstream]), answer))?;
        answered.recv().map_err(|_| ProxyError::Ended)
    }

    /// Ends the proxy. What is under way then does not arrive.
    pub fn stop(&self) -> Result<(), ProxyError> {
        self.send(Command::Stop)
    }

    fn send(&self, command: Command) -> Result<(), ProxyError> {
        self.commands.send(command).map_err(|_| ProxyError::Ended)?;
        self.waker.wake().map_err(ProxyError::Io)
    }
}

/// The proxy's end.
#[derive(Debug)]
pub(super) struct Commands {
    received: Receiver<Command>,
}

impl Commands {
    /// The next command that waits.
    pub(super) fn next(&self) -> Option<Command> {
        self.received.try_recv().ok()
    }
}

/// A proxy on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct RunningProxy {
    controller: Controller,
    thread: Option<JoinHandle<Result<ProxyStats, ProxyError>>>,
}

impl RunningProxy {
    pub(super) fn spawn(
        controller: Controller,
        run: impl FnOnce() -> Result<ProxyStats, ProxyError> + Send + 'static,
    ) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name("netlab".to_owned()).spawn(run)?;
        Ok(Self { controller, thread: Some(thread) })
    }

    /// Speaks to it.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Ends it; returns what happened.
    pub fn stop(mut self) -> Result<ProxyStats, ProxyError> {
        // If it has ended by itself, the thread says why.
        let _ = self.controller.stop();
        let thread = self.thread.take().ok_or(ProxyError::Ended)?;
        thread.join().unwrap_or(Err(ProxyError::Ended))
    }
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.controller.stop();
            let _ = thread.join();
        }
    }
}
