import { type Failure, failure } from './failure';

export type DeviceName = 'camera' | 'microphone' | 'screen' | 'speaker';

/** Why the browser gives no media devices to this page at all, or null when it does. */
export function devicesUnavailable(scope: {
  isSecureContext: boolean;
  mediaDevices: MediaDevices | undefined;
  origin: string;
}): Failure | null {
  if (!scope.isSecureContext) {
    const { host, port } = new URL(scope.origin);
    const local = port ? `http://localhost:${port}` : 'http://localhost';
    return failure(
      'insecure_context',
      'Camera and microphone need a secure address',
      'Browsers keep devices away from pages opened over plain http. ' +
        `Open https://${host} if the server offers it, or ${local} on the server itself. ` +
        'You can still join to watch and listen.',
      'devices',
    );
  }
  if (!scope.mediaDevices?.getUserMedia) {
    return failure(
      'devices_unsupported',
      'This browser gives pages no camera or microphone',
      'Update it or use another browser. You can still join to watch and listen.',
      'devices',
    );
  }
  return null;
}

/** Explains an exception of getUserMedia, getDisplayMedia or a change of device. */
export function explainDeviceError(error: unknown, device: DeviceName): Failure {
  const name = error instanceof Error || error instanceof DOMException ? error.name : '';
  const message = error instanceof Error ? error.message : String(error ?? '');
  const label = device === 'screen' ? 'screen' : device;
  const Label = label.charAt(0).toUpperCase() + label.slice(1);

  switch (name) {
    case 'NotAllowedError':
    case 'PermissionDeniedError':
    case 'SecurityError':
      if (/system/i.test(message)) {
        return failure(
          `${device}_denied_by_system`,
          `Your system blocks the ${label}`,
          `Allow this browser to use the ${label} in your system's privacy settings, then try again.`,
          'devices',
        );
      }
      if (device === 'screen') {
        return failure(
          'screen_denied',
          'The screen is not shared',
          'The browser did not allow it. Press the button again and choose what to share.',
          'devices',
        );
      }
      return failure(
        `${device}_denied`,
        `${Label} is blocked`,
        `Click the icon beside the page's address, allow the ${label}, then try again.`,
        'devices',
      );
    case 'NotFoundError':
    case 'DevicesNotFoundError':
      return failure(
        `${device}_missing`,
        `No ${label} found`,
        device === 'screen'
          ? 'There is nothing to share.'
          : `Plug one in and choose it in the device menu, or go on without a ${label}.`,
        'devices',
      );
    case 'NotReadableError':
    case 'TrackStartError':
    case 'AbortError':
      return failure(
        `${device}_in_use`,
        `${Label} cannot be started`,
        `Another program or tab may be using it. Close that, then try again or choose another ${label}.`,
        'devices',
      );
    case 'OverconstrainedError':
    case 'ConstraintNotSatisfiedError':
      return failure(
        `${device}_gone`,
        `The chosen ${label} is not there any more`,
        `Choose another ${label} in the device menu.`,
        'devices',
      );
    case 'DeviceUnsupportedError':
    case 'NotSupportedError':
    case 'TypeError':
      return failure(
        `${device}_unsupported`,
        device === 'screen' ? 'This browser cannot share a screen' : `This browser cannot use the ${label}`,
        'Update it or use another browser. Sharing and devices also need an https address.',
        'devices',
        message,
      );
    default:
      return failure(
        `${device}_failed`,
        `${Label} does not work`,
        'Try again, or choose another device.',
        'devices',
        message,
      );
  }
}

/** One explanation where camera and microphone fail for the same reason, otherwise one for each. */
export function mergeDeviceFailures(camera: Failure | null, microphone: Failure | null): Failure[] {
  if (camera && microphone) {
    switch (`${camera.code} ${microphone.code}`) {
      case 'camera_denied microphone_denied':
        return [
          failure(
            'devices_denied',
            'Camera and microphone are blocked',
            "Click the icon beside the page's address, allow both, then try again. You can also join without.",
            'devices',
          ),
        ];
      case 'camera_missing microphone_missing':
        return [
          failure(
            'devices_missing',
            'No camera and no microphone found',
            'Plug one in and try again, or join to watch and listen.',
            'devices',
          ),
        ];
    }
  }
  return [camera, microphone].filter((problem) => problem !== null);
}

/** Whether the user closed the browser's screen picker, which is no failure. */
export function isScreenPickerClosed(error: unknown): boolean {
  return error instanceof Error && error.name === 'NotAllowedError' && !/system/i.test(error.message);
}
