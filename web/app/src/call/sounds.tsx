import type { ParticipantView } from '@zynk/core';
import { useEffect, useRef } from 'react';

type Sound = ParticipantView['sounds'][number];

/** Plays everybody's sound, whether or not their tile is visible. */
export function Sounds({ participants }: { participants: readonly ParticipantView[] }) {
  return participants.flatMap((person) =>
    person.sounds.map((sound) => <SoundPlayer key={`${person.identity}/${sound.sid ?? ''}`} sound={sound} />),
  );
}

function SoundPlayer({ sound }: { sound: Sound }) {
  const audio = useRef<HTMLAudioElement>(null);
  useEffect(() => {
    const element = audio.current;
    if (!element) return;
    sound.attach(element);
    return () => {
      sound.detach(element);
    };
  }, [sound]);
  return <audio ref={audio} data-testid="remote-audio" />;
}
