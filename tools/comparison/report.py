"""The measurements as Markdown: the targets, and a table or two for each group of scenarios."""

import pathlib
import statistics

from .lab import CASES
from .targets import OURS, verdicts

GROUPS = {
    "loopback": "Warm cache, loopback",
    "cold": "Cold cache, loopback",
    "mtu1500": "Two network namespaces, MTU 1500",
    "sizes": "By the volume's size",
    "changes": "By the share of pages that differ",
    "targets": "By the number of targets, MTU 1500",
    "links": "Links of 200 Mbit/s",
    "wan": "A long, lossy link: 100 ms, 1 %, 200 Mbit/s",
    "sparse": "A sparse volume",
}
# What tells the scenarios of a group apart: the fact and how it is written.
SERIES = {
    "sizes": ("size", str),
    "changes": ("percent", lambda percent: f"{percent:g} %"),
    "targets": ("targets", lambda count: f"{count} target" + "s" * (count > 1)),
    "links": ("targets", lambda count: f"{count} target" + "s" * (count > 1)),
}


def markdown(results, plots=None):
    """The whole section; `plots` gives the pictures of a group, as paths for the document."""
    parts = [setting(results), "### Targets\n\n" + targets_table(results)]
    for group, title in GROUPS.items():
        names = results.of_group(group)
        if not names:
            continue
        parts.append(f"### {title}")
        parts.append(about(results, names))
        parts += [f"![{caption}]({path})" for caption, path in (plots or {}).get(group, [])]
        if group in SERIES:
            parts += [series_table(results, group, case) for case in CASES]
        else:
            parts += [times_table(results, names[0]), costs_table(results, names[0])]
        parts.append(troubles(results, names))
    return "\n\n".join(part for part in parts if part) + "\n"


def setting(results):
    machine = results.machine
    versions = ", ".join(version for version in machine.get("versions", []) if version)
    return (
        f"- {machine['date']}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"Linux {machine['kernel']}; load before: {machine['load']:.2f}.\n"
        f"- {versions}.\n"
        "- Times are medians (fastest–slowest) in seconds; tools in turn, each round begins with another one; every "
        "target was compared with its source after each run, outside the time."
    )


def targets_table(results):
    rows = []
    for verdict in verdicts(results):
        state = {"missed": "**missed**"}.get(verdict.state, verdict.state)
        value = "–" if verdict.value is None else f"{verdict.value:.3g}"
        rows.append([verdict.case, verdict.text, value, state + (f": {verdict.reason}" if verdict.reason else "")])
    return table(["case", "what", "measured", ""], rows, words=4)


def about(results, names):
    """The volume and the circumstances, once for all scenarios of a group where they are the same."""
    lines = []
    for name in names:
        facts = results.scenarios[name]
        counts = facts["counts"]
        line = f"{facts['size']} volume, {facts['place']}, cache {facts['cache']}, {facts['rounds']} rounds"
        if "pages_bytes" in counts:
            line += (
                f"; the differing replica: {mega(counts['pages_bytes']):.4g} MB in 4 KiB pages, "
                f"{mega(counts['groups_bytes']):.4g} MB in 64 KiB, {mega(counts['extents_bytes']):.4g} MB in 1 MiB"
            )
        if counts.get("packed_bytes"):
            line += f"; its pages packed by zstd -1, extent by extent: {mega(counts['packed_bytes']):.4g} MB"
        lines.append(f"- `{name}`: {line}.")
    return "\n".join(lines)


def tools_of(results, names):
    measured = {run["tool"] for run in results.runs if run["scenario"] in names}
    measured |= {failure["tool"] for failure in results.failures if failure["scenario"] in names}
    return [key for key in results.titles if key in measured]


def times_table(results, scenario):
    cases = [case for case in CASES if any(run["scenario"] == scenario and run["case"] == case for run in results.runs)]
    header = ["seconds"]
    for case in cases:
        header += [f"{case} replica", "× ours"]
    rows = []
    for tool in tools_of(results, [scenario]):
        row = [results.titles[tool]]
        for case in cases:
            ours = results.median(scenario, OURS, case)
            median = results.median(scenario, tool, case)
            row += [spread(results, scenario, tool, case), f"{median / ours:.2f}" if median and ours else ""]
        rows.append(row)
    return table(header, rows)


def spread(results, scenario, tool, case):
    if results.has_failed(scenario, tool, case):
        return "failed"
    times = results.figures(scenario, tool, case, "seconds")
    return f"{statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f})" if times else "–"


def series_table(results, group, case):
    """A row for each tool, a column for each scenario of the group."""
    fact, written = SERIES[group]
    names = [name for name in results.of_group(group) if any(r["scenario"] == name and r["case"] == case for r in results.runs)]
    if not names:
        return ""
    header = [f"{case} replica, seconds"] + [written(results.scenarios[name][fact]) for name in names]
    rows = [
        [results.titles[tool]] + [spread(results, name, tool, case) for name in names]
        for tool in tools_of(results, names)
    ]
    rows = [row for row in rows if set(row[1:]) != {"–"}]
    return table(header, rows)


COSTS = (
    ("CPU, s: near + far (machine)", lambda m: f"{m('near_cpu_seconds'):.2f} + {m('far_cpu_seconds'):.2f} ({m('machine_cpu_seconds'):.2f})"),
    ("anonymous memory, MB: near, far", lambda m: f"{mega(m('near_anon_bytes')):.0f}, {mega(m('far_anon_bytes')):.0f}"),
    ("sent, MB", lambda m: megabytes(m("wire_sent_bytes") or m("bytes_sent"))),
    ("received, MB", lambda m: megabytes(m("wire_received_bytes") or m("bytes_received"))),
    ("read from disk, MB", lambda m: megabytes(m("disk_read_bytes"))),
    ("flush afterwards, s", lambda m: f"{m('flush_seconds'):.2f}"),
)


def costs_table(results, scenario):
    rows = []
    for tool in tools_of(results, [scenario]):
        for case in CASES:
            if results.of(scenario, tool, case):
                figure = lambda name, tool=tool, case=case: results.median(scenario, tool, case, name)  # noqa: E731
                rows.append([results.titles[tool], case, *(written(figure) for _, written in COSTS)])
    return table(["medians", "replica", *(title for title, _ in COSTS)], rows, words=2) if rows else ""


def troubles(results, names):
    lines = [
        f"- {one['tool']}, {one['case']}, in `{one['scenario']}`: failed: {one['reason']}"
        for one in results.failures
        if one["scenario"] in names
    ]
    left_out = {(one["tool"], one["reason"]) for one in results.missing if one["scenario"] in names}
    return "\n".join(lines + [f"- {tool} is left out: {reason}" for tool, reason in sorted(left_out)])


def table(header, rows, words=1):
    """Markdown; all but the first columns, which hold words, are numbers."""
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def mega(count):
    return None if count is None else count / 1e6


def megabytes(count):
    return "–" if count is None else f"{count / 1e6:.1f}"


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
