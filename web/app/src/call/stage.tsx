import { fitGrid, type ParticipantView } from '@zynk/core';
import { useState } from 'react';
import { ScreenTile, Tile } from './tile';
import { useSize } from './use-size';

export interface StageProps {
  participants: readonly ParticipantView[];
  frozen: boolean;
}

/** Everybody in a grid, or a shared screen with everybody beside it. */
export function Stage({ participants, frozen }: StageProps) {
  const [chosen, setChosen] = useState('');
  const sharing = participants.filter((person) => person.screen && !person.isLocal);
  const large = sharing.find((person) => person.identity === chosen) ?? sharing[0];
  if (!large) return <Grid participants={participants} frozen={frozen} />;

  return (
    <div className="flex size-full flex-col gap-2 sm:flex-row">
      <div className="min-h-0 min-w-0 flex-1">
        <ScreenTile key={large.identity} person={large} frozen={frozen} />
      </div>
      <div className="flex shrink-0 gap-2 overflow-auto max-sm:h-28 sm:w-48 sm:flex-col lg:w-60">
        {sharing
          .filter((person) => person !== large)
          .map((person) => (
            <div key={`screen/${person.identity}`} className="aspect-video shrink-0 max-sm:h-full">
              <ScreenTile person={person} frozen={frozen} onSelect={() => setChosen(person.identity)} />
            </div>
          ))}
        {participants.map((person) => (
          <div key={person.identity} className="aspect-video shrink-0 max-sm:h-full">
            <Tile person={person} frozen={frozen} />
          </div>
        ))}
      </div>
    </div>
  );
}

const GAP = 8;

function Grid({ participants, frozen }: StageProps) {
  const [area, size] = useSize<HTMLDivElement>();
  const layout = fitGrid(participants.length, size, { gap: GAP });
  const width = layout.columns * layout.tileWidth + (layout.columns - 1) * GAP;
  return (
    <div ref={area} className={`size-full ${layout.scrolls ? 'overflow-y-auto' : 'grid place-items-center overflow-hidden'}`}>
      <div className="mx-auto flex flex-wrap content-start justify-center gap-2" style={{ width }}>
        {participants.map((person) => (
          <div key={person.identity} style={{ width: layout.tileWidth, height: layout.tileHeight }}>
            <Tile person={person} frozen={frozen} />
          </div>
        ))}
      </div>
    </div>
  );
}
