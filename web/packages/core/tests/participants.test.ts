import { describe, expect, it } from 'vitest';
import { describeChanges, type ParticipantView, StableOrder } from '../src';

const person = (identity: string, fields: Partial<ParticipantView> = {}): ParticipantView => ({
  identity,
  name: identity.toUpperCase(),
  isLocal: false,
  speaking: false,
  microphoneOn: false,
  quality: 'unknown',
  camera: null,
  screen: null,
  sounds: [],
  ...fields,
});

describe('order', () => {
  it('moves nobody when people come and go', () => {
    const order = new StableOrder();
    expect(order.arrange(['me', 'a', 'b'])).toEqual(['me', 'a', 'b']);
    expect(order.arrange(['me', 'b', 'c', 'a'])).toEqual(['me', 'a', 'b', 'c']);
    expect(order.arrange(['c', 'b', 'me'])).toEqual(['me', 'b', 'c']);
    expect(order.arrange(['me', 'a', 'b', 'c'])).toEqual(['me', 'b', 'c', 'a']);
  });
});

describe('news', () => {
  const me = person('me', { isLocal: true });

  it('names one or two people and counts more', () => {
    expect(describeChanges([me], [me, person('a')])).toBe('A joined');
    expect(describeChanges([me], [me, person('a'), person('b')])).toBe('A and B joined');
    expect(describeChanges([me], [me, person('a'), person('b'), person('c')])).toBe('3 people joined');
    expect(describeChanges([me, person('a')], [me, person('b')])).toBe('B joined. A left');
  });

  it('tells of a shared screen, and of nothing else', () => {
    const sharing = person('a', { screen: { track: {} as never, paused: false } });
    expect(describeChanges([me, person('a')], [me, sharing])).toBe('A is sharing a screen');
    expect(describeChanges([me, sharing], [me, person('a', { speaking: true })])).toBe('');
    expect(describeChanges([], [me])).toBe('');
  });
});
