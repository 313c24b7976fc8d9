import type { SwitchState } from '@zynk/core';
import { Toggle } from '../ui/button';
import {
  CameraIcon,
  CameraOffIcon,
  LeaveIcon,
  MicrophoneIcon,
  MicrophoneOffIcon,
  ScreenIcon,
  SettingsIcon,
} from '../ui/icons';

export interface ControlBarProps {
  microphone: SwitchState;
  camera: SwitchState;
  screen: SwitchState;
  hasDevices: boolean;
  canShare: boolean;
  devicesOpen: boolean;
  onMicrophone: () => void;
  onCamera: () => void;
  onScreen: () => void;
  onDevices: () => void;
  onLeave: () => void;
}

/** The buttons at the bottom. They keep their places, so that a hand finds them without looking. */
export function ControlBar(props: ControlBarProps) {
  const { microphone, camera, screen, hasDevices, canShare, devicesOpen } = props;
  return (
    <footer
      aria-label="Call controls"
      className="flex shrink-0 items-center justify-center gap-2 py-1 sm:gap-3"
    >
      <Toggle
        data-testid="toggle-microphone"
        label="Microphone"
        shortcut="M"
        pressed={microphone.on}
        aria-busy={microphone.busy}
        disabled={!hasDevices || !microphone.allowed}
        onClick={props.onMicrophone}
      >
        {microphone.on ? <MicrophoneIcon /> : <MicrophoneOffIcon />}
      </Toggle>
      <Toggle
        data-testid="toggle-camera"
        label="Camera"
        shortcut="V"
        pressed={camera.on}
        aria-busy={camera.busy}
        disabled={!hasDevices || !camera.allowed}
        onClick={props.onCamera}
      >
        {camera.busy ? <span className="spinner" /> : camera.on ? <CameraIcon /> : <CameraOffIcon />}
      </Toggle>
      {canShare && (
        <Toggle
          data-testid="toggle-screen"
          label="Share screen"
          shortcut="D"
          offLook="neutral"
          pressed={screen.on}
          aria-busy={screen.busy}
          disabled={!screen.allowed}
          onClick={props.onScreen}
        >
          <ScreenIcon />
        </Toggle>
      )}
      <button
        type="button"
        data-testid="device-menu"
        aria-label="Devices"
        aria-haspopup="dialog"
        aria-expanded={devicesOpen}
        title="Devices"
        className="grid size-12 shrink-0 place-items-center rounded-full bg-raised transition-colors hover:bg-hover"
        onClick={props.onDevices}
      >
        <SettingsIcon />
      </button>
      <button
        type="button"
        data-testid="leave-button"
        aria-label="Leave the call"
        title="Leave the call"
        className="grid h-12 w-16 shrink-0 place-items-center rounded-full bg-danger text-white transition-colors hover:bg-danger-hover sm:ml-4"
        onClick={props.onLeave}
      >
        <LeaveIcon size={26} />
      </button>
    </footer>
  );
}
