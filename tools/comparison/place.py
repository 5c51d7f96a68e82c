"""Where the far sides are: on this machine's loopback, or at the ends of wires.

Each wire is a veth pair between two network namespaces, or, where it is to be long
or to lose packets, two TUN devices with `slow-wire` between them.
"""

import contextlib
import fcntl
import json
import os
import struct
import subprocess
from dataclasses import dataclass

from .system import Missing, ToolFailed, end, require, run_quietly

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x1, 0x1000
WIRE = "wire"
BURST = "256kb"  # of a rate limit: more than one 64 KiB send
QUEUE = "60ms"  # longest stay in the queue in front of a rate limit
SEED = 1


@dataclass
class Far:
    """One far side: commands get the prefix, clients the address."""

    prefix: list
    address: str


class Loopback:
    """Everything on this machine."""

    near = []
    title = "over the loopback"

    def __init__(self, count):
        self.fars = [Far([], "127.0.0.1") for _ in range(count)]

    def wire_bytes(self):
        return None


class Wires:
    """A namespace for the near side, one for each far side, and a wire to each."""

    def __init__(self, scenario, slow_wire, stack):
        if os.geteuid() != 0:
            raise Missing("network namespaces need root")
        require("nsenter", "util-linux"), require("ip", "iproute2")
        self.title = describe(scenario)
        self.rate_mbit = scenario.rate_mbit
        self.name = f"lockstep-compare-{os.getpid()}"
        stack.callback(self._remove)
        self._namespace(self._near)
        self.near = inside(self._near)
        self.fars = []
        for number in range(scenario.targets):
            self._add(number, scenario, slow_wire, stack)

    @property
    def _near(self):
        return f"{self.name}-near"

    def _namespace(self, name):
        run_quietly(["ip", "netns", "add", name])
        run_quietly(["ip", "-n", name, "link", "set", "lo", "up"])

    def _add(self, number, scenario, slow_wire, stack):
        far = f"{self.name}-{number}"
        self._namespace(far)
        ends = ((self._near, f"{WIRE}{number}", 1), (far, WIRE, 2))
        if scenario.delay_ms or scenario.lost_of_1000:
            self._slow(ends, scenario, slow_wire, stack)
        else:
            (near, name, _), (far, far_name, _) = ends
            run_quietly(["ip", "link", "add", name, "netns", near, "type", "veth", "peer", "name", far_name, "netns", far])
        for namespace, name, host in ends:
            ip = ["ip", "-n", namespace]
            run_quietly([*ip, "address", "add", f"10.78.{number}.{host}/24", "dev", name])
            run_quietly([*ip, "link", "set", name, "mtu", str(scenario.mtu), "up"])
            if scenario.rate_mbit:
                limit = ["tbf", "rate", f"{scenario.rate_mbit}mbit", "burst", BURST, "latency", QUEUE]
                run_quietly(["tc", "-n", namespace, "qdisc", "add", "dev", name, "root", *limit])
        self.fars.append(Far(inside(far), f"10.78.{number}.2"))

    def _slow(self, ends, scenario, slow_wire, stack):
        if not slow_wire.exists():
            raise Missing(f"{slow_wire} is missing: cargo build --release -p lockstep-benches --bin slow-wire")
        devices = [tun(namespace, name, f"lsc{os.getpid()}-{host}") for namespace, name, host in ends]
        options = ["--delay-ms", str(scenario.delay_ms), "--lost-of-1000", str(scenario.lost_of_1000)]
        carrying = subprocess.Popen(
            [str(slow_wire), *options, "--seed", str(SEED)], stdin=devices[0], stdout=devices[1]
        )
        for device in devices:
            os.close(device)
        stack.callback(end, carrying)

    def wire_bytes(self):
        """Bytes sent and received by the near side, over all wires."""
        sent = received = 0
        for link in json.loads(run_quietly(["ip", "-n", self._near, "-s", "-j", "link", "show"])):
            if link["ifname"].startswith(WIRE):
                sent += link["stats64"]["tx"]["bytes"]
                received += link["stats64"]["rx"]["bytes"]
        return sent, received

    def _remove(self):
        for line in run_quietly(["ip", "netns", "list"]).splitlines():
            name = line.split()[0]
            if not name.startswith(f"{self.name}-"):
                continue
            for pid in run_quietly(["ip", "netns", "pids", name]).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            run_quietly(["ip", "netns", "delete", name])


def inside(namespace):
    """`ip netns exec` would copy every mount."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def tun(namespace, name, birth_name):
    """A TUN device in a namespace; returns the descriptor with its packets."""
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Missing(f"/dev/net/tun: {error.strerror}") from error
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", birth_name.encode(), IFF_TUN | IFF_NO_PI))
        run_quietly(["ip", "link", "set", birth_name, "netns", namespace, "name", name])
    except (OSError, ToolFailed):
        os.close(device)
        raise
    return device


def describe(scenario):
    parts = [f"network namespaces, MTU {scenario.mtu}"]
    if scenario.rate_mbit:
        parts.append(f"{scenario.rate_mbit} Mbit/s to each")
    if scenario.delay_ms:
        parts.append(f"{2 * scenario.delay_ms} ms there and back")
    if scenario.lost_of_1000:
        parts.append(f"{scenario.lost_of_1000 / 10:g} % of the packets lost each way")
    return "over " + ", ".join(parts)
