#!/usr/bin/env python3
"""What an XDP program for TURN's channels saves over relays with sockets, in network namespaces.

usage: benches/xdp/measure.py [--zynk target/release/zynk] [--points fwd:172:1,…] [--rate 100000] …

As root; needs clang, gcc, libbpf-dev, bpftool, ethtool, iproute2 and coturn. Takes six minutes and two cores, and removes
what it made.

    client ─ c0 ═ rc ─ relay ─ rp ═ p0 ─ peer           20 clients with a channel to a peer each; ═ is a veth pair
       └── c1 ═══════════════════════ p1 ──┘

Variants take turns with the same packets between the same sockets:

    direct    no relay, by c1 and p1: the generator, its sockets and one pair
    forward   no relay: the kernel in between forwards plain UDP (`ip_forward`)
    native    relay.bpf.c at rc and rp, in front of Zynk's sockets, with the bindings of Zynk's allocations
    generic   the same program after the kernel has made an skb
    zynk      Zynk's relay
    coturn    coturn, one relay thread

CPU is that of the generator, the relay and ksoftirqd together: softirqs run in whoever sends, so other work on the
machine does not count. The wire is made like a network's: packets are single and their checksums are there.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from turn_client import CHANNEL, PASSWORD, USER, Turn

HERE = Path(__file__).resolve().parent
CLIENT_SPACE, RELAY_SPACE, PEER_SPACE = SPACES = ("zynk-xdp-client", "zynk-xdp-relay", "zynk-xdp-peer")
DIRECT = (("c1", CLIENT_SPACE), ("p1", PEER_SPACE))
# Device, its namespace, address. Pairs are neighbours.
DEVICES = (
    ("c0", CLIENT_SPACE, "10.81.1.2"),
    ("rc", RELAY_SPACE, "10.81.1.1"),
    ("rp", RELAY_SPACE, "10.81.2.1"),
    ("p0", PEER_SPACE, "10.81.2.2"),
)
CLIENT, LISTEN, RELAYED, PEER = (address for _, _, address in DEVICES)
# Of Zynk's, relay.bpf.c knows it too.
ZYNK_PORT, COTURN_PORT = 3478, 3479
PAIRS = 20
RELAY_CORE, LOAD_CORE = 0, 1
REALM = "bench.test"
VARIANTS = ("direct", "forward", "native", "generic", "zynk", "coturn")
POINTS = "fwd:172:1,rev:172:1,fwd:1200:1,rev:1200:1,fwd:172:8,fwd:1200:8"
STATISTICS = "kernel.bpf_stats_enabled"
CLONE_NEWNET = 0x40000000

ZYNK_CONFIG = f"""
port = 0
roles = ["turn"]
[log]
level = "warn"
[turn]
bind = ["{LISTEN}"]
port = {ZYNK_PORT}
tcp = false
relay_bind = ["{RELAYED}"]
relay_port_first = 20000
relay_port_last = 29999
allow_peers = ["10.81.0.0/16"]
realm = "{REALM}"
users = {{ {USER} = "{PASSWORD}" }}
[turn.limits]
user_allocations_max = 0
unauthenticated_answers_per_s_max = 0
all_unauthenticated_answers_per_s_max = 0
"""


def run(*words, space: str | None = None, **options) -> str:
    """Not `ip netns exec`, which would hide the BPF file system."""
    words = [str(word) for word in words]
    if space:
        words = ["nsenter", f"--net=/run/netns/{space}", *words]
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def make_network(stack: contextlib.ExitStack) -> None:
    for space in SPACES:
        run("ip", "netns", "add", space)
        stack.callback(run, "ip", "netns", "del", space)
        run("ip", "link", "set", "lo", "up", space=space)
    relayed = [(device, space) for device, space, _ in DEVICES]
    for (left, left_space), (right, right_space) in (relayed[:2], relayed[2:], DIRECT):
        run("ip", "link", "add", left, "netns", left_space, "type", "veth", "peer", "name", right, "netns", right_space)
    for device, space, address in DEVICES:
        run("ip", "address", "add", f"{address}/24", "dev", device, space=space)
    for device, space in (*relayed, *DIRECT):
        run("ip", "link", "set", device, "up", space=space)
        # With GRO, veth has a NAPI: without, it takes nothing that is redirected to it.
        run("ethtool", "-K", device, "gro", "on", space=space)
        if space != RELAY_SPACE:
            run("ethtool", "-K", device, "tx", "off", "tx-udp-segmentation", "off", space=space)
    # bpf_fib_lookup() answers only where packets are forwarded.
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", space=RELAY_SPACE)
    run("ip", "route", "add", "default", "via", LISTEN, space=CLIENT_SPACE)
    run("ip", "route", "add", "default", "via", RELAYED, space=PEER_SPACE)


@contextlib.contextmanager
def direct_routes():
    """Around the relay."""
    with contextlib.ExitStack() as stack:
        for (device, space), address in zip(DIRECT, (PEER, CLIENT)):
            run("ip", "route", "add", address, "dev", device, space=space)
            stack.callback(run, "ip", "route", "del", address, "dev", device, space=space)
        yield


def open_socket(space: str, address: str, port: int) -> socket.socket:
    """A socket stays in the namespace that its thread was in."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{space}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                os._exit(1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    opened.bind((address, port))
    opened.settimeout(0.5)
    return opened


