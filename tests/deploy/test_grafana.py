"""Dashboards: they can be read, ask for metrics and labels that there are, and show every metric of every example."""

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.exposed import REPOSITORY, Samples, all_samples, example_samples, family, own_samples, specimens
from tests.deploy.promql import groupings, selectors

FOLDER = REPOSITORY / "deploy/grafana"
FILES = sorted(FOLDER.glob("*.json"))
COLUMNS = 24
UNITS = {"none", "s", "ops", "Bps", "bytes", "percentunit", "dateTimeFromNow", "currencyEUR"}


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and the legend of what it gives."""

    panel: str
    expression: str
    legend: str


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def dashboard(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def exposed() -> Samples:
    return all_samples()


def panels(dashboard: Any) -> list[Any]:
    """Return the panels that show something: rows are headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Any) -> Iterator[Query]:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"], target.get("legendFormat", ""))


def variables(dashboard: Any) -> dict[str, Any]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def test_a_dashboard_is_found_by_a_name_that_stays(file: Path, dashboard: Any) -> None:
    assert dashboard["uid"] == f"userspace-exporter-{file.stem}"
    assert len(dashboard["uid"]) <= 40  # Grafana's limit
    assert dashboard["schemaVersion"] == 42  # the last of the classic model
    assert "id" not in dashboard


def test_one_chooses_prometheus_job_and_instance(dashboard: Any) -> None:
    chosen = variables(dashboard)

    assert list(chosen)[:3] == ["datasource", "job", "instance"]
    assert chosen["datasource"]["type"] == "datasource"
    asking = [*panels(dashboard), *(each for name, each in chosen.items() if name != "datasource")]
    assert {each["datasource"]["uid"] for each in asking} == {"${datasource}"}


def test_variables_offer_what_a_metric_has(dashboard: Any, exposed: Samples) -> None:
    for name, variable in list(variables(dashboard).items())[1:]:
        asked = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"])
        assert asked is not None, name
        assert asked[2] == name
        assert name in exposed[asked[1]]


def test_panels_say_what_they_show_and_in_which_unit(dashboard: Any) -> None:
    for panel in panels(dashboard):
        assert panel["type"] in ("timeseries", "stat")
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert [target["refId"] for target in panel["targets"]] == list("ABCD"[: len(panel["targets"])])
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles))


def test_panels_fill_the_width_and_do_not_overlap(dashboard: Any) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        across = range(place["x"], place["x"] + place["w"])
        for cell in itertools.product(across, range(place["y"], place["y"] + place["h"])):
            assert cell not in taken, f"{panel['title']} over {taken[cell]}"
            taken[cell] = panel["title"]

    height = max(y for _, y in taken) + 1
    assert set(taken) == set(itertools.product(range(COLUMNS), range(height)))


def test_expressions_ask_for_samples_and_labels_that_there_are(dashboard: Any, exposed: Samples) -> None:
    for query in queries(dashboard):
        asked = selectors(query.expression)
        assert asked, query
        for selector in asked:
            assert selector.metric in exposed, query
            labels, asked_of = exposed[selector.metric], selector.matchers
            assert asked_of.keys() <= labels.keys(), query
            assert (asked_of["job"], asked_of["instance"]) == ("$job", "$instance"), query
            assert all(set(asked_of[name].split("|")) <= set(labels[name]) for name in asked_of if labels[name]), query
        for grouping in groupings(query.expression):
            assert grouping.metrics, query
            for metric in grouping.metrics:
                assert grouping.labels <= exposed[metric].keys(), query


def test_legends_tell_the_lines_apart(dashboard: Any, exposed: Samples) -> None:
    for query in queries(dashboard):
        shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        if grouped := list(groupings(query.expression)):
            assert shown == set().union(*(grouping.labels for grouping in grouped)) - {"le"}, query
        else:
            assert all(shown <= exposed[selector.metric].keys() for selector in selectors(query.expression)), query


def test_variables_in_expressions_are_the_dashboards(dashboard: Any) -> None:
    for query in queries(dashboard):
        used = set(re.findall(r"\$(\w+)", query.expression)) - {"__rate_interval"}
        assert used <= set(variables(dashboard)), query


def test_expressions_give_lines_where_there_are_samples(dashboard: Any, exposed: Samples, tmp_path: Path) -> None:
    """Which is more than that they can be parsed: both sides of a division have the same labels, and values exist."""
    asked = [query.expression for query in queries(dashboard)]
    for variable, value in {"$__rate_interval": "5m", **{f"${name}": "any" for name in variables(dashboard)}}.items():
        asked = [expression.replace(variable, value) for expression in asked]
    some = {name: exposed[name] for query in queries(dashboard) for name in metrics(query)}
    one = [{"labels": "{}", "value": 1}]
    test = {
        "interval": "1m",
        "input_series": [{"series": each, "values": "0+1x60"} for each in specimens(some)],
        "promql_expr_test": [
            {"expr": f"count({expression}) > bool 0", "eval_time": "1h", "exp_samples": one} for expression in asked
        ],
    }
    written = tmp_path / "tests.yaml"
    written.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": [test]}))

    done = subprocess.run(
        ["promtool", "test", "rules", str(written)], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr + done.stdout


def metrics(query: Query) -> set[str]:
    return {selector.metric for selector in selectors(query.expression)}


def asked_for() -> set[str]:
    """Return the names of all samples that any dashboard asks for."""
    return set().union(*(metrics(query) for file in FILES for query in queries(json.loads(file.read_text()))))


@pytest.mark.parametrize("there", [own_samples, example_samples], ids=["the exporter itself", "the examples"])
def test_every_metric_is_in_some_dashboard(there: Callable[[], Samples]) -> None:
    assert {family(sample) for sample in there()} - {family(sample) for sample in asked_for()} == set()


def test_dashboards_are_provisioned_from_where_the_readme_puts_them() -> None:
    [provider] = yaml.safe_load((FOLDER / "dashboards.yaml").read_text())["providers"]
    readme = (FOLDER / "README.md").read_text()

    assert f"install -m 644 deploy/grafana/*.json {provider['options']['path']}/" in readme
    assert provider["type"] == "file"


def test_the_readme_lists_every_dashboard() -> None:
    listed = re.findall(r"^\| \[([\w-]+\.json)\]\(\1\)", (FOLDER / "README.md").read_text(), re.MULTILINE)

    assert sorted(listed) == [file.name for file in FILES]
