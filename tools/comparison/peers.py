"""The tools that are compared: one class each, with the cases it can do."""

import contextlib
import json
import re
import secrets
import shlex

from .lab import CASES, free_port
from .measure import Command, measure
from .system import Missing, SourceChanged, ToolFailed, require

COPYING = ("differing", "empty")


class Tool:
    """A tool that makes every target equal to the primary."""

    key = title = None
    cases = CASES
    programs = ()
    needs_targets = changes_targets = True

    def __init__(self, lab):
        self.lab = lab
        for program in self.programs:
            require(*program) if isinstance(program, tuple) else require(program)
        self.set_up()

    def set_up(self):
        """Starts what all runs share."""

    def commands(self, case):
        """What is started side by side and timed, as argument lists or `Command`s."""
        return [self.command(case, number) for number in range(len(self.lab.targets))]

    def command(self, case, number):
        """The same, for one target."""
        raise NotImplementedError

    def run(self, case):
        """Prepares the case, runs the tool, checks the targets; returns (Measured, details)."""
        if self.needs_targets:
            self.lab.prepare(case)
        before = self.lab.primary.stat().st_mtime_ns
        with self.serving(case) as waits_for:
            commands = [self._near(command) for command in self.commands(case)]
            measured = measure(commands, self.lab, waits_for or ())
        # A tool that writes the wrong way round would spoil every later run.
        if self.lab.primary.stat().st_mtime_ns != before:
            raise SourceChanged(f"{self.key} wrote to {self.lab.primary}: remove {self.lab.primary.parent}")
        if self.changes_targets:
            self.lab.check()
        return measured, self.details(measured.stdout)

    def _near(self, command):
        command = command if isinstance(command, Command) else Command(command)
        return Command([*self.lab.place.near, *command.argv], command.stdin, command.stdout)

    def serving(self, case):
        """Servers of this run, outside the time taken; gives those whose end belongs to it."""
        return contextlib.nullcontext()

    def details(self, stdout):
        """What the tool says of its own work: `bytes_sent` and such."""
        return {}

    def far(self, number, argv):
        """A command on the far side, through ssh."""
        return [*self.lab.ssh.split(), self.lab.place.fars[number].address, shlex.join(argv)]


class Lockstep(Tool):
    """As the others do it: nothing is kept of what is overwritten. Everything is read each time."""

    title = "**lockstep**, QUIC, verified, `--undo off`"
    key = "lockstep"
    transport = "quic"
    undo = "off"

    def set_up(self):
        self.program = str(self.lab.programs.lockstep)
        if not self.lab.programs.lockstep.exists():
            raise Missing(f"{self.program} is missing: cargo build --release")

    def commands(self, case):
        far = ["-e", self.lab.ssh, "--remote-path", self.program, "--transport", self.transport]
        hosts = zip(self.lab.place.fars, self.lab.targets)
        return [self._sync([f"{far.address}:{target}" for far, target in hosts], far)]

    def _sync(self, targets, extra):
        # The far sides keep their ledgers there too.
        state = ["--state-dir", str(self.lab.work / "state")]
        how = ["--undo", self.undo, "--no-delta", "--yes", "--json"]
        return [self.program, "sync", str(self.lab.primary), *targets, *extra, *how, *state]

    def details(self, stdout):
        try:
            summary = json.loads(stdout.splitlines()[-1])
            targets = summary["targets"]
            first = targets[0]
        except (LookupError, ValueError) as error:
            raise ToolFailed(f"lockstep: no summary on the last line: {error!r}") from error
        for target in targets:
            if (summary["result"], target["state"]) != ("ok", "consistent"):
                raise ToolFailed(f"lockstep: {summary['result']}, target {target['state']}")
            if target["transport"] != self.transport:
                raise ToolFailed(f"lockstep: went over {target['transport']}, not {self.transport}")
        kept = ("bytes_differing", "bytes_written", "bytes_sent", "bytes_received", "transport")
        return {
            "root": summary["root"],
            "source_bytes_read": summary["source"]["bytes_read"],
            "source_bytes_hashed": summary["source"]["bytes_hashed"],
            **{name: first.get(name) for name in kept},
        }


