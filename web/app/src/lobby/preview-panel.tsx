import { type Failure, mergeDeviceFailures, type Preferences, type Preview } from '@zynk/core';
import { Avatar } from '../ui/avatar';
import { Button, Toggle } from '../ui/button';
import { FailureText } from '../ui/failure-text';
import { CameraIcon, CameraOffIcon, MicrophoneIcon, MicrophoneOffIcon } from '../ui/icons';
import { useStore } from '../ui/use-store';
import { VideoView } from '../ui/video-view';
import { LevelMeter } from './level-meter';

export interface PreviewPanelProps {
  preview: Preview;
  preferences: Preferences;
  onPreferences: (fields: Partial<Preferences>) => void;
  /** Why there are no devices at all, if so. */
  unavailable: Failure | null;
  name: string;
  onRetry: (device: 'camera' | 'microphone') => void;
}

/** The user as others will see and hear them. */
export function PreviewPanel(props: PreviewPanelProps) {
  const { preview, preferences, onPreferences, unavailable, name, onRetry } = props;
  const { camera, microphone, cameraFailure, microphoneFailure, starting } = useStore(preview.state);
  const usable = unavailable === null;
  const cameraOn = usable && preferences.cameraOn && cameraFailure === null;
  const microphoneOn = usable && preferences.microphoneOn && microphoneFailure === null;

  const failures = mergeDeviceFailures(cameraFailure, microphoneFailure);
  const retryAll = () => {
    if (cameraFailure) onRetry('camera');
    if (microphoneFailure) onRetry('microphone');
  };

  const toggle = (device: 'camera' | 'microphone', on: boolean, failed: boolean) => {
    if (failed) onRetry(device);
    onPreferences(device === 'camera' ? { cameraOn: !on } : { microphoneOn: !on });
  };

  return (
    <section aria-label="Preview" className="grid gap-3">
      <div className="relative aspect-video overflow-hidden rounded-2xl bg-[#14161b]">
        {camera ? (
          <VideoView track={camera} mirrored fit="auto" testId="preview-video" label="Your camera" />
        ) : (
          <div className="absolute inset-0 grid place-items-center pb-12 text-white/70">
            {starting.camera ? (
              <p className="flex items-center gap-3">
                <span className="spinner" /> Starting the camera
              </p>
            ) : (
              <div className="grid justify-items-center gap-3">
                {name.trim() && <Avatar identity={name} name={name} className="size-16 text-xl sm:size-20 sm:text-2xl" />}
                <p className="text-sm">{cameraFailure ? cameraFailure.title : 'Your camera is off'}</p>
              </div>
            )}
          </div>
        )}
        <div className="absolute inset-x-0 bottom-3 flex justify-center gap-3">
          <Toggle
            data-testid="toggle-microphone"
            label="Microphone"
            shortcut="M"
            pressed={microphoneOn}
            disabled={!usable}
            onClick={() => toggle('microphone', microphoneOn, microphoneFailure !== null)}
          >
            {microphoneOn ? <MicrophoneIcon /> : <MicrophoneOffIcon />}
          </Toggle>
          <Toggle
            data-testid="toggle-camera"
            label="Camera"
            shortcut="V"
            pressed={cameraOn}
            disabled={!usable}
            onClick={() => toggle('camera', cameraOn, cameraFailure !== null)}
          >
            {cameraOn ? <CameraIcon /> : <CameraOffIcon />}
          </Toggle>
        </div>
      </div>

      <div className="flex min-h-5 items-center gap-3 text-sm text-muted">
        <span className="shrink-0">
          {microphone ? <MicrophoneIcon size={16} /> : <MicrophoneOffIcon size={16} />}
        </span>
        {microphone ? (
          <LevelMeter track={microphone.mediaStreamTrack} />
        ) : (
          <span>{starting.microphone ? 'Starting the microphone' : 'Your microphone is off'}</span>
        )}
      </div>

      {unavailable && <FailureText failure={unavailable} />}
      {failures.map((failure, index) => (
        <FailureText key={failure.code} failure={failure}>
          {index === failures.length - 1 && (
            <Button look="plain" className="mt-1 -ml-3 min-h-9 px-3 py-1" onClick={retryAll}>
              Try again
            </Button>
          )}
        </FailureText>
      ))}
    </section>
  );
}
