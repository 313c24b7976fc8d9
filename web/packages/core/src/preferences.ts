/** What a user chose last time. Names and device ids only: no tokens, no rooms. */
export interface Preferences {
  name: string;
  cameraId: string;
  microphoneId: string;
  speakerId: string;
  cameraOn: boolean;
  microphoneOn: boolean;
}

export const DEFAULT_PREFERENCES: Preferences = {
  name: '',
  cameraId: '',
  microphoneId: '',
  speakerId: '',
  cameraOn: true,
  microphoneOn: true,
};

const KEY = 'zynk.preferences';

/** Reads what is stored, field by field; anything of the wrong type falls back to its default. */
export function loadPreferences(storage: Storage | undefined): Preferences {
  try {
    const stored = JSON.parse(storage?.getItem(KEY) ?? '{}') as Record<string, unknown> | null;
    const result: Record<string, unknown> = { ...DEFAULT_PREFERENCES };
    for (const [key, fallback] of Object.entries(DEFAULT_PREFERENCES)) {
      const value = stored?.[key];
      if (typeof value === typeof fallback) result[key] = value;
    }
    return result as unknown as Preferences;
  } catch {
    return DEFAULT_PREFERENCES;
  }
}

/** Storage may be full or forbidden; then the choice lasts as long as the page. */
export function savePreferences(storage: Storage | undefined, preferences: Preferences): void {
  try {
    storage?.setItem(KEY, JSON.stringify(preferences));
  } catch {
    return;
  }
}

/** Reading `window.localStorage` itself throws where the browser blocks site data. */
export function safeLocalStorage(): Storage | undefined {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined;
  }
}
