"""The volumes that are compared, made once and kept in a folder.

`db-SIZE` is a file system with a database and ordinary files, and its replica
from before some load. `db-SIZE-PERCENT%` is the same primary with a replica in
which that share of the pages with data differs, at random. `sparse-SIZE` is a
primary of holes with a little data.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from array import array
from dataclasses import dataclass

from .system import TOOLS, ToolFailed, parse_size, run_quietly

PAGE, EXTENT = 4096, 1 << 20
ZEROS = bytes(EXTENT)
SEED = 1
SPARSE_DATA = 64 << 20  # bytes of data in a sparse volume
ZSTD_BATCH = 64  # extents packed by one process


@dataclass
class Volume:
    """A primary and the replica that differs from it; `counts` says by how much."""

    name: str
    primary: pathlib.Path
    replica: pathlib.Path | None
    counts: dict

    @property
    def size(self):
        return self.primary.stat().st_size


def database(data, size, seconds):
    folder = data / f"db-{size}"
    if not (folder / "primary.img").exists():
        maker = [str(TOOLS / "make-image"), str(folder), "--size", size, "--seconds", seconds]
        subprocess.run(maker, check=True, stdout=sys.stderr)
    return counted(folder, folder / "primary.img")


def changed(data, size, seconds, percent):
    """The database volume with another replica."""
    primary = database(data, size, seconds).primary
    folder = data / f"db-{size}-{percent:g}%"
    if not (folder / "replica.img").exists():
        folder.mkdir(exist_ok=True)
        making = folder / ".making.img"
        run_quietly(["cp", "--sparse=always", "--reflink=never", str(primary), str(making)])
        change_pages(making, percent)
        making.rename(folder / "replica.img")
    return counted(folder, primary)


def sparse(data, size):
    folder = data / f"sparse-{size}"
    primary = folder / "primary.img"
    if not primary.exists():
        folder.mkdir(exist_ok=True)
        making = folder / ".making.img"
        length, luck = parse_size(size), random.Random(SEED)
        with open(making, "wb") as file:
            file.truncate(length)
            for number in range(SPARSE_DATA // EXTENT):
                file.seek(length // (SPARSE_DATA // EXTENT) * number)
                file.write(luck.randbytes(EXTENT))
        making.rename(primary)
    return Volume(folder.name, primary, None, {"size": primary.stat().st_size, "data_bytes": SPARSE_DATA})


def counted(folder, primary):
    """The volume, with what differs in it; counting takes a while, so it is kept."""
    replica, kept = folder / "replica.img", folder / "counts.json"
    if not is_counted(kept, replica):
        counting = subprocess.run(
            [str(TOOLS / "differing"), str(primary), str(replica)], stdout=subprocess.PIPE, text=True
        )
        if counting.returncode not in (0, 10):
            raise ToolFailed(f"differing: exit {counting.returncode}")
        counts = json.loads(counting.stdout) | {"packed_bytes": packed_bytes(primary, replica)}
        kept.write_text(json.dumps(counts) + "\n")
    return Volume(folder.name, primary, replica, json.loads(kept.read_text()))


def is_counted(kept, replica):
    if not kept.exists() or kept.stat().st_mtime < replica.stat().st_mtime:
        return False
    # What could not be packed then can be now.
    return json.loads(kept.read_text())["packed_bytes"] is not None or not shutil.which("zstd")


def change_pages(path, percent):
    """Puts other pages of the volume in the place of so many that hold data."""
    luck = random.Random(SEED)
    with open(path, "r+b", buffering=0) as file:
        pages = data_pages(file)
        places = sorted(luck.sample(range(len(pages)), round(len(pages) * percent / 100)))
        for place in places:
            other = os.pread(file.fileno(), PAGE, pages[luck.randrange(len(pages))] * PAGE)
            if other == os.pread(file.fileno(), PAGE, pages[place] * PAGE):
                other = luck.randbytes(PAGE)
            os.pwrite(file.fileno(), other, pages[place] * PAGE)


def data_pages(file):
    """Numbers of the whole pages that are not zeros."""
    found = array("Q")
    for at in range(0, os.fstat(file.fileno()).st_size, EXTENT):
        extent = os.pread(file.fileno(), EXTENT, at)
        if extent != ZEROS[: len(extent)]:
            found.extend(
                (at + begin) // PAGE
                for begin in range(0, len(extent) // PAGE * PAGE, PAGE)
                if extent[begin : begin + PAGE] != ZEROS[:PAGE]
            )
    return found


def packed_bytes(primary, replica):
    """Bytes of each extent's differing pages, one after the other and packed by `zstd -1`; None without it."""
    if not shutil.which("zstd"):
        return None
    total = 0
    with tempfile.TemporaryDirectory(prefix="lockstep-compare-") as scratch:
        batch = []
        for number, pages in enumerate(differing_pages(primary, replica)):
            batch.append(pathlib.Path(scratch) / str(number % ZSTD_BATCH))
            batch[-1].write_bytes(pages)
            if len(batch) == ZSTD_BATCH:
                total += packed_together(batch)
                batch = []
        return total + (packed_together(batch) if batch else 0)


def differing_pages(primary, replica):
    with open(primary, "rb", buffering=0) as ours, open(replica, "rb", buffering=0) as theirs:
        for at in range(0, os.fstat(ours.fileno()).st_size, EXTENT):
            new, old = os.pread(ours.fileno(), EXTENT, at), os.pread(theirs.fileno(), EXTENT, at)
            if new != old:
                begins = range(0, len(new), PAGE)
                yield b"".join(new[b : b + PAGE] for b in begins if new[b : b + PAGE] != old[b : b + PAGE])


def packed_together(files):
    """Each file is a frame of its own."""
    packing = ["zstd", "-1", "-q", "-c", "--single-thread", *map(str, files)]
    return len(subprocess.run(packing, check=True, stdout=subprocess.PIPE).stdout)


def same_data(left, right):
    """Whether two files are equal, without reading what is a hole in both."""
    if os.stat(left).st_size != os.stat(right).st_size:
        return False
    with open(left, "rb", buffering=0) as ours, open(right, "rb", buffering=0) as theirs:
        ranges = [*data_ranges(ours), *data_ranges(theirs)]
        for begin, stop in ranges:
            for at in range(begin, stop, EXTENT):
                length = min(EXTENT, stop - at)
                if os.pread(ours.fileno(), length, at) != os.pread(theirs.fileno(), length, at):
                    return False
    return True


def data_ranges(file):
    at, size = 0, os.fstat(file.fileno()).st_size
    while at < size:
        try:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
        yield begin, at
