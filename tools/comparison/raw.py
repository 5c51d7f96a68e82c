"""What the machine can do at best: lines to hold the tools against. None of them makes a target."""

import contextlib
import json
import shutil
import subprocess

from .lab import free_port
from .measure import Command
from .peers import Tool
from .system import ToolFailed, require, run_quietly

SUITE = "TLS_AES_128_GCM_SHA256"


class B3sum(Tool):
    """The floor of an identical replica: both volumes read and hashed at once, nothing compared."""

    title = "floor: two `b3sum --num-threads 1` at once"
    key = "b3sum"
    cases = ("identical",)
    programs = ("b3sum",)
    changes_targets = False

    def commands(self, case):
        return [["b3sum", "--num-threads", "1", str(path)] for path in (self.lab.primary, self.lab.targets[0])]


class ShellAlone(Tool):
    """A session of the remote shell that does nothing: part of every time over it."""

    title = "floor: `ssh HOST true`"
    key = "ssh-alone"
    cases = ("identical",)
    needs_targets = changes_targets = False

    def set_up(self):
        self.lab.ssh  # noqa: B018  (starts the servers)

    def commands(self, case):
        return [self.far(0, ["true"])]


class Tls(Tool):
    """The primary's bytes through one TCP connection, thrown away at its end."""

    title = "floor: one TLS stream over TCP, received to nowhere"
    key = "tls"
    cases = ("empty",)
    programs = ("openssl",)
    changes_targets = False
    sink = None

    def set_up(self):
        work = self.lab.work
        self.certificate, self.private = work / "tls.crt", work / "tls.key"
        making = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        run_quietly([*making, "-subj", "/CN=lab", "-keyout", str(self.private), "-out", str(self.certificate)])

    @contextlib.contextmanager
    def serving(self, case):
        self.port = free_port()
        # Quiet, or it would take bytes for commands; its own input stays open and silent.
        how = ["-quiet", "-naccept", "1", "-tls1_3", "-ciphersuites", SUITE]
        keys = ["-cert", str(self.certificate), "-key", str(self.private)]
        argv = ["openssl", "s_server", *how, *keys, "-4", "-accept", str(self.port)]
        with contextlib.ExitStack() as stack:
            streams = {"stdin": subprocess.PIPE}
            if self.sink:
                streams["stdout"] = stack.enter_context(open(self.sink(), "wb"))
            server = stack.enter_context(self.lab.serving(0, argv, self.port, **streams))
            yield [server]

    def commands(self, case):
        address = f"{self.lab.place.fars[0].address}:{self.port}"
        how = ["-quiet", "-no_ign_eof", "-nocommands", "-ciphersuites", SUITE]
        return [Command(["openssl", "s_client", *how, "-connect", address], stdin=self.lab.primary)]


class TlsFile(Tls):
    """The same, written to a file."""

    title = "one TLS stream over TCP, received to a file"
    key = "tls-file"
    changes_targets = True

    def sink(self):
        return self.lab.targets[0]


class Fio(Tool):
    """The disk: the primary read from end to end, past the page cache."""

    title = "floor: sequential read of the disk (`fio`, direct, 16 deep)"
    key = "fio"
    cases = ("identical",)
    needs_targets = changes_targets = False

    def set_up(self):
        self.has_fio = bool(shutil.which("fio"))
        if not self.has_fio:
            # One request at a time: less than the disk can do, so said in the details.
            require("dd", "coreutils")

    def commands(self, case):
        primary = str(self.lab.primary)
        if not self.has_fio:
            return [["dd", f"if={primary}", "of=/dev/null", "bs=4M", "iflag=direct"]]
        job = ["--name=read", f"--filename={primary}", "--rw=read", "--bs=1M", "--direct=1", "--readonly"]
        return [["fio", *job, "--ioengine=libaio", "--iodepth=16", "--output-format=json"]]

    def details(self, stdout):
        if not self.has_fio:
            return {"disk_reader": "dd, one request at a time"}
        try:
            read = json.loads(stdout[stdout.index("{") :])["jobs"][0]["read"]
        except (LookupError, ValueError) as error:
            raise ToolFailed(f"fio: no result: {error!r}") from error
        return {"disk_reader": "fio, 16 deep", "reading_seconds": read["runtime"] / 1000}
