"""Tests of what a comparison concludes: `cd tools && python3 -m unittest comparison.tests`."""

import contextlib
import json
import os
import pathlib
import tempfile
import unittest

from . import peers, plots, report, scenarios, targets, volumes
from .lab import Lab
from .place import Loopback
from .results import Results
from .system import SourceChanged, ToolFailed

PAGE = volumes.PAGE
FIGURES = {
    "flush_seconds": 0.1,
    "near_cpu_seconds": 1.0,
    "far_cpu_seconds": 1.0,
    "machine_cpu_seconds": 2.5,
    "near_anon_bytes": 30 << 20,
    "far_anon_bytes": 20 << 20,
    "disk_read_bytes": 1 << 30,
    "wire_sent_bytes": None,
    "wire_received_bytes": None,
}


class Run:
    """Measured figures, but for the time made up."""

    def __init__(self, seconds):
        self.seconds = seconds

    def as_json(self):
        return FIGURES | {"seconds": self.seconds}


def results(times):
    """Results of the scenario `loopback`: {(tool, case): seconds of each round}."""
    found = Results()
    found.titles = {key: tool.title for key, tool in scenarios.TOOLS.items()}
    found.machine = {"date": "", "processor": "", "cores": 2, "memory_gib": 4, "kernel": "", "load": 0, "versions": []}
    counts = {"size": 1 << 30, "pages_bytes": 4096, "groups_bytes": 65536, "extents_bytes": 1 << 20, "packed_bytes": 1 << 20}
    facts = {"group": "loopback", "size": "1G", "percent": None, "targets": 1, "rate_mbit": None}
    found.begin("loopback", facts | {"place": "here", "cache": "warm", "rounds": 3, "counts": counts})
    for (tool, case), rounds in times.items():
        for number, seconds in enumerate(rounds):
            found.add("loopback", tool, case, number, Run(seconds), {"bytes_sent": 1 << 20})
    return found


def state(found, text):
    return next(verdict for verdict in targets.verdicts(found) if verdict.text.startswith(text))


class Targets(unittest.TestCase):
    def test_a_target_is_judged_by_medians(self):
        times = {("lockstep", "differing"): [1, 1, 90], ("rsync-delta", "differing"): [12, 13, 1]}
        self.assertEqual(state(results(times), "rsync delta / ours").state, "met")
        times["rsync-delta", "differing"] = [11, 11.9, 50]
        verdict = state(results(times), "rsync delta / ours")
        self.assertEqual((verdict.state, verdict.value), ("missed", 11.9))

    def test_the_shell_is_taken_off_the_identical_case(self):
        times = {("lockstep", "identical"): [1.3], ("b3sum", "identical"): [1.0], ("ssh-alone", "identical"): [0.2]}
        self.assertEqual(state(results(times), "our time without").state, "met")
        times["ssh-alone", "identical"] = [0.1]
        self.assertEqual(state(results(times), "our time without").state, "missed")
        times["ssh-alone", "identical"] = [1.4]
        self.assertEqual(state(results(times), "our time without").state, "not measured")

    def test_what_was_not_measured_is_neither_met_nor_missed(self):
        verdict = state(results({("lockstep", "differing"): [1]}), "rsync delta / ours")
        self.assertEqual(verdict.state, "not measured")
        self.assertIn("rsync-delta", verdict.reason)

    def test_a_run_of_ours_that_failed_is_a_miss(self):
        found = results({("lockstep", "differing"): [1], ("rsync-delta", "differing"): [50]})
        found.fail("loopback", "lockstep", "differing", "not equal")
        self.assertEqual(state(found, "rsync delta / ours").state, "missed")
        self.assertFalse(targets.all_met(found))


class Reports(unittest.TestCase):
    def test_results_come_back_from_their_file_and_are_drawn(self):
        found = results({("lockstep", "differing"): [1, 2, 3], ("cp", "differing"): [4, 5, 6]})
        found.leave_out("loopback", "bdsync", "bdsync is missing")
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            found.save(folder / "results.json")
            again = Results.load(folder / "results.json")
            pictures = plots.draw_all(again, folder / "plots", folder / "performance.md")
            self.assertIn("5.00", (folder / "plots/loopback-differing.svg").read_text())
            text = report.markdown(again, pictures)
        self.assertEqual(vars(again), json.loads(json.dumps(vars(found))))
        for part in ("2.00 (1.00–3.00)", "2.50", "bdsync is left out", "(plots/loopback-differing.svg)"):
            self.assertIn(part, text)

    def test_only_the_marked_section_of_a_document_is_replaced(self):
        with tempfile.TemporaryDirectory() as folder:
            document = pathlib.Path(folder) / "performance.md"
            document.write_text("before\n<!-- comparison: begin -->\nold\n<!-- comparison: end -->\nafter\n")
            report.write_section(document, "new\n")
            expected = "before\n<!-- comparison: begin -->\nnew\n<!-- comparison: end -->\nafter\n"
            self.assertEqual(document.read_text(), expected)


