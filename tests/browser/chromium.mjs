// Starts Debian's Chromium, headless, with a fake camera and microphone.
import { chromium } from 'playwright-core';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { makeDatabase } from './authority.mjs';

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
  '--autoplay-policy=no-user-gesture-required',
  // Several pages share one browser: those in the background must keep their pace.
  '--disable-background-timer-throttling',
  '--disable-renderer-backgrounding',
  '--disable-backgrounding-occluded-windows',
];

/**
 * A browser context with a profile of its own.
 * Options are Playwright's for a persistent context, `args`: further switches, `withoutArgs`: those of
 * ours to leave out, and `authorityFile`: the certificate of an authority that it is to trust.
 */
export async function launchChromium({ args = [], withoutArgs = [], authorityFile, ...options } = {}) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'zynk-chromium-'));
  // Chromium looks for such in the home folder.
  if (authorityFile) makeDatabase(path.join(profile, '.pki/nssdb'), authorityFile);
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [...ARGS.filter((arg) => !withoutArgs.includes(arg)), ...args],
    viewport: { width: 1280, height: 720 },
    env: authorityFile ? { ...process.env, HOME: profile } : process.env,
    ...options,
  });
  return {
    context,
    newPage: () => context.newPage(),
    close: async () => {
      await context.close();
      fs.rmSync(profile, { recursive: true, force: true });
    },
  };
}
