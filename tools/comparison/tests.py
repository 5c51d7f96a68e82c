"""Tests of what a comparison concludes: `cd tools && python3 -m unittest comparison.tests`."""

import json
import os
import pathlib
import tempfile
import unittest

from . import plots, report, scenarios, targets, volumes
from .results import Results

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


if __name__ == "__main__":
    unittest.main()
