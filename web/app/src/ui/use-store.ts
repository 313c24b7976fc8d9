import type { ReadableStore } from '@zynk/core';
import { useSyncExternalStore } from 'react';

export function useStore<T>(store: ReadableStore<T>): T {
  return useSyncExternalStore(store.subscribe, store.get);
}
