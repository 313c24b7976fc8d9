//! From a worker's loop to the bus: notices in order, with bounds, never blocking the loop.
//!
//! ```text
//!   worker ──► overflow (VecDeque) ──► channel (1,024) ──► task: bus.notify()
//! ```
//! A bus that does not keep up fills the channel, then the overflow. What nobody misses for long is dropped
//! first (reports), then data messages; negotiation is never dropped: instead the worker stops taking
//! commands, most of which would be answered by more of it.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::mpsc::{self, error::TrySendError};
use zynk_bus::Bus;
use zynk_protocol::{NodeEvent, NodeId, NodeNotice, RoomSid};

/// Notices between a worker and its task. When it is full they overflow.
const CHANNEL_MAX: usize = 1_024;

/// Reports that overflow; further ones are dropped: the next one replaces them, or is asked for again.
const REPORTS_MAX: usize = 256;

/// Data messages that overflow; further ones are dropped.
const MESSAGES_MAX: usize = 4_096;

/// Bytes of data messages that overflow; further messages are dropped.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Other notices that overflow before the worker stops taking commands. They are never dropped, so there
/// may be more: as many as the connections that exist can cause without commands.
const NEGOTIATION_MAX: usize = 8_192;

/// What was dropped since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoticeStats {
    pub(crate) reports_dropped: u64,
    pub(crate) messages_dropped: u64,
}

/// A worker's end.
#[derive(Debug)]
pub(crate) struct NoticeQueue {
    node: NodeId,
    sender: mpsc::Sender<NodeNotice>,
    overflow: VecDeque<NodeNotice>,
    reports: usize,
    messages: usize,
    message_bytes: usize,
    stats: NoticeStats,
}

/// How much a notice is missed when it is dropped.
enum Class {
    Report,
    Message { bytes: usize },
    Negotiation,
}

fn classify(event: &NodeEvent) -> Class {
    match event {
        NodeEvent::Speakers { .. } | NodeEvent::Stats { .. } | NodeEvent::RoomReport(_) => Class::Report,
        NodeEvent::DataReceived { payload, .. } => Class::Message { bytes: payload.len() },
        _ => Class::Negotiation,
    }
}

impl NoticeQueue {
    /// The queue and the end that [`deliver`] reads.
    pub(crate) fn new(node: NodeId) -> (Self, mpsc::Receiver<NodeNotice>) {
        let (sender, receiver) = mpsc::channel(CHANNEL_MAX);
        let queue = Self {
            node,
            sender,
            overflow: VecDeque::new(),
            reports: 0,
            messages: 0,
            message_bytes: 0,
            stats: NoticeStats::default(),
        };
        (queue, receiver)
    }

    /// Takes an event of the core.
    pub(crate) fn push(&mut self, room: RoomSid, event: NodeEvent) {
        let notice = NodeNotice { node: self.node.clone(), room, event };
        if self.overflow.is_empty() {
            match self.sender.try_send(notice) {
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(notice)) => self.keep(notice),
            }
        } else {
            self.keep(notice);
        }
    }

    /// Moves what overflowed into the channel, as far as there is room.
    pub(crate) fn flush(&mut self) {
        while !self.overflow.is_empty() {
            match self.sender.try_reserve() {
                Ok(permit) => {
                    if let Some(notice) = self.overflow.pop_front() {
                        match classify(&notice.event) {
                            Class::Report => self.reports -= 1,
                            Class::Message { bytes } => {
                                self.messages -= 1;
                                self.message_bytes -= bytes;
                            }
                            Class::Negotiation => {}
                        }
                        permit.send(notice);
                    }
                }
                Err(TrySendError::Full(())) => return,
                // The task has ended: the node is going down.
                Err(TrySendError::Closed(())) => {
                    self.overflow.clear();
                    (self.reports, self.messages, self.message_bytes) = (0, 0, 0);
                }
            }
        }
    }

    /// Whether notices wait for room in the channel: flush again soon.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.overflow.is_empty()
    }

    /// Whether no more commands should be taken.
    pub(crate) fn is_congested(&self) -> bool {
        self.overflow.len() - self.reports - self.messages >= NEGOTIATION_MAX
    }

    pub(crate) fn stats(&self) -> NoticeStats {
        self.stats
    }

    fn keep(&mut self, notice: NodeNotice) {
        match classify(&notice.event) {
            Class::Report => {
                if self.reports >= REPORTS_MAX {
                    self.stats.reports_dropped += 1;
                    return;
                }
                self.reports += 1;
            }
            Class::Message { bytes } => {
                if self.messages >= MESSAGES_MAX || self.message_bytes + bytes > MESSAGE_BYTES_MAX {
                    self.stats.messages_dropped += 1;
                    return;
                }
                self.messages += 1;
                self.message_bytes += bytes;
            }
            Class::Negotiation => {}
        }
        self.overflow.push_back(notice);
    }
}

