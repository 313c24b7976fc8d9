//! What the server tells operators.

use std::time::Duration;

use zynk_signaling::{AdminError, AdminRequest, AdminResponse, ReplyId, RoomInput, RoomStats};

use super::World;

/// Longer than the server waits for its parts.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

impl World {
    /// What flows in the room. Takes the second that it is measured for.
    pub fn room_stats(&mut self) -> Result<Box<RoomStats>, AdminError> {
        self.answers.clear();
        self.room_input(RoomInput::Admin { reply: ReplyId(1), request: Box::new(AdminRequest::Stats) });
        assert!(self.run_until(ANSWER_LIMIT, |world| !world.answers.is_empty()), "no answer");
        match self.answers.remove(0)? {
            AdminResponse::Stats(stats) => Ok(stats),
            other => panic!("{other:?}"),
        }
    }
}
