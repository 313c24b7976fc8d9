//! Data packets: who may send them, who gets them, and what is stamped on them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use zynk_protocol::livekit::data_packet::Value;
use zynk_protocol::livekit::participant_info::Kind;
use zynk_protocol::livekit::{self, DataPacket};
use zynk_protocol::{ConnectionId, DataKind, Identity, NodeAction, ParticipantSid, Recipients};

use super::Room;
use super::participant::Participant;

/// Reliable packets kept for those who are joining, in bytes. The oldest are forgotten first.
const KEPT_BYTES: usize = 100_000;

/// How long they are kept.
const KEPT_TIME: Duration = Duration::from_secs(15);

/// Largest message on a data channel, with all headers: nodes announce it as max-message-size. Larger packets of
/// participants are dropped, those of the server API refused.
pub(super) const MESSAGE_BYTES_MAX: usize = 65_535;

/// Nonces that are remembered to tell packets apart that a server sends twice.
const NONCES_MAX: usize = 100;

/// Packets of the recent past.
#[derive(Debug, Default)]
pub(super) struct DataState {
    /// At most [`KEPT_BYTES`] of payload.
    kept: VecDeque<KeptPacket>,
    kept_bytes: usize,
    /// Number of the next reliable packet.
    next: u64,
    /// At most [`NONCES_MAX`].
    nonces: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct KeptPacket {
    number: u64,
    at: Instant,
    audience: Audience,
    payload: Bytes,
}

/// Who gets a packet.
#[derive(Clone, Debug, Default)]
pub(super) struct Audience {
    /// Never back to the sender.
    pub(super) sender: Option<ParticipantSid>,
    /// Everybody, if both lists are empty.
    pub(super) identities: Vec<String>,
    pub(super) sids: Vec<String>,
    /// Only those who may see metrics, the sender included.
    pub(super) metrics: bool,
}

impl Audience {
    fn includes(&self, participant: &Participant) -> bool {
        if self.metrics {
            return participant.permission.can_subscribe_metrics;
        }
        if self.sender.as_ref() == Some(&participant.sid) {
            return false;
        }
        (self.identities.is_empty() && self.sids.is_empty())
            || self.identities.iter().any(|identity| identity == participant.identity.as_str())
            || self.sids.iter().any(|sid| sid == participant.sid.as_str())
    }
}

impl DataState {
    pub(super) fn next_number(&self) -> u64 {
        self.next
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        assert_eq!(self.kept_bytes, self.kept.iter().map(|packet| packet.payload.len()).sum::<usize>());
        self.kept_bytes
    }

    fn keep(&mut self, at: Instant, audience: Audience, payload: Bytes) {
        let is_old = |packet: &KeptPacket| at.saturating_duration_since(packet.at) > KEPT_TIME;
        while self.kept_bytes + payload.len() > KEPT_BYTES || self.kept.front().is_some_and(is_old) {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.payload.len();
        }
        let number = self.next;
        self.next += 1;
        if payload.len() <= KEPT_BYTES {
            self.kept_bytes += payload.len();
            self.kept.push_back(KeptPacket { number, at, audience, payload });
        }
    }

    /// Whether this nonce is new; an empty one is none.
    fn is_new(&mut self, nonce: &[u8]) -> bool {
        if nonce.is_empty() {
            return true;
        }
        if self.nonces.iter().any(|known| known == nonce) {
            return false;
        }
        if self.nonces.len() >= NONCES_MAX {
            self.nonces.pop_front();
        }
        self.nonces.push_back(nonce.to_vec());
        true
    }
}

impl Room {
    pub(super) fn data_received(&mut self, connection: ConnectionId, kind: DataKind, payload: Bytes) {
        let Some(sid) = self.connections.get(&connection).cloned() else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        if !participant.permission.can_publish_data {
            return;
        }
        if kind == DataKind::DataTrack {
            return self.forward_data_track(&sid, &payload);
        }
        let Ok(mut packet) = DataPacket::decode(payload.clone()) else {
            tracing::debug!(participant = %sid, "a data packet cannot be read");
            return;
        };
        if kind == DataKind::Reliable && packet.sequence > 0 {
            // After a resume, clients send again what they are not sure of.
            if packet.sequence <= participant.last_sequence {
                return;
            }
            participant.last_sequence = packet.sequence;
        }
        let is_agent = participant.kind == Kind::Agent;
        if !is_agent && matches!(packet.value, Some(Value::Transcription(_))) {
            return;
        }
        let identity = match participant.hidden() {
            true => String::new(),
            false => participant.identity.as_str().to_owned(),
        };
        if self.rpc_packet(&sid, &packet) {
            return;
        }
        let stamp = Stamp { sid: sid.as_str(), identity: &identity, kind, is_agent };
        let payload = stamp.apply(&mut packet, payload);
        if payload.len() > MESSAGE_BYTES_MAX {
            tracing::debug!(participant = %sid, bytes = payload.len(), "a data packet is too large with its stamp");
            return;
        }
        if let Some(Value::User(user)) = &packet.value
            && !self.data.is_new(&user.nonce)
        {
            return;
        }
        let sids = match &packet.value {
            Some(Value::User(user)) => user.destination_sids.clone(),
            _ => Vec::new(),
        };
        let metrics = matches!(packet.value, Some(Value::Metrics(_)));
        let identities = packet.destination_identities;
        self.deliver(kind, Audience { sender: Some(sid), identities, sids, metrics }, payload);
    }

