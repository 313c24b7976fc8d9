//! Where a room goes, and how it starts.

use zynk_protocol::{NodeId, NodeInfo, livekit};
use zynk_store::RoomRecord;

use crate::config::RoomConfig;

/// The node for a new room: the least loaded one of this region, or of all if the region has none.
pub(crate) fn pick_node(nodes: &[NodeInfo], region: &str) -> Option<NodeId> {
    let least = |local: bool| {
        nodes
            .iter()
            .filter(|node| !local || node.region == region)
            .min_by(|a, b| {
                let load = a.load.total_cmp(&b.load);
                load.then(a.connections.cmp(&b.connections)).then(a.rooms.cmp(&b.rooms))
            })
            .map(|node| node.node.clone())
    };
    least(true).or_else(|| least(false))
}

/// Fills in what a record leaves open.
pub(crate) fn apply_defaults(record: &mut RoomRecord, config: &RoomConfig) {
    record.empty_timeout_s = config.empty_timeout_s;
    record.departure_timeout_s = config.departure_timeout_s;
    record.max_participants = config.max_participants;
}

/// Takes over the fields of a request that are set.
pub(crate) fn apply_create_request(record: &mut RoomRecord, request: &livekit::CreateRoomRequest) {
    let set = |field: &mut u32, value: u32| {
        if value > 0 {
            *field = value;
        }
    };
    set(&mut record.empty_timeout_s, request.empty_timeout);
    set(&mut record.departure_timeout_s, request.departure_timeout);
    set(&mut record.max_participants, request.max_participants);
    record.sync_streams |= request.sync_streams;
    if !request.metadata.is_empty() {
        record.metadata.clone_from(&request.metadata);
    }
    record.tags.extend(request.tags.iter().map(|(key, value)| (key.clone(), value.clone())));
}

/// What a token's room configuration asks for, as a request.
pub(crate) fn request_of(config: &livekit::RoomConfiguration) -> livekit::CreateRoomRequest {
    livekit::CreateRoomRequest {
        empty_timeout: config.empty_timeout,
        departure_timeout: config.departure_timeout,
        max_participants: config.max_participants,
        metadata: config.metadata.clone(),
        sync_streams: config.sync_streams,
        tags: config.tags.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u128, region: &str, load: f32, rooms: u32) -> NodeInfo {
        NodeInfo { node: NodeId::from_random(number), region: region.into(), rooms, connections: 0, load }
    }

    #[test]
    fn the_least_loaded_node_of_the_region_is_taken() {
        let nodes = [node(1, "eu", 0.5, 1), node(2, "eu", 0.2, 9), node(3, "us", 0.1, 0)];
        assert_eq!(pick_node(&nodes, "eu"), Some(NodeId::from_random(2)));
        assert_eq!(pick_node(&nodes, "ap"), Some(NodeId::from_random(3)));
        assert_eq!(pick_node(&[], ""), None);
    }

    #[test]
    fn unset_fields_change_nothing() {
        let mut record =
            RoomRecord::new(zynk_protocol::RoomName::new("r"), zynk_protocol::RoomSid::from_random(1), 0);
        apply_defaults(&mut record, &RoomConfig::default());
        let before = record.clone();
        apply_create_request(&mut record, &livekit::CreateRoomRequest::default());
        assert_eq!(record, before);
        let request = livekit::CreateRoomRequest { max_participants: 3, ..Default::default() };
        apply_create_request(&mut record, &request);
        assert_eq!(record.max_participants, 3);
    }
}
