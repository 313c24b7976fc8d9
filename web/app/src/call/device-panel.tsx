import type { CallHandle, DeviceWatcher, Preferences } from '@zynk/core';
import { useState } from 'react';
import { DeviceMenus } from '../ui/device-menus';
import { useStore } from '../ui/use-store';
import { Panel } from './panel';

export interface DevicePanelProps {
  call: CallHandle;
  devices: DeviceWatcher;
  onPreferences: (fields: Partial<Preferences>) => void;
  onClose: () => void;
}

/** Changes devices during the call. A change while muted is kept for later. */
export function DevicePanel({ call, devices, onPreferences, onClose }: DevicePanelProps) {
  const lists = useStore(devices.lists);
  const read = () => ({
    camera: call.activeDevice('videoinput'),
    microphone: call.activeDevice('audioinput'),
    speaker: call.activeDevice('audiooutput'),
  });
  const [chosen, setChosen] = useState(read);

  const choose = async (kind: MediaDeviceKind, id: string) => {
    onPreferences(
      kind === 'videoinput' ? { cameraId: id } : kind === 'audioinput' ? { microphoneId: id } : { speakerId: id },
    );
    await call.switchDevice(kind, id);
    setChosen(read());
  };

  return (
    <Panel title="Devices" onClose={onClose}>
      <DeviceMenus lists={lists} chosen={chosen} onChoose={(kind, id) => void choose(kind, id)} />
      <p className="mt-3 text-sm text-muted pointer-coarse:hidden">
        Keys: <kbd>M</kbd> microphone, <kbd>V</kbd> camera, <kbd>D</kbd> share screen.
      </p>
    </Panel>
  );
}