class Volumes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.left, self.right = (pathlib.Path(folder.name) / name for name in ("left", "right"))

    def test_the_asked_share_of_the_pages_with_data_is_changed(self):
        data = os.urandom(100 * PAGE)
        for path in (self.left, self.right):
            path.write_bytes(bytes(300 * PAGE) + data + bytes(100))
        volumes.change_pages(self.right, 10)
        changed = b"".join(volumes.differing_pages(self.left, self.right))
        self.assertEqual(len(changed), 10 * PAGE)

    def test_differing_pages_are_those_of_the_first_volume_extent_by_extent(self):
        left = bytearray(os.urandom(3 * volumes.EXTENT + 100))
        right = bytearray(left)
        for at in (0, PAGE, len(left) - 1):
            right[at] ^= 1
        self.left.write_bytes(left), self.right.write_bytes(right)
        found = list(volumes.differing_pages(self.left, self.right))
        self.assertEqual(found, [bytes(left[: 2 * PAGE]), bytes(left[3 * volumes.EXTENT :])])

    def test_a_byte_in_a_hole_of_the_other_is_seen(self):
        for path in (self.left, self.right):
            with open(path, "wb") as file:
                file.truncate(64 << 20)
        self.assertTrue(volumes.same_data(self.left, self.right))
        for written in (self.left, self.right):
            with open(written, "r+b") as file:
                file.seek(33 << 20)
                file.write(b"x")
            self.assertEqual(volumes.same_data(self.left, self.right), written == self.right)


class Shell(peers.Tool):
    """A tool that is one line of shell: $0 is the primary, $1 the target."""

    key, line = "shell", "true"

    def command(self, case, number):
        return ["sh", "-c", self.line, str(self.lab.primary), str(self.lab.targets[number])]


class Scenarios(unittest.TestCase):
    def test_each_says_which_folders_its_volume_is_in(self):
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder)
            (data / "db-4M").mkdir()
            for name in ("primary.img", "replica.img"):
                (data / "db-4M" / name).write_bytes(os.urandom(4 << 20))
            for scenario in (
                scenarios.Scenario("s", "s", "4M", ()),
                scenarios.Scenario("s", "s", "4M", (), percent=0.5),
                scenarios.Scenario("s", "s", "128M", (), is_sparse=True),
            ):
                volume = scenario.volume(data, "1")
                self.assertEqual({volume.name} - scenario.folders(), set())
                self.assertEqual({volume.primary.parent.name} - scenario.folders(), set())


class Runs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        work = pathlib.Path(folder.name)
        primary, replica = work / "primary.img", work / "replica.img"
        primary.write_bytes(os.urandom(1 << 20)), replica.write_bytes(bytes(1 << 20))
        volume = volumes.Volume("small", primary, replica, {})
        self.lab = Lab(volume, work, False, Loopback(2), None, 60, contextlib.ExitStack())

    def run_line(self, line):
        tool = Shell(self.lab)
        tool.line = line
        return tool.run("differing")[0]

    def test_every_target_is_compared_after_a_run(self):
        measured = self.run_line('cp "$0" "$1"')
        self.assertGreater(measured.seconds, 0)
        with self.assertRaisesRegex(ToolFailed, "target-1.img"):
            self.run_line('case $1 in *0.img) cp "$0" "$1";; esac')

    def test_a_run_that_fails_or_takes_too_long_is_no_measurement(self):
        with self.assertRaisesRegex(ToolFailed, "exit 3: so there"):
            self.run_line('cp "$0" "$1"; echo so there >&2; exit 3')
        self.lab.limit_seconds = 0.2
        with self.assertRaisesRegex(ToolFailed, "too long"):
            self.run_line("exec sleep 60")

    def test_a_tool_that_writes_to_its_source_stops_everything(self):
        with self.assertRaises(SourceChanged):
            self.run_line('cp "$1" "$0"')

    def test_processor_time_and_memory_of_children_count(self):
        spinning = "python3 -c 'import time; x = bytearray(64 << 20)\nwhile time.process_time() < 0.4: pass'"
        measured = self.run_line(f'{spinning}; cp "$0" "$1"')
        self.assertGreaterEqual(measured.near_cpu_seconds, 0.4)
        self.assertGreater(measured.near_anon_bytes, 64 << 20)
        self.assertEqual(measured.far_cpu_seconds, 0)


if __name__ == "__main__":
    unittest.main()
