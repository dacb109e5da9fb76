"""The plots of what was measured last."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
LARGEST_BYTES = 30_000


def test_the_same_results_make_the_same_small_plots_with_their_units(tmp_path: Path) -> None:
    folders = [tmp_path / "once", tmp_path / "twice"]
    for folder in folders:
        folder.mkdir()
        subprocess.run([sys.executable, "-m", "benchmarks.plots", folder], cwd=ROOT, check=True)

    once, twice = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert once == twice
    assert once.keys() == {"attach.svg", "scrape.svg"} <= {path.name for path in (ROOT / "docs").iterdir()}
    for plot, what in (("attach.svg", {"processes", "seconds"}), ("scrape.svg", {"series", "seconds", "MB"})):
        assert len(once[plot]) < LARGEST_BYTES
        texts = {each.text for each in ElementTree.fromstring(once[plot]).iter("{http://www.w3.org/2000/svg}text")}  # noqa: S314
        assert what <= texts
