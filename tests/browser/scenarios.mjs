// livekit-client's rehearsals of failures: after each, the client is back as it should be, and is seen again.
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { receivedTracks, transports, untilReceiving } from './received-media.mjs';
import { joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const ROOM = 'scenarios';
const LIMIT_MS = 20_000;
const ACTOR = 'actor';
const SPEECH_LEVEL = 0.9;
const SERVER_SHUTDOWN = 3;

// What becomes of the client (`resumed` keeps its connections, `rejoined` begins anew), the transport that it
// ends with, and how often it connects to the server at least.
const SCENARIOS = [
  ['disconnect-signal-on-resume', 'resumed', 'udp', 2],
  ['disconnect-signal-on-resume-no-messages', 'resumed', 'udp', 4],
  ['node-failure', 'rejoined', 'udp', 2],
  ['leave-full-reconnect', 'rejoined', 'udp', 1],
  ['force-tcp', 'rejoined', 'tcp', 1],
];

const noteEvents = (page) =>
  page.evaluate(() => {
    window.events = [];
    for (const event of ['signalReconnecting', 'reconnecting', 'reconnected', 'disconnected']) {
      window.__zynk.room.on(event, (reason) => window.events.push(reason === undefined ? event : `${event} ${reason}`));
    }
  });

/** Counts the page's connections to the server. */
const countSockets = (context) =>
  context.addInitScript(() => {
    window.sockets = 0;
    window.WebSocket = class extends WebSocket {
      constructor(...args) {
        super(...args);
        window.sockets += 1;
      }
    };
  });

const simulate = async (page, scenario) => {
  await page.evaluate((name) => {
    window.events.length = 0;
    window.sockets = 0;
    return window.__zynk.room.simulateScenario(name);
  }, scenario);
  return () => page.evaluate(() => window.events);
};

const camera = async (page) => (await receivedTracks(page)).find((track) => track.identity === ACTOR && track.kind === 'video');

const untilSpeech = (page, what, fits) =>
  until(
    what,
    async () => {
      const [level, speaks] = await page.evaluate((identity) => {
        const participant = window.__zynk.room.remoteParticipants.get(identity);
        return [participant.audioLevel, participant.isSpeaking];
      }, ACTOR);
      if (!fits(level, speaks)) throw new Error(`level ${level}, speaking: ${speaks}`);
      return true;
    },
    LIMIT_MS,
  );

await program(async (using) => {
  const server = serverUnderTest();
  const { url } = using(await servePage());
  const actorsBrowser = using(await launchChromium());
  await countSockets(actorsBrowser.context);
  const actor = await joinWithSdk(actorsBrowser, url, server, ROOM, ACTOR);
  const witness = await joinWithSdk(using(await launchChromium()), url, server, ROOM, 'witness', { publish: false });
  await untilReceiving(witness, [ACTOR], LIMIT_MS);
  await noteEvents(actor);

  // What the microphone hears would be louder or softer than what is rehearsed.
  await actor.evaluate(() => window.__zynk.room.localParticipant.setMicrophoneEnabled(false));
  await untilSpeech(witness, 'silence', (level) => level === 0);
  await simulate(actor, 'speaker');
  await untilSpeech(witness, 'rehearsed speech', (level, speaks) => speaks && Math.abs(level - SPEECH_LEVEL) < 0.001);
  await untilSpeech(witness, 'the end of speech', (level, speaks) => !speaks && level === 0);
  console.log('speaker: begins and ends');

  for (const [scenario, outcome, transport, socketsMin] of SCENARIOS) {
    const before = await camera(witness);
    const events = await simulate(actor, scenario);
    const seen = await until(
      `the end of ${scenario}`,
      async () => {
        const list = await events();
        if (list.at(-1) !== 'reconnected') throw new Error(`only ${list}`);
        return list;
      },
      LIMIT_MS,
    );
    const rejoined = seen.includes('reconnecting');
    if (rejoined !== (outcome === 'rejoined')) throw new Error(`${scenario}: ${seen}`);
    await until(
      `pictures after ${scenario}`,
      async () => {
        const now = await camera(witness);
        if (!now || now.framesDecoded === 0) return false;
        return rejoined ? now.trackSid !== before.trackSid : now.framesDecoded > before.framesDecoded;
      },
      LIMIT_MS,
    );
    const sockets = await actor.evaluate(() => window.sockets);
    if (sockets < socketsMin) throw new Error(`${scenario}: it connected only ${sockets} times`);
    const used = await transports(actor);
    if (!used.length || used.some((other) => other !== transport)) throw new Error(`${scenario}: media goes over ${used}`);
    console.log(`${scenario}: ${seen.join(', ')}; ${sockets} connections to the server, media over ${used}`);
  }

  const events = await simulate(actor, 'server-leave');
  await until('the end of it all', async () => (await events()).includes(`disconnected ${SERVER_SHUTDOWN}`), LIMIT_MS);
  await until('an empty room', () => witness.evaluate(() => window.__zynk.room.remoteParticipants.size === 0), LIMIT_MS);
  console.log('server-leave: the client stays away');
});
