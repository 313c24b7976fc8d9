// Pictures of the call page for the README.   screenshot.mjs FOLDER   (environment: ZYNK_URL)
import path from 'node:path';
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { receivedTracks, untilReceiving } from './received-media.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';
import { identitiesOf, joinWithWebClient } from './web-client.mjs';

const LIMIT_MS = 30_000;
const CLEAR_FRAMES = 200;
const ROOM = 'weekly';
const PEOPLE = [
  ['Ana', '#31546b', '#d9a679', '#7a2e3a'],
  ['Ben', '#4d5f3c', '#8a5a3b', '#d8d2c4'],
  ['Cleo', '#6a4c7d', '#f0c9a8', '#2f3e57'],
  ['Dara', '#7d5a3b', '#b97f58', '#264d46'],
];
const SIZES = {
  'call.png': { viewport: { width: 1280, height: 800 } },
  'call-phone.png': { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

/** Runs in the page, before it: the camera shows a drawn person in place of Chromium's test pattern. */
function drawnCamera([, wall, skin, shirt]) {
  const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [1280, 720];
  const context = canvas.getContext('2d');
  const ellipse = (x, y, width, height) => {
    context.beginPath();
    context.ellipse(x, y, width, height, 0, 0, 2 * Math.PI);
    context.fill();
  };
  const draw = (time) => {
    const sway = 8 * Math.sin(time / 900);
    const light = context.createLinearGradient(0, 0, 1280, 720);
    light.addColorStop(0, wall);
    light.addColorStop(1, '#14181f');
    context.fillStyle = light;
    context.fillRect(0, 0, 1280, 720);
    context.fillStyle = shirt;
    ellipse(640 + sway, 760, 300, 260);
    context.fillStyle = skin;
    context.fillRect(590 + sway, 430, 100, 120);
    ellipse(640 + sway, 330, 125, 160);
  };
  // Animation frames stop in pages that are not shown.
  setInterval(() => draw(performance.now()), 50);
  draw(0);
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    const stream = await original(constraints);
    for (const track of stream.getVideoTracks()) {
      stream.removeTrack(track);
      track.stop();
      stream.addTrack(canvas.captureStream(20).getVideoTracks()[0]);
    }
    return stream;
  };
}

async function join(browser, server, person) {
  const page = await browser.newPage();
  await page.addInitScript(drawnCamera, person);
  await joinWithWebClient(page, server, person[0], ROOM);
  return page;
}

await program(async (using) => {
  const server = serverUnderTest();
  const folder = process.argv[2];
  const [photographer, ...others] = PEOPLE;
  const browser = using(await launchChromium());
  for (const person of others) await join(browser, server, person);
  for (const [file, options] of Object.entries(SIZES)) {
    const camera = await launchChromium({ colorScheme: 'dark', ...options });
    using(camera);
    const page = await join(camera, server, photographer);
    const names = others.map(([name]) => name);
    const identities = await identitiesOf(page, names, LIMIT_MS);
    await untilReceiving(page, identities, LIMIT_MS);
    await until(
      'a picture in every tile',
      () =>
        page.evaluate(
          (count) => [...document.querySelectorAll('[data-testid="participant-tile"] video')].filter((video) => video.videoWidth > 0).length >= count,
          PEOPLE.length,
        ),
      LIMIT_MS,
    );
    // The first pictures of a stream are coarse.
    await until(
      'clear pictures',
      async () => {
        const videos = (await receivedTracks(page)).filter(({ kind }) => kind === 'video');
        return videos.length === others.length && videos.every(({ framesDecoded }) => framesDecoded > CLEAR_FRAMES);
      },
      LIMIT_MS,
    );
    await page.screenshot({ path: path.join(folder, file) });
    console.log(path.join(folder, file));
    await page.locator('[data-testid="leave-button"]').click();
    await page.locator('[data-testid="rejoin-button"]').waitFor();
    await camera.close();
  }
});
