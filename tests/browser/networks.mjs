// Two Chromium browsers in networks of their own hold a call.   networks.mjs direct|tcp|tls|regions|killed|vanished
// The namespaces `alice` and `bob` are theirs; this program runs on the server's machine (tests/tests/networks).
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { followTracks, untilReceiving } from './received-media.mjs';
import { accessToken, joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const LIMIT_MS = 40_000;
const FOLLOW_MS = 3_000;
// Fake cameras give 20 frames per second; a shared machine may halve that, and more.
const FRAMES_MIN = (FOLLOW_MS / 1000) * 4;
// How long a picture may stand still whose relay is gone, and how long it is watched.
const GAP_LIMIT_MS = 5_000;
const GAP_FOLLOW_MS = 12_000;
const PAGE_PORT = 8080;
const REGIONS = { alice: 'eu', bob: 'us' };
const RELAYS = { eu: '198.18.1.10', us: '198.18.2.10' };
// Where everybody else sees them.
const NATS = { alice: '192.0.2.1', bob: '198.18.4.1' };
// A relay that carries a call has so many times the packets of one that is only kept open.
const CARRIES_TIMES = 5;

const [scenario] = process.argv.slice(2);
const onlyRelays = ['regions', 'killed', 'vanished'].includes(scenario);
const NEAREST = { alice: /^relay udp turn:198\.18\.1\.10:/, bob: /^relay udp turn:198\.18\.2\.10:/ };

/** Which path each client must go by, as `paths` says it. */
const EXPECTED = {
  direct: { alice: /^direct udp$/, bob: /^direct udp$/ },
  // Whichever is first: Chromium gathers for relays before it does for ICE-TCP, and stops once it is connected.
  tcp: { alice: /^direct udp$/, bob: /^direct tcp$|^relay (tcp|tls) / },
  tls: { alice: /^direct udp$/, bob: /^relay tls turns:/ },
  regions: NEAREST,
  killed: NEAREST,
  vanished: NEAREST,
};

/** A Chromium in a namespace. */
function executableIn(namespace, folder) {
  const executable = path.join(folder, `chromium-${namespace}`);
  const chromium = process.env.CHROMIUM ?? '/usr/bin/chromium';
  fs.writeFileSync(executable, `#!/bin/sh\nexec ip netns exec ${namespace} ${chromium} "$@"\n`, { mode: 0o755 });
  return executable;
}

/** What each connection of the page goes by: `direct udp`, or `relay udp turn:…`. */
const paths = (page) =>
  page.evaluate(async () => {
    const { publisher, subscriber } = window.__zynk.room.engine.pcManager;
    const found = [];
    for (const connection of [publisher, subscriber].filter(Boolean)) {
      const report = await connection.getStats();
      report.forEach((entry) => {
        if (entry.type !== 'transport' || !entry.selectedCandidatePairId) return;
        const pair = report.get(entry.selectedCandidatePairId);
        const local = report.get(pair.localCandidateId);
        const remote = report.get(pair.remoteCandidateId);
        found.push(local.candidateType === 'relay' ? `relay ${local.relayProtocol} ${local.url}` : `direct ${remote.protocol}`);
      });
    }
    return found;
  });

const untilOn = (page, expected) =>
  until(
    `a path by ${expected}`,
    async () => {
      const used = await paths(page);
      if (!used.length || !used.every((one) => expected.test(one))) throw new Error(`goes by ${used}`);
      return used;
    },
    LIMIT_MS,
  );

/** Notes what the page goes through, with times. */
const noteEvents = (page) =>
  page.evaluate(() => {
    const start = performance.now();
    window.events = [];
    const note = (text) => window.events.push(`${text} ${Math.round(performance.now() - start)} ms`);
    for (const event of ['signalReconnecting', 'reconnecting', 'reconnected', 'disconnected']) {
      window.__zynk.room.on(event, () => note(event));
    }
    const { publisher, subscriber } = window.__zynk.room.engine.pcManager;
    for (const transport of [publisher, subscriber].filter(Boolean)) {
      const connection = transport._pc ?? transport.pc;
      connection?.addEventListener('iceconnectionstatechange', () => note(`ice ${connection.iceConnectionState}`));
    }
  });

/** What each relay itself says that it has carried for each client. */
async function assertCarried(server) {
  for (const [identity, region] of Object.entries(REGIONS)) {
    const packets = {};
    for (const [name, host] of Object.entries(RELAYS)) {
      const token = await accessToken(server, scenario, 'operator', { roomList: true });
      const response = await fetch(`http://${host}:7880/api/v1/turn/allocations`, { headers: { authorization: `Bearer ${token}` } });
      const own = (await response.json()).filter(({ client }) => client.startsWith(`${NATS[identity]}:`));
      packets[name] = own.reduce((sum, entry) => sum + entry.to_peers_packets + entry.to_client_packets, 0);
    }
    console.log(`packets relayed for ${identity}: ${JSON.stringify(packets)}`);
    const { [region]: nearest, ...others } = packets;
    if (!(nearest > CARRIES_TIMES * Math.max(...Object.values(others)))) throw new Error(`${region} does not carry ${identity}`);
  }
}

/** Ends alice's relay: the process alone, so that its machine refuses what comes, or the whole machine. */
function endRelay() {
  if (scenario === 'killed') {
    process.kill(Number(fs.readFileSync(`/run/relay-${REGIONS.alice}.pid`, 'utf8')), 'SIGKILL');
  } else {
    execFileSync('ip', ['-n', `relay-${REGIONS.alice}`, 'link', 'set', 'wan', 'down']);
  }
}

async function loseRelay(pages) {
  await Promise.all(Object.values(pages).map(noteEvents));
  const following = Object.entries(pages).map(async ([identity, page]) => [identity, await followTracks(page, GAP_FOLLOW_MS)]);
  endRelay();
  for (const [identity, tracks] of await Promise.all(following)) {
    const video = tracks.find(({ kind }) => kind === 'video');
    const events = await pages[identity].evaluate(() => window.events);
    console.log(`${identity} receives ${JSON.stringify(video)}; ${events.join(', ') || 'notices nothing'}`);
    if (video.longestPauseMs > GAP_LIMIT_MS) throw new Error(`the picture stood for ${video.longestPauseMs} ms`);
    if (video.rise < FRAMES_MIN) throw new Error(`only ${video.rise} frames came`);
  }
  const used = await untilOn(pages.alice, new RegExp(`^relay \\w+ turns?:${RELAYS[REGIONS.bob]}:`));
  console.log(`alice is back by ${used}`);
}

await program(async (using) => {
  const server = serverUnderTest();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'zynk-networks-'));
  using({ close: () => fs.rmSync(folder, { recursive: true, force: true }) });
  const { hostname } = new URL(server.http);
  const page = using(await servePage(hostname, PAGE_PORT));
  const pages = {};
  for (const [identity, region] of Object.entries(REGIONS)) {
    const browser = using(
      await launchChromium({
        executablePath: executableIn(identity, folder),
        // Browsers know nothing of the test's authority.
        args: ['--ignore-certificate-errors', `--unsafely-treat-insecure-origin-as-secure=${page.url.slice(0, -1)}`],
      }),
    );
    // The server knows where alice is; bob says it.
    const near = identity === 'bob' ? { ...server, ws: `${server.ws}/?region=${region}` } : server;
    const rtcConfig = onlyRelays ? { iceTransportPolicy: 'relay' } : undefined;
    pages[identity] = await joinWithSdk(browser, page.url, near, scenario, identity, { rtcConfig });
  }
  for (const [identity, here] of Object.entries(pages)) {
    await untilReceiving(here, Object.keys(pages).filter((other) => other !== identity), LIMIT_MS);
    const used = await untilOn(here, EXPECTED[scenario][identity]);
    const tracks = await followTracks(here, FOLLOW_MS);
    console.log(`${identity} by ${used}: ${JSON.stringify(tracks)}`);
    for (const track of tracks) {
      if (track.kind === 'video' && track.rise < FRAMES_MIN) throw new Error(`only ${track.rise} frames in ${FOLLOW_MS} ms`);
      if (track.kind === 'audio' && !(track.rise > 0)) throw new Error('the audio is silent');
    }
  }
  if (scenario === 'regions') await assertCarried(server);
  if (['killed', 'vanished'].includes(scenario)) await loseRelay(pages);
});