class LockstepUndo(Lockstep):
    title = "lockstep, the same, with what is overwritten kept in a log (default)"
    key = "lockstep-undo"
    cases = ("differing",)
    undo = "auto"


class LockstepRate(Lockstep):
    title = "lockstep, QUIC, told what the link carries (`--rate`)"
    key = "lockstep-rate"

    def _sync(self, targets, extra):
        # In bytes, as the link counts them, headers included.
        return super()._sync(targets, [*extra, "--rate", str(self.lab.place.rate_mbit * 125_000)])


class LockstepPipe(Lockstep):
    title = "lockstep, through the remote shell's pipe instead of QUIC"
    key = "lockstep-ssh"
    transport = "ssh"


class LockstepLocal(Lockstep):
    title = "lockstep, both ends in one process, verified, `--undo off`"
    key = "lockstep-local"
    transport = "memory"

    def commands(self, case):
        return [self._sync([str(target) for target in self.lab.targets], [])]


class Rsync(Tool):
    """rsync's own mtime check never saves it the work: the target's is another one."""

    programs = ("rsync",)
    flags = ()

    def set_up(self):
        self.lab.rsync_urls  # noqa: B018  (starts the daemons)

    def command(self, case, number):
        return ["rsync", "--stats", "--inplace", *self.flags, str(self.lab.primary), self.lab.rsync_urls[number]]

    def details(self, stdout):
        return {
            name: int(found[1].replace(",", ""))
            for name, label in (("bytes_sent", "Total bytes sent"), ("bytes_received", "Total bytes received"))
            if (found := re.search(rf"^{label}: ([\d,]+)", stdout, re.MULTILINE))
        }


class RsyncDelta(Rsync):
    title = "rsync daemon, `--inplace --no-whole-file`"
    key = "rsync-delta"
    flags = ("--no-whole-file",)


class RsyncWhole(Rsync):
    title = "rsync daemon, `--inplace --whole-file`"
    key = "rsync-whole"
    cases = COPYING
    flags = ("--whole-file",)


class RsyncShell(Rsync):
    title = "rsync over ssh, `--inplace --no-whole-file`"
    key = "rsync-ssh"
    flags = ("--no-whole-file",)

    def set_up(self):
        self.flags = ["-e", self.lab.ssh, *self.flags]

    def command(self, case, number):
        destination = f"{self.lab.place.fars[number].address}:{self.lab.targets[number]}"
        return ["rsync", "--stats", "--inplace", *self.flags, str(self.lab.primary), destination]


class RsyncShellWhole(RsyncShell):
    title = "rsync over ssh, `--inplace --whole-file`"
    key = "rsync-ssh-whole"
    cases = COPYING
    flags = ("--whole-file",)


class Nbd(Tool):
    """A full copy to a plain file server: no comparison, no proof."""

    cases = COPYING

    def serving(self, case):
        return self._servers(case)

    @contextlib.contextmanager
    def _servers(self, case):
        self.ports = []
        with contextlib.ExitStack() as stack:
            for number, target in enumerate(self.lab.targets):
                if not target.exists():
                    with open(target, "xb") as file:
                        file.truncate(self.lab.primary.stat().st_size)
                self.ports.append(free_port())
                address = self.lab.place.fars[number].address
                stack.enter_context(self.lab.serving(number, self.server(address, self.ports[-1], target), self.ports[-1]))
            yield

    def server(self, address, port, target):
        return ["qemu-nbd", "--format=raw", "--persistent", f"--bind={address}", f"--port={port}", str(target)]

    def address(self, number):
        return f"{self.lab.place.fars[number].address}:{self.ports[number]}"


class Nbdcopy(Nbd):
    title = "nbdcopy to qemu-nbd, full copy, unencrypted"
    key = "nbdcopy"
    programs = (("nbdcopy", "libnbd-bin"), ("qemu-nbd", "qemu-utils"))

    def command(self, case, number):
        known_zero = ["--destination-is-zero"] if case == "empty" else []
        return ["nbdcopy", *known_zero, str(self.lab.primary), f"nbd://{self.address(number)}"]


