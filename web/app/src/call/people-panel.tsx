import type { ParticipantView } from '@zynk/core';
import { Avatar } from '../ui/avatar';
import { CameraIcon, CameraOffIcon, MicrophoneIcon, MicrophoneOffIcon } from '../ui/icons';
import { Panel } from './panel';
import { QualityBadge } from './quality-badge';

export function PeoplePanel({ participants, onClose }: { participants: readonly ParticipantView[]; onClose: () => void }) {
  return (
    <Panel title={`People (${participants.length})`} onClose={onClose}>
      <ul data-testid="participant-list" className="grid gap-1">
        {participants.map((person) => (
          <li key={person.identity} className="flex min-h-11 items-center gap-3">
            <Avatar identity={person.identity} name={person.name} className="size-9 text-sm" />
            <span className="min-w-0 flex-1 truncate">
              {person.name}
              {person.isLocal && <span className="text-muted"> (you)</span>}
            </span>
            <QualityBadge quality={person.quality} />
            <span className={person.microphoneOn ? 'text-muted' : 'text-danger-text'}>
              {person.microphoneOn ? <MicrophoneIcon size={18} /> : <MicrophoneOffIcon size={18} />}
              <span className="sr-only">{person.microphoneOn ? 'microphone on' : 'muted'}</span>
            </span>
            <span className={person.camera ? 'text-muted' : 'text-danger-text'}>
              {person.camera ? <CameraIcon size={18} /> : <CameraOffIcon size={18} />}
              <span className="sr-only">{person.camera ? 'camera on' : 'camera off'}</span>
            </span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}
