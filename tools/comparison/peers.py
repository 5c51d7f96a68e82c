"""The tools that are compared: one class each, with the cases it can do."""

import contextlib
import json
import re

from .lab import CASES, ToolFailed, free_port, measure, require, serving

LOCAL = "127.0.0.1"


class Tool:
    """A tool that makes the target equal to the primary."""

    cases = CASES
    programs = ()

    def __init__(self, lab):
        self.lab = lab
        for program in self.programs:
            require(program)

    def commands(self, case):
        """What is started side by side and timed, as argument lists."""
        raise NotImplementedError

    def run(self, case):
        """Prepares the case, runs the tool, checks the target; returns (Measured, details)."""
        self.lab.prepare(case)
        with self.serving(case):
            measured = measure(self.commands(case), self.lab.target)
        self.lab.check()
        return measured, self.details(measured.stdout)

    def serving(self, case):
        """A server of this run, outside the time taken."""
        return contextlib.nullcontext()

    def details(self, stdout):
        """What the tool says of its own work: `bytes_sent` and such."""
        return {}


class Lockstep(Tool):
    """As the others do it: nothing is kept of what is overwritten."""

    title = "**lockstep**, QUIC, verified, `--undo off`"
    key = "lockstep"
    transport = "quic"
    undo = "off"

    def __init__(self, lab, program, ssh):
        super().__init__(lab)
        self.program, self.ssh = program, ssh

    def commands(self, case):
        far = ["-e", self.ssh, "--remote-path", self.program]
        return [self._sync(f"{LOCAL}:{self.lab.target}", far)]

    def _sync(self, target, extra):
        state = str(self.lab.work / "state")
        return [self.program, "sync", str(self.lab.primary), target, *extra, "--undo", self.undo, "--yes", "--json", "--state-dir", state]

    def details(self, stdout):
        lines = stdout.splitlines()
        try:
            summary = json.loads(lines[-1])
            target = summary["targets"][0]
        except (LookupError, ValueError) as error:
            raise ToolFailed(f"lockstep: no summary on the last line: {error!r}") from error
        if (summary["result"], target["state"]) != ("ok", "consistent"):
            raise ToolFailed(f"lockstep: {summary['result']}, target {target['state']}")
        if self.transport and target["transport"] != self.transport:
            raise ToolFailed(f"lockstep: went over {target['transport']}, not {self.transport}")
        kept = ("bytes_differing", "bytes_written", "bytes_sent", "bytes_received", "transport", "seconds")
        return {"root": summary["root"], **{name: target.get(name) for name in kept}}


class LockstepUndo(Lockstep):
    title = "lockstep, the same, with what is overwritten kept in a log (default)"
    key = "lockstep-undo"
    cases = ("differing",)
    undo = "auto"


class LockstepLocal(Lockstep):
    title = "lockstep, both ends in one process, verified, `--undo off`"
    key = "lockstep-local"
    transport = None

    def commands(self, case):
        return [self._sync(str(self.lab.target), [])]


class Rsync(Tool):
    """rsync's own mtime check never saves it the work: the target's is another one."""

    programs = ("rsync",)

    def __init__(self, lab, title, key, destination, flags, cases=CASES):
        super().__init__(lab)
        self.title, self.key, self.cases = title, key, cases
        self.destination, self.flags = destination, flags

    def commands(self, case):
        return [["rsync", "--stats", "--inplace", *self.flags, str(self.lab.primary), self.destination]]

    def details(self, stdout):
        return {
            name: int(found[1].replace(",", ""))
            for name, label in (("bytes_sent", "Total bytes sent"), ("bytes_received", "Total bytes received"))
            if (found := re.search(rf"^{label}: ([\d,]+)", stdout, re.MULTILINE))
        }


class Nbdcopy(Tool):
    """A full copy to a plain file server: no comparison, no encryption, no proof."""

    title = "nbdcopy to qemu-nbd, full copy, unencrypted"
    key = "nbdcopy"
    cases = ("differing", "empty")
    programs = ("nbdcopy", "qemu-nbd")

    def serving(self, case):
        target = self.lab.target
        if case == "empty":
            with open(target, "xb") as file:
                file.truncate(self.lab.primary.stat().st_size)
        self.port = free_port()
        server = ["qemu-nbd", "--format=raw", "--persistent", f"--bind={LOCAL}", f"--port={self.port}", str(target)]
        return serving(server, self.port)

    def commands(self, case):
        known_zero = ["--destination-is-zero"] if case == "empty" else []
        return [["nbdcopy", *known_zero, str(self.lab.primary), f"nbd://{LOCAL}:{self.port}"]]


class Cp(Tool):
    title = "cp, local, full copy"
    key = "cp"
    cases = ("differing", "empty")
    programs = ("cp",)

    def commands(self, case):
        return [["cp", "--reflink=never", str(self.lab.primary), str(self.lab.target)]]


class B3sum(Tool):
    """The floor of an identical replica: both volumes read and hashed at once, nothing compared."""

    title = "floor: two `b3sum --num-threads 1` at once"
    key = "b3sum"
    cases = ("identical",)
    programs = ("b3sum",)

    def commands(self, case):
        return [["b3sum", "--num-threads", "1", str(path)] for path in (self.lab.primary, self.lab.target)]


def all_tools(lab, lockstep):
    """Every tool, lockstep first, with the servers that they share started."""
    ssh, rsyncd = lab.start_sshd(), lab.start_rsyncd()
    daemon = f"rsync://{LOCAL}:{rsyncd}/work/{lab.target.name}"
    delta, whole = ["--no-whole-file"], ["--whole-file"]
    copying = ("differing", "empty")
    return [
        Lockstep(lab, lockstep, ssh),
        LockstepUndo(lab, lockstep, ssh),
        LockstepLocal(lab, lockstep, ssh),
        Rsync(lab, "rsync daemon, `--inplace --no-whole-file`", "rsync-delta", daemon, delta),
        Rsync(
            lab,
            "rsync over ssh, `--inplace --no-whole-file`",
            "rsync-ssh",
            f"{LOCAL}:{lab.target}",
            ["-e", ssh, *delta],
        ),
        Rsync(lab, "rsync daemon, `--inplace --whole-file`", "rsync-whole", daemon, whole, copying),
        Nbdcopy(lab),
        Cp(lab),
        B3sum(lab),
    ]