class NbdcopyTls(Nbd):
    title = "nbdcopy to nbdkit, full copy, TLS"
    key = "nbdcopy-tls"
    programs = (("nbdcopy", "libnbd-bin"), "nbdkit")

    def set_up(self):
        self.secret = self.lab.work / "nbd.psk"
        self.secret.write_text(f"peer:{secrets.token_hex(32)}\n")
        self.secret.chmod(0o600)

    def server(self, address, port, target):
        tls = ["--tls=require", f"--tls-psk={self.secret}"]
        return ["nbdkit", "--foreground", "--exit-with-parent", *tls, f"--ipaddr={address}", f"--port={port}", "file", str(target)]

    def command(self, case, number):
        known_zero = ["--destination-is-zero"] if case == "empty" else []
        url = f"nbds://peer@{self.address(number)}/?tls-psk-file={self.secret}"
        return ["nbdcopy", *known_zero, str(self.lab.primary), url]


class QemuImg(Nbd):
    title = "qemu-img convert to qemu-nbd, full copy, unencrypted"
    key = "qemu-img"
    programs = (("qemu-img", "qemu-utils"), ("qemu-nbd", "qemu-utils"))

    def command(self, case, number):
        known_zero = ["--target-is-zero"] if case == "empty" else []
        url = f"nbd://{self.address(number)}"
        return ["qemu-img", "convert", "-n", *known_zero, "-f", "raw", "-O", "raw", str(self.lab.primary), url]


class DdShell(Tool):
    title = "dd through ssh, full copy"
    key = "dd-ssh"
    cases = COPYING
    programs = ("dd",)

    def command(self, case, number):
        writing = ["dd", f"of={self.lab.targets[number]}", "bs=1M", "conv=notrunc", "iflag=fullblock", "status=none"]
        return Command(self.far(number, writing), stdin=self.lab.primary)


class Cp(Tool):
    title = "cp, local, full copy"
    key = "cp"
    cases = COPYING
    programs = ("cp",)

    def command(self, case, number):
        return ["cp", "--reflink=never", str(self.lab.primary), str(self.lab.targets[number])]


class Rdiff(Tool):
    """rsync's algorithm in three steps; the result takes the target's place when it is whole."""

    title = "rdiff over ssh: signature, delta, patch to a new file"
    key = "rdiff"
    cases = ("differing", "identical")
    programs = ("rdiff",)

    def command(self, case, number):
        target = str(self.lab.targets[number])
        patch = f"rdiff patch {shlex.quote(target)} - {shlex.quote(target + '.new')} && mv {shlex.quote(target + '.new')} {shlex.quote(target)}"
        signature = shlex.join(self.far(number, ["rdiff", "signature", target, "-"]))
        delta = shlex.join(["rdiff", "delta", "/dev/stdin", str(self.lab.primary), "-"])
        patching = shlex.join(self.far(number, ["sh", "-c", patch]))
        return ["sh", "-c", f"{signature} | {delta} | {patching}"]


class Bdsync(Tool):
    title = "bdsync over ssh, 4 KiB blocks, MD5"
    key = "bdsync"
    cases = ("differing", "identical")
    programs = ("bdsync",)

    def command(self, case, number):
        target, block = str(self.lab.targets[number]), ["--blocksize=4096", "--hash=md5"]
        server = shlex.join([*self.lab.ssh.split(), self.lab.place.fars[number].address, "bdsync --server"])
        finding = shlex.join(["bdsync", *block, server, str(self.lab.primary), target])
        return ["sh", "-c", f"{finding} | {shlex.join(self.far(number, ['bdsync', f'--patch={target}']))}"]


class Diskrsync(Tool):
    title = "diskrsync over ssh"
    key = "diskrsync"
    programs = ("diskrsync",)

    def command(self, case, number):
        flags = shlex.join(self.lab.ssh.split()[1:])
        destination = f"{self.lab.place.fars[number].address}:{self.lab.targets[number]}"
        return ["diskrsync", "--no-compress", f"--ssh-flags={flags}", str(self.lab.primary), destination]
