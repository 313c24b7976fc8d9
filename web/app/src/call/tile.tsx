import type { ParticipantView } from '@zynk/core';
import { memo } from 'react';
import { markFirstFrame } from '../debugging';
import { Avatar, hueClass } from '../ui/avatar';
import { MicrophoneOffIcon, ScreenIcon } from '../ui/icons';
import { VideoView } from '../ui/video-view';
import { QualityBadge } from './quality-badge';

export interface TileProps {
  person: ParticipantView;
  frozen: boolean;
}

/** One person: their picture or initials, name, and how they are doing. */
export const Tile = memo(function Tile({ person, frozen }: TileProps) {
  const { identity, name, isLocal, speaking, microphoneOn, camera } = person;
  return (
    <article
      data-testid="participant-tile"
      data-identity={identity}
      data-local={isLocal}
      data-speaking={speaking}
      data-video={camera !== null}
      aria-label={`${name}${isLocal ? ' (you)' : ''}${speaking ? ', speaking' : ''}`}
      className={`avatar-tile ${hueClass(identity)} [container-type:size] relative size-full overflow-hidden rounded-2xl text-white`}
    >
      {/* Also behind the picture, so that there is somebody to see until its first frame. */}
      <div className="absolute inset-0 grid place-items-center pb-[8cqh]">
        <Avatar
          identity={identity}
          name={name}
          className="size-[clamp(2rem,42cqmin,8rem)] text-[clamp(0.875rem,16cqmin,3rem)]"
        />
      </div>
      {camera && (
        <VideoView
          track={camera.track}
          mirrored={isLocal}
          fit="auto"
          frozen={frozen}
          onFirstFrame={isLocal ? undefined : markFirstFrame}
        />
      )}
      {camera?.paused && <PausedNote />}
      <div className="absolute inset-x-2 bottom-2 flex">
        <p className="flex max-w-full min-w-0 items-center gap-1.5 rounded-lg bg-black/75 px-2 py-1 text-sm">
          {!microphoneOn && (
            <span className="shrink-0 text-red-300" role="img" aria-label="Muted" data-testid="muted-icon">
              <MicrophoneOffIcon size={16} />
            </span>
          )}
          <span className="truncate">{isLocal ? `${name} (you)` : name}</span>
          <span className="shrink-0">
            <QualityBadge quality={person.quality} />
          </span>
        </p>
      </div>
      {/* The ring lies over the picture, so that the picture does not change size. */}
      <div
        aria-hidden="true"
        className={`pointer-events-none absolute inset-0 rounded-2xl border-[3px] transition-opacity duration-200 ${speaking ? 'border-[#57d08f] opacity-100' : 'border-transparent opacity-0'}`}
      />
    </article>
  );
});

export interface ScreenTileProps extends TileProps {
  /** Makes a small share the large one. */
  onSelect?: () => void;
}

/** A shared screen, all of it visible. */
export const ScreenTile = memo(function ScreenTile({ person, frozen, onSelect }: ScreenTileProps) {
  if (!person.screen) return null;
  return (
    <article
      data-testid="screen-tile"
      data-identity={person.identity}
      aria-label={`${person.name}'s screen`}
      className="relative size-full overflow-hidden rounded-2xl bg-[#08090b] text-white"
    >
      <VideoView
        track={person.screen.track}
        fit="contain"
        frozen={frozen}
        onFirstFrame={markFirstFrame}
        label={`${person.name}'s screen`}
      />
      {person.screen.paused && <PausedNote />}
      <p className="absolute bottom-2 left-2 flex max-w-[calc(100%-1rem)] items-center gap-1.5 rounded-lg bg-black/75 px-2 py-1 text-sm">
        <ScreenIcon size={16} />
        <span className="truncate">{person.name}’s screen</span>
      </p>
      {onSelect && (
        <button
          type="button"
          aria-label={`Show ${person.name}'s screen large`}
          className="absolute inset-0 rounded-2xl -outline-offset-4"
          onClick={onSelect}
        />
      )}
    </article>
  );
});

function PausedNote() {
  return (
    <p className="absolute inset-x-2 top-2 rounded-lg bg-black/75 px-2 py-1 text-center text-sm">
      Paused: the connection is weak
    </p>
  );
}
