"""Cron lines and systemd units: read by cron and systemd themselves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import INFRA, run
from tests.infra.commands import parsed
from tests.infra.manifests import ENVIRONMENTS, KUBERAY, rendered

SCHEDULE = INFRA / "schedule"
JOB = KUBERAY / "base" / "job.toml"
CRON = (SCHEDULE / "captionmill.crontab").read_text()
UNITS = [SCHEDULE / "captionmill.service", SCHEDULE / "captionmill.timer"]


needs_cron = pytest.mark.skipif(not shutil.which("crontab"), reason="needs crontab (package cron)")


def schedules() -> list[str]:
    """The schedules of Kubernetes, which are cron's."""
    folders = [KUBERAY / "raycronjob", *(KUBERAY / "overlays" / name for name in ENVIRONMENTS)]
    return [
        m["spec"]["schedule"] for folder in folders for m in rendered(folder) if m["kind"].endswith("CronJob")
    ]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl, which has kustomize in it")
@needs_cron
def test_cron_takes_the_line_and_every_schedule(tmp_path: Path) -> None:
    lines = [f"{schedule} true" for schedule in schedules()]
    (tmp_path / "crontab").write_text("\n".join([CRON, *lines, ""]))

    told = run(["crontab", "-n", str(tmp_path / "crontab")])

    assert len(lines) >= 3
    assert told.returncode == 0, told.stderr


@needs_cron
def test_cron_refuses_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "crontab").write_text("61 1 * * * true\n")

    assert run(["crontab", "-n", str(tmp_path / "crontab")]).returncode != 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = tmp_path / "captionmill"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS:
        told = unit.read_text().replace("/opt/captionmill/bin/captionmill", str(program))
        (tmp_path / unit.name).write_text(told)

    checked = run(["systemd-analyze", "verify", *(str(tmp_path / unit.name) for unit in UNITS)])

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_timer_ticks_once_a_day() -> None:
    (when,) = re.findall(r"^OnCalendar=(.*)$", UNITS[1].read_text(), re.MULTILINE)

    told = run(["systemd-analyze", "calendar", "--iterations=3", when])

    times = re.findall(r"\d{4}-\d\d-\d\d 01:15:00 UTC", told.stdout)
    assert len({time[:10] for time in times}) == 3, told.stdout + told.stderr


def test_the_commands_are_those_of_the_command_line() -> None:
    (line,) = re.findall(r"^\d.*?\d? \* \* \* (captionmill .*)$", CRON, re.MULTILINE)
    (start,) = re.findall(r"^ExecStart=(.*)$", UNITS[0].read_text(), re.MULTILINE)

    assert parsed(line, JOB).params["loudness"] == "QUIET"
    assert parsed(start, JOB).params["as_json"]
