// Starts Debian's stock Firefox, headless, through WebDriver BiDi, with a fake camera and microphone.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import puppeteer from 'puppeteer-core';
import { makeDatabase } from './authority.mjs';

const PREFS = {
  'media.navigator.streams.fake': true,
  'media.navigator.permission.disabled': true,
  // A page on the namespace's own address is as good as localhost.
  'media.devices.insecure.enabled': true,
  'media.getusermedia.insecure.enabled': true,
  'media.peerconnection.ice.obfuscate_host_addresses': false,
  'media.autoplay.default': 0,
  'media.autoplay.blocking_policy': 0,
  // Nothing of these may reach for the internet while a test runs.
  'media.gmp-manager.url': 'data:text/plain,',
  'media.gmp-provider.enabled': false,
  'datareporting.policy.dataSubmissionEnabled': false,
  'toolkit.telemetry.enabled': false,
  'app.update.enabled': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'browser.safebrowsing.malware.enabled': false,
  'browser.safebrowsing.phishing.enabled': false,
  'extensions.update.enabled': false,
  'services.settings.server': 'data:,',
};

/** A browser with a profile of its own. It trusts the authority whose certificate is `authorityFile`, if there is one. */
export async function launchFirefox({ authorityFile } = {}) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'zynk-firefox-'));
  if (authorityFile) makeDatabase(profile, authorityFile);
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
    headless: true,
    userDataDir: profile,
    extraPrefsFirefox: PREFS,
    timeout: 90_000,
    protocolTimeout: 120_000,
  });
  return {
    browser,
    newPage: () => browser.newPage(),
    close: async () => {
      await browser.close();
      fs.rmSync(profile, { recursive: true, force: true });
    },
  };
}
