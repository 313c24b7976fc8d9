/** Loudness from 0 (silence) to 1 (very loud) of one block of samples between -1 and 1. */
export function loudness(samples: Float32Array): number {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  const rms = Math.sqrt(sum / Math.max(1, samples.length));
  // -60 dBFS is a quiet room, -12 dBFS is loud speech.
  const decibels = 20 * Math.log10(Math.max(rms, 1e-6));
  return Math.min(1, Math.max(0, (decibels + 60) / 48));
}

/**
 * Reports a microphone's loudness once per animation frame. Returns the function that stops it.
 * Browsers may start the audio clock only after a click or key press; it is resumed then.
 */
export function watchLevel(track: MediaStreamTrack, report: (level: number) => void): () => void {
  const context = new AudioContext();
  const source = context.createMediaStreamSource(new MediaStream([track]));
  const analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  source.connect(analyser);

  const samples = new Float32Array(analyser.fftSize);
  let shown = 0;
  let frame = requestAnimationFrame(function measure() {
    analyser.getFloatTimeDomainData(samples);
    // Rises at once and falls slowly, as the eye expects of a meter.
    shown = Math.max(loudness(samples), shown * 0.92);
    report(shown < 0.01 ? 0 : shown);
    frame = requestAnimationFrame(measure);
  });

  const resume = () => void context.resume().catch(() => undefined);
  if (context.state === 'suspended') resume();
  window.addEventListener('pointerdown', resume);
  window.addEventListener('keydown', resume);

  return () => {
    cancelAnimationFrame(frame);
    window.removeEventListener('pointerdown', resume);
    window.removeEventListener('keydown', resume);
    source.disconnect();
    void context.close().catch(() => undefined);
    report(0);
  };
}

/** Plays two soft tones on the chosen speaker. */
export async function playTestSound(speakerId: string): Promise<void> {
  const context = new AudioContext();
  try {
    if (speakerId !== '' && 'setSinkId' in context) {
      await (context as AudioContext & { setSinkId(id: string): Promise<void> }).setSinkId(speakerId);
    }
    const start = context.currentTime + 0.05;
    for (const [index, pitch] of [523.25, 783.99].entries()) {
      const tone = context.createOscillator();
      const volume = context.createGain();
      const at = start + index * 0.22;
      tone.frequency.value = pitch;
      volume.gain.setValueAtTime(0, at);
      volume.gain.linearRampToValueAtTime(0.2, at + 0.03);
      volume.gain.exponentialRampToValueAtTime(0.001, at + 0.45);
      tone.connect(volume).connect(context.destination);
      tone.start(at);
      tone.stop(at + 0.5);
      if (index === 1) await new Promise((done) => tone.addEventListener('ended', done));
    }
  } finally {
    await context.close().catch(() => undefined);
  }
}
