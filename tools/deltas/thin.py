"""Rows for thin volumes, which need the emulated machine: its kernel has device-mapper."""

import json
import pathlib
import random
import subprocess
import tempfile

from comparison.system import ToolFailed

from .field import PAGE, Layout
from .measure import figures, tell

MOST_SECONDS = 1800
LIBRARIES = ("lib.sh", "lvm.sh")


def rows(tools, options, size):
    """A row for each rate; how they are measured, tests/vm/measure-thin says."""
    layout = Layout(size, size)
    pages = random.Random(options.seed)
    counts = {percent: max(1, round(layout.pages * percent / 100)) for percent in options.thin_rates}
    lines = [
        f"{kind} " + " ".join(map(str, sorted(pages.sample(range(layout.pages), count))))
        for count in counts.values()
        for kind in ("delta", "full")
    ]
    runs = measured(emulate(tools, options, size, lines))
    if len(runs) != len(lines) + 1:
        raise ToolFailed(f"measure-thin: {len(runs)} runs, not {len(lines) + 1}")
    found = []
    for number, (percent, count) in enumerate(counts.items()):
        delta, full = runs[1 + 2 * number : 3 + 2 * number]
        row = {"filesystem": "thin", "size": size, "data": size, "percent": percent, "changed": count * PAGE}
        found.append({**row, "delta": delta, "full": full})
        for kind in ("delta", "full"):
            tell("thin", size, percent, kind, found[-1][kind])
    return found


def emulate(tools, options, size, lines):
    """What the script prints."""
    place = tools.parent / "tests/vm"
    with tempfile.TemporaryDirectory(prefix="lockstep-deltas-", dir=options.work) as work:
        runs = pathlib.Path(work) / "runs"
        runs.write_text("\n".join(lines) + "\n")
        disks = ["--disk", str(3 * size), "--disk", str(size)]
        files = ["--file", f"{runs}=/lab/runs"]
        for name in LIBRARIES:
            files += ["--file", f"{place / name}=/lab/{name}"]
        command = [str(tools / "vm"), "run", *disks, *files, "--program", f"{options.lockstep}=/bin/lockstep"]
        command += ["--timeout", str(MOST_SECONDS), str(place / "measure-thin"), str(size // 1024)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolFailed(f"measure-thin: exit {done.returncode}: {(done.stdout + done.stderr).strip()[-500:]}")
    return done.stdout


def measured(text):
    """The runs, in their order: events, and after them a line with what was measured."""
    runs, lines = [], []
    for line in text.splitlines():
        if line.startswith("{"):
            lines.append(json.loads(line))
        elif line.startswith("measured "):
            pause, seconds = map(float, line.split()[2:])
            runs.append({**figures(lines), "seconds": seconds, "pause": pause})
            lines = []
    return runs
