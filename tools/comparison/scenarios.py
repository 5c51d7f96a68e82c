"""Which volumes, networks, caches, targets, cases and tools are measured together."""

from dataclasses import dataclass, replace

from . import peers, raw
from .lab import CASES, Lab
from .place import Loopback, Wires
from .volumes import changed, database, sparse

TOOLS = {
    tool.key: tool
    for tool in (
        peers.Lockstep,
        peers.LockstepUndo,
        peers.LockstepRate,
        peers.LockstepPipe,
        peers.LockstepLocal,
        peers.RsyncDelta,
        peers.RsyncShell,
        peers.RsyncWhole,
        peers.RsyncShellWhole,
        peers.Bdsync,
        peers.Diskrsync,
        peers.Rdiff,
        peers.Nbdcopy,
        peers.NbdcopyTls,
        peers.QemuImg,
        peers.DdShell,
        peers.Cp,
        raw.B3sum,
        raw.ShellAlone,
        raw.Tls,
        raw.TlsFile,
        raw.Fio,
    )
}
FLOORS = ("b3sum", "ssh-alone", "tls")
FEW = ("lockstep", "rsync-delta", "rsync-whole", "nbdcopy")
MTU = 1500
SLOW_MBIT = 200
WAN_DELAY_MS, WAN_LOST_OF_1000 = 50, 10


@dataclass(frozen=True)
class Scenario:
    """One setting, in which tools run in turn; `group` is what belongs into one table."""

    name: str
    group: str
    size: str
    tools: tuple
    cases: tuple = CASES
    percent: float | None = None  # differing pages; else what a load of the database left
    is_sparse: bool = False
    is_cold: bool = False
    in_namespaces: bool = False
    mtu: int = MTU
    rate_mbit: int | None = None
    delay_ms: int = 0  # one way
    lost_of_1000: int = 0
    targets: int = 1
    limit_seconds: int = 3600  # for one run of one tool
    rounds: int | None = None  # less than asked for, where one takes very long

    def volume(self, data, seconds):
        if self.is_sparse:
            return sparse(data, self.size)
        if self.percent is not None:
            return changed(data, self.size, seconds, self.percent)
        return database(data, self.size, seconds)

    def folders(self):
        """Of the data, what `volume` makes or needs."""
        if self.is_sparse:
            return {f"sparse-{self.size}"}
        own = {f"db-{self.size}"}
        return own if self.percent is None else own | {f"db-{self.size}-{self.percent:g}%"}

    def lab(self, volume, work, programs, stack):
        if self.in_namespaces:
            place = Wires(self, programs.slow_wire, stack)
        else:
            place = Loopback(self.targets)
        return Lab(volume, work, self.is_cold, place, programs, self.limit_seconds, stack)


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    size: str = "4G"
    sizes: tuple = ("1G", "2G", "4G", "8G", "16G")
    percents: tuple = (0.01, 0.1, 1, 5, 10, 25, 50)
    targets: tuple = (1, 2, 4, 8)
    links: tuple = (1, 8)
    wan_size: str = "1G"
    wan_limit_seconds: int = 900
    sparse_size: str = "1T"
    seconds: str = "60"
    rounds: int = 5


QUICK = Scale("256M", ("256M", "512M"), (0.1, 10), (1, 2), (1, 2), "256M", 120, "8G", "10", 2)


def all_scenarios(scale):
    """Every scenario, in the order in which they are measured."""
    everything = tuple(key for key in TOOLS if key not in ("fio", "tls-file", "lockstep-rate"))
    copying = ("lockstep", "rsync-delta", "rsync-whole", "rsync-ssh-whole", "nbdcopy", "nbdcopy-tls", "tls", "tls-file")
    loopback = Scenario("loopback", "loopback", scale.size, everything)
    wire = replace(loopback, name="mtu1500", group="mtu1500", in_namespaces=True)
    several = replace(wire, group="targets", cases=("differing", "empty"), tools=FEW)
    slow = replace(several, group="links", rate_mbit=SLOW_MBIT, cases=("differing",), tools=("lockstep", "rsync-delta", "rsync-whole"))
    return [
        loopback,
        replace(loopback, name="cold", group="cold", is_cold=True, tools=("lockstep", "lockstep-local", *FEW[1:], "cp", "b3sum", "fio")),
        replace(wire, tools=(*copying, "rsync-ssh", "bdsync", "diskrsync", "b3sum", "ssh-alone")),
        *(replace(loopback, name=f"size-{size}", group="sizes", size=size, tools=(*FEW, "b3sum")) for size in scale.sizes),
        *(
            replace(loopback, name=f"change-{percent:g}%", group="changes", percent=percent, cases=("differing",), tools=FEW)
            for percent in scale.percents
        ),
        *(replace(several, name=f"targets-{count}", targets=count) for count in scale.targets),
        *(replace(slow, name=f"links-{count}", targets=count) for count in scale.links),
        replace(
            slow, name="wan", group="wan", size=scale.wan_size, delay_ms=WAN_DELAY_MS, lost_of_1000=WAN_LOST_OF_1000,
            limit_seconds=scale.wan_limit_seconds, cases=("differing", "empty"), tools=("lockstep", "lockstep-rate", "rsync-whole", "rsync-ssh-whole", "tls"),
        ),
        Scenario("sparse", "sparse", scale.sparse_size, ("lockstep",), ("empty",), is_sparse=True, rounds=1),
    ]


def chosen(scenarios, words):
    """Those whose name or group is among the words."""
    if words is None:
        return scenarios
    known = {name for scenario in scenarios for name in (scenario.name, scenario.group)}
    if unknown := set(words) - known:
        raise ValueError(f"no such scenario: {', '.join(sorted(unknown))}")
    return [scenario for scenario in scenarios if {scenario.name, scenario.group} & set(words)]
