"""As much of SVG as two kinds of plots need."""

from xml.sax.saxutils import escape

FONT = "font-family='system-ui, sans-serif'"
INK, FAINT, PAPER = "#222222", "#d9d9d9", "#ffffff"


class Drawing:
    """Shapes in the order in which they are drawn, on white paper: dark pages show it too."""

    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = [f"<title>{escape(title)}</title>"]
        self.box(0, 0, width, height, PAPER)

    def box(self, x, y, width, height, fill):
        self.parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{fill}'/>")

    def line(self, points, stroke=INK, width=1.0):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f"<polyline points='{path}' fill='none' stroke='{stroke}' stroke-width='{width}'/>")

    def dot(self, x, y, fill, radius=3):
        self.parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius}' fill='{fill}'/>")

    def text(self, x, y, words, anchor="start", size=12, weight="normal", fill=INK):
        self.parts.append(
            f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}' font-weight='{weight}' "
            f"fill='{fill}' {FONT}>{escape(words)}</text>"
        )

    def __str__(self):
        body = "\n".join(self.parts)
        size = f"width='{self.width}' height='{self.height}' viewBox='0 0 {self.width} {self.height}'"
        return f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img'>\n{body}\n</svg>\n"
