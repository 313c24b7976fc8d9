import { type DisconnectReason, type Room, RoomEvent } from 'livekit-client';

interface LeaveRequest {
  reason: DisconnectReason;
}

/** Where the SDK keeps what it does with the server's Leave. It tells applications only of those that end the call. */
interface LeaveHandler {
  engine?: { client?: { onLeave?: (leave: LeaveRequest) => void } };
}

/** Calls `tell` with the reason of every Leave, also of those after which the SDK connects anew. */
export function onServerLeave(room: Room, tell: (reason: DisconnectReason) => void): void {
  const attach = () => {
    const client = (room as unknown as LeaveHandler).engine?.client;
    const handle = client?.onLeave;
    if (!client || !handle || watched.has(handle)) return;
    const watching = (leave: LeaveRequest) => {
      tell(leave.reason);
      handle(leave);
    };
    watched.add(watching);
    client.onLeave = watching;
  };
  // The SDK sets its handler anew with every connection.
  const watched = new WeakSet<object>();
  room.on(RoomEvent.Connected, attach).on(RoomEvent.Reconnected, attach);
}
