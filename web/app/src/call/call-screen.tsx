import { canShareScreen, type CallHandle, type DeviceWatcher, type Preferences } from '@zynk/core';
import { useCallback, useState } from 'react';
import { Button } from '../ui/button';
import { useShortcuts } from '../ui/use-shortcuts';
import { useStore } from '../ui/use-store';
import { ControlBar } from './control-bar';
import { DevicePanel } from './device-panel';
import { NoticeArea } from './notice-area';
import { PeoplePanel } from './people-panel';
import { Sounds } from './sounds';
import { Stage } from './stage';
import { StatusBanner } from './status-banner';
import { TopBar } from './top-bar';
import { useWakeLock } from './use-wake-lock';

export interface CallScreenProps {
  call: CallHandle;
  devices: DeviceWatcher;
  mediaDevices: MediaDevices | undefined;
  /** The invite link. */
  link: string;
  onPreferences: (fields: Partial<Preferences>) => void;
}

export type PanelName = 'people' | 'devices';

/** The page during a call. */
export function CallScreen({ call, devices, mediaDevices, link, onPreferences }: CallScreenProps) {
  const state = useStore(call.state);
  const [panel, setPanel] = useState<PanelName | null>(null);
  useWakeLock();

  const { microphone, camera, screen } = state;
  const canShare = canShareScreen(mediaDevices);
  const hasDevices = mediaDevices !== undefined;
  const toggleMicrophone = () => {
    onPreferences({ microphoneOn: !microphone.on });
    void call.setMicrophone(!microphone.on);
  };
  const toggleCamera = () => {
    onPreferences({ cameraOn: !camera.on });
    void call.setCamera(!camera.on);
  };
  const toggleScreen = () => void call.setScreen(!screen.on);

  useShortcuts({
    m: hasDevices && microphone.allowed ? toggleMicrophone : undefined,
    v: hasDevices && camera.allowed ? toggleCamera : undefined,
    d: canShare && screen.allowed ? toggleScreen : undefined,
  });

  const closePanel = useCallback(() => setPanel(null), []);
  const togglePanel = (name: PanelName) => setPanel((open) => (open === name ? null : name));

  return (
    <div className="app-height-exact safe-x safe-top safe-bottom flex flex-col gap-2 overflow-hidden">
      <TopBar
        roomName={state.roomName}
        count={state.participants.length}
        peopleOpen={panel === 'people'}
        onPeople={() => togglePanel('people')}
        link={link}
        notify={call.notify}
      />
      {state.phase === 'reconnecting' && (
        <StatusBanner mediaAlive={state.mediaAlive} serverRestarting={state.serverRestarting} />
      )}
      {screen.on && (
        <section
          aria-label="Screen sharing"
          className="flex flex-wrap items-center justify-center gap-x-4 gap-y-1 rounded-xl bg-accent px-4 py-1 text-sm font-medium text-on-accent"
        >
          <span>You are sharing your screen</span>
          <button type="button" className="min-h-11 font-semibold underline underline-offset-4" onClick={toggleScreen}>
            Stop sharing
          </button>
        </section>
      )}
      <main className="relative min-h-0 flex-1">
        <h1 className="sr-only">Call in {state.roomName}</h1>
        <Stage participants={state.participants} frozen={state.phase === 'reconnecting' && !state.mediaAlive} />
        <div className="pointer-events-none absolute inset-x-2 top-3 z-20 flex flex-col items-center gap-2">
          {state.soundBlocked && (
            <Button
              data-testid="enable-sound"
              className="pointer-events-auto shadow-panel"
              onClick={() => void call.enableSound()}
            >
              Turn on sound
            </Button>
          )}
          <NoticeArea notice={state.notice} />
        </div>
        {panel === 'people' && <PeoplePanel participants={state.participants} onClose={closePanel} />}
        {panel === 'devices' && (
          <DevicePanel call={call} devices={devices} onPreferences={onPreferences} onClose={closePanel} />
        )}
      </main>
      <Sounds participants={state.participants} />
      <ControlBar
        microphone={microphone}
        camera={camera}
        screen={screen}
        hasDevices={hasDevices}
        canShare={canShare}
        devicesOpen={panel === 'devices'}
        onMicrophone={toggleMicrophone}
        onCamera={toggleCamera}
        onScreen={toggleScreen}
        onDevices={() => togglePanel('devices')}
        onLeave={() => void call.leave()}
      />
    </div>
  );
}
