"""What Lockstep is to reach, as ratios of what one run measured."""

from dataclasses import dataclass

OURS = "lockstep"
# Times of one run on a 4 GiB database volume, with rsync's delta in the same run: what the two tools
# would take, where they are not installed, in proportion to rsync.
RSYNC_THEN, BDSYNC_THEN, DISKRSYNC_THEN = 26.4, 12.4, 14.8
MEMORY_LIMIT = 256 << 20
PACKING_MARGIN, FRAMING_SHARE = 1.05, 0.001


class Unmeasured(Exception):
    """A figure that is needed is not among the results."""


class Failed(Exception):
    """Ours did not do it at all."""


@dataclass
class Verdict:
    """One target: what was to be reached and what was."""

    case: str
    text: str
    value: float | None
    state: str  # met, missed, not measured
    reason: str = ""


class Measures:
    """Figures of results, which are there or raise `Unmeasured`."""

    def __init__(self, results):
        self.results = results

    def median(self, scenario, tool, case, figure="seconds"):
        found = self.results.median(scenario, tool, case, figure)
        if found is None and self.results.has_failed(scenario, tool, case):
            raise (Failed if tool == OURS else Unmeasured)(f"{tool} failed on the {case} replica in `{scenario}`")
        if found is None:
            raise Unmeasured(f"no {tool}, {case} replica, in `{scenario}`")
        return found

    def fact(self, scenario, name):
        found = self.results.scenarios.get(scenario, {}).get(name)
        if found is None:
            raise Unmeasured(f"no {name} of `{scenario}`")
        return found

    def times(self, scenario, tool, case, over=OURS):
        """How many times as long as ours a tool takes."""
        return self.median(scenario, tool, case) / self.median(scenario, over, case)


def identical(scenario):
    def value(m):
        ours, shell = (m.median(scenario, tool, "identical") for tool in (OURS, "ssh-alone"))
        if ours <= shell:
            raise Unmeasured(f"in `{scenario}` the shell alone took as long as everything")
        return (ours - shell) / m.median(scenario, "b3sum", "identical")

    return value


def slower(scenario, tool, case, scale=1.0):
    return lambda m: scale * m.times(scenario, tool, case)


def share(scenario, tool, case):
    return lambda m: 1 / m.times(scenario, tool, case)


def packed_share(m):
    counts = m.fact("loopback", "counts")
    if counts.get("packed_bytes") is None:
        raise Unmeasured("the differing pages were not packed, as zstd is missing")
    budget = PACKING_MARGIN * counts["packed_bytes"] + FRAMING_SHARE * counts["size"]
    return m.median("loopback", OURS, "differing", "bytes_sent") / budget


def cold_share(m):
    """Both sides' reading from the one disk, against one sequential reader of it."""

    def rate(run):
        read = run.get("disk_read_bytes")
        return read / run.get("reading_seconds", run["seconds"]) if read else None

    return m.median("cold", OURS, "identical", rate) / m.median("cold", "fio", "identical", rate)


def link_share(m):
    """By what ours sends, told what the link carries; less what gets lost, so that it counts once."""
    rate = m.fact("wan", "rate_mbit") * 1e6
    arriving = 1 - m.fact("wan", "lost_of_1000") / 1000
    sent = m.median("wan", "lockstep-rate", "empty", lambda run: run["bytes_sent"] * 8 / run["seconds"])
    return sent * arriving / rate


def several(figure):
    def value(m):
        counts = {m.fact(name, "targets"): name for name in m.results.of_group("links")}
        most = max(counts, default=1)
        if most == 1 or 1 not in counts:
            raise Unmeasured("no run with one target and with several in `links`")
        return m.median(counts[most], OURS, "differing", figure) / m.median(counts[1], OURS, "differing", figure)

    return value


def largest_memory(m):
    m.median("sparse", OURS, "empty")
    ours = [run for run in m.results.runs if run["tool"] == OURS]
    return max(max(run["near_anon_bytes"], run["far_anon_bytes"]) for run in ours) / MEMORY_LIMIT


def cpu_times(m):
    def both(run):
        return run["near_cpu_seconds"] + run["far_cpu_seconds"]

    return m.median("loopback", "rsync-delta", "differing", both) / m.median("loopback", OURS, "differing", both)


# (case, what is compared, its value, "most" or "least", the limit)
TARGETS = (
    ("identical replica, loopback", "our time without the shell's / two concurrent b3sum", identical("loopback"), "most", 1.15),
    ("differing replica, loopback", "rsync delta / ours", slower("loopback", "rsync-delta", "differing"), "least", 12),
    ("", "bdsync, in its known proportion to rsync / ours", slower("loopback", "rsync-delta", "differing", BDSYNC_THEN / RSYNC_THEN), "least", 5),
    ("", "diskrsync, in its known proportion to rsync / ours", slower("loopback", "rsync-delta", "differing", DISKRSYNC_THEN / RSYNC_THEN), "least", 5),
    ("", "bdsync, measured / ours", slower("loopback", "bdsync", "differing"), "least", 5),
    ("", "diskrsync, measured / ours", slower("loopback", "diskrsync", "differing"), "least", 5),
    ("", "ours / nbdcopy's full copy", share("loopback", "nbdcopy", "differing"), "most", 1),
    ("empty replica, loopback", "ours / nbdcopy, unencrypted", share("loopback", "nbdcopy", "empty"), "most", 1.2),
    ("", "rsync `--whole-file` / ours", slower("loopback", "rsync-whole", "empty"), "least", 2),
    ("differing replica, MTU 1500", "rsync delta / ours", slower("mtu1500", "rsync-delta", "differing"), "least", 6),
    ("identical replica, MTU 1500", "our time without the shell's / two concurrent b3sum", identical("mtu1500"), "most", 1.15),
    ("empty replica, MTU 1500", "ours / one TLS stream over TCP", share("mtu1500", "tls", "empty"), "most", 1.5),
    ("bytes on the wire, differing", f"sent / ({PACKING_MARGIN} × each extent's pages by zstd -1 + 0.1 % of the volume)", packed_share, "most", 1),
    ("cold cache, identical", "bytes read from the disk a second / fio's", cold_share, "least", 0.9),
    ("100 ms, 1 % loss, 200 Mbit/s, empty", "share of the link that is used", link_share, "least", 0.8),
    ("most targets (8 in a full run), 200 Mbit/s each", "time / one target's", several("seconds"), "most", 1.15),
    ("", "bytes hashed of the source / one target's", several("source_bytes_hashed"), "most", 1),
    ("memory, the sparse volume included", "largest side / 256 MiB of anonymous memory", largest_memory, "most", 1),
    ("processor seconds, differing", "rsync delta / ours, both ends", cpu_times, "least", 5),
)


def verdicts(results):
    measures = Measures(results)
    for case, text, value, direction, limit in TARGETS:
        text = f"{text}: at {direction} {limit:g}"
        try:
            found = value(measures)
        except (Unmeasured, Failed) as missing:
            yield Verdict(case, text, None, "missed" if isinstance(missing, Failed) else "not measured", str(missing))
            continue
        is_met = found <= limit if direction == "most" else found >= limit
        yield Verdict(case, text, found, "met" if is_met else "missed")


def all_met(results):
    return not any(verdict.state == "missed" for verdict in verdicts(results))


def as_json(results):
    return [vars(verdict) for verdict in verdicts(results)]
