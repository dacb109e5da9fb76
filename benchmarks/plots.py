"""Draw docs/*.svg from the tables in RESULTS.md; what has not been measured is left as it is.

With a folder as its argument, there. The same numbers make the same files.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
from benchmarks.results import table
from examples.graph import COLOURS, STYLE
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

DOCS = Path(__file__).parents[1] / "docs"
_STYLE = {**STYLE, "axes.grid.axis": "both", "font.sans-serif": ["DejaVu Sans", "sans-serif"]}


@dataclass(frozen=True, slots=True)
class Curve:
    """One column of a table: who it is of, and how it is drawn."""

    column: str
    label: str
    colour: str
    line: str = "-"


@dataclass(frozen=True, slots=True)
class Panel:
    """Several columns over the first one, in the unit that their numbers have times `factor`."""

    title: str
    unit: str
    curves: Sequence[Curve]
    scale: Literal["linear", "log"] = "log"
    factor: float = 1.0


_OURS, _OTHERS = COLOURS[:2]
_SCRAPE = [
    Panel(
        "A scrape, all values changed",
        "seconds",
        [Curve("stock: ms", "prometheus_client", _OTHERS), Curve("ours: ms", "this exporter", _OURS)],
        factor=0.001,
    ),
    Panel(
        "Memory of the web server",
        "MB",
        [
            Curve("stock: peak", "prometheus_client, at most", _OTHERS),
            Curve("stock: MB", "between scrapes", _OTHERS, "--"),
            Curve("ours: peak", "this exporter, at most", _OURS),
            Curve("ours: MB", "between scrapes", _OURS, "--"),
        ],
        scale="linear",
    ),
]
_ATTACH = [
    Panel(
        "From the start to all attached",
        "seconds",
        [Curve("bcc alone", "bcc, a process for each", _OTHERS), Curve("exec to all", "this exporter", _OURS)],
    ),
    Panel(
        "CPU time for it",
        "seconds",
        [Curve("its CPU", "bcc, a process for each", _OTHERS), Curve("CPU", "this exporter", _OURS)],
    ),
]


def draw_all(folder: Path) -> None:
    """Draw every plot of which there are numbers."""
    for name, first_column, what, panels, benchmark in (
        ("scrape", "series", "series", _SCRAPE, "scrape_growth"),
        ("attach", "targets", "processes", _ATTACH, "attach"),
    ):
        if rows := table(benchmark, first_column):
            draw(folder / f"{name}.svg", rows, first_column, what, panels)


def draw(output: Path, rows: Sequence[dict[str, str]], first_column: str, what: str, panels: Sequence[Panel]) -> None:
    """Write panels side by side as an SVG that shows on light and on dark."""
    numbers = [float(row[first_column]) for row in rows]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.9), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
            for curve in panel.curves:
                values = [panel.factor * float(row[curve.column]) for row in rows]
                axes.plot(numbers, values, curve.line, color=curve.colour, marker="o", markersize=3, label=curve.label)
            axes.set_title(panel.title, loc="left")
            axes.set(xlabel=what, ylabel=panel.unit, yscale=panel.scale, xlim=(0, None))
            if panel.scale == "linear":
                axes.set_ylim(bottom=0)
            axes.minorticks_off()
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.legend()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