class Program:
    """relay.bpf.c, loaded once and attached where a variant wants it."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        bpffs, compiled = folder / "bpf", folder / "relay.o"
        include = f"/usr/include/{run('gcc', '-print-multiarch').strip()}"
        clang = ("clang", "-O2", "-g", "-target", "bpf", "-Wall", "-Wextra", "-Werror", "-idirafter", include)
        run(*clang, "-c", HERE / "relay.bpf.c", "-o", compiled)
        bpffs.mkdir()
        run("mount", "-t", "bpf", "bpf", bpffs)
        stack.callback(run, "umount", bpffs)
        run("bpftool", "prog", "loadall", compiled, bpffs / "programs", "pinmaps", bpffs / "maps")
        self.program, self.map = bpffs / "programs" / "relay", bpffs / "maps" / "bindings"

    @contextlib.contextmanager
    def attached(self, mode: str):
        kind = {"native": "xdpdrv", "generic": "xdpgeneric"}[mode]
        with contextlib.ExitStack() as stack:
            for device in ("rc", "rp"):
                run("bpftool", "net", "attach", kind, "pinned", self.program, "dev", device, space=RELAY_SPACE)
                stack.callback(run, "bpftool", "net", "detach", kind, "dev", device, space=RELAY_SPACE)
            yield

    def bind(self, turn: Turn, peer: tuple[str, int], lifetime_s: float) -> None:
        """What the relay would write at a ChannelBind."""
        client, expires_ns = turn.client.getsockname(), time.monotonic_ns() + int(lifetime_s * 1e9)
        self.update(ends(client, turn.server, CHANNEL), ends(turn.relayed, peer, 0), expires_ns)
        self.update(ends(peer, turn.relayed, 0), ends(turn.server, client, CHANNEL), expires_ns)

    def update(self, key: bytes, to: bytes, expires_ns: int) -> None:
        value = to + struct.pack("=QQQ", expires_ns, 0, 0)
        words = ["bpftool", "map", "update", "pinned", self.map, "key", "hex", *hexadecimal(key)]
        run(*words, "value", "hex", *hexadecimal(value))

    def packets(self) -> int:
        """Relayed under the present bindings."""
        entries = json.loads(run("bpftool", "-j", "map", "dump", "pinned", self.map))
        return sum(entry["formatted"]["value"]["packets"] for entry in entries)

    def run_time(self) -> tuple[int, int]:
        """In nanoseconds, and how often it ran, while statistics were enabled."""
        shown = json.loads(run("bpftool", "-j", "prog", "show", "pinned", self.program))
        return shown.get("run_time_ns", 0), shown.get("run_cnt", 0)


def ends(source: tuple[str, int], destination: tuple[str, int], channel: int) -> bytes:
    """The beginning of relay.bpf.c's `key` and `binding`."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    return addresses + struct.pack("!HHHH", source[1], destination[1], channel, 0)


def hexadecimal(data: bytes) -> list[str]:
    return [f"{byte:02x}" for byte in data]


def spawn(stack: contextlib.ExitStack, folder: Path, name: str, words: list) -> int:
    """Starts a relay on its core, ahead of other work, and returns its process."""
    command = ["nsenter", f"--net=/run/netns/{RELAY_SPACE}", "taskset", "-c", RELAY_CORE, "chrt", "-r", 10, *words]
    with open(folder / f"{name}.log", "w") as log:
        child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, cwd=folder)

    def end() -> None:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    stack.callback(end)
    return child.pid


