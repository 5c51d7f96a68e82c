"""The volumes and servers of one comparison, and the measuring of one command."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

TOOLS = pathlib.Path(__file__).resolve().parent.parent
SERVER_START_SECONDS = 10
MEMORY_SAMPLE_SECONDS = 0.02
CASES = ("differing", "identical", "empty")
OLD = 1_600_000_000  # an mtime that no tool takes for "unchanged"


class ToolFailed(Exception):
    """A command failed, or left a target that is not the source."""


@dataclass
class Measured:
    """One run of one tool."""

    seconds: float
    flush_seconds: float  # fdatasync of the target afterwards
    cpu_seconds: float  # busy time of the whole machine: both ends and the kernel
    rss_bytes: int  # the largest process of the near side
    stdout: str


@dataclass
class Lab:
    """Volumes in `data`, the target in `work`; servers end with the `stack`."""

    data: pathlib.Path
    work: pathlib.Path
    cold: bool
    stack: contextlib.ExitStack

    @property
    def primary(self):
        return self.data / "primary.img"

    @property
    def pristine(self):
        return self.data / "replica.img"

    @property
    def target(self):
        return self.work / "target.img"

    def prepare(self, case):
        """Puts the target and the page cache into the case's state."""
        if case == "differing":
            self._copy(self.pristine)
        elif case == "identical":
            self._copy(self.primary)
            os.utime(self.target, (OLD, OLD))
        else:
            self.target.unlink(missing_ok=True)
        os.sync()
        if self.cold:
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
        else:
            read_whole(self.primary)
            if case != "empty":
                read_whole(self.target)

    def _copy(self, source):
        self.target.unlink(missing_ok=True)
        run_quietly(["cp", "--sparse=always", "--reflink=never", str(source), str(self.target)])

    def check(self):
        """Compares the target with the source, byte for byte."""
        run_quietly(["cmp", str(self.primary), str(self.target)])

    def start_sshd(self):
        """A private sshd; returns the ssh command that reaches it."""
        place = self.work / "sshd"
        # lockstep keeps its far side's ledger there, not on the host's.
        far_state = f"SetEnv=LOCKSTEP_STATE_DIR={self.work / 'state-far'}"
        sshd = str(TOOLS / "sshd")
        command = run_quietly([sshd, "start", str(place), "-o", far_state]).strip()
        self.stack.callback(run_quietly, [sshd, "stop", str(place)])
        return command

    def start_rsyncd(self):
        """An rsync daemon with the work folder as module `work`; returns its port."""
        port = free_port()
        config = self.work / "rsyncd.conf"
        config.write_text(
            f"use chroot = no\naddress = 127.0.0.1\nport = {port}\n"
            f"pid file = {self.work / 'rsyncd.pid'}\nlog file = {self.work / 'rsyncd.log'}\n"
            + ("uid = root\ngid = root\n" if os.geteuid() == 0 else "")
            + f"[work]\npath = {self.work}\nread only = false\n"
        )
        (self.work / "rsyncd.pid").unlink(missing_ok=True)
        argv = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
        self.stack.enter_context(serving(argv, port))
        return port


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(server, port):
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise ToolFailed(f"{server.args[0]} does not listen on port {port}")


@contextlib.contextmanager
def serving(argv, port):
    """A server on a port of loopback, ready when entered and ended when left."""
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(server, port)
        yield
    finally:
        end(server)


def end(process):
    process.terminate()
    try:
        process.wait(SERVER_START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_quietly(argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolFailed(f"{argv[0]}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def read_whole(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def machine_busy_seconds():
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def flush(path):
    """Seconds until what was written to `path` is on its medium."""
    if not path.exists():
        return 0.0
    begun = time.monotonic()
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())
    return time.monotonic() - begun


def measure(commands, target):
    """Runs the commands side by side; fails unless all of them succeed."""
    with contextlib.ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        errors = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        busy = machine_busy_seconds()
        begun = time.monotonic()
        running = [
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            for argv, out, err in zip(commands, outputs, errors)
        ]
        memory = PeakMemory(running)
        memory.start()
        for process in running:
            process.wait()
        seconds = time.monotonic() - begun
        cpu = machine_busy_seconds() - busy
        rss = memory.stop()
        for process, out, err in zip(running, outputs, errors):
            if process.returncode != 0:
                said = (written(err) or written(out)).strip()[-300:]
                raise ToolFailed(f"{process.args[0]}: exit {process.returncode}: {said}")
        return Measured(seconds, flush(target), cpu, rss, written(outputs[0]))


class PeakMemory(threading.Thread):
    """Watches the peak resident memory of processes until they end."""

    def __init__(self, processes):
        super().__init__(daemon=True)
        self.places = [pathlib.Path(f"/proc/{process.pid}/status") for process in processes]
        self.ended = threading.Event()
        self.rss_bytes = 0

    def run(self):
        # wait4's own figure will not do: it starts at what this program had before exec.
        while not self.ended.wait(MEMORY_SAMPLE_SECONDS):
            for place in self.places:
                with contextlib.suppress(OSError):
                    found = re.search(r"VmHWM:\s+(\d+) kB", place.read_text())
                    self.rss_bytes = max(self.rss_bytes, int(found[1]) * 1024 if found else 0)

    def stop(self):
        self.ended.set()
        self.join()
        return self.rss_bytes


def written(file):
    file.seek(0)
    return file.read()


def require(program):
    if not shutil.which(program):
        raise ToolFailed(f"{program} is missing: run tools/setup")
