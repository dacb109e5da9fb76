"""Scrape config and rules: Prometheus takes them, and they speak of metrics that there are."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ebpf_userspace_exporter.config.names import OWN_METRICS, PREFIX

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "deploy/prometheus"


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "scrape.yaml"), ("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml")],
    ids=["scrape config", "rules", "what the rules do"],
)
def test_promtool_is_content_with(arguments: tuple[str, ...]) -> None:
    promtool(*arguments)


def rules() -> list[dict[str, str]]:
    [group] = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    found: list[dict[str, str]] = group["rules"]
    return found


def test_rules_ask_for_metrics_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for rule in rules() for name in re.findall(r"[\w:]*userspace_exporter\w*(?::\w+)?", rule["expr"])}

    assert asked - recorded <= {PREFIX + name for name in OWN_METRICS}
    assert recorded <= asked


def test_every_alert_is_tried_by_the_rules_tests() -> None:
    tried = (FOLDER / "rules_test.yaml").read_text()

    assert [rule["alert"] for rule in rules() if "alert" in rule and rule["alert"] not in tried] == []


def test_what_the_docs_say_to_alert_on_is_alerted_on() -> None:
    text = (REPOSITORY / "docs/metrics.md").read_text().partition("## What to alert on")[2]
    advised = set(re.findall(r"userspace_exporter_\w+", text))

    alerted = {name for rule in rules() for name in re.findall(r"userspace_exporter_\w+", rule["expr"])}
    assert advised - alerted == set()
