import {
  Call,
  DeviceWatcher,
  type Failure,
  inviteLink,
  type JoinRequest,
  loadPreferences,
  Preview,
  type Preferences,
  roomFromPath,
  roomPath,
  safeLocalStorage,
  savePreferences,
  ServerApi,
} from '@zynk/core';
import { useCallback, useEffect, useRef, useState } from 'react';
import { CallScreen } from './call/call-screen';
import { exposeRoom, resetFirstFrame } from './debugging';
import { EndedScreen } from './ended/ended-screen';
import { Lobby } from './lobby/lobby';

type Screen =
  | { kind: 'lobby'; room: string }
  | { kind: 'call'; call: Call }
  | { kind: 'ended'; call: Call; reason: Failure };

/** The few long-lived objects of the page. */
function createServices() {
  const mediaDevices = navigator.mediaDevices as MediaDevices | undefined;
  const devices = new DeviceWatcher(mediaDevices);
  return {
    api: new ServerApi(window.location.origin),
    devices,
    mediaDevices,
    preview: new Preview(() => void devices.refresh()),
  };
}

export type Services = ReturnType<typeof createServices>;

export function App() {
  const [services] = useState(createServices);
  const [screen, setScreen] = useState<Screen>(() => ({
    kind: 'lobby',
    room: roomFromPath(window.location.pathname),
  }));
  const [preferences, setPreferences] = useState(() => loadPreferences(safeLocalStorage()));
  const [joining, setJoining] = useState<Call | null>(null);
  const [joinFailure, setJoinFailure] = useState<Failure | null>(null);
  const active = useRef<Call | null>(null);

  useEffect(() => {
    services.devices.start();
    return () => services.devices.stop();
  }, [services]);

  const changePreferences = useCallback((fields: Partial<Preferences>) => {
    setPreferences((before) => {
      const after = { ...before, ...fields };
      savePreferences(safeLocalStorage(), after);
      return after;
    });
  }, []);

  const join = useCallback(
    async (request: JoinRequest) => {
      const call = new Call(services.api, request);
      active.current = call;
      setJoinFailure(null);
      setJoining(call);
      resetFirstFrame();
      const result = await call.start(() => services.preview.take());
      if (active.current !== call) return;
      setJoining(null);
      if (result !== null) {
        active.current = null;
        if (result !== 'cancelled') setJoinFailure(result);
        return;
      }
      exposeRoom(call.room);
      const { roomName } = call.state.get();
      window.history.replaceState(null, '', roomPath(roomName));
      document.title = `${roomName} – Zynk`;
      setScreen({ kind: 'call', call });
    },
    [services],
  );

  /** Takes effect at once; whatever the attempt still waits for is ignored. */
  const cancel = useCallback(() => {
    void active.current?.leave();
    active.current = null;
    setJoining(null);
  }, []);

  // The call says itself when it is over, whoever ended it.
  useEffect(() => {
    if (screen.kind !== 'call') return;
    const { call } = screen;
    const check = () => {
      const { phase, ended } = call.state.get();
      if (phase !== 'ended' || !ended) return;
      exposeRoom(null);
      active.current = null;
      document.title = 'Zynk';
      setJoinFailure(null);
      setScreen({ kind: 'ended', call, reason: ended });
    };
    check();
    return call.state.subscribe(check);
  }, [screen]);

  useEffect(() => {
    const onHistory = () => {
      setScreen((now) => (now.kind === 'call' ? now : { kind: 'lobby', room: roomFromPath(location.pathname) }));
    };
    window.addEventListener('popstate', onHistory);
    return () => window.removeEventListener('popstate', onHistory);
  }, []);

  switch (screen.kind) {
    case 'lobby':
      return (
        <Lobby
          key={screen.room}
          services={services}
          initialRoom={screen.room}
          preferences={preferences}
          onPreferences={changePreferences}
          joining={joining !== null}
          joinFailure={joinFailure}
          onJoin={(request) => void join(request)}
          onCancel={cancel}
        />
      );
    case 'call':
      return (
        <CallScreen
          call={screen.call}
          devices={services.devices}
          mediaDevices={services.mediaDevices}
          link={inviteLink(window.location.origin, screen.call.state.get().roomName)}
          onPreferences={changePreferences}
        />
      );
    case 'ended':
      return (
        <EndedScreen
          reason={screen.reason}
          joining={joining !== null}
          joinFailure={joinFailure}
          onRejoin={() => void join(screen.call.rejoinRequest)}
          onHome={() => {
            window.history.pushState(null, '', '/');
            setJoinFailure(null);
            setScreen({ kind: 'lobby', room: '' });
          }}
        />
      );
  }
}
