// What the namespace in which a test program runs lets through. It goes away with the namespace.
import { execFileSync } from 'node:child_process';

const nft = (...rules) => execFileSync('nft', ['-f', '-'], { input: rules.join('\n') });

/** Drops, without a word to the sender, every UDP datagram that arrives anywhere in the namespace. */
export function dropUdp() {
  nft(
    'add table inet zynk_test',
    'add chain inet zynk_test arriving { type filter hook input priority 0; policy accept; }',
    'add rule inet zynk_test arriving meta l4proto udp drop',
  );
}

/** Lets UDP pass again. */
export function passUdp() {
  nft('delete table inet zynk_test');
}
