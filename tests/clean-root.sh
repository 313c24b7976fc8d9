#!/usr/bin/env bash
# Runs `make run` and `make test` in a fresh Debian where nothing was installed before.
# usage: tests/clean-root.sh          (as root; needs debootstrap; takes long; not part of CI)
#        KEEP=1 tests/clean-root.sh   leaves the root in place and says where it is
#        TAIL_LINES=N tests/clean-root.sh   prints so many last lines of `make test`; 400 unless told
#
# The clone is of the last commit. This machine lends the root what tells it where packages come from
# (apt sources, certificates) and, read-only, the Rust toolchain.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
root=$(mktemp -d -t zynk-clean-root.XXXXXX)
[[ -n ${KEEP:-} ]] || trap 'rm -rf --one-file-system "$root"' EXIT
# Either file may be missing: the newer form has a folder of its own.
sources=()
for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list; do
  [[ ! -e $file ]] || sources+=("$file")
done
mirror=$(sed -nE 's/^(URIs: |deb +(\[.*\] +)?)(http[^ ]+).*/\3/p' "${sources[@]}" | head -n 1)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}

echo "== bookworm into $root"
debootstrap --variant=minbase --include=ca-certificates,make,git bookworm "$root" "$mirror" >"$root.debootstrap.log" 2>&1 ||
  { tail -n 20 "$root.debootstrap.log"; exit 1; }
rm -f "$root.debootstrap.log"
git clone --quiet "$repository" "$root/root/zynk"
mkdir -p "$root/root/.cargo/bin" "$root/root/.rustup"

# What says where packages come from.
cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
rm -f "$root"/etc/apt/sources.list
cp -a /etc/apt/sources.list.d/*.sources "$root/etc/apt/sources.list.d/" 2>/dev/null || cp -a /etc/apt/sources.list "$root/etc/apt/"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
# The bundle is made anew from these whenever a package touches it.
cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
for file in "$HOME/.npmrc" /etc/pip.conf "$cargo_home/config.toml"; do
  [[ ! -e $file ]] || install -D "$file" "$root/${file#/}"
done

cat >"$root/root/check.sh" <<'CHECK'
set -euo pipefail
cd /root/zynk
log=$(mktemp)
echo '== make run'
start=$SECONDS
setsid make run >"$log" 2>&1 &
run=$!
until url=$(grep -oE 'http://[a-z0-9.]+:[0-9]+' "$log" | tail -n 1) && [[ -n $url ]] &&
  perl -MIO::Socket::INET -e '
    my ($host, $port) = $ARGV[0] =~ m{http://([^:]+):(\d+)} or exit 1;
    my $socket = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port, Timeout => 5) or exit 1;
    print $socket "GET / HTTP/1.0\r\nHost: $host:$port\r\n\r\n";
    exit(<$socket> =~ m{^HTTP/1\.[01] 200} ? 0 : 1);' "$url"
do
  kill -0 "$run" 2>/dev/null || { tail -n 60 "$log"; echo 'make run ended by itself'; exit 1; }
  sleep 1
done
tail -n 5 "$log"
echo "== make run: $url answers with 200 after $((SECONDS - start)) s"
# Not SIGINT: a shell without a terminal starts its background jobs with that one ignored.
kill -TERM -- "-$run"
wait "$run" || true
echo '== make test'
start=$SECONDS
make test 2>&1 | tail -n "$TAIL_LINES"
echo "== make test: passed after $((SECONDS - start)) s"
CHECK

env --ignore-environment \
  HOME=/root LANG=C.UTF-8 PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
  RUSTUP_AUTO_INSTALL=0 TAIL_LINES="${TAIL_LINES:-400}" \
  ROOT="$root" CARGO_BIN="$cargo_home/bin" RUSTUP_HOME_HERE="$rustup_home" \
  unshare --mount --pid --fork --kill-child=KILL bash -euc '
    mount --make-rprivate /
    # A mount point of its own, which becomes the root: tests enter namespaces that they make inside.
    mount --bind "$ROOT" "$ROOT"
    mount -t proc proc "$ROOT/proc"
    mount --rbind /sys "$ROOT/sys"
    mount --rbind /dev "$ROOT/dev"
    mount --bind "$CARGO_BIN" "$ROOT/root/.cargo/bin"
    mount -o remount,bind,ro "$ROOT/root/.cargo/bin"
    mount --bind "$RUSTUP_HOME_HERE" "$ROOT/root/.rustup"
    mount -o remount,bind,ro "$ROOT/root/.rustup"
    cd "$ROOT"
    pivot_root . .
    umount --lazy .
    exec bash /root/check.sh' || status=$?
exit "${status:-0}"
