"""Runs commands and takes their time, processor seconds, memory and bytes.

Two sides are told apart: what is started here, and what servers of the far side
do meanwhile. Both with all their children.
"""

import contextlib
import os
import pathlib
import re
import resource
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field

from .system import ToolFailed, end, flush

SAMPLE_SECONDS = 0.02
QUIET_SECONDS = 3  # for sessions of servers to end
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Command:
    """One that is started; its output is kept unless it goes to a file."""

    argv: list
    stdin: pathlib.Path | None = None
    stdout: pathlib.Path | None = None


@dataclass
class Measured:
    """One run of one tool."""

    seconds: float
    flush_seconds: float  # fdatasync of the targets afterwards
    near_cpu_seconds: float  # user and system, children included
    far_cpu_seconds: float  # the same of all servers
    machine_cpu_seconds: float  # busy time of the whole machine: the kernel's own work too
    near_anon_bytes: int  # peak of anonymous memory, all processes of the side together
    far_anon_bytes: int  # the same, of the far side that had most
    disk_read_bytes: int | None
    wire_sent_bytes: int | None  # by the interface's counters; none on the loopback
    wire_received_bytes: int | None
    stdout: str = field(repr=False, default="")

    def as_json(self):
        figures = asdict(self)
        del figures["stdout"]
        return figures


def measure(commands, lab, waits_for=()):
    """Runs the commands side by side, and until the servers in `waits_for` have ended too."""
    with contextlib.ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        errors = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        wire = lab.place.wire_bytes()
        before = Counters.now(lab)
        begun = time.monotonic()
        running = [
            start(command, out, err, files) for command, out, err in zip(commands, outputs, errors)
        ]
        memory = PeakMemory([process.pid for process in running], lab.servers)
        memory.start()
        try:
            wait_for(running, waits_for, begun + lab.limit_seconds)
        finally:
            seconds = time.monotonic() - begun
            near, fars = memory.stop()
        for process, out, err in zip(running, outputs, errors):
            if process.returncode != 0:
                said = (written(err) or written(out)).strip()[-300:]
                raise ToolFailed(f"{program(process)}: exit {process.returncode}: {said}")
        wait_until_quiet(lab.servers)
        spent = Counters.now(lab).since(before) | bytes_since(wire, lab.place.wire_bytes())
        begun = time.monotonic()
        for target in lab.targets:
            flush(target)
        flushing = time.monotonic() - begun
        return Measured(seconds, flushing, **spent, near_anon_bytes=near, far_anon_bytes=fars, stdout=written(outputs[0]))


def wait_for(running, servers, deadline):
    """Waits for all; the servers are left to be reaped, so that their times stay theirs."""
    try:
        for process in running:
            process.wait(max(deadline - time.monotonic(), 0))
        for server in servers:
            while not os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                if time.monotonic() > deadline:
                    raise ToolFailed(f"{program(server)} does not end")
                time.sleep(0.001)
    except subprocess.TimeoutExpired as slow:
        raise ToolFailed("took too long and was ended") from slow
    finally:
        for process in running:
            if process.poll() is None:
                end(process)


def start(command, out, err, files):
    stdin = files.enter_context(open(command.stdin, "rb")) if command.stdin else subprocess.DEVNULL
    stdout = files.enter_context(open(command.stdout, "wb")) if command.stdout else out
    return subprocess.Popen(command.argv, stdin=stdin, stdout=stdout, stderr=err)


def program(process):
    """The name of what runs, not of what put it into its namespace."""
    argv = process.args
    return argv[argv.index("--") + 1] if argv[0] == "nsenter" else argv[0]


def written(file):
    file.seek(0)
    return file.read()


@dataclass
class Counters:
    """Totals that only grow."""

    near_cpu_seconds: float
    far_cpu_seconds: float
    machine_cpu_seconds: float
    disk_read_bytes: int | None

    @staticmethod
    def now(lab):
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Counters(
            near_cpu_seconds=own.ru_utime + own.ru_stime,
            far_cpu_seconds=sum(spent_by(pid) for pids in lab.servers for pid in pids),
            machine_cpu_seconds=machine_busy_seconds(),
            disk_read_bytes=disk_read_bytes(lab.work),
        )

    def since(self, before):
        old = asdict(before)
        return {name: None if now is None else now - old[name] for name, now in asdict(self).items()}


def bytes_since(before, now):
    sent, received = (None, None) if now is None else (now[0] - before[0], now[1] - before[1])
    return {"wire_sent_bytes": sent, "wire_received_bytes": received}


def spent_by(pid):
    """Seconds of a process and of its children that have ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def machine_busy_seconds():
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / TICKS


def disk_read_bytes(path):
    """Of the device below a folder, by everyone; none where there is no such device."""
    device = os.stat(path).st_dev
    counters = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(counters.read_text().split()[2]) * 512 if counters.exists() else None


def descendants(pid):
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                for child in pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                    found += descendants(int(child))
    return found


def wait_until_quiet(roots):
    """A session's time is its server's only once it has ended."""
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline and any(len(descendants(pid)) > 1 for pids in roots for pid in pids):
        time.sleep(0.01)


class PeakMemory(threading.Thread):
    """Watches anonymous memory until stopped: of the near side, and of each far one."""

    def __init__(self, near, fars):
        super().__init__(daemon=True)
        self.sides = [near, *fars]
        self.peaks = [0] * len(self.sides)
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(SAMPLE_SECONDS):
            for number, roots in enumerate(self.sides):
                now = sum(anonymous(pid) for root in roots for pid in descendants(root))
                self.peaks[number] = max(self.peaks[number], now)

    def stop(self):
        """The near side's peak, and the largest of the far ones."""
        self.ended.set()
        self.join()
        return self.peaks[0], max(self.peaks[1:], default=0)


def anonymous(pid):
    with contextlib.suppress(OSError):
        found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0
