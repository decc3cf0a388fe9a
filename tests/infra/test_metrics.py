"""Dashboard, alerts and scrape configuration, held to a real run that a real Prometheus watches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.conftest import INFRA, Store, run
from tests.infra.conftest import Tool
from tests.infra.live import Watched, watched

DASHBOARD = json.loads((INFRA / "grafana" / "captionmill.json").read_text())
ALERTS = INFRA / "prometheus" / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
NAME = re.compile(r"\bray_\w+")
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    .replace("$run", ".*")
    .replace("$__rate_interval", "10s")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}


@pytest.fixture(scope="module")
def live(moto_store: Store, prometheus: Tool) -> Iterator[Watched]:
    """A run that is over, and the Prometheus that watched it."""
    with watched(moto_store, prometheus("prometheus")) as found:
        yield found


@pytest.mark.slow
def test_a_live_run_shows_every_metric_that_dashboard_and_alerts_name(live: Watched) -> None:
    there = set(live.ask("label/__name__/values"))
    named = {
        name for told in (*PANELS.values(), *(rule["expr"] for rule in RULES)) for name in NAME.findall(told)
    }

    assert len(named) > 20
    assert named - there == set()


@pytest.mark.slow
@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_shows_something_of_a_live_run(live: Watched, panel: str) -> None:
    assert live.values(PANELS[panel]) != []


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_can_be_asked_of_a_live_run(live: Watched, rule: dict[str, str]) -> None:
    assert live.values(f"count({rule['expr']}) or vector(0)") != []


@pytest.mark.slow
def test_the_metrics_of_a_run_are_what_it_committed(live: Watched) -> None:
    published = live.lines[-1]
    seen = {
        "captions": max(live.values("sum(ray_captionmill_captions_total)")),
        "failures": max(live.values("sum(ray_captionmill_failures_total)")),
        "output_tokens": max(live.values("sum(ray_captionmill_output_tokens_total)")),
    }

    assert seen == {name: published[name] for name in seen}
    assert max(live.values("sum(ray_captionmill_units)")) == live.lines[0]["units"]
    assert max(live.values("sum(ray_captionmill_storage_retries_total)")) > 0


@pytest.mark.slow
def test_prometheus_has_found_the_node_by_itself(live: Watched) -> None:
    targets = live.ask("targets")["activeTargets"]

    assert [target["labels"]["job"] for target in targets if target["health"] == "up"]


@pytest.mark.slow
def test_a_run_says_to_programs_what_it_plans_each_unit_and_what_is_published(live: Watched) -> None:
    planned, *units, published = live.lines

    assert [planned["event"], *{unit["event"] for unit in units}, published["event"]] == [
        "planned",
        "unit",
        "published",
    ]
    assert len({unit["unit_id"] for unit in units}) == len(units) == planned["units"]
    assert len({line["run_id"] for line in live.lines}) == 1
    assert sum(unit["captions"] for unit in units) == published["captions"]


def test_the_alerts_fire_when_they_should_and_only_then(prometheus: Tool, tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alerts_test.yaml").read_text().replace("RULES", str(ALERTS))
    (tmp_path / "cases.yaml").write_text(cases)

    told = run([*prometheus("promtool"), "test", "rules", str(tmp_path / "cases.yaml")])

    assert told.returncode == 0, told.stdout + told.stderr
    assert {rule["alert"] for rule in RULES} == set(re.findall(r"alertname: (\w+)", cases))


@pytest.mark.parametrize("name", ["prometheus.yaml", "kubernetes.yaml"])
def test_promtool_takes_the_scrape_configurations(prometheus: Tool, tmp_path: Path, name: str) -> None:
    told = yaml.safe_load((ALERTS.with_name(name)).read_text())
    told["rule_files"] = [str(ALERTS)]
    for scraped in told["scrape_configs"]:  # which Debian's Prometheus is built without
        if scraped.pop("kubernetes_sd_configs", None):
            scraped["static_configs"] = [{"targets": ["pod:8080"]}]
    (tmp_path / name).write_text(yaml.safe_dump(told))

    checked = run([*prometheus("promtool"), "check", "config", "--lint-fatal", str(tmp_path / name)])

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_grafanas_own_model_of_a_dashboard_knows_every_field() -> None:
    register_default_plugins()

    read = json.loads(json.dumps(Dashboard.from_json(DASHBOARD), cls=JSONEncoder))

    assert list(lost(DASHBOARD, read)) == []


def lost(given: Any, read: Any, where: str = "") -> Iterator[str]:
    """Where something that was given is not read, or read otherwise. What is read may have defaults besides."""
    match given, read:
        case dict(), dict():
            for key, value in given.items():
                yield from lost(value, read.get(key), f"{where}/{key}")
        case list(), list() if len(given) == len(read):
            for number, (value, other) in enumerate(zip(given, read, strict=True)):
                yield from lost(value, other, f"{where}/{number}")
        case _ if given != read:
            yield where
