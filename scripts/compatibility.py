#!/usr/bin/env python3
"""Prints how the tests behind docs/livekit-compatibility.md ended in the last run of `cargo nextest run`.

Fails if one of them failed, or if the page names a test that is not there.

usage: scripts/compatibility.py
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/livekit-compatibility.md"
# Nextest keeps its results there wherever cargo builds.
RESULTS = ROOT / "target/nextest/default/junit.xml"
ROW = re.compile(r"^\| (\d+) \| (.*) \| (.*) \|$")
# `place: test`; `room/world: check` is no test but what every room test does.
TEST = re.compile(r"`([a-z_/-]+)(?:: web)?: ([a-z0-9_]+)`")
ASSERTED = ("room/world", "check")
# The crates of the places that the page explains; the others are in signaling.
CRATES = {"sfu-core": "zynk-sfu-core", "interop": "zynk-tests", "browser": "zynk-tests", "networks": "zynk-tests", "zynk": "zynk"}
BEHAVIOUR_WIDTH = 84


def results():
    """How each test ended, by crate and name without its modules."""
    ended = {}
    for suite in ElementTree.parse(RESULTS).getroot().iter("testsuite"):
        crate = suite.get("name").split("::")[0]
        for case in suite.iter("testcase"):
            passed = case.find("failure") is None and case.find("error") is None
            key = (crate, case.get("name").split("::")[-1])
            ended[key] = ended.get(key, True) and passed
    return ended


def verdict(shown_by, ended):
    """`(word, tests that are missing, tests that failed)` for a row's last cell."""
    named = [test for test in TEST.findall(shown_by) if test != ASSERTED]
    keys = [(CRATES.get(place, "zynk-signaling"), name) for place, name in named]
    missing = [name for crate, name in keys if (crate, name) not in ended]
    failed = [name for crate, name in keys if ended.get((crate, name)) is False]
    if missing or failed:
        return "FAILED", missing, failed
    if named:
        return f"{len(named)} passed", missing, failed
    return "in all" if f"`{': '.join(ASSERTED)}`" in shown_by else "no test", missing, failed


def main():
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} is not there: run `cargo nextest run --workspace` first")
    ended = results()
    rows = [row.groups() for row in map(ROW.match, PAGE.read_text().splitlines()) if row]
    problems = []
    print("LiveKit compatibility, docs/livekit-compatibility.md:")
    for number, behaviour, shown_by in rows:
        word, missing, failed = verdict(shown_by, ended)
        if len(behaviour) > BEHAVIOUR_WIDTH:
            behaviour = behaviour[: BEHAVIOUR_WIDTH - 1] + "…"
        print(f"{number:>4}  {word:<9}  {behaviour}")
        problems += [f"{number}: there is no test {name}, or it was not run" for name in missing]
        problems += [f"{number}: {name} failed" for name in failed]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
