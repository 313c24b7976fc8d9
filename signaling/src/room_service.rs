//! `livekit.RoomService`: rooms and the people in them, for an application's server.

use axum::response::Response;
use zynk_auth::{Claims, VideoGrants};
use zynk_protocol::{Identity, RoomName, livekit};

use crate::{
    admin::{AdminError, AdminRequest, AdminResponse},
    directory::Directory,
    twirp::{Encoding, TwirpCode, TwirpError, permission_denied},
};

/// The service's name in paths.
pub(crate) const SERVICE: &str = "livekit.RoomService";

/// Its methods.
pub(crate) const METHODS: [&str; 14] = [
    "CreateRoom",
    "ListRooms",
    "DeleteRoom",
    "ListParticipants",
    "GetParticipant",
    "RemoveParticipant",
    "MutePublishedTrack",
    "UpdateParticipant",
    "UpdateSubscriptions",
    "SendData",
    "UpdateRoomMetadata",
    "ForwardParticipant",
    "MoveParticipant",
    "PerformRpc",
];

/// Length of a nonce by which `SendData` recognises repetitions: a UUID's 16 bytes.
const NONCE_BYTES: usize = 16;

/// Carries out one call of [`METHODS`].
pub(crate) async fn call(
    directory: &Directory,
    claims: &Claims,
    method: &str,
    encoding: Encoding,
    body: &[u8],
) -> Result<Response, TwirpError> {
    let grants = &claims.video;
    match method {
        "CreateRoom" => {
            let request: livekit::CreateRoomRequest = encoding.decode(body)?;
            require(grants.room_create, "roomCreate")?;
            encoding.encode(&directory.create_room(request).await?)
        }
        "ListRooms" => {
            let request: livekit::ListRoomsRequest = encoding.decode(body)?;
            require(grants.room_list, "roomList")?;
            let rooms = directory.list_rooms(&request.names).await;
            encoding.encode(&livekit::ListRoomsResponse { rooms })
        }
        "DeleteRoom" => {
            let request: livekit::DeleteRoomRequest = encoding.decode(body)?;
            require(grants.room_create, "roomCreate")?;
            directory.delete_room(&RoomName::new(request.room)).await?;
            encoding.encode(&livekit::DeleteRoomResponse {})
        }
        "ListParticipants" => {
            let request: livekit::ListParticipantsRequest = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            match directory.admin(&room, AdminRequest::ListParticipants).await {
                Ok(AdminResponse::Participants(participants)) => {
                    encoding.encode(&livekit::ListParticipantsResponse { participants })
                }
                // As LiveKit has it: nobody is in a room that is not open.
                Err(AdminError::NotFound(_)) => {
                    encoding.encode(&livekit::ListParticipantsResponse::default())
                }
                other => Err(unexpected(other)),
            }
        }
        "GetParticipant" => {
            let request: livekit::RoomParticipantIdentity = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            let who = Identity::new(request.identity);
            match directory.admin(&room, AdminRequest::GetParticipant(who)).await {
                Ok(AdminResponse::Participant(participant)) => encoding.encode(&participant),
                other => Err(unexpected(other)),
            }
        }
        "RemoveParticipant" => {
            let request: livekit::RoomParticipantIdentity = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            let who = Identity::new(request.identity);
            directory.admin(&room, AdminRequest::RemoveParticipant(who)).await?;
            encoding.encode(&livekit::RemoveParticipantResponse {})
        }
        "MutePublishedTrack" => {
            let request: livekit::MuteRoomTrackRequest = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            let mute = AdminRequest::MutePublishedTrack {
                identity: Identity::new(request.identity),
                track: request.track_sid,
                muted: request.muted,
            };
            match directory.admin(&room, mute).await {
                Ok(AdminResponse::Track(track)) => encoding.encode(&livekit::MuteRoomTrackResponse { track }),
                other => Err(unexpected(other)),
            }
        }
        "UpdateParticipant" => {
            let request: livekit::UpdateParticipantRequest = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            match directory.admin(&room, AdminRequest::UpdateParticipant(request)).await {
                Ok(AdminResponse::Participant(participant)) => encoding.encode(&participant),
                other => Err(unexpected(other)),
            }
        }
        "UpdateSubscriptions" => {
            let request: livekit::UpdateSubscriptionsRequest = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            directory.admin(&room, AdminRequest::UpdateSubscriptions(request)).await?;
            encoding.encode(&livekit::UpdateSubscriptionsResponse {})
        }
        "SendData" => {
            let request: livekit::SendDataRequest = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            if !matches!(request.nonce.len(), 0 | NONCE_BYTES) {
                let message = format!("nonce should be {NONCE_BYTES} bytes or empty");
                return Err(TwirpError::new(TwirpCode::InvalidArgument, message));
            }
            directory.admin(&room, AdminRequest::SendData(request)).await?;
            encoding.encode(&livekit::SendDataResponse {})
        }
        "UpdateRoomMetadata" => {
            let request: livekit::UpdateRoomMetadataRequest = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            let update = AdminRequest::UpdateRoomMetadata { metadata: request.metadata };
            match directory.admin(&room, update).await {
                Ok(AdminResponse::Room(room)) => encoding.encode(&room),
                other => Err(unexpected(other)),
            }
        }
        "ForwardParticipant" => {
            let request: livekit::ForwardParticipantRequest = encoding.decode(body)?;
            check_destination(grants, &request.room, &request.destination_room)?;
            Err(unimplemented(method))
        }
        "MoveParticipant" => {
            let request: livekit::MoveParticipantRequest = encoding.decode(body)?;
            let room = check_destination(grants, &request.room, &request.destination_room)?;
            let (who, to) = (Identity::new(request.identity), RoomName::new(request.destination_room));
            directory.move_participant(&room, who, to).await?;
            encoding.encode(&livekit::MoveParticipantResponse {})
        }
        "PerformRpc" => {
            let request: livekit::PerformRpcRequest = encoding.decode(body)?;
            let room = administered(grants, &request.room)?;
            if request.destination_identity.is_empty() {
                return Err(TwirpError::new(TwirpCode::InvalidArgument, "destination_identity is empty"));
            }
            match directory.admin(&room, AdminRequest::PerformRpc(request)).await {
                Ok(AdminResponse::Rpc(payload)) => encoding.encode(&livekit::PerformRpcResponse { payload }),
                other => Err(unexpected(other)),
            }
        }
        _ => Err(unimplemented(method)),
    }
}

