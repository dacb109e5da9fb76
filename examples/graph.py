"""Draw a small graph of what a running exporter says, in PromQL, as it would look in a dashboard.

    .venv/bin/python examples/graph.py --url http://127.0.0.1:8080/metrics --seconds 60 \
        --title "Garbage collections per second" --output examples/NAME/graph.svg \
        --series "generation {gen}" "sum by (gen) (rate(userspace_exporter_gc_total[5s]))"

Start the program, its load and the exporter first. Debian's Prometheus (`apt-get install prometheus`) scrapes the
exporter every second into a folder that is gone afterwards, and answers the expressions; so what is drawn is what you
would see. Each --series has a legend and an expression, and may be given several times; in the legend, `{label}` stands
for the label's value. `--unit s` writes the axis in seconds, milliseconds and so on; so does any other unit (B, B/s);
`--unit %` writes shares of 1 in percent. The same numbers make the same file.
"""

import argparse
import contextlib
import itertools
import json
import math
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

START_SECONDS = 60
STOP_SECONDS = 30
LOOK_BACK_SECONDS = 10  # scraped before the graph begins, so that a rate[10s] is right from the first second on
LARGEST_BYTES = 30_000
INK = "#7a7f87"  # in the middle between black and white: legible on both, as the ground is transparent
COLOURS = ("#2f81f7", "#db6d28", "#2da44e", "#d1478c", "#8957e5", "#b08800", "#1b9aaa", "#cf4a4a")
STYLE: Any = {  # of which matplotlib's types know each key
    "svg.fonttype": "none",
    "svg.hashsalt": "graph",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.titlesize": 10,
    "grid.color": INK,
    "grid.alpha": 0.3,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One series: seconds since the beginning, and values."""

    legend: str
    seconds: list[int]
    values: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the exporter's metrics: http://127.0.0.1:8080/metrics")
    parser.add_argument("--seconds", type=int, default=60, help="how long it is scraped (60)")
    parser.add_argument("--title", required=True)
    parser.add_argument("--unit", default="", help="of the values, for the axis: s, B, B/s, %%")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.svg")
    parser.add_argument("--series", nargs=2, action="append", required=True, metavar=("LEGEND", "PROMQL"))
    arguments = parser.parse_args()

    with prometheus(arguments.url) as api:
        time.sleep(LOOK_BACK_SECONDS)
        begin = time.time()
        time.sleep(arguments.seconds)
        lines = [
            line for legend, query in arguments.series for line in ask_range(api, query, legend, begin, time.time())
        ]
    if not lines:
        sys.exit("graph: the expressions give nothing")
    draw(lines, arguments.title, arguments.unit, arguments.output)
    if (size := arguments.output.stat().st_size) > LARGEST_BYTES:
        sys.exit(f"graph: {size} bytes are more than {LARGEST_BYTES}: fewer series, or seconds")


def draw(lines: Sequence[Line], title: str, unit: str, output: Path) -> None:
    """Write the graph as an SVG that shows on light and on dark."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for line, colour in zip(lines, itertools.cycle(COLOURS), strict=False):
            axes.plot(line.seconds, line.values, color=colour, linewidth=1.6, label=line.legend)
        axes.set_title(title, loc="left")
        axes.set_xlabel("seconds")
        axes.set_ylim(bottom=min(0.0, *(value for line in lines for value in line.values if not math.isnan(value))))
        axes.margins(x=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1) if unit == "%" else EngFormatter(unit))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def ask_range(api: str, query: str, legend: str, begin: float, end: float) -> list[Line]:
    """Return the series that a PromQL expression gives over that time, a value each second, where it has one."""
    parameters = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": 1})
    series = ask(f"{api}/query_range?{parameters}")["result"]
    lines = []
    for each in sorted(series, key=lambda one: sorted(one["metric"].items())):
        values = {round(moment - begin): float(text) for moment, text in each["values"]}
        seconds = range(math.floor(end - begin) + 1)
        lines.append(
            Line(legend.format_map(each["metric"]), [*seconds], [values.get(second, math.nan) for second in seconds])
        )
    return lines


@contextlib.contextmanager
def prometheus(url: str) -> Iterator[str]:
    """Run a Prometheus that scrapes the address every second; give the address of its API."""
    target = urllib.parse.urlsplit(url)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": "graph", "metrics_path": target.path, "static_configs": [{"targets": [target.netloc]}]}
        ],
    }
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prometheus.yml"
        file.write_text(json.dumps(config))  # JSON is YAML
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/tsdb", "--log.level=warn"]
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder)
        try:
            wait_for_scrape(process, api := f"http://127.0.0.1:{port}/api/v1")
            yield api
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def wait_for_scrape(process: "subprocess.Popen[bytes]", api: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if any(each["value"][1] == "1" for each in ask(f"{api}/query?query=up")["result"]):
                return
        time.sleep(0.2)
    sys.exit("graph: Prometheus has not scraped the exporter; does it run at that address?")


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - our own Prometheus
        return json.load(answer)["data"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
