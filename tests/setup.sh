#!/usr/bin/env bash
# Installs what the tests in browsers and with other WebRTC stacks need. Quick when all is there.
set -euo pipefail
cd "$(dirname "$0")"

packages=(chromium coturn curl firefox-esr fonts-dejavu-core iproute2 libnss3-tools nftables openssl pebble util-linux python3-venv)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
  sudo=()
  ((EUID == 0)) || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq
  # Packages start their services while they are installed, unless this says no: coturn's relay is to serve
  # nobody here. The tests start their own.
  policy=/usr/sbin/policy-rc.d
  if [[ " ${missing[*]} " == *" coturn "* && ! -e $policy ]]; then
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" install -m 755 /dev/stdin "$policy"
  fi
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
  # Nor at the next boot.
  if [[ " ${missing[*]} " == *" coturn "* && -d /run/systemd/system ]]; then
    "${sudo[@]}" systemctl disable --quiet coturn
  fi
fi

# A stamp is newer than the lock file it was installed from.
for folder in browser interop; do
  stamp=$folder/node_modules/.installed
  if [[ ! -e $stamp || $folder/package-lock.json -nt $stamp ]]; then
    npm ci --prefix "$folder" --no-audit --no-fund --loglevel=error
    touch "$stamp"
  fi
done

stamp=interop/.venv/.installed
if [[ ! -e $stamp || interop/requirements.txt -nt $stamp ]]; then
  # Debian's own interpreter where there is one: it is what python3-venv belongs to.
  python=/usr/bin/python3
  [[ -x $python ]] || python=python3
  "$python" -m venv --clear interop/.venv
  interop/.venv/bin/pip install --quiet --disable-pip-version-check --requirement interop/requirements.txt
  touch "$stamp"
fi
