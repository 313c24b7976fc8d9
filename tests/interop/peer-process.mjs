// A peer that runs as a process of its own and speaks in JSON lines on its standard output.
import { spawn } from 'node:child_process';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { within } from '../browser/deadline.mjs';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const EXIT_LIMIT_MS = 10_000;

/**
 * Starts `program` of this folder (`.py` or `.mjs`). `said(predicate)` resolves with the first line
 * that fits; it rejects when the process ends without having said it. `tell` writes one line to its standard
 * input. Closing that (`finish`) asks it to end; `finish` rejects unless it exits with 0.
 */
export function startPeer(program, args, env = {}) {
  const interpreter = program.endsWith('.py') ? path.join(HERE, '.venv/bin/python') : process.execPath;
  const child = spawn(interpreter, [path.join(HERE, program), ...args], {
    env: { ...process.env, ...env, PYTHONUNBUFFERED: '1' },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const name = `${program} ${args.join(' ')}`;
  const lines = [];
  const waiting = new Set();
  readline.createInterface({ input: child.stdout }).on('line', (text) => {
    console.log(`[${name}] ${text}`);
    let line;
    try {
      line = JSON.parse(text);
    } catch {
      return;
    }
    lines.push(line);
    for (const entry of [...waiting]) {
      if (entry.fits(line)) {
        waiting.delete(entry);
        entry.resolve(line);
      }
    }
  });
  const exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve(code ?? signal)));
  exited.then((code) => {
    for (const { reject } of waiting) reject(new Error(`${name} ended with ${code}`));
    waiting.clear();
  });
  return {
    said: (fits) => {
      const heard = lines.find(fits);
      if (heard) return Promise.resolve(heard);
      return new Promise((resolve, reject) => waiting.add({ fits, resolve, reject }));
    },
    tell: (line) => child.stdin.write(`${JSON.stringify(line)}\n`),
    finish: async () => {
      child.stdin.end();
      const code = await within(`the end of ${name}`, exited, EXIT_LIMIT_MS);
      if (code !== 0) throw new Error(`${name} ended with ${code}`);
    },
    close: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
