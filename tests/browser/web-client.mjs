// Joins rooms as a person does: with the product's own page.
import { until } from './deadline.mjs';

/** Fills in name and room and clicks Join. Returns at the click; the call comes up after it. */
export async function joinWithWebClient(page, server, name, room) {
  page.on('pageerror', (error) => console.error(`[${name}] ${error}`));
  page.on('console', (message) => {
    if (process.env.VERBOSE || message.type() === 'error') console.error(`[${name}] ${message.text()}`);
  });
  // Secure contexts are localhost and HTTPS; only there do browsers give out cameras.
  await page.goto(server.http.replace('127.0.0.1', 'localhost'));
  // Locators: what Playwright's and Puppeteer's pages have in common.
  await page.locator('[data-testid="name-input"]').fill(name);
  await page.locator('[data-testid="room-input"]').fill(room);
  await page.locator('[data-testid="join-button"]').click();
}

/** The text of the page's error, if it shows one. */
export function shownError(page) {
  return page.evaluate(() => document.querySelector('[data-testid="error-text"]')?.textContent);
}

/** Identities of the other participants by display name. */
export function remoteNames(page) {
  return page.evaluate(() =>
    Object.fromEntries([...(window.__zynk?.room.remoteParticipants.values() ?? [])].map(({ identity, name }) => [name, identity])),
  );
}

/** The identities behind `names`, once all of them are in the room. */
export function identitiesOf(page, names, timeoutMs) {
  return until(
    `${names.join(' and ')} in the room`,
    async () => {
      const error = await shownError(page);
      if (error) throw new Error(`the page says: ${error}`);
      const present = await remoteNames(page);
      return names.every((name) => present[name]) && names.map((name) => present[name]);
    },
    timeoutMs,
  );
}
