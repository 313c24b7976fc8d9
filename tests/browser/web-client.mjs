// Joins rooms as a person does: with the product's own page.

/** Fills in name and room and clicks Join. Returns at the click; the call comes up after it. */
export async function joinWithWebClient(page, server, name, room) {
  page.on('pageerror', (error) => console.error(`[${name}] ${error}`));
  page.on('console', (message) => {
    if (process.env.VERBOSE || message.type() === 'error') console.error(`[${name}] ${message.text()}`);
  });
  // Secure contexts are localhost and HTTPS; only there do browsers give out cameras.
  await page.goto(server.http.replace('127.0.0.1', 'localhost'));
  await page.fill('[data-testid="name-input"]', name);
  await page.fill('[data-testid="room-input"]', room);
  await page.click('[data-testid="join-button"]');
}

/** The text of the page's error, if it shows one. */
export function shownError(page) {
  return page.evaluate(() => document.querySelector('[data-testid="error-text"]')?.textContent);
}

/** Names in order of the room's list, as livekit-client has them: display names by identity. */
export function remoteNames(page) {
  return page.evaluate(() =>
    Object.fromEntries([...(window.__zynk?.room.remoteParticipants.values() ?? [])].map(({ identity, name }) => [name, identity])),
  );
}
