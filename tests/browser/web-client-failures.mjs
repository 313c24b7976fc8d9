// What the web client says when things go wrong, on a phone's screen: each case asserts the words, and that
// nothing is wider than the screen. With SCREENSHOTS set, pictures of each go to that folder.
// usage: node web-client-failures.mjs
import { createHmac } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';
import { joinWithWebClient } from './web-client.mjs';

const VIEWPORT = { width: 390, height: 844 };
const LIMIT_MS = 15_000;

const server = serverUnderTest();

function adminToken(room) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const video = { room, roomAdmin: true, roomCreate: true, roomList: true };
  const claims = { iss: server.key, sub: 'admin', exp: Math.floor(Date.now() / 1000) + 600, video };
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${signed}.${createHmac('sha256', server.secret).update(signed).digest('base64url')}`;
}

async function ask(method, room, body) {
  const answer = await fetch(`${server.http}/twirp/livekit.RoomService/${method}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${adminToken(room)}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${method}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** Waits for `words` on the page, and asserts that it does not scroll sideways. */
async function shows(page, name, words) {
  let said = '';
  const says = async () => {
    said = await page.evaluate(() => document.body.innerText);
    return said.includes(words);
  };
  await until(`${name}: "${words}" on the page`, says, LIMIT_MS).catch((error) => {
    throw new Error(`${error.message}; it says: ${said}`);
  });
  const [content, screen] = await page.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    return [scrollWidth, clientWidth];
  });
  if (process.env.SCREENSHOTS) await page.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}.png`) });
  if (content > screen) throw new Error(`${name}: ${content} px wide on a screen of ${screen}`);
  console.log(`${name}: says "${words}"`);
}

/** Joins and returns the identity that the server gave. */
async function join(page, room, name) {
  await joinWithWebClient(page, server, name, room);
  await page.locator('[data-testid="leave-button"]').waitFor({ timeout: LIMIT_MS });
  const { participants } = await ask('ListParticipants', room, { room });
  return participants.find((participant) => participant.name === name).identity;
}

/** The server's process: alone of its name in the namespace that it shares with this program. */
function serverProcess() {
  const isServer = (pid) => /^\d+$/.test(pid) && fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'zynk';
  return Number(fs.readdirSync('/proc').find(isServer));
}

await program(async (using) => {
  const browser = using(await launchChromium({ viewport: VIEWPORT }));
  const page = await browser.newPage();

  await ask('CreateRoom', 'full', { name: 'full', max_participants: 1 });
  const other = await browser.newPage();
  await join(other, 'full', 'Ben');
  await joinWithWebClient(page, server, 'Ana', 'full');
  await shows(page, 'room-full', 'full');

  const identity = await join(page, 'phone', 'Ana');
  await ask('RemoveParticipant', 'phone', { room: 'phone', identity });
  await shows(page, 'removed', 'You were removed from the call');

  await join(page, 'phone', 'Ana');
  await ask('DeleteRoom', 'phone', { room: 'phone' });
  await shows(page, 'room-deleted', 'The call was ended');

  // Without the fake answer, headless Chromium says no to whoever asks for the camera.
  const denying = using(
    await launchChromium({ viewport: VIEWPORT, args: ['--deny-permission-prompts'], withoutArgs: ['--use-fake-ui-for-media-stream'] }),
  );
  const denied = await denying.newPage();
  await denied.goto(server.http.replace('127.0.0.1', 'localhost'));
  await shows(denied, 'camera-denied', 'camera');
  await shows(denied, 'camera-denied', 'blocked');

  // Last, for it ends the server.
  await join(page, 'phone', 'Ana');
  process.kill(serverProcess(), 'SIGTERM');
  await shows(page, 'restarting', 'The server is restarting. Reconnecting…');
});
