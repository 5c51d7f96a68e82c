"""The measurements as Markdown: one table of times, one of costs, the goals."""

import os
import pathlib
import platform
import statistics
import subprocess
import time

from .lab import CASES

OURS = "lockstep"
# (case, the peer, what our time may be at most as a share of the peer's)
GOALS = (
    ("differing", "rsync-delta", 1 / 8),
    ("differing", "rsync-whole", 1 / 2),
    ("identical", "b3sum", 1.6),
    ("empty", "rsync-whole", 1.0),
)


class Results:
    """What was measured, by tool and case, over all rounds."""

    def __init__(self, tools):
        self.titles = {tool.key: tool.title for tool in tools}
        self.runs = {}
        self.failures = {}

    def add(self, key, case, measured, details):
        self.runs.setdefault((key, case), []).append((measured, details))

    def fail(self, key, case, reason):
        self.failures.setdefault((key, case), str(reason))

    def seconds(self, key, case):
        """Times of all rounds; none if a round failed."""
        if (key, case) in self.failures:
            return []
        return [measured.seconds for measured, _ in self.runs.get((key, case), [])]

    def median(self, key, case, figure):
        """Median of a figure of each run, None where there is none."""
        figures = [figure(*run) for run in self.runs.get((key, case), [])]
        figures = [value for value in figures if value is not None]
        return statistics.median(figures) if figures and (key, case) not in self.failures else None

    def as_json(self):
        return {
            "runs": [
                {"tool": key, "case": case, **{k: v for k, v in vars(measured).items() if k != "stdout"}, **details}
                for (key, case), runs in self.runs.items()
                for measured, details in runs
            ],
            "failures": [{"tool": k, "case": c, "reason": r} for (k, c), r in self.failures.items()],
        }


def markdown(results, setting):
    """The whole section; `setting` says what was measured and how, a line each."""
    parts = [
        describe(setting),
        times_table(results),
        costs_table(results),
        "\n".join(goal_lines(results)),
        "\n".join(f"- {key}, {case}: failed: {reason}" for (key, case), reason in results.failures.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def describe(setting):
    return "\n".join(f"- {line}" for line in setting)


def table(header, rows):
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def times_table(results):
    header = ["seconds: median (fastest–slowest)"]
    for case in CASES:
        header += [f"{case} replica", "× ours"]
    return table(header, [times_row(results, key) for key in results.titles])


def times_row(results, key):
    row = [results.titles[key]]
    for case in CASES:
        times, ours = results.seconds(key, case), results.seconds(OURS, case)
        if (key, case) in results.failures:
            row += ["failed", ""]
        elif not times:
            row += ["–", ""]
        else:
            median = statistics.median(times)
            row.append(f"{median:.2f} ({min(times):.2f}–{max(times):.2f})")
            row.append(f"{median / statistics.median(ours):.2f}" if ours else "")
    return row


COSTS = (
    ("sent, MB", "differing", lambda _, details: mega(details.get("bytes_sent"))),
    ("+ flush, s", "differing", lambda measured, _: measured.flush_seconds),
    ("+ flush, s", "empty", lambda measured, _: measured.flush_seconds),
    ("CPU, s", "differing", lambda measured, _: measured.cpu_seconds),
    ("CPU, s", "identical", lambda measured, _: measured.cpu_seconds),
    ("CPU, s", "empty", lambda measured, _: measured.cpu_seconds),
    ("RSS, MB", "differing", lambda measured, _: mega(measured.rss_bytes)),
)


def costs_table(results):
    header = ["medians"] + [f"{case}: {title}" for title, case, _ in COSTS]
    rows = []
    for key, title in results.titles.items():
        figures = [results.median(key, case, figure) for _, case, figure in COSTS]
        rows.append([title] + ["–" if value is None else f"{value:.2f}" for value in figures])
    return table(header, rows) + (
        "\n\n`+ flush`: what fdatasync of the target still took after the tool had ended; lockstep flushes and "
        "re-reads within its time. `CPU`: busy time of the whole machine, so both ends and the kernel. "
        "`RSS`: the largest process of the near side."
    )


def mega(count):
    return None if count is None else count / 1e6


def goal_lines(results):
    """One line for each goal that was measured; a missed one says so."""
    for case, peer, limit in GOALS:
        ours, theirs = results.seconds(OURS, case), results.seconds(peer, case)
        if ours and theirs:
            share = statistics.median(ours) / statistics.median(theirs)
            verdict = "met" if share <= limit else "**missed**"
            yield (
                f"- Goal, {case}: at most {limit:.3g} × the time of {results.titles[peer].removeprefix('floor: ')}: "
                f"{share:.3g} ×, {verdict}."
            )


def goals_met(results):
    return not any("missed" in line for line in goal_lines(results))


def write_section(path, text, name="comparison"):
    """Replaces what stands between the markers of a document; makes the document if need be."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    path = pathlib.Path(path)
    section = f"{begin}\n{text}{end}"
    old = path.read_text() if path.exists() else f"# Performance\n\n{begin}\n{end}\n"
    if begin not in old or end not in old:
        old += f"\n{begin}\n{end}\n"
    head, rest = old.split(begin, 1)
    path.write_text(head + section + rest.split(end, 1)[1])


def setting_lines(lab, counts, rounds):
    """What a reader must know to read the tables, or to measure again."""
    size = lab.primary.stat().st_size
    state = "cold (page cache dropped before each run)" if lab.cold else "warm (both files read before each run)"
    return [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"Linux {platform.release()}, {first_line(['rsync', '--version'])}.",
        f"Volume: {size / 2**30:.3g} GiB ext4 with a PostgreSQL cluster and ordinary files; the differing replica "
        f"is from before some load: {mega(counts['pages_bytes']):.0f} MB differ in 4 KiB pages, "
        f"{mega(counts['groups_bytes']):.0f} MB in 64 KiB, {mega(counts['extents_bytes']):.0f} MB in 1 MiB.",
        f"Rounds: {rounds}, tools in turn; cache {state}; both ends on this machine, over loopback; every target "
        "compared with `cmp` after each run, outside the time.",
    ]


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def first_line(argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    return " ".join(done.stdout.split("\n", 1)[0].split()[:3]) if done.returncode == 0 else "no rsync"
