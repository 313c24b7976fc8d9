// Serves the page of a participant without a user interface, and joins rooms with it.
// The page is not the product's: it is served here, and livekit-client comes from its npm package.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AccessToken } from 'livekit-server-sdk';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const CLIENT = path.join(HERE, 'node_modules/livekit-client/dist');
const FILES = {
  '/': ['text/html', path.join(HERE, 'sdk-page/index.html')],
  '/data.js': ['text/javascript', path.join(HERE, 'sdk-page/data.js')],
  '/participant.js': ['text/javascript', path.join(HERE, 'sdk-page/participant.js')],
  '/livekit-client.umd.js': ['text/javascript', path.join(CLIENT, 'livekit-client.umd.js')],
  '/livekit-client.e2ee.worker.js': ['text/javascript', path.join(CLIENT, 'livekit-client.e2ee.worker.js')],
};

/** Listens on `port`, or on a free one; `url` is the page's address at `host`. */
export async function servePage(host = 'localhost', port = 0) {
  const server = http.createServer((request, response) => {
    const file = FILES[request.url.split('?')[0]];
    if (!file) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': file[0] });
    fs.createReadStream(file[1]).pipe(response);
  });
  await new Promise((resolve) => server.listen(port, host === 'localhost' ? '127.0.0.1' : host, resolve));
  return {
    url: `http://${host}:${server.address().port}/`,
    close: () => server.close(),
  };
}

/** A token for `identity` to join `room`, signed by LiveKit's own SDK. */
export function accessToken(server, room, identity, grants = {}) {
  const token = new AccessToken(server.key, server.secret, { identity, name: identity, ttl: '10m' });
  token.addGrant({ roomJoin: true, room, canPublish: true, canSubscribe: true, ...grants });
  return token.toJwt();
}

/** Opens the participant page in `browser` and joins. Options are those of `window.join`. */
export async function joinWithSdk(browser, pageUrl, server, room, identity, options = {}) {
  const page = await browser.newPage();
  page.on('console', (message) => {
    if (process.env.VERBOSE) console.error(`[${identity}] ${message.text()}`);
  });
  page.on('pageerror', (error) => console.error(`[${identity}] ${error}`));
  await page.goto(pageUrl);
  const token = await accessToken(server, room, identity);
  await page.evaluate((join) => window.join(join), { url: server.ws, token, ...options });
  return page;
}
