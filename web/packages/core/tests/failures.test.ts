import { ConnectionError, DisconnectReason } from 'livekit-client';
import { describe, expect, it } from 'vitest';
import {
  devicesUnavailable,
  explainDeviceError,
  explainDisconnect,
  explainJoinError,
  isScreenPickerClosed,
  mergeDeviceFailures,
} from '../src';

const named = (name: string, message = '') => Object.assign(new Error(message), { name });

describe('device errors', () => {
  it.each([
    [named('NotAllowedError', 'Permission denied'), 'camera_denied'],
    [named('NotAllowedError', 'Permission denied by system'), 'camera_denied_by_system'],
    [named('NotFoundError'), 'camera_missing'],
    [named('NotReadableError'), 'camera_in_use'],
    [named('OverconstrainedError'), 'camera_gone'],
    [named('TypeError'), 'camera_unsupported'],
    ['odd', 'camera_failed'],
  ])('%s is %s', (error, code) => {
    const failure = explainDeviceError(error, 'camera');
    expect(failure.code).toBe(code);
    expect(failure.text.length).toBeGreaterThan(10);
  });

  it('tells a closed screen picker from a blocked screen', () => {
    expect(isScreenPickerClosed(named('NotAllowedError', 'Permission denied by user'))).toBe(true);
    expect(isScreenPickerClosed(named('NotAllowedError', 'Permission denied by system'))).toBe(false);
    expect(isScreenPickerClosed(named('NotReadableError'))).toBe(false);
  });
});

describe('failures of both devices', () => {
  const denied = named('NotAllowedError');
  it('are one when they have one reason', () => {
    const merged = mergeDeviceFailures(explainDeviceError(denied, 'camera'), explainDeviceError(denied, 'microphone'));
    expect(merged.map((failure) => failure.code)).toEqual(['devices_denied']);
  });

  it('stay two when the reasons differ', () => {
    const busy = explainDeviceError(named('NotReadableError'), 'microphone');
    const merged = mergeDeviceFailures(explainDeviceError(denied, 'camera'), busy);
    expect(merged.map((failure) => failure.code)).toEqual(['camera_denied', 'microphone_in_use']);
    expect(mergeDeviceFailures(null, busy)).toEqual([busy]);
  });
});

describe('missing device access', () => {
  const devices = { getUserMedia: () => undefined } as unknown as MediaDevices;

  it('names the address to use on plain http', () => {
    const failure = devicesUnavailable({
      isSecureContext: false,
      mediaDevices: undefined,
      origin: 'http://192.0.2.7:7880',
    });
    expect(failure?.code).toBe('insecure_context');
    expect(failure?.text).toContain('https://192.0.2.7:7880');
  });

  it('is nothing when there is access', () => {
    const origin = 'https://example.org';
    expect(devicesUnavailable({ isSecureContext: true, mediaDevices: devices, origin })).toBeNull();
    expect(devicesUnavailable({ isSecureContext: true, mediaDevices: undefined, origin })?.code).toBe(
      'devices_unsupported',
    );
  });
});

describe('join errors', () => {
  it.each([
    [ConnectionError.notAllowed('token expired', 401), 'unauthorized', 'token expired'],
    [ConnectionError.notAllowed('no grant', 403), 'forbidden', 'no grant'],
    [ConnectionError.notAllowed('requested room does not exist', 404), 'not_found', 'requested room does not exist'],
    [ConnectionError.notAllowed('room is full', 403), 'room_full', 'room is full'],
    [ConnectionError.serverUnreachable('x'), 'server_unreachable', undefined],
    [ConnectionError.timeout('x'), 'join_timeout', undefined],
    [ConnectionError.internal('could not establish pc connection'), 'no_media_path', undefined],
    [ConnectionError.internal('x', { status: 503 }), 'server_error', undefined],
    [ConnectionError.internal('x', { status: 200 }), 'signaling_failed', 'x'],
    [ConnectionError.leaveRequest('x', DisconnectReason.ROOM_DELETED), 'room_deleted', undefined],
    [new Error("LiveKit doesn't seem to be supported on this browser."), 'browser_unsupported', undefined],
    [new Error('boom'), 'join_failed', 'boom'],
  ])('%s', (error, code, detail) => {
    expect(explainJoinError(error)).toMatchObject({ code });
    expect(explainJoinError(error)?.detail).toBe(detail);
  });

  it('says nothing about a cancelled attempt', () => {
    expect(explainJoinError(ConnectionError.cancelled('x'))).toBeNull();
  });
});

describe('disconnect reasons', () => {
  it('has words for every reason there is', () => {
    const reasons = Object.values(DisconnectReason).filter((value) => typeof value === 'number');
    for (const reason of [...reasons, undefined]) {
      const failure = explainDisconnect(reason as DisconnectReason | undefined);
      expect(failure.title).not.toBe('');
      expect(failure.text).not.toBe('');
    }
  });

  it.each([
    [DisconnectReason.CLIENT_INITIATED, 'left'],
    [DisconnectReason.DUPLICATE_IDENTITY, 'duplicate_identity'],
    [DisconnectReason.PARTICIPANT_REMOVED, 'removed'],
    [DisconnectReason.ROOM_DELETED, 'room_deleted'],
    [DisconnectReason.SERVER_SHUTDOWN, 'server_shutdown'],
  ])('%i is %s', (reason, code) => {
    expect(explainDisconnect(reason).code).toBe(code);
  });
});
