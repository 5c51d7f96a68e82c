"""The volumes of one measurement: an image with holes on a filesystem of its own, and its replica."""

import os
import pathlib
import random
import re
import struct
import subprocess

from comparison.system import ToolFailed, require, run_quietly

PAGE = 4096
STRETCH = 1 << 20  # data comes in stretches of this length
PAGES_OF_STRETCH = STRETCH // PAGE
PATTERN = 16 << 20
MAKERS = {"xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}
SPARE = 1 << 30


def parse_size(text):
    found = re.fullmatch(r"(\d+)([KMGT]?)", text.strip())
    if not found:
        raise ValueError(f"not a size: {text}")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[found[2]]


class Layout:
    """Where an image has data: stretches at equal distances, the rest holes."""

    def __init__(self, size, most_data):
        self.size = size
        self.stretches = min(size, most_data) // STRETCH
        self.places = size // STRETCH

    @property
    def data(self):
        return self.stretches * STRETCH

    @property
    def pages(self):
        return self.stretches * PAGES_OF_STRETCH

    def stretch_offset(self, number):
        return number * self.places // self.stretches * STRETCH

    def page_offset(self, number):
        stretch, page = divmod(number, PAGES_OF_STRETCH)
        return self.stretch_offset(stretch) + page * PAGE


class Pages:
    """Pages that do not repeat and do not compress, quickly made."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pattern = self.random.randbytes(PATTERN + STRETCH)
        self.stamp = self.random.getrandbits(63)

    def some(self, count):
        begin = self.random.randrange(0, PATTERN, 8)
        pages = bytearray(self.pattern[begin : begin + count * PAGE])
        for at in range(0, len(pages), PAGE):
            self.stamp += 1
            struct.pack_into("<Q", pages, at, self.stamp)
        return pages


class Field:
    """An image on a loop device's filesystem, its replica beside the device's file.

    Everything is let go of with the `stack`.
    """

    def __init__(self, work, filesystem, size, options, stack):
        self.filesystem, self.layout = filesystem, Layout(size, options.data)
        self.cold = not options.warm
        self.pages = Pages(options.seed)
        self.replica, self.state = work / "replica.img", work / "state"
        mount = work / "mount"
        self.image = mount / "image.img"
        require(MAKERS[filesystem][0])
        self._mount(work / "disk", mount, stack)
        self._fill()

    def _mount(self, disk, mount, stack):
        with open(disk, "xb") as file:
            # The replaced pages of a snapshot stay too.
            file.truncate(3 * self.layout.data + SPARE)
        device = attach(disk)
        stack.callback(run_quietly, ["losetup", "--detach", device])
        run_quietly([*MAKERS[self.filesystem], device])
        mount.mkdir()
        run_quietly(["mount", device, str(mount)])
        stack.callback(run_quietly, ["umount", str(mount)])

    def _fill(self):
        with open(self.image, "xb", buffering=0) as file:
            file.truncate(self.layout.size)
            for number in range(self.layout.stretches):
                file.seek(self.layout.stretch_offset(number))
                file.write(self.pages.some(PAGES_OF_STRETCH))
            os.fsync(file.fileno())

    def change(self, percent):
        """Changes that part of the pages with data; says how many."""
        count = max(1, round(self.layout.pages * percent / 100))
        with open(self.image, "r+b", buffering=0) as file:
            for page in sorted(self.pages.random.sample(range(self.layout.pages), count)):
                os.pwrite(file.fileno(), self.pages.some(1), self.layout.page_offset(page))
            os.fsync(file.fileno())
        return count

    def settle(self):
        """The page cache as a run is to find it."""
        os.sync()
        if self.cold:
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def check(self):
        """Compares the replica with the image: with cmp where both have data, holes by their maps."""
        size = self.replica.stat().st_size
        if size != self.layout.size:
            raise ToolFailed(f"the replica has {size} bytes")
        for begin, end in merged(data_ranges(self.image) + data_ranges(self.replica)):
            same = ["cmp", f"--ignore-initial={begin}", f"--bytes={end - begin}", str(self.image), str(self.replica)]
            run_quietly(same)


def attach(disk):
    """A loop device; past the page cache where that can be, or all would be in it twice."""
    command = ["losetup", "--find", "--show"]
    try:
        return run_quietly([*command, "--direct-io=on", str(disk)]).strip()
    except ToolFailed:
        return run_quietly([*command, str(disk)]).strip()


def data_ranges(path):
    """What of a file is not a hole."""
    found = []
    with open(path, "rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole from here on
                break
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found.append((begin, at))
    return found


def merged(ranges):
    """The union of ranges; those with less than a stretch between them as one."""
    joined = []
    for begin, end in sorted(ranges):
        if joined and begin <= joined[-1][1] + STRETCH:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    return joined