    /// Sends a packet of the server itself.
    pub(super) fn send_packet(&mut self, kind: DataKind, audience: Audience, packet: &DataPacket) {
        if let Some(Value::User(user)) = &packet.value
            && !self.data.is_new(&user.nonce)
        {
            return;
        }
        self.deliver(kind, audience, packet.encode_to_vec().into());
    }

    fn deliver(&mut self, kind: DataKind, audience: Audience, payload: Bytes) {
        let reliable = kind == DataKind::Reliable;
        let connections: Vec<ConnectionId> = self
            .participants
            .values()
            .filter(|participant| audience.includes(participant))
            // Whoever is still joining gets it from those that are kept.
            .filter(|participant| participant.is_active() && !(reliable && participant.replay_from.is_some()))
            .map(|participant| participant.primary().id)
            .collect();
        if reliable {
            self.data.keep(self.now, audience, payload.clone());
        }
        if !connections.is_empty() {
            self.command(NodeAction::SendData { to: Recipients::Connections(connections), kind, payload });
        }
    }

    pub(super) fn data_channel_open(&mut self, connection: ConnectionId, kind: DataKind) {
        let Some(sid) = self.connections.get(&connection).cloned() else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        if kind == DataKind::Reliable && participant.primary().id == connection {
            participant.reliable_open = true;
            self.start_live_data(&sid);
        }
    }

    /// Sends a participant that has just become ready what it missed while joining.
    pub(super) fn start_live_data(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if !participant.is_active() || !participant.reliable_open {
            return;
        }
        let Some(from) = participant.replay_from.take() else { return };
        let connection = participant.primary().id;
        let Some(participant) = self.participants.get(sid) else { return };
        let missed: Vec<Bytes> = self
            .data
            .kept
            .iter()
            .filter(|packet| packet.number >= from && packet.audience.includes(participant))
            .map(|packet| packet.payload.clone())
            .collect();
        for payload in missed {
            let to = Recipients::Connections(vec![connection]);
            self.command(NodeAction::SendData { to, kind: DataKind::Reliable, payload });
        }
    }

    /// The participant of this identity.
    pub(super) fn by_identity(&self, identity: &Identity) -> Option<&Participant> {
        self.participants.get(self.identities.get(identity)?).map(Box::as_ref)
    }
}

/// What the server vouches for.
struct Stamp<'a> {
    sid: &'a str,
    identity: &'a str,
    kind: DataKind,
    is_agent: bool,
}

impl Stamp<'_> {
    /// Stamps a packet and gives its bytes.
    ///
    /// Where only outer fields change, they are appended to the original bytes: of a field that occurs
    /// twice, the last counts (protobuf encoding, "Last One Wins"). What this version does not know thus
    /// arrives as it was sent.
    fn apply(&self, packet: &mut DataPacket, original: Bytes) -> Bytes {
        let kind = match self.kind {
            DataKind::Reliable => livekit::data_packet::Kind::Reliable,
            DataKind::Lossy | DataKind::DataTrack => livekit::data_packet::Kind::Lossy,
        };
        let mut identity = self.identity;
        let foreign = packet.participant_identity.clone();
        let mut rewritten = false;
        match &mut packet.value {
            Some(Value::User(user)) => {
                rewritten = true;
                set_user(user, self.sid, identity, &mut packet.destination_identities);
            }
            Some(Value::ChatMessage(chat)) if self.speaks_for(&foreign) => {
                rewritten = true;
                chat.generated = true;
                identity = &foreign;
            }
            Some(Value::StreamHeader(header)) if self.speaks_for(&foreign) => {
                if let Some(livekit::data_stream::header::ContentHeader::TextHeader(text)) =
                    &mut header.content_header
                {
                    rewritten = true;
                    text.generated = true;
                    identity = &foreign;
                }
            }
            _ => {}
        }
        packet.kind = kind.into();
        packet.participant_sid = self.sid.to_owned();
        packet.participant_identity = identity.to_owned();
        if rewritten {
            return packet.encode_to_vec().into();
        }
        let mut bytes = BytesMut::from(&original[..]);
        prost::encoding::int32::encode(1, &packet.kind, &mut bytes);
        prost::encoding::string::encode(4, &packet.participant_identity, &mut bytes);
        prost::encoding::string::encode(17, &packet.participant_sid, &mut bytes);
        bytes.freeze()
    }

    /// Agents write down what others said.
    fn speaks_for(&self, foreign: &str) -> bool {
        self.is_agent && !foreign.is_empty() && foreign != self.identity
    }
}

/// Old clients read the inner fields, new ones the outer.
fn set_user(user: &mut livekit::UserPacket, sid: &str, identity: &str, destinations: &mut Vec<String>) {
    user.participant_sid = sid.to_owned();
    user.participant_identity = identity.to_owned();
    if destinations.is_empty() {
        destinations.clone_from(&user.destination_identities);
    } else {
        user.destination_identities.clone_from(destinations);
    }
}
