"""Small things that every part of a comparison needs of the machine."""

import os
import pathlib
import platform
import re
import shutil
import subprocess

TOOLS = pathlib.Path(__file__).resolve().parent.parent
SERVER_END_SECONDS = 10


class ToolFailed(Exception):
    """A command failed, or left a target that is not the source."""


class Missing(ToolFailed):
    """What a line needs is not on this machine: it is left out, and the reason told."""


class SourceChanged(Exception):
    """A tool wrote to the volume that it was to read: nothing more can be measured with it."""


def require(program, package=None):
    if not shutil.which(program):
        raise Missing(f"{program} is missing (package {package or program})")


def run_quietly(argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolFailed(f"{argv[0]}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def end(process):
    process.terminate()
    try:
        process.wait(SERVER_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_whole(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def drop_caches():
    """Of what is on its medium already."""
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")


def flush(path):
    """Waits until what was written to `path` is on its medium."""
    if path.exists():
        with open(path, "rb") as file:
            os.fdatasync(file.fileno())


def allocated_bytes(path):
    return path.stat().st_blocks * 512 if path.exists() else 0


def available_memory_bytes():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def parse_size(text):
    """Bytes of `4G` and the like."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def version(argv):
    """What a program calls itself, up to its number; nothing if it is not there."""
    if not shutil.which(argv[0]):
        return ""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = re.match(r".*?\d+\.[\w.]+", (done.stdout or done.stderr).split("\n", 1)[0])
    return " ".join(found[0].split()) if found else ""