def start_relays(stack: contextlib.ExitStack, folder: Path, zynk: str) -> dict[str, int]:
    (folder / "zynk.toml").write_text(ZYNK_CONFIG)
    coturn = ["turnserver", "-n", "--listening-ip", LISTEN, "--listening-port", COTURN_PORT, "--relay-ip", RELAYED]
    coturn += ["--relay-threads", 1, "--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--lt-cred-mech"]
    coturn += ["--user", f"{USER}:{PASSWORD}", "--realm", REALM, "--min-port", 30000, "--max-port", 39999]
    coturn += ["--log-file", "/dev/null", "--no-stdout-log", "--userdb", folder / "users", "--pidfile", folder / "pid"]
    return {
        "zynk": spawn(stack, folder, "zynk", [zynk, "run", "--config", folder / "zynk.toml"]),
        "coturn": spawn(stack, folder, "coturn", coturn),
    }


def drain(opened: socket.socket) -> None:
    """Late answers to repeated requests must not count as packets of a window."""
    with contextlib.suppress(BlockingIOError):
        while True:
            opened.recv(2048, socket.MSG_DONTWAIT)


@dataclass
class Window:
    sent: int
    received: int
    rate: float
    us: float
    relay_us: float

    @property
    def lost_percent(self) -> float:
        return 100 * (1 - self.received / max(self.sent, 1))


