import { canChooseSpeaker, type DeviceLists, type DeviceOption, playTestSound } from '@zynk/core';
import { type ReactNode, useState } from 'react';
import { Button } from './button';
import { SelectField } from './field';
import { CameraIcon, MicrophoneIcon, SpeakerIcon } from './icons';

export interface DeviceMenusProps {
  lists: DeviceLists;
  chosen: { camera: string; microphone: string; speaker: string };
  onChoose: (kind: MediaDeviceKind, id: string) => void;
}

/** The three device menus. They work whether or not the devices are switched on. */
export function DeviceMenus({ lists, chosen, onChoose }: DeviceMenusProps) {
  return (
    <div className="grid gap-2">
      <DeviceSelect
        testId="camera-select"
        label="Camera"
        icon={<CameraIcon size={18} />}
        options={lists.cameras}
        value={chosen.camera}
        onChoose={(id) => onChoose('videoinput', id)}
      />
      <DeviceSelect
        testId="microphone-select"
        label="Microphone"
        icon={<MicrophoneIcon size={18} />}
        options={lists.microphones}
        value={chosen.microphone}
        onChoose={(id) => onChoose('audioinput', id)}
      />
      <div className="flex gap-2">
        <div className="min-w-0 flex-1">
          <DeviceSelect
            testId="speaker-select"
            label="Speaker"
            icon={<SpeakerIcon size={18} />}
            options={canChooseSpeaker() ? lists.speakers : []}
            value={chosen.speaker}
            onChoose={(id) => onChoose('audiooutput', id)}
          />
        </div>
        <SpeakerTest speakerId={chosen.speaker} />
      </div>
    </div>
  );
}

interface DeviceSelectProps {
  testId: string;
  label: string;
  icon: ReactNode;
  options: DeviceOption[];
  value: string;
  onChoose: (id: string) => void;
}

function DeviceSelect({ testId, label, icon, options, value, onChoose }: DeviceSelectProps) {
  const known = options.some((option) => option.id === value);
  return (
    <SelectField
      data-testid={testId}
      label={label}
      icon={icon}
      value={known ? value : ''}
      onChange={(event) => onChoose(event.target.value)}
    >
      {!known && <option value="">{`Default ${label.toLowerCase()}`}</option>}
      {options.map((option) => (
        <option key={option.id} value={option.id}>
          {option.label}
        </option>
      ))}
    </SelectField>
  );
}

function SpeakerTest({ speakerId }: { speakerId: string }) {
  const [playing, setPlaying] = useState(false);
  const play = async () => {
    setPlaying(true);
    try {
      await playTestSound(speakerId);
    } catch (error) {
      console.warn('the test sound could not be played', error);
    }
    setPlaying(false);
  };
  return (
    <Button look="quiet" className="text-sm" disabled={playing} aria-label="Play a test sound" onClick={() => void play()}>
      {playing ? 'Playing' : 'Test'}
    </Button>
  );
}
