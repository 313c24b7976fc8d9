import {
  checkAccessToken,
  checkName,
  checkRoom,
  devicesUnavailable,
  type Failure,
  type JoinRequest,
  type Preferences,
  readAccessToken,
  suggestRoom,
} from '@zynk/core';
import { type FormEvent, useEffect, useMemo, useRef, useState } from 'react';
import type { Services } from '../app';
import { Button } from '../ui/button';
import { DeviceMenus } from '../ui/device-menus';
import { FailureText } from '../ui/failure-text';
import { Field } from '../ui/field';
import { useShortcuts } from '../ui/use-shortcuts';
import { useStore } from '../ui/use-store';
import { PreviewPanel } from './preview-panel';
import { useServerInfo } from './use-server-info';

export interface LobbyProps {
  services: Services;
  initialRoom: string;
  preferences: Preferences;
  onPreferences: (fields: Partial<Preferences>) => void;
  joining: boolean;
  joinFailure: Failure | null;
  onJoin: (request: JoinRequest) => void;
  onCancel: () => void;
}

/** The page before a call: who, where, and with which devices. */
export function Lobby(props: LobbyProps) {
  const { services, initialRoom, preferences, onPreferences, joining, joinFailure, onJoin, onCancel } = props;
  const { preview, devices } = services;
  const [room, setRoom] = useState(initialRoom);
  const [token, setToken] = useState('');
  const [mistake, setMistake] = useState<Failure | null>(null);
  const { status, retry } = useServerInfo(services.api);
  const lists = useStore(devices.lists);
  const running = useStore(preview.state);
  const form = useRef<HTMLFormElement>(null);

  const unavailable = useMemo(
    () =>
      devicesUnavailable({
        isSecureContext: window.isSecureContext,
        mediaDevices: services.mediaDevices,
        origin: window.location.origin,
      }),
    [services],
  );

  const { cameraOn, microphoneOn, cameraId, microphoneId } = preferences;
  const [retries, setRetries] = useState(0);
  useEffect(() => {
    if (!unavailable) void preview.apply({ cameraOn, microphoneOn, cameraId, microphoneId });
  }, [preview, unavailable, cameraOn, microphoneOn, cameraId, microphoneId, retries]);
  useEffect(() => () => preview.stop(), [preview]);

  const retryDevice = (device: 'camera' | 'microphone') => {
    preview.retry(device);
    onPreferences(device === 'camera' ? { cameraOn: true } : { microphoneOn: true });
    setRetries((count) => count + 1);
  };

  const toggle = (device: 'cameraOn' | 'microphoneOn') => () => onPreferences({ [device]: !preferences[device] });
  useShortcuts(unavailable ? {} : { m: toggle('microphoneOn'), v: toggle('cameraOn') });

  const guest = status.kind !== 'known' || status.info.guestAccess;
  const failure = mistake ?? joinFailure;

  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (joining) return;
    const wrong = guest ? (checkName(preferences.name) ?? checkRoom(room)) : checkAccessToken(token, room);
    setMistake(wrong);
    if (wrong) {
      form.current?.querySelector<HTMLInputElement>(`[name="${wrong.scope}"]`)?.focus();
      return;
    }
    onJoin({
      room: room.trim() || (readAccessToken(token)?.room ?? ''),
      credential: guest ? { name: preferences.name.trim() } : { token: token.trim() },
      cameraOn: cameraOn && !unavailable && running.cameraFailure === null,
      microphoneOn: microphoneOn && !unavailable && running.microphoneFailure === null,
      cameraId,
      microphoneId,
      // A speaker that is not plugged in today would make every sound fail.
      speakerId: lists.speakers.some((speaker) => speaker.id === preferences.speakerId) ? preferences.speakerId : '',
    });
  };

  const chosen = {
    camera: running.camera?.mediaStreamTrack.getSettings().deviceId ?? cameraId,
    microphone: running.microphone?.mediaStreamTrack.getSettings().deviceId ?? microphoneId,
    speaker: preferences.speakerId,
  };

  return (
    <main className="app-height safe-x safe-top safe-bottom mx-auto flex max-w-5xl flex-col justify-center">
      <div className="grid gap-5 p-2 sm:p-4 lg:grid-cols-[1.25fr_1fr] lg:items-start lg:gap-x-12 lg:gap-y-6">
        <header className="lg:col-span-2">
          <p className="flex items-center gap-2 text-lg font-semibold tracking-tight">
            <img src="/favicon.svg" alt="" width="28" height="28" /> Zynk
          </p>
        </header>
        <PreviewPanel
          preview={preview}
          preferences={preferences}
          onPreferences={onPreferences}
          unavailable={unavailable}
          name={preferences.name}
          onRetry={retryDevice}
        />
        <form ref={form} noValidate onSubmit={submit} className="grid gap-4 lg:row-span-2 lg:pt-2">
          <h1 className="text-2xl font-semibold tracking-tight text-balance sm:text-3xl">
            {initialRoom ? 'Ready to join?' : 'Start or join a call'}
          </h1>
          {status.kind === 'failed' && (
            <FailureText failure={status.failure}>
              <Button look="plain" className="-ml-3 min-h-9 px-3 py-1" onClick={retry}>
                Try again
              </Button>
            </FailureText>
          )}
          {guest ? (
            <Field
              data-testid="name-input"
              name="name"
              label="Your name"
              placeholder="How others will see you"
              autoComplete="name"
              value={preferences.name}
              invalid={failure?.scope === 'name'}
              onChange={(event) => onPreferences({ name: event.target.value })}
            />
          ) : (
            <Field
              data-testid="token-input"
              name="token"
              type="password"
              label="Access token"
              placeholder="Paste it here"
              autoComplete="off"
              spellCheck={false}
              hint="This server has no guest access. The token is forgotten when you close the page."
              value={token}
              invalid={failure?.scope === 'token'}
              onChange={(event) => setToken(event.target.value)}
            />
          )}
          <Field
            data-testid="room-input"
            name="room"
            label="Room"
            placeholder={guest ? 'team-call' : (readAccessToken(token)?.room ?? '') || 'as in the token'}
            autoComplete="off"
            autoCapitalize="none"
            spellCheck={false}
            value={room}
            invalid={failure?.scope === 'room'}
            onChange={(event) => setRoom(event.target.value)}
            aside={
              guest && room === '' ? (
                <Button
                  look="plain"
                  className="-my-1 min-h-9 px-2 py-1 text-sm"
                  onClick={() => setRoom(suggestRoom())}
                >
                  Suggest a name
                </Button>
              ) : undefined
            }
          />
          {failure && <FailureText failure={failure} />}
          <div className="flex gap-2">
            <Button
              type="submit"
              data-testid="join-button"
              className="min-h-12 flex-1"
              disabled={joining || status.kind === 'asking'}
            >
              {joining && <span className="spinner" />}
              {joining ? 'Joining…' : 'Join'}
            </Button>
            {joining && (
              <Button look="quiet" onClick={onCancel}>
                Cancel
              </Button>
            )}
          </div>
          <p data-testid={joining ? 'status-banner' : undefined} role="status" className="text-sm text-muted lg:min-h-6">
            {joining ? 'Connecting to the room' : hint(unavailable !== null, cameraOn, microphoneOn)}
          </p>
        </form>
        <section aria-label="Devices" className="lg:-mt-3">
          <DeviceMenus
            lists={lists}
            chosen={chosen}
            onChoose={(kind, id) =>
              onPreferences(
                kind === 'videoinput' ? { cameraId: id } : kind === 'audioinput' ? { microphoneId: id } : { speakerId: id },
              )
            }
          />
        </section>
      </div>
    </main>
  );
}

function hint(noDevices: boolean, cameraOn: boolean, microphoneOn: boolean): string {
  if (noDevices) return 'You will join to watch and listen.';
  if (!cameraOn && !microphoneOn) return 'You will join with camera and microphone off.';
  if (!microphoneOn) return 'You will join muted.';
  if (!cameraOn) return 'You will join with the camera off.';
  return '';
}
