// A network of its own for a browser, from which the server is reached through one link.
//
//   far ── 203.0.113.2 ──veth── 203.0.113.1 ── the namespace of the server and of this program
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

// From RFC 5737's documentation ranges.
const NEAR = '203.0.113.1';
const NAME = 'far';
const NAMESPACE = `/run/netns/${NAME}`;
// The names of network namespaces are files: these go away with the test's mount namespace.
const SETUP = `set -e
mount -t tmpfs none /run
ip netns add ${NAME}
ip link add near0 type veth peer name far0 netns ${NAME}
ip address add ${NEAR}/24 dev near0
ip link set near0 up
ip -n ${NAME} address add 203.0.113.2/24 dev far0
ip -n ${NAME} link set lo up
ip -n ${NAME} link set far0 up
ip -n ${NAME} route add default via ${NEAR}`;

/** `near`: this side's address there. `executable`: a Chromium that runs there. */
export function farNetwork() {
  execFileSync('sh', ['-c', SETUP]);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'zynk-far-'));
  const executable = path.join(folder, 'chromium');
  fs.writeFileSync(executable, `#!/bin/sh\nexec nsenter --net=${NAMESPACE} ${process.env.CHROMIUM ?? '/usr/bin/chromium'} "$@"\n`, { mode: 0o755 });
  const nft = (...rules) => execFileSync('nsenter', [`--net=${NAMESPACE}`, 'nft', '-f', '-'], { input: rules.join('\n') });
  return {
    near: NEAR,
    executable,
    /** Drops every UDP datagram of both directions, without a word to anybody. */
    dropUdp: () =>
      nft(
        'add table inet cut',
        'add chain inet cut arriving { type filter hook input priority 0; policy accept; }',
        'add rule inet cut arriving meta l4proto udp drop',
        // After the socket has handed it over: the sender notices nothing.
        'add chain inet cut leaving { type filter hook postrouting priority 0; policy accept; }',
        'add rule inet cut leaving meta l4proto udp drop',
      ),
    /** Lets UDP pass again. */
    passUdp: () => nft('delete table inet cut'),
    close: () => fs.rmSync(folder, { recursive: true, force: true }),
  };
}
