#!/usr/bin/env python3
"""Writes THIRD-PARTY-NOTICES.md: every package that is shipped, with its licence and its notices.

Shipped are the crates that are linked into the `zynk` binary and the npm packages that the web client
bundles. Texts come from the packages themselves; equal texts are printed once.

usage: scripts/notices.py > THIRD-PARTY-NOTICES.md   (needs the crates fetched and web/node_modules)
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"
NOTICE_FILE = re.compile(r"^(li[cs]en[cs]e|copying|copyright|notice|unlicense|patents)", re.IGNORECASE)
# A licence's text is a few tens of KB; what is longer is no notice.
NOTICE_BYTES_MAX = 200_000


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def crates():
    """Crates of the binary's dependency tree, as (name, version, licence, folder)."""
    tree = run("cargo", "tree", "--package", "zynk", "--edges", "normal", "--prefix", "none", "--offline",
               "--locked", "--target", TARGET, "--format", "{p}")
    shipped = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    metadata = json.loads(run("cargo", "metadata", "--format-version", "1", "--offline", "--locked",
                              "--filter-platform", TARGET))
    for package in metadata["packages"]:
        if package["source"] is not None and (package["name"], "v" + package["version"]) in shipped:
            licence = package["license"] or "see its text"
            yield package["name"], package["version"], licence, Path(package["manifest_path"]).parent


def npm_packages():
    """Packages that the web client's lock file has and that are no development tools."""
    web = ROOT / "web"
    lock = json.loads((web / "package-lock.json").read_text())
    for path, entry in lock["packages"].items():
        if "node_modules/" not in path or entry.get("dev") or entry.get("optional") or entry.get("link"):
            continue
        folder = web / path
        manifest = folder / "package.json"
        if not manifest.exists():
            sys.exit(f"{path} is not installed: run `make web` first")
        name = path.rsplit("node_modules/", 1)[1]
        licence = entry.get("license") or json.loads(manifest.read_text()).get("license") or "see its text"
        yield name, entry["version"], licence, folder


def notices(folder):
    """The texts of a package's licence and notice files, in the order of their names."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and NOTICE_FILE.match(file.name) and file.stat().st_size <= NOTICE_BYTES_MAX:
            text = file.read_text(encoding="utf-8", errors="replace")
            yield "\n".join(line.rstrip() for line in text.strip().splitlines())


def main():
    packages = sorted(set(crates()) | set(npm_packages()))
    texts = {}
    out = ["# Third-party notices", "",
           "Zynk contains these packages. Written by `make notices`.", ""]
    for name, version, licence, folder in packages:
        out.append(f"- {name} {version}, {licence}")
        for text in notices(folder):
            texts.setdefault(text, []).append(f"{name} {version}")
    for text, owners in sorted(texts.items(), key=lambda item: item[1]):
        fence = "```" if "```" not in text else "~~~~"
        out += ["", "## " + ", ".join(owners), "", fence, text, fence]
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
