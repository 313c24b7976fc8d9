//! One client's signal connection: frames in and out, pings.
//!
//! Pure: the shell (`ws.rs`) moves the frames. Binary frames hold protobuf, text frames proto3 JSON; the
//! client is answered in the mode of its last frame.

use bytes::Bytes;
use prost::Message as _;
use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::request_response::Reason;
use zynk_protocol::livekit::{
    self, DisconnectReason, SignalRequest, SignalResponse, signal_request, signal_response,
};

/// One WebSocket message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Protobuf.
    Binary(Bytes),
    /// JSON.
    Text(String),
}

/// What a frame turned out to be.
#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    /// For the room.
    Request(Box<SignalRequest>),
    /// Answered on the spot: pings must not wait in the room's queue.
    Reply(Box<SignalResponse>),
    /// Nothing that this version knows.
    Nothing,
}

/// A frame cannot be used. The client's fault; the session ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SessionError {
    /// A binary frame is no `SignalRequest`.
    #[error("malformed signal message: not a protobuf SignalRequest")]
    Protobuf,
    /// A text frame is no `SignalRequest`.
    #[error("malformed signal message: not the JSON of a SignalRequest")]
    Json,
    /// A frame is none of the WebSocket protocol's, or text that is no UTF-8 (RFC 6455).
    #[error("malformed WebSocket frame")]
    Frame,
    /// A frame is over the limit.
    #[error("signal message too large: at most {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
}

/// State of a signal connection.
#[derive(Debug)]
pub(crate) struct Session {
    text: bool,
    message_bytes_max: usize,
}

impl Session {
    /// A connection that answers in binary until told otherwise.
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self { text: false, message_bytes_max }
    }

    /// Reads a client's frame.
    pub(crate) fn handle_frame(&mut self, unix_ms: u64, frame: &Frame) -> Result<Incoming, SessionError> {
        let length = match frame {
            Frame::Binary(bytes) => bytes.len(),
            Frame::Text(text) => text.len(),
        };
        if length > self.message_bytes_max {
            return Err(SessionError::TooLarge { max: self.message_bytes_max });
        }
        self.text = matches!(frame, Frame::Text(_));
        let request = match frame {
            Frame::Binary(bytes) => {
                SignalRequest::decode(bytes.clone()).map_err(|_| SessionError::Protobuf)?
            }
            Frame::Text(text) => serde_json::from_str(text).map_err(|_| SessionError::Json)?,
        };
        let now_ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let reply = match request.message {
            None => return Ok(Incoming::Nothing),
            Some(signal_request::Message::Ping(_)) => signal_response::Message::Pong(now_ms),
            Some(signal_request::Message::PingReq(ping)) => {
                signal_response::Message::PongResp(livekit::Pong {
                    last_ping_timestamp: ping.timestamp,
                    timestamp: now_ms,
                })
            }
            Some(_) => return Ok(Incoming::Request(Box::new(request))),
        };
        Ok(Incoming::Reply(Box::new(SignalResponse { message: Some(reply) })))
    }

    /// Writes a response in the client's mode.
    pub(crate) fn encode(&self, response: &SignalResponse) -> Frame {
        if self.text
            && let Ok(text) = serde_json::to_string(response)
        {
            return Frame::Text(text);
        }
        Frame::Binary(response.encode_to_vec().into())
    }

    /// What a client is told whose frame cannot be used, before the connection ends.
    pub(crate) fn farewell(error: &SessionError) -> [SignalResponse; 2] {
        let refusal = livekit::RequestResponse {
            reason: Reason::InvalidRequest.into(),
            message: error.to_string(),
            ..Default::default()
        };
        let leave = livekit::LeaveRequest {
            reason: DisconnectReason::StateMismatch.into(),
            action: Action::Disconnect.into(),
            ..Default::default()
        };
        [signal_response::Message::RequestResponse(refusal), signal_response::Message::Leave(leave)]
            .map(|message| SignalResponse { message: Some(message) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_123;

    fn binary(message: signal_request::Message) -> Frame {
        Frame::Binary(SignalRequest { message: Some(message) }.encode_to_vec().into())
    }

    fn session() -> Session {
        Session::new(2 * 1024 * 1024)
    }

    #[test]
    fn l22_answers_come_in_the_mode_of_the_last_frame() {
        let mut session = session();
        let pong = |session: &mut Session, frame: &Frame| {
            let Ok(Incoming::Reply(reply)) = session.handle_frame(NOW_MS, frame) else { panic!("no reply") };
            session.encode(&reply)
        };
        let text = pong(&mut session, &Frame::Text(r#"{"ping":"5"}"#.into()));
        assert_eq!(text, Frame::Text(r#"{"pong":"1700000000123"}"#.into()));
        let binary = pong(&mut session, &binary(signal_request::Message::Ping(5)));
        assert!(matches!(binary, Frame::Binary(_)));
    }

    #[test]
    fn l25_pings_are_answered_with_milliseconds() {
        let mut session = session();
        let ping = binary(signal_request::Message::Ping(1));
        let Ok(Incoming::Reply(reply)) = session.handle_frame(NOW_MS, &ping) else { panic!("no reply") };
        assert_eq!(reply.message, Some(signal_response::Message::Pong(1_700_000_000_123)));
        let ping = livekit::Ping { timestamp: 77, rtt: 3 };
        let ping = binary(signal_request::Message::PingReq(ping));
        let Ok(Incoming::Reply(reply)) = session.handle_frame(NOW_MS, &ping) else { panic!("no reply") };
        let pong = livekit::Pong { last_ping_timestamp: 77, timestamp: 1_700_000_000_123 };
        assert_eq!(reply.message, Some(signal_response::Message::PongResp(pong)));
    }

    #[test]
    fn l23_frames_over_the_limit_are_refused_unread() {
        let mut session = Session::new(10);
        let frame = Frame::Binary(vec![0; 11].into());
        assert_eq!(session.handle_frame(NOW_MS, &frame), Err(SessionError::TooLarge { max: 10 }));
    }

    #[test]
    fn l130_unknown_messages_are_ignored() {
        let mut session = session();
        // Field 2000 of type varint.
        let unknown = Frame::Binary(vec![0x80, 0x7d, 0x01].into());
        assert_eq!(session.handle_frame(NOW_MS, &unknown), Ok(Incoming::Nothing));
        let unknown = Frame::Text(r#"{"fromTheFuture":{"a":1}}"#.into());
        assert_eq!(session.handle_frame(NOW_MS, &unknown), Ok(Incoming::Nothing));
    }

    #[test]
    fn malformed_frames_are_told_apart() {
        let mut session = session();
        let garbage = Frame::Binary(vec![0xff; 20].into());
        assert_eq!(session.handle_frame(NOW_MS, &garbage), Err(SessionError::Protobuf));
        assert_eq!(session.handle_frame(NOW_MS, &Frame::Text("{".into())), Err(SessionError::Json));
        let [refusal, leave] = Session::farewell(&SessionError::Json);
        let Some(signal_response::Message::RequestResponse(refusal)) = refusal.message else { panic!() };
        assert!(refusal.message.contains("JSON"));
        assert!(matches!(leave.message, Some(signal_response::Message::Leave(_))));
    }
}
