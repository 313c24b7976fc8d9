//! Calls of participants' methods on behalf of the server API.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use zynk_protocol::livekit::data_packet::Value;
use zynk_protocol::livekit::{self, DataPacket, rpc_response};
use zynk_protocol::{DataKind, Identity, ParticipantSid};

use super::data::Audience;
use super::{ReplyId, Room, RoomOutput};
use crate::admin::{AdminError, AdminResponse};

/// Calls that may be under way in a room. Further ones are refused.
const CALLS_MAX: usize = 1_000;

/// Largest request, in bytes, as SDKs have it.
const PAYLOAD_BYTES_MAX: usize = 15 * 1024;

/// How long the participant may take to say that it got the call.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it may take to answer, if the caller does not say.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The participant left before it answered.
const RECIPIENT_DISCONNECTED: u32 = 1503;
/// It did not say that it got the call.
const CONNECTION_TIMEOUT: u32 = 1501;
/// It did not answer.
const RESPONSE_TIMED_OUT: u32 = 1502;

/// Calls under way, at most [`CALLS_MAX`].
#[derive(Debug, Default)]
pub(super) struct RpcState {
    calls: BTreeMap<String, Call>,
}

#[derive(Debug)]
struct Call {
    reply: ReplyId,
    destination: Identity,
    /// None once the participant has said that it got the call.
    ack_deadline: Option<Instant>,
    deadline: Instant,
}

impl RpcState {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.calls.values().map(|call| call.ack_deadline.unwrap_or(call.deadline)).min()
    }
}

impl Room {
    pub(super) fn perform_rpc(&mut self, reply: ReplyId, request: livekit::PerformRpcRequest) {
        if let Err(error) = self.start_rpc(reply, request) {
            self.outputs.push_back(RoomOutput::AdminReply { reply, result: Err(error) });
        }
    }

    fn start_rpc(&mut self, reply: ReplyId, request: livekit::PerformRpcRequest) -> Result<(), AdminError> {
        if request.destination_identity.is_empty() {
            return Err(AdminError::InvalidArgument("destination_identity is required".into()));
        }
        if request.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AdminError::InvalidArgument("payload is too large".into()));
        }
        let destination = Identity::new(request.destination_identity);
        if self.by_identity(&destination).is_none() {
            return Err(AdminError::NotFound("participant does not exist"));
        }
        if self.rpcs.calls.len() >= CALLS_MAX {
            return Err(AdminError::ResourceExhausted("too many calls are under way"));
        }
        let timeout = match request.response_timeout_ms {
            0 => RESPONSE_TIMEOUT,
            ms => Duration::from_millis(ms.into()),
        };
        let id = uuid(self.random());
        let packet = DataPacket {
            participant_identity: id.clone(),
            destination_identities: vec![destination.as_str().to_owned()],
            value: Some(Value::RpcRequest(livekit::RpcRequest {
                id: id.clone(),
                method: request.method,
                payload: request.payload,
                response_timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
                version: 1,
                ..Default::default()
            })),
            ..Default::default()
        };
        let identities = packet.destination_identities.clone();
        let call = Call {
            reply,
            destination,
            ack_deadline: Some(self.now + ACK_TIMEOUT.min(timeout)),
            deadline: self.now + timeout,
        };
        self.rpcs.calls.insert(id, call);
        self.send_packet(DataKind::Reliable, Audience { identities, ..Default::default() }, &packet);
        Ok(())
    }

    /// Takes acknowledgements and answers of calls that began here. Returns whether it was one.
    pub(super) fn rpc_packet(&mut self, sender: &ParticipantSid, packet: &DataPacket) -> bool {
        let id = match &packet.value {
            Some(Value::RpcAck(ack)) => &ack.request_id,
            Some(Value::RpcResponse(response)) => &response.request_id,
            _ => return false,
        };
        let sender = self.participants.get(sender).map(|participant| participant.identity.clone());
        let Some(call) = self.rpcs.calls.get_mut(id) else { return false };
        if sender.as_ref() != Some(&call.destination) {
            return true;
        }
        call.ack_deadline = None;
        let Some(Value::RpcResponse(response)) = &packet.value else { return true };
        let result = match &response.value {
            Some(rpc_response::Value::Payload(payload)) => Ok(AdminResponse::Rpc(payload.clone())),
            Some(rpc_response::Value::Error(error)) => Err(AdminError::Rpc {
                code: error.code,
                message: error.message.clone(),
                data: error.data.clone(),
            }),
            _ => Ok(AdminResponse::Rpc(String::new())),
        };
        let id = id.clone();
        self.end_rpc(&id, result);
        true
    }

    pub(super) fn expire_rpcs(&mut self) {
        let now = self.now;
        let due: Vec<(String, bool)> = self
            .rpcs
            .calls
            .iter()
            .filter(|(_, call)| call.ack_deadline.unwrap_or(call.deadline) <= now)
            .map(|(id, call)| (id.clone(), call.ack_deadline.is_some()))
            .collect();
        for (id, unacknowledged) in due {
            let error = match unacknowledged {
                true => rpc_error(CONNECTION_TIMEOUT, "connection timeout"),
                false => rpc_error(RESPONSE_TIMED_OUT, "response timeout"),
            };
            self.end_rpc(&id, Err(error));
        }
    }

    pub(super) fn fail_rpcs_to(&mut self, identity: &Identity) {
        let calls = self.rpcs.calls.iter().filter(|(_, call)| call.destination == *identity);
        let ids: Vec<String> = calls.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.end_rpc(&id, Err(rpc_error(RECIPIENT_DISCONNECTED, "recipient disconnected")));
        }
    }

    fn end_rpc(&mut self, id: &str, result: Result<AdminResponse, AdminError>) {
        if let Some(call) = self.rpcs.calls.remove(id) {
            self.outputs.push_back(RoomOutput::AdminReply { reply: call.reply, result });
        }
    }
}

fn rpc_error(code: u32, message: &str) -> AdminError {
    AdminError::Rpc { code, message: message.to_owned(), data: String::new() }
}

/// A random UUID (RFC 9562, version 4).
fn uuid(random: u128) -> String {
    let bits =
        (random & !(0xf000_u128 << 64) & !(0xc000_u128 << 48)) | (0x4000_u128 << 64) | (0x8000_u128 << 48);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_say_their_version() {
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
    }
}
