"""One scenario's stage: a volume, its targets, and the servers that reach them."""

import contextlib
import os
import pathlib
import socket
import subprocess
import time
from dataclasses import dataclass, field
from functools import cached_property

from .system import (
    TOOLS,
    ToolFailed,
    allocated_bytes,
    available_memory_bytes,
    drop_caches,
    end,
    flush,
    read_whole,
    require,
    run_quietly,
)
from .volumes import Volume, same_data

SERVER_START_SECONDS = 10
CASES = ("differing", "identical", "empty")
OLD = 1_600_000_000  # an mtime that no tool takes for "unchanged"
LISTENING = "0A"


@dataclass
class Programs:
    """Ours."""

    lockstep: pathlib.Path
    slow_wire: pathlib.Path


@dataclass
class Lab:
    """Targets are in `work`, one for each far side; servers end with the `stack`."""

    volume: Volume
    work: pathlib.Path
    cold: bool
    place: object
    programs: Programs
    limit_seconds: int
    stack: contextlib.ExitStack
    servers: list = field(default_factory=list)  # for each far side, what runs there

    def __post_init__(self):
        self.targets = [self.work / f"target-{number}.img" for number in range(len(self.place.fars))]
        self.servers = [[] for _ in self.place.fars]

    @property
    def primary(self):
        return self.volume.primary

    def prepare(self, case):
        """Puts the targets and the page cache into the case's state."""
        for target in self.targets:
            target.unlink(missing_ok=True)
            if case == "differing":
                copy(self.volume.replica, target)
            elif case == "identical":
                copy(self.primary, target)
                os.utime(target, (OLD, OLD))
            flush(target)
        drop_caches() if self.cold else self._warm()

    def _warm(self):
        if not self.volume.replica:
            return  # holes without end would push everything else out
        for path in [self.primary, *self.targets]:
            if allocated_bytes(path):
                read_whole(path)

    def fits_in_memory(self):
        return (1 + len(self.targets)) * allocated_bytes(self.primary) < available_memory_bytes()

    def check(self):
        """Compares the targets with the source, byte for byte."""
        for target in self.targets:
            if self.volume.replica:
                run_quietly(["cmp", str(self.primary), str(target)])
            elif not same_data(self.primary, target):
                raise ToolFailed(f"{target.name} is not equal to the source")

    @cached_property
    def ssh(self):
        """A private sshd on each far side; the ssh command that reaches any of them."""
        config = self.work / "ssh_config"
        with open(config, "w") as file:
            for number, far in enumerate(self.place.fars):
                if number and far.address == self.place.fars[0].address:
                    break  # one machine, one sshd
                file.write(self._start_sshd(number, far))
        return f"ssh -F {config}"

    def _start_sshd(self, number, far):
        place = self.work / f"sshd-{number}"
        sshd = str(TOOLS / "sshd")
        command = run_quietly([*far.prefix, sshd, "start", str(place), "--listen", far.address])
        self.stack.callback(run_quietly, [sshd, "stop", str(place)])
        self.servers[number].append(int((place / "pid").read_text()))
        words = command.split()
        options = [word for flag, word in zip(words, words[1:]) if flag == "-o"]
        options += [f"Port={words[words.index('-p') + 1]}", f"IdentityFile={words[words.index('-i') + 1]}"]
        return f"Host {far.address}\n" + "".join(f"  {option.replace('=', ' ', 1)}\n" for option in options)

    @cached_property
    def rsync_urls(self):
        """An rsync daemon on each far side; its target's URL there."""
        require("rsync")
        urls = []
        for number, (far, target) in enumerate(zip(self.place.fars, self.targets)):
            port, config = free_port(), self.work / f"rsyncd-{number}.conf"
            config.write_text(
                f"use chroot = no\naddress = {far.address}\nport = {port}\n"
                f"pid file = {self.work / f'rsyncd-{number}.pid'}\nlog file = {self.work / 'rsyncd.log'}\n"
                + ("uid = root\ngid = root\n" if os.geteuid() == 0 else "")
                + f"[volumes]\npath = {self.work}\nread only = false\n"
            )
            argv = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
            self.stack.enter_context(self.serving(number, argv, port))
            urls.append(f"rsync://{far.address}:{port}/volumes/{target.name}")
        return urls

    @contextlib.contextmanager
    def serving(self, number, argv, port, **streams):
        """A server on a port of a far side, ready when entered and ended when left."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | streams
        server = subprocess.Popen([*self.place.fars[number].prefix, *argv], **streams)
        self.servers[number].append(server.pid)
        try:
            wait_for_port(server, argv[0], port)
            yield server
        finally:
            self.servers[number].remove(server.pid)
            end(server)


def copy(source, target):
    run_quietly(["cp", "--sparse=always", "--reflink=never", str(source), str(target)])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(server, name, port):
    """Looks from outside: a server that takes one client only must not waste it on this."""
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if is_listening(server.pid, port):
            return
        time.sleep(0.01)
    raise ToolFailed(f"{name} does not listen on port {port}")


def is_listening(pid, port):
    """Whether anyone listens on the port in the network namespace of a process."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    return True
    return False
