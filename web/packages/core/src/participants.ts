import {
  ConnectionQuality,
  type Participant,
  type RemoteAudioTrack,
  type Room,
  Track,
  type TrackPublication,
} from 'livekit-client';

export type Quality = 'excellent' | 'good' | 'poor' | 'lost' | 'unknown';

/** A picture that can be shown: attach `track` to a video element. */
export interface Picture {
  track: Track;
  /** The server holds the picture back because the connection is too weak. */
  paused: boolean;
}

/** One person, as the page shows them. Views are replaced, never changed. */
export interface ParticipantView {
  identity: string;
  name: string;
  isLocal: boolean;
  speaking: boolean;
  microphoneOn: boolean;
  quality: Quality;
  camera: Picture | null;
  screen: Picture | null;
  /** Sound to play; always empty for the local participant. */
  sounds: readonly RemoteAudioTrack[];
}

/** Keeps people where they are: newcomers go to the end, nobody else moves. */
export class StableOrder {
  #identities: string[] = [];

  arrange(present: readonly string[]): readonly string[] {
    const here = new Set(present);
    const kept = this.#identities.filter((identity) => here.delete(identity));
    this.#identities = [...kept, ...present.filter((identity) => here.delete(identity))];
    return this.#identities;
  }
}

/** Views of everybody in the room; views that did not change are those of `previous`. */
export function viewParticipants(
  room: Room,
  order: StableOrder,
  previous: readonly ParticipantView[],
): readonly ParticipantView[] {
  const people = new Map<string, Participant>([[room.localParticipant.identity, room.localParticipant]]);
  const remotes = [...room.remoteParticipants.values()].sort(
    (a, b) => (a.joinedAt?.getTime() ?? 0) - (b.joinedAt?.getTime() ?? 0),
  );
  for (const remote of remotes) people.set(remote.identity, remote);

  const before = new Map(previous.map((view) => [view.identity, view]));
  const views = order.arrange([...people.keys()]).flatMap((identity) => {
    const participant = people.get(identity);
    if (!participant) return [];
    const view = viewParticipant(participant);
    const old = before.get(identity);
    return [old && sameView(old, view) ? old : view];
  });
  const unchanged = views.length === previous.length && views.every((view, i) => view === previous[i]);
  return unchanged ? previous : views;
}

function viewParticipant(participant: Participant): ParticipantView {
  const sounds: RemoteAudioTrack[] = [];
  if (!participant.isLocal) {
    for (const publication of participant.audioTrackPublications.values()) {
      if (publication.track) sounds.push(publication.track as RemoteAudioTrack);
    }
  }
  const microphone = participant.getTrackPublication(Track.Source.Microphone);
  return {
    identity: participant.identity,
    name: participant.name || participant.identity,
    isLocal: participant.isLocal,
    speaking: participant.isSpeaking,
    microphoneOn: microphone !== undefined && !microphone.isMuted,
    quality: quality(participant.connectionQuality),
    camera: picture(participant.getTrackPublication(Track.Source.Camera)),
    screen: picture(participant.getTrackPublication(Track.Source.ScreenShare)),
    sounds,
  };
}

function picture(publication: TrackPublication | undefined): Picture | null {
  if (!publication?.track || publication.isMuted) return null;
  return { track: publication.track, paused: publication.track.streamState === Track.StreamState.Paused };
}

function quality(value: ConnectionQuality): Quality {
  switch (value) {
    case ConnectionQuality.Excellent:
      return 'excellent';
    case ConnectionQuality.Good:
      return 'good';
    case ConnectionQuality.Poor:
      return 'poor';
    case ConnectionQuality.Lost:
      return 'lost';
    default:
      return 'unknown';
  }
}

function sameView(a: ParticipantView, b: ParticipantView): boolean {
  return (
    a.name === b.name &&
    a.speaking === b.speaking &&
    a.microphoneOn === b.microphoneOn &&
    a.quality === b.quality &&
    samePicture(a.camera, b.camera) &&
    samePicture(a.screen, b.screen) &&
    a.sounds.length === b.sounds.length &&
    a.sounds.every((sound, i) => sound === b.sounds[i])
  );
}

const samePicture = (a: Picture | null, b: Picture | null): boolean =>
  a?.track === b?.track && a?.paused === b?.paused;

/** Says who came and went between two moments, several people in one sentence. */
export function describeChanges(
  before: readonly ParticipantView[],
  after: readonly ParticipantView[],
): string {
  const known = new Set(before.map((view) => view.identity));
  const still = new Set(after.map((view) => view.identity));
  const joined = after.filter((view) => !view.isLocal && !known.has(view.identity));
  const left = before.filter((view) => !view.isLocal && !still.has(view.identity));
  const sharing = after.filter(
    (view) => !view.isLocal && view.screen && !before.find((old) => old.identity === view.identity)?.screen,
  );
  return [
    sentence(joined, 'joined'),
    sentence(left, 'left'),
    sharing.length > 0 ? `${sharing.map((view) => view.name).join(' and ')} is sharing a screen` : '',
  ]
    .filter(Boolean)
    .join('. ');
}

function sentence(people: readonly ParticipantView[], verb: string): string {
  if (people.length === 0) return '';
  if (people.length > 2) return `${people.length} people ${verb}`;
  return `${people.map((view) => view.name).join(' and ')} ${verb}`;
}
