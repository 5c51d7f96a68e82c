"""What was measured, as it is kept in a file and as tables and targets ask for it."""

import json
import statistics


class Results:
    """Runs, failures and what was left out, for any number of scenarios."""

    def __init__(self, content=None):
        content = content or {}
        self.machine = content.get("machine", {})
        self.scenarios = content.get("scenarios", {})
        self.titles = content.get("titles", {})
        self.runs = content.get("runs", [])
        self.failures = content.get("failures", [])
        self.missing = content.get("missing", [])

    @staticmethod
    def load(path):
        return Results(json.loads(path.read_text()))

    def save(self, path):
        # Whole or not at all: an evening's work is in it.
        making = path.with_name(path.name + ".new")
        making.write_text(json.dumps(vars(self), indent=1) + "\n")
        making.replace(path)

    def begin(self, name, facts):
        """Forgets what was measured of a scenario before."""
        self.scenarios[name] = facts
        for kept in (self.runs, self.failures, self.missing):
            kept[:] = [one for one in kept if one["scenario"] != name]

    def add(self, scenario, tool, case, number, measured, details):
        where = {"scenario": scenario, "tool": tool, "case": case, "round": number}
        self.runs.append(where | measured.as_json() | details)

    def fail(self, scenario, tool, case, reason):
        self.failures.append({"scenario": scenario, "tool": tool, "case": case, "reason": str(reason)})

    def leave_out(self, scenario, tool, reason):
        self.missing.append({"scenario": scenario, "tool": tool, "reason": str(reason)})

    def has_failed(self, scenario, tool, case):
        where = (scenario, tool, case)
        return any((one["scenario"], one["tool"], one["case"]) == where for one in self.failures)

    def of(self, scenario, tool, case):
        """All runs; none if one of them failed."""
        if self.has_failed(scenario, tool, case):
            return []
        where = (scenario, tool, case)
        return [run for run in self.runs if (run["scenario"], run["tool"], run["case"]) == where]

    def figures(self, scenario, tool, case, figure):
        """A figure of each run, by its name or a function; without those where it is not known."""
        take = figure if callable(figure) else lambda run: run.get(figure)
        return [value for run in self.of(scenario, tool, case) if (value := take(run)) is not None]

    def median(self, scenario, tool, case, figure="seconds"):
        found = self.figures(scenario, tool, case, figure)
        return statistics.median(found) if found else None

    def of_group(self, group):
        return [name for name, facts in self.scenarios.items() if facts["group"] == group]
