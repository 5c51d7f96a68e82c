"""The measurements as pictures: bars of one scenario, lines over the scenarios of a group."""

import math
import os
import statistics

from .lab import CASES
from .report import GROUPS, SERIES, tools_of
from .svg import FAINT, Drawing
from .system import parse_size
from .targets import OURS

COLOURS = ("#1f6fb4", "#e07b1a", "#2a9d5c", "#c23b3b", "#8357a8", "#7d5a4f", "#d068b0", "#6b6b6b", "#a9a326", "#2ba6bf")
OURS_COLOUR = "#0b3d91"
WIDTH, ROW, NAMES, MARGIN = 900, 22, 360, 16
CHART = (70, 50, 520, 300)  # left, top, width, height
TICKS = (1, 2, 5)
# How the position on the horizontal axis follows from the fact that tells scenarios apart.
POSITIONS = {
    "sizes": lambda size: math.log2(parse_size(size)),
    "changes": math.log10,
    "targets": float,
    "links": float,
}


def draw_all(results, folder, document):
    """Writes a picture for each group and case; returns {group: [(caption, path from the document)]}."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for group in GROUPS:
        for case in CASES:
            drawing = draw(results, group, case)
            if drawing is not None:
                path = folder / f"{group}-{case}.svg"
                path.write_text(str(drawing))
                place = os.path.relpath(path, document.parent) if document else str(path)
                drawn.setdefault(group, []).append((caption(group, case), place))
    return drawn


def draw(results, group, case):
    names = results.of_group(group)
    if not names:
        return None
    if group not in SERIES:
        return bars(results, names[0], case, caption(group, case))
    return lines(results, group, names, case)


def caption(group, case):
    return f"{GROUPS[group]}: {case} replica"


def plain(title):
    return title.replace("*", "").replace("`", "")


def bars(results, scenario, case, title):
    rows = [(key, times) for key in tools_of(results, [scenario]) if (times := results.figures(scenario, key, case, "seconds"))]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: statistics.median(row[1]))
    height = 3 * MARGIN + 20 + ROW * len(rows)
    drawing = Drawing(WIDTH, height, title)
    drawing.text(MARGIN, MARGIN + 10, f"{title}, seconds (median, fastest to slowest)", size=14, weight="bold")
    longest = max(max(times) for _, times in rows)
    scale = (WIDTH - NAMES - 6 * MARGIN) / longest
    for number, (key, times) in enumerate(rows):
        top, median = 2 * MARGIN + 20 + ROW * number, statistics.median(times)
        middle, is_ours = top + ROW / 2 - 2, key.startswith(OURS)
        drawing.text(NAMES - 8, middle + 4, short(plain(results.titles[key])), "end", weight="bold" if key == OURS else "normal")
        drawing.box(NAMES, top, max(median * scale, 1), ROW - 6, OURS_COLOUR if is_ours else "#9db4cc")
        drawing.line([(NAMES + min(times) * scale, middle), (NAMES + max(times) * scale, middle)], width=1.5)
        drawing.text(NAMES + max(times) * scale + 6, middle + 4, f"{median:.2f}")
    return drawing


def short(words, most=50):
    return words if len(words) <= most else words[: most - 1] + "…"


def lines(results, group, names, case):
    fact, written = SERIES[group]
    position = POSITIONS[group]
    series = {}
    for key in tools_of(results, names):
        points = [
            (position(results.scenarios[name][fact]), median)
            for name in names
            if (median := results.median(name, key, case)) is not None
        ]
        if points:
            series[key] = sorted(points)
    if not series or max(map(len, series.values())) < 2:
        return None
    title = caption(group, case)
    chart = Chart(title, [point for points in series.values() for point in points])
    for name in names:
        chart.mark(position(results.scenarios[name][fact]), written(results.scenarios[name][fact]))
    for number, (key, points) in enumerate(series.items()):
        chart.curve(points, OURS_COLOUR if key == OURS else COLOURS[number % len(COLOURS)], plain(results.titles[key]), key == OURS)
    return chart.drawing


class Chart:
    """Curves over an axis that is given, and a logarithmic one of seconds."""

    def __init__(self, title, points):
        left, top, width, height = CHART
        self.drawing = Drawing(WIDTH + 80, top + height + 50, title)
        self.drawing.text(MARGIN, MARGIN + 10, f"{title}, seconds (median)", size=14, weight="bold")
        across, up = [x for x, _ in points], [math.log10(y) for _, y in points]
        self.across, self.up = spread(across), spread(up)
        self.curves = 0
        for exponent in range(math.floor(self.up[0]), math.ceil(self.up[1]) + 1):
            for digit in TICKS:
                self._tick(digit * 10**exponent)

    def _tick(self, seconds):
        left, _, width, _ = CHART
        if self.up[0] <= math.log10(seconds) <= self.up[1]:
            y = self._y(seconds)
            self.drawing.line([(left, y), (left + width, y)], FAINT)
            self.drawing.text(left - 6, y + 4, f"{seconds:g}", "end")

    def mark(self, position, words):
        left, top, _, height = CHART
        x = self._x(position)
        self.drawing.line([(x, top), (x, top + height)], FAINT)
        self.drawing.text(x, top + height + 18, words, "middle")

    def curve(self, points, colour, words, is_ours):
        left, top, width, _ = CHART
        places = [(self._x(x), self._y(y)) for x, y in points]
        self.drawing.line(places, colour, 3 if is_ours else 1.5)
        for x, y in places:
            self.drawing.dot(x, y, colour)
        y = top + 10 + 20 * self.curves
        self.curves += 1
        self.drawing.line([(left + width + 20, y - 4), (left + width + 40, y - 4)], colour, 3)
        self.drawing.text(left + width + 46, y, short(words, 50), weight="bold" if is_ours else "normal")

    def _x(self, position):
        left, _, width, _ = CHART
        low, high = self.across
        return left + width * (position - low) / (high - low)

    def _y(self, seconds):
        _, top, _, height = CHART
        low, high = self.up
        return top + height * (1 - (math.log10(seconds) - low) / (high - low))


def spread(values):
    """Their range with a little room at both ends."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.5
    return low - room, high + room
