// An authority that browsers are to trust, beside those that they know.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';

/** Makes a database of certificates, as Firefox and Chromium have it, in a folder; `file` is the authority's certificate. */
export function makeDatabase(folder, file) {
  fs.mkdirSync(folder, { recursive: true });
  const certutil = (...args) => execFileSync('certutil', [...args, '-d', `sql:${folder}`], { stdio: ['ignore', 'ignore', 'inherit'] });
  certutil('-N', '--empty-password');
  certutil('-A', '-n', 'authority', '-t', 'C,,', '-i', file);
}