@dataclass
class Bench:
    arguments: argparse.Namespace
    program: Program
    load: Path
    relays: dict[str, int]
    clients: list[socket.socket]
    peers: list[socket.socket]
    turns: dict[str, list[Turn]] = field(default_factory=dict)

    def allocate(self) -> None:
        for name, port in (("zynk", ZYNK_PORT), ("coturn", COTURN_PORT)):
            self.turns[name] = [Turn(client, (LISTEN, port)) for client in self.clients]
            try:
                for turn in self.turns[name]:
                    turn.allocate()
            except TimeoutError as error:
                error.add_note((self.load.parent / f"{name}.log").read_text())
                raise

    def renew(self) -> None:
        for turns in self.turns.values():
            for turn, peer in zip(turns, self.peers):
                turn.bind(peer.getsockname())
        for turn, peer in zip(self.turns["zynk"], self.peers):
            self.program.bind(turn, peer.getsockname(), 300)

    def check(self, mode: str) -> None:
        """The program relays what it has a binding for, and leaves to Zynk what it has none for."""
        turn, client, peer = self.turns["zynk"][0], self.clients[0], self.peers[0]
        with self.program.attached(mode):
            # First the long way, on which the kernel learns its neighbours' addresses.
            for lifetime_s, packets in ((-1, 0), (60, 4)):
                self.program.bind(turn, peer.getsockname(), lifetime_s)
                before = self.program.packets()
                for data in (b"odd number", b"x" * 1201):
                    header = struct.pack("!HH", CHANNEL, len(data))
                    client.sendto(header + data, turn.server)
                    if peer.recvfrom(2048) != (data, turn.relayed):
                        raise RuntimeError(f"{mode}: what came to the peer is not what was sent")
                    peer.sendto(data, turn.relayed)
                    answer, source = client.recvfrom(2048)
                    if (answer[: 4 + len(data)], source) != (header + data, turn.server):
                        raise RuntimeError(f"{mode}: what came to the client is not what was sent")
                relayed = self.program.packets() - before
                if relayed != packets:
                    raise RuntimeError(f"{mode}: the program relayed {relayed} packets, not {packets}")

    def window(self, variant: str, point: str, seconds: float) -> Window:
        direction, size, burst = point.split(":")
        channels, paths = [CHANNEL, 0], []
        server = "coturn" if variant == "coturn" else "zynk"
        for turn, client, peer in zip(self.turns[server], self.clients, self.peers):
            through = variant not in ("direct", "forward")
            if direction == "fwd":
                sender, receiver, to = client, peer, turn.server if through else peer.getsockname()
            else:
                sender, receiver, to = peer, client, turn.relayed if through else client.getsockname()
            paths.append(f"{sender.fileno()},{to[0]},{to[1]},{receiver.fileno()}")
        if variant in ("direct", "forward"):
            channels = [0, 0]
        elif direction == "rev":
            channels.reverse()
        kernel = [int(run("pgrep", "-x", f"ksoftirqd/{core}")) for core in (RELAY_CORE, LOAD_CORE)]
        processes = ",".join(str(process) for process in (self.relays[server], *kernel))
        words = ["taskset", "-c", LOAD_CORE, "chrt", "-r", 10, self.load, size, burst, self.arguments.rate, seconds]
        fds = [opened.fileno() for opened in (*self.clients, *self.peers)]
        for opened in (*self.clients, *self.peers):
            drain(opened)
        network = contextlib.nullcontext()
        if variant == "direct":
            network = direct_routes()
        elif variant in ("native", "generic"):
            network = self.program.attached(variant)
        with network:
            line = run(*words, *channels, processes, *paths, pass_fds=fds).split()
        sent, received, wrong = (int(word) for word in line[:3])
        cpu_ns = [int(word) for word in line[4:]]
        if wrong or not received:
            raise RuntimeError(f"{variant} {point}: {received} packets arrived, and {wrong} that are not what was sent")
        return Window(sent, received, sent / float(line[3]), sum(cpu_ns) / received / 1e3, cpu_ns[1] / received / 1e3)

    def program_ns(self, point: str, mode: str) -> float:
        """Statistics cost something themselves, so this is a window apart."""
        before = self.program.run_time()
        previous = run("sysctl", "-n", STATISTICS).strip()
        run("sysctl", "-qw", f"{STATISTICS}=1")
        try:
            self.window(mode, point, self.arguments.seconds / 2)
        finally:
            run("sysctl", "-qw", f"{STATISTICS}={previous}")
        time_ns, count = (after - now for after, now in zip(self.program.run_time(), before))
        return time_ns / max(count, 1)

    def measure(self, point: str) -> None:
        self.renew()
        windows: dict[str, list[Window]] = {variant: [] for variant in VARIANTS}
        program_ns: dict[str, list[float]] = {"native": [], "generic": []}
        for _ in range(self.arguments.windows):
            for variant in VARIANTS:
                windows[variant].append(self.window(variant, point, self.arguments.seconds))
            for mode, values in program_ns.items():
                values.append(self.program_ns(point, mode))
        floor = statistics.median(window.us for window in windows["direct"])
        for variant, seen in windows.items():
            us = sorted(window.us for window in seen)
            print(
                f"{point:<11} {variant:<8} {statistics.median(w.rate for w in seen):>7.0f}"
                f" {statistics.median(w.lost_percent for w in seen):>7.2f}"
                f" {statistics.median(us):>7.2f} {us[0]:>6.2f}-{us[-1]:<6.2f}"
                f" {statistics.median(us) - floor:>9.2f} {statistics.median(w.relay_us for w in seen):>9.2f}"
                + (f" {statistics.median(program_ns[variant]):>9.0f}" if variant in program_ns else ""),
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="See the top of this file.")
    parser.add_argument("--zynk", default="target/release/zynk", help="the relay's binary")
    parser.add_argument("--points", default=POINTS, help="DIRECTION:BYTES:BURST, fwd is from client to peer")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a window")
    parser.add_argument("--rate", type=float, default=100000, help="packets a second")
    arguments = parser.parse_args()
    needed = ("clang", "gcc", "bpftool", "ethtool", "ip", "nsenter", "turnserver", arguments.zynk)
    if missing := [program for program in needed if not shutil.which(program)]:
        sys.exit(f"missing: {', '.join(missing)}")
    # So that everything is removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zynk-xdp-")))
        run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", HERE / "load.c", "-o", folder / "load")
        make_network(stack)
        clients = [open_socket(CLIENT_SPACE, CLIENT, 5000 + number) for number in range(PAIRS)]
        peers = [open_socket(PEER_SPACE, PEER, 6000 + number) for number in range(PAIRS)]
        program = Program(stack, folder)
        relays = start_relays(stack, folder, str(Path(arguments.zynk).resolve()))
        bench = Bench(arguments, program, folder / "load", relays, clients, peers)
        bench.allocate()
        bench.renew()
        for mode in ("native", "generic"):
            bench.check(mode)
        print(f"load average {os.getloadavg()[0]:.1f}, Linux {os.uname().release}; µs of CPU and ns of the program a packet")
        print("point       variant     rate  lost %   µs med    min-max     more  process  program")
        for point in arguments.points.split(","):
            bench.measure(point)


if __name__ == "__main__":
    main()
