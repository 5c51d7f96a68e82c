"""The measurements as Markdown."""

import os
import platform
import time

from comparison.report import mega, table
from comparison.system import processor

SECTION = "deltas"
HEADER = (
    "volume",
    "changed",
    "pause, ms",
    "full: s",
    "source read, MB",
    "delta: s",
    "source read, MB",
    "× full",
)


def markdown(rows, clones, options):
    """The whole section."""
    parts = ["\n".join(f"- {line}" for line in setting_lines(rows, options)), delta_table(rows)]
    if clones:
        parts.append("\n".join(f"- {line}" for line in clone_lines(clones)))
    return "\n\n".join(parts) + "\n"


def setting_lines(rows, options):
    """What a reader must know to read the table, or to measure again."""
    cache = "warm" if options.warm else "cold: dropped before each run"
    yield (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"Linux {platform.release()}."
    )
    yield (
        f"Both ends on this machine, the page cache {cache}. The replica is a file on the machine's own disk, the source "
        f"an image on a filesystem of a loop device. At most {options.data / 2**30:.3g} GiB of an image are data, in "
        "stretches of 1 MiB at equal distances, the rest holes; changed are single pages of the data, at random."
    )
    yield (
        "`pause`: the longest wait of a writer that writes a page of the volume all the time, until the snapshot is "
        "made. Every replica was compared with its volume after each run, outside the time."
    )
    if any(row["filesystem"] == "thin" for row in rows):
        yield (
            "`thin`: a volume in an emulated machine without hardware support, many times slower than a real one: only "
            "the bytes, and the seconds beside each other, say something."
        )


def delta_table(rows):
    has_target = any(row["delta"]["target_read"] is not None for row in rows)
    header = [*HEADER, *(["target read: full, delta, MB"] if has_target else [])]
    return table(header, [cells(row, has_target) for row in rows])


def cells(row, has_target):
    full, delta = row["full"], row["delta"]
    found = [
        volume(row),
        f"{row['percent']:g} % ({mega(row['changed']):.3g} MB)",
        f"{1000 * max(full['pause'], delta['pause']):.0f}",
        f"{full['seconds']:.2f}",
        f"{mega(full['source_read']):.0f}",
        f"{delta['seconds']:.2f}",
        f"{mega(delta['source_read']):.1f}",
        f"{delta['seconds'] / full['seconds']:.2f}",
    ]
    if delta["proof"] != "delta":
        found[5] += " (no delta)"
    if has_target:
        found.append(f"{megabytes(full['target_read'])}, {megabytes(delta['target_read'])}")
    return found


def megabytes(count):
    return "–" if count is None else f"{mega(count):.1f}"


def volume(row):
    name = {"xfs": "XFS", "btrfs": "btrfs", "thin": "LVM thin, emulated"}[row["filesystem"]]
    size = gibibytes(row["size"])
    return f"{name}, {size}" + (f", {gibibytes(row['data'])} data" if row["data"] < row["size"] else "")


def gibibytes(count):
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def clone_lines(clones):
    """What a clone costs whose volume is in memory."""
    for clone in clones:
        yield (
            f"{clone['filesystem']}, {gibibytes(clone['size'])}, in the page cache, identical replica: a full scan of the "
            f"volume itself takes {clone['exclusive']:.2f} s, one of its clone {clone['reflink']:.2f} s. The kernel "
            "keeps a clone's pages apart from the volume's, so they come from the disk."
        )
