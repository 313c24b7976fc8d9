#!/usr/bin/env bash
# Installs what the tests in browsers and with other WebRTC stacks need. Quick when all is there.
set -euo pipefail
cd "$(dirname "$0")"

packages=(chromium firefox-esr fonts-dejavu-core iproute2 nftables util-linux python3-venv)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
  sudo=()
  ((EUID == 0)) || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
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
