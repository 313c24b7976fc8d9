// Two browsers that may reach the server through its relay alone hold a call.   relay.mjs TRANSPORT BROWSER BROWSER
// TRANSPORT is udp, tcp or tls; the credentials are made here, by the scheme as docs/adr/0012 has it. With tls, signaling
// comes by the relay's port, too, and the browsers verify its certificate. Or it is `told`: then the browsers have what
// the server itself tells them, and take what works first.
import crypto from 'node:crypto';
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { launchFirefox } from './firefox.mjs';
import { followTracks, untilReceiving } from './received-media.mjs';
import { accessToken, joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const MEDIA_START_LIMIT_MS = 30_000;
const FOLLOW_MS = 3_000;
// Fake cameras give 20 to 30 frames per second; a shared machine may halve that.
const FRAMES_MIN = (FOLLOW_MS / 1000) * 8;
const CREDENTIALS_LIVE_S = 600;

const [transport, ...browsers] = process.argv.slice(2);

const LAUNCH = { chromium: launchChromium, firefox: launchFirefox };

const hmac = (hash, key, text) => crypto.createHmac(hash, key).update(text).digest('base64');

function relayServer({ secret }, user) {
  // Firefox leaves out what is on the loopback interface.
  const { ZYNK_TURN_HOST: host, ZYNK_TURN_PORT: port } = process.env;
  const username = `${Math.floor(Date.now() / 1000) + CREDENTIALS_LIVE_S}:${user}`;
  return {
    urls: [transport === 'tls' ? `turns:${host}:${port}?transport=tcp` : `turn:${host}:${port}?transport=${transport}`],
    username,
    credential: hmac('sha1', hmac('sha256', secret, 'zynk turn credentials'), username),
  };
}

/** What each connection of the page goes by: the kind of its own candidate, and how it reaches the relay. */
const paths = (page) =>
  page.evaluate(async () => {
    const { publisher, subscriber } = window.__zynk.room.engine.pcManager;
    const found = [];
    for (const connection of [publisher, subscriber].filter(Boolean)) {
      const report = await connection.getStats();
      report.forEach((entry) => {
        if (entry.type !== 'candidate-pair' || entry.state !== 'succeeded' || !entry.nominated) return;
        const local = report.get(entry.localCandidateId);
        found.push(`${local.candidateType} ${local.relayProtocol ?? ''}`.trim());
      });
    }
    return found;
  });

/** A counter of the server's. */
async function counter(server, name) {
  const metrics = await (await fetch(`${server.http}/metrics`)).text();
  return Number(metrics.match(new RegExp(`^${name} (\\d+)`, 'm'))?.[1]);
}

/** What the server says: by which transport it has relayed for each user, to peers and back. */
async function assertRelayed(server, users) {
  const token = await accessToken(server, '', 'operator', { roomList: true });
  const response = await fetch(`${server.http}/api/v1/turn/allocations`, { headers: { authorization: `Bearer ${token}` } });
  const allocations = await response.json();
  console.log(`allocations: ${JSON.stringify(allocations)}`);
  for (const user of users) {
    const used = allocations.filter((one) => one.user === user && one.to_peers_packets > 0 && one.to_client_packets > 0);
    if (!used.length || !used.every((one) => one.transport === transport)) throw new Error(`nothing is relayed for ${user} over ${transport}`);
  }
}

await program(async (using) => {
  const server = serverUnderTest();
  const authorityFile = process.env.ZYNK_AUTHORITY_FILE;
  const reached = transport === 'tls' ? { ...server, ws: process.env.ZYNK_HTTPS_URL.replace(/^http/, 'ws') } : server;
  const served = using(await servePage());
  const participants = [];
  for (const [index, name] of browsers.entries()) {
    const identity = `${name}-${index}`;
    // Without servers of its own, livekit-client takes those that it is told.
    const iceServers = transport === 'told' ? undefined : [relayServer(server, identity)];
    const rtcConfig = { iceTransportPolicy: 'relay', ...(iceServers && { iceServers }) };
    const browser = using(await LAUNCH[name]({ authorityFile }));
    participants.push({ identity, page: await joinWithSdk(browser, served.url, reached, `relay-${transport}`, identity, { rtcConfig }) });
  }
  for (const { identity, page } of participants) {
    const others = participants.map((other) => other.identity).filter((other) => other !== identity);
    await untilReceiving(page, others, MEDIA_START_LIMIT_MS);
    const tracks = (await followTracks(page, FOLLOW_MS)).filter((track) => others.includes(track.identity));
    const used = await until('a path', async () => {
      const found = await paths(page);
      return found.length > 0 && found;
    }, MEDIA_START_LIMIT_MS);
    console.log(`${identity} by ${used}: ${JSON.stringify(tracks)}`);
    const over = transport === 'told' ? ['udp', 'tcp'] : [transport];
    if (!used.every((path) => over.some((one) => path === `relay ${one}`))) throw new Error(`goes by ${used}, not a relay over ${transport}`);
    for (const track of tracks) {
      if (track.kind === 'video' && track.rise < FRAMES_MIN) throw new Error(`only ${track.rise} frames in ${FOLLOW_MS} ms`);
      if (track.kind === 'audio' && !(track.rise > 0)) throw new Error('the audio is silent');
    }
  }
  if (transport !== 'told') await assertRelayed(server, participants.map(({ identity }) => identity));
  // Relay and media are one process: nothing between them goes through a socket.
  const direct = await counter(server, 'zynk_turn_short_cut_datagrams_total');
  const relayed = await counter(server, 'zynk_turn_relayed_packets_total\\{direction="to_peers"\\}');
  console.log(`${direct} of ${relayed} relayed packets took the short cut`);
  if (!(direct > 0 && direct >= relayed * 0.9)) throw new Error('media went from the relay to the server through sockets');
});