fn require(granted: bool, grant: &str) -> Result<(), TwirpError> {
    if granted { Ok(()) } else { Err(permission_denied(grant)) }
}

/// The request's room, if the token is the very room's.
pub(crate) fn administered(grants: &VideoGrants, room: &str) -> Result<RoomName, TwirpError> {
    require(grants.is_admin_of(room), "roomAdmin for the room of the request")?;
    Ok(RoomName::new(room))
}

/// The request's room, if the token is the very room's and for the destination.
fn check_destination(grants: &VideoGrants, room: &str, destination: &str) -> Result<RoomName, TwirpError> {
    let source = administered(grants, room)?;
    require(
        !destination.is_empty() && grants.destination_room == destination,
        "destinationRoom equal to the request's destination_room",
    )?;
    if room == destination {
        let message = "room and destination_room are the same";
        return Err(TwirpError::new(TwirpCode::InvalidArgument, message));
    }
    Ok(source)
}

fn unimplemented(method: &str) -> TwirpError {
    TwirpError::new(TwirpCode::Unimplemented, format!("{method} is not offered by this server"))
}

/// The error, or an answer that does not fit the request.
pub(crate) fn unexpected(result: Result<AdminResponse, AdminError>) -> TwirpError {
    match result {
        Err(error) => error.into(),
        Ok(_) => TwirpError::new(TwirpCode::Internal, "the room gave an answer of the wrong kind"),
    }
}