/// Sends one worker's notices on the bus until the worker ends.
pub(crate) async fn deliver(mut notices: mpsc::Receiver<NodeNotice>, bus: Arc<dyn Bus>) {
    while let Some(notice) = notices.recv().await {
        if let Err(error) = bus.notify(notice).await {
            tracing::warn!(%error, "a notice was not delivered");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zynk_protocol::{ConnectionId, DataKind};

    use super::*;

    fn room() -> RoomSid {
        RoomSid::from_random(1)
    }

    fn negotiation(number: u64) -> NodeEvent {
        NodeEvent::DataChannelOpen { connection: ConnectionId(number), kind: DataKind::Reliable }
    }

    fn report() -> NodeEvent {
        NodeEvent::Speakers { levels: Vec::new() }
    }

    fn message(bytes: usize) -> NodeEvent {
        NodeEvent::DataReceived {
            connection: ConnectionId(0),
            kind: DataKind::Reliable,
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    fn full_queue() -> (NoticeQueue, mpsc::Receiver<NodeNotice>) {
        let (mut queue, receiver) = NoticeQueue::new(NodeId::from_random(1));
        for number in 0..CHANNEL_MAX as u64 {
            queue.push(room(), negotiation(number));
        }
        assert!(!queue.is_waiting());
        (queue, receiver)
    }

    #[test]
    fn a_slow_bus_loses_reports_and_messages_but_no_negotiation() {
        let (mut queue, mut receiver) = full_queue();
        for number in 0..100u64 {
            queue.push(room(), negotiation(CHANNEL_MAX as u64 + number));
            for _ in 0..10 {
                queue.push(room(), report());
                queue.push(room(), message(100));
            }
        }
        for _ in 0..MESSAGES_MAX {
            queue.push(room(), message(1));
        }
        assert!(queue.is_waiting() && !queue.is_congested());
        assert_eq!(queue.stats(), NoticeStats { reports_dropped: 1000 - 256, messages_dropped: 1000 });

        let mut numbers = Vec::new();
        let (mut reports, mut messages) = (0, 0);
        while let Ok(notice) = receiver.try_recv() {
            match notice.event {
                NodeEvent::DataChannelOpen { connection, .. } => numbers.push(connection.0),
                NodeEvent::DataReceived { .. } => messages += 1,
                _ => reports += 1,
            }
            queue.flush();
        }
        assert_eq!(numbers, (0..CHANNEL_MAX as u64 + 100).collect::<Vec<_>>(), "in order");
        assert_eq!((reports, messages), (256, MESSAGES_MAX));
        assert_eq!((queue.reports, queue.messages, queue.message_bytes), (0, 0, 0));
    }

    #[test]
    fn message_bytes_are_bounded() {
        let (mut queue, _receiver) = full_queue();
        for _ in 0..20 {
            queue.push(room(), message(1024 * 1024));
        }
        assert_eq!(queue.stats().messages_dropped, 4);
    }

    #[test]
    fn too_much_negotiation_is_congestion_and_ends() {
        let (mut queue, mut receiver) = full_queue();
        for number in 0..NEGOTIATION_MAX as u64 {
            queue.push(room(), negotiation(number));
        }
        assert!(queue.is_congested());
        assert!(receiver.try_recv().is_ok());
        queue.flush();
        assert!(!queue.is_congested());
    }

    #[test]
    fn without_a_task_nothing_is_kept() {
        let (mut queue, receiver) = full_queue();
        queue.push(room(), message(5));
        drop(receiver);
        queue.flush();
        assert!(!queue.is_waiting());
        queue.push(room(), negotiation(1));
        assert!(!queue.is_waiting());
    }
}
