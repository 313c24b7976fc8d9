import { ConnectionError, ConnectionErrorReason, DisconnectReason } from 'livekit-client';
import { type Failure, FailureError, failure } from './failure';
import { refused, unreachable } from './server';

/** No route for media although signaling works: firewalls, or a server that announces a wrong address. */
export function noMediaPath(detail?: string): Failure {
  return failure(
    'no_media_path',
    'No path to the media server',
    'The server was found, but audio and video cannot get through. A firewall or VPN may block them: ' +
      'try another network, or ask whoever runs the server to open its media ports.',
    'call',
    detail,
  );
}

/** The address answers, but knows no signaling. */
export function signalingMissing(): Failure {
  return failure(
    'signaling_missing',
    'There are no calls at this address',
    'The server answers, but not with calls. It may still be starting, or a proxy in front of it does not ' +
      'pass WebSockets on.',
    'server',
  );
}

export function joinTimeout(): Failure {
  return failure(
    'join_timeout',
    'The server took too long',
    'It did not let you in within a reasonable time. Try again.',
    'server',
  );
}

/** What the SDK puts before the server's own text. */
const SDK_PREFIX = /^could not establish signal connection:?\s*/;

/** Explains why a call could not be joined. Null when the user gave up waiting. */
export function explainJoinError(error: unknown): Failure | null {
  if (error instanceof FailureError) return error.failure;
  if (error instanceof ConnectionError) {
    const status = statusOf(error);
    const said = error.message.replace(SDK_PREFIX, '');
    switch (error.reason) {
      case ConnectionErrorReason.Cancelled:
        return null;
      case ConnectionErrorReason.NotAllowed:
        return refused(status ?? 401, said);
      case ConnectionErrorReason.ServerUnreachable:
        return unreachable();
      case ConnectionErrorReason.LeaveRequest:
        return explainDisconnect(error.context as DisconnectReason);
      case ConnectionErrorReason.ServiceNotFound:
        return signalingMissing();
      case ConnectionErrorReason.Timeout:
        return joinTimeout();
      default:
        if (/\bpc\b|peer connection|ice/i.test(error.message)) return noMediaPath();
        if (status && status >= 400) return refused(status);
        return failure(
          'signaling_failed',
          'The connection to the server failed',
          'Try again. If it stays, a proxy between you and the server may not pass WebSockets on.',
          'server',
          said,
        );
    }
  }
  const message = error instanceof Error ? error.message : String(error);
  if (/browser/i.test(message) && /support/i.test(message)) {
    return failure(
      'browser_unsupported',
      'This browser cannot make calls',
      'It has no WebRTC, or an extension turns it off. Update it or use another browser.',
      'call',
    );
  }
  return failure('join_failed', 'Joining did not work', 'Try again.', 'call', message);
}

/** The HTTP status behind a failed connection attempt, when there is one. */
export function statusOf(error: ConnectionError): number | undefined {
  const context = error.context as { status?: unknown } | undefined;
  const status = error.status ?? (typeof context === 'object' ? context?.status : undefined);
  return typeof status === 'number' ? status : undefined;
}

/** Why a call ended whose connection was lost and could not be restored. `shutDown`: the server had said goodbye. */
export function explainLoss(shutDown: boolean): Failure {
  if (shutDown) return explainDisconnect(DisconnectReason.SERVER_SHUTDOWN);
  return failure(
    'server_gone',
    'The server cannot be reached any more',
    'Either it has stopped or your network is down. Check your network, then rejoin.',
    'call',
  );
}

/** Explains why a running call ended. */
export function explainDisconnect(reason: DisconnectReason | undefined): Failure {
  const ended = (code: string, title: string, text: string) => failure(code, title, text, 'call');
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return ended('left', 'You left the call', 'See you next time.');
    case DisconnectReason.DUPLICATE_IDENTITY:
      return ended(
        'duplicate_identity',
        'You joined from somewhere else',
        'The call goes on in the other window or on the other device. Rejoin to bring it back here.',
      );
    case DisconnectReason.PARTICIPANT_REMOVED:
      return ended(
        'removed',
        'You were removed from the call',
        'Somebody who runs this call took you out of it.',
      );
    case DisconnectReason.ROOM_DELETED:
      return ended('room_deleted', 'The call was ended', 'Somebody who runs this room closed it for all.');
    case DisconnectReason.ROOM_CLOSED:
      return ended('room_closed', 'The room was closed', 'Nobody was left in it.');
    case DisconnectReason.SERVER_SHUTDOWN:
      return ended(
        'server_shutdown',
        'The server was shut down',
        'It did not come back in time. It may be restarting or being updated: rejoin in a minute.',
      );
    case DisconnectReason.SIGNAL_CLOSE:
    case DisconnectReason.CONNECTION_TIMEOUT:
    case DisconnectReason.MEDIA_FAILURE:
      return ended(
        'connection_lost',
        'The connection was lost',
        'It could not be restored. Check your network, then rejoin.',
      );
    case DisconnectReason.JOIN_FAILURE:
      return noMediaPath();
    case DisconnectReason.STATE_MISMATCH:
    case DisconnectReason.MIGRATION:
      return ended(
        'out_of_step',
        'The call got out of step with the server',
        'Rejoin to continue where you were.',
      );
    case DisconnectReason.USER_UNAVAILABLE:
    case DisconnectReason.USER_REJECTED:
      return ended('not_answered', 'The call was not answered', 'Try again later.');
    default:
      return ended(
        'disconnected',
        'The call ended unexpectedly',
        'The connection to the server was lost. Check your network, then rejoin.',
      );
  }
}
