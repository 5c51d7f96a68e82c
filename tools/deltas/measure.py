"""Runs lockstep on a field, and takes the times."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

from comparison.system import ToolFailed, end, read_whole

WRITER_BREATH_SECONDS = 0.0002


class Writer(threading.Thread):
    """Writes one page of the image again and again, as it is, and keeps its longest wait.

    What a volume's users see of a snapshot, which no program that makes one can say.
    """

    def __init__(self, path, offset):
        super().__init__(daemon=True)
        self.file = os.open(path, os.O_RDWR)
        self.offset = offset
        self.page = os.pread(self.file, 4096, offset)
        os.pwrite(self.file, self.page, offset)
        self.ended = threading.Event()
        self.longest = 0.0

    def run(self):
        while not self.ended.is_set():
            begun = time.monotonic()
            os.pwrite(self.file, self.page, self.offset)
            self.longest = max(self.longest, time.monotonic() - begun)
            time.sleep(WRITER_BREATH_SECONDS)

    def stop(self):
        """Once is enough, and twice does no harm."""
        if not self.ended.is_set():
            self.ended.set()
            self.join()
            os.close(self.file)


def sync(field, options, extra, is_written=True):
    """One run, and what there is to know of it; the replica is compared afterwards."""
    command = [str(options.lockstep), "sync", str(field.image), str(field.replica), "--yes", "--json"]
    command += ["--state-dir", str(field.state), "--progress", "none", *extra]
    writer = Writer(field.image, field.layout.page_offset(0)) if is_written else None
    with tempfile.TemporaryFile("w+") as said:
        if writer:
            writer.start()
        begun = time.monotonic()
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            lines = listen(running, writer)
            seconds = time.monotonic() - begun
        finally:
            # Nothing may have the image open when its filesystem goes.
            if running.poll() is None:
                end(running)
            if writer:
                writer.stop()
        if running.returncode != 0:
            said.seek(0)
            raise ToolFailed(f"lockstep: exit {running.returncode}: {said.read().strip()[-300:]}")
    field.check()
    return {**figures(lines), "seconds": seconds, "pause": writer.longest if writer else None}


def listen(running, writer):
    """The events of a run, until it has ended."""
    lines = []
    for line in running.stdout:
        lines.append(json.loads(line))
        # From here on the writer would only measure how busy the disk is.
        if writer and lines[-1]["type"] == "snapshot":
            writer.stop()
    running.wait()
    return lines


def figures(lines):
    """What the events of a run tell."""
    summary = lines[-1]
    target = summary["targets"][0]
    return {
        "proof": summary["proof"],
        "source_read": summary["source"]["bytes_read"],
        "target_read": target.get("bytes_read"),
        "written": target["bytes_written"],
        "warnings": [line["message"] for line in lines if line["type"] == "warning"],
    }


def rows(field, options):
    """A row for each rate: the same changes found by a full scan, and by a delta."""
    sync(field, options, [])
    return [row(field, options, rate) for rate in options.rates]


def row(field, options, rate):
    found = {}
    # The delta first: the full scan then begins with the same snapshot as it did.
    for kind, extra in (("delta", []), ("full", ["--no-delta"])):
        changed = field.change(rate)
        field.settle()
        found[kind] = sync(field, options, extra)
        tell(field.filesystem, field.layout.size, rate, kind, found[kind])
    return {
        "filesystem": field.filesystem,
        "size": field.layout.size,
        "data": field.layout.data,
        "percent": rate,
        "changed": changed * 4096,
        **found,
    }


def tell(filesystem, size, rate, kind, run):
    """A line for each run, for whoever waits."""
    print(
        f"measure-delta: {filesystem:5} {size / 2**30:6.3g} GiB  {rate:5} %  {kind:5}"
        f"  {run['seconds']:7.2f} s  pause {1000 * (run['pause'] or 0):7.1f} ms  read {run['source_read'] / 1e6:8.1f} MB",
        file=sys.stderr,
    )
    if run["proof"] != kind:
        print(f"measure-delta: proof {run['proof']}: {run['warnings']}", file=sys.stderr)


def warm_source(field, options):
    """A full scan of an image that is in the page cache: through its clone, which is not, and itself."""
    found = {"filesystem": field.filesystem, "size": field.layout.size}
    for how in ("exclusive", "reflink"):
        os.sync()
        read_whole(field.image)
        read_whole(field.replica)
        run = sync(field, options, ["--no-delta", "--keep-base", "never", "--snapshot", how], is_written=False)
        found[how] = run["seconds"]
    return found
