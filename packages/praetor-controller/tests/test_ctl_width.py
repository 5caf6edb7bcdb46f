# SPDX-License-Identifier: Apache-2.0
"""What praetorctl prints fits the terminal: columns leave by priority, commands to type stay whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from ctl_testing import LONG_AGO, Lab, connected, owned_by
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS, DEVICE_PROCESS_DEPLOYMENTS
from praetor_controller.ctl.cluster import Target
from praetor_controller.ctl.output import Column, Table, fitted
from praetor_controller.ctl.progress import progress
from praetor_controller.ctl.rollout_watch import Screen, waves_of

COMMAND = "praetorctl rollout approve telemetry-of-the-fabric"
SITE = "fra1-pod-7"
WAVES = [{"name": "canary-of-the-site", "selector": {"matchLabels": {"ring": "canary"}}, "approval": "Manual"}]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Return a lab with long names, a device in maintenance, one that is gone, a held wave and a refused write."""
    lab = Lab()
    maintenance = {"reason": "the left power supply is replaced by its vendor", "until": "2026-01-02T00:00:00Z"}
    for number in range(6):
        ring = "canary" if number < 2 else "rest"
        spec: dict[str, Any] = {"model": "SN4600C-CS2RC", "maintenance": maintenance if number == 1 else None}
        reported = {"conditions": [connected("True" if number else "False")], "agentVersion": "0.1.0"}
        name = f"leaf-{number}.{SITE}.example.com"
        lab.switch(name, {"ring": ring}, spec={k: v for k, v in spec.items() if v}, status=reported)
    conditions = [
        {
            "type": "WritesRefused",
            "status": "True",
            "reason": "RefusedByAPI",
            "lastTransitionTime": LONG_AGO,
            "message": "the API refuses 4 writes: metadata.labels: Invalid value: 'x y'; next attempt at "
            "2026-01-01T01:00:05Z, or now with: praetorctl rollout retry telemetry-of-the-fabric",
        }
    ]
    env = [{"name": "COLLECTOR", "value": f"https://collector.{SITE}.example.com:4317/v1/metrics?site={SITE}"}]
    execution = {"backend": "process", "command": ["/opt/telemetry/bin/telemetry"], "env": env}
    spec = {
        "selector": {},
        "template": {"spec": {"execution": execution}},
        "updateStrategy": {"rollingUpdate": {"waves": WAVES}},
    }
    counts = {"desiredNumberScheduled": 6, "observedGeneration": 1}
    reasons = {"AwaitingApproval": 2, "WaitingForWave": 3, "InMaintenance": 1}
    status: dict[str, Any] = {"conditions": conditions, "reasons": reasons, **counts}
    uid = lab.deployment("telemetry-of-the-fabric", spec=spec, status=status)
    lab.process("telemetry-of-the-fabric", uid, f"leaf-3.{SITE}.example.com")
    for number, version in enumerate(("1.0.0", "1.0.1"), 1):
        labels = {"azure.com/deployment": "telemetry-of-the-fabric"}
        url = f"https://artifacts.{SITE}.example.com/telemetry-of-the-fabric/{version}/telemetry.tar.gz"
        lab.put(
            CONTROLLER_REVISIONS,
            f"telemetry-{number}",
            owned_by("telemetry-of-the-fabric", uid) | {"labels": labels},
            revision=number,
            data={"spec": {"template": {"spec": {"execution": execution, "artifact": {"url": url}}}}},
        )
    body = {"apiVersion": "azure.com/v1alpha1", "kind": "DeviceProcessDeployment", "spec": spec}
    body["metadata"] = {"name": "telemetry-of-the-fabric"}
    (tmp_path / "tel.json").write_text(json.dumps(body))
    return lab


OUTPUTS = [
    (["devices"], ["DEVICE", "CONNECTED", "RUNNING"]),
    (["devices", "-A"], ["NAMESPACE", "DEVICE", "CONNECTED", "RUNNING"]),
    (["explain", "telemetry-of-the-fabric"], ["AwaitingApproval"]),
    (["explain", f"leaf-1.{SITE}.example.com"], ["DEPLOYMENT", "REASON"]),
    (["explain", "nothing-of-that-name"], ["Error:"]),
    (["plan", "-f", "tel.json", "--approve"], ["STEP", "CREATE", "UPDATE", "UNAVAILABLE"]),
    (["rollout", "status", "telemetry-of-the-fabric", "-w=false"], ["canary-of-the-site"]),
    (["rollout", "history", "telemetry-of-the-fabric"], ["REVISION", "HASH", "RUNS"]),
    (["rollout", "approve", "telemetry-of-the-fabric"], ["canary-of-the-site"]),
    (["rollout", "undo", "telemetry-of-the-fabric"], ["Error:"]),
]


@pytest.mark.parametrize("columns", [80, 120, None])
@pytest.mark.parametrize(("args", "words"), OUTPUTS, ids=[" ".join(args[:2]) for args, _ in OUTPUTS])
def test_every_output_fits(lab: Lab, tmp_path: Path, args: list[str], words: list[str], columns: int | None) -> None:
    args = [str(tmp_path / each) if each == "tel.json" else each for each in args]
    output = lab.run(*args, env={"COLUMNS": None if columns is None else str(columns)}).output
    lines = output.splitlines()
    assert [each for each in words if each not in output] == []
    assert [line for line in lines if len(line) > (columns or 10_000) and "praetorctl" not in line] == []
    for line in lines if columns is not None else ():
        if len(line) > (columns or 0):
            assert line.split()[0] == "praetorctl"
        if "praetorctl rollout" in line:
            assert line.endswith("telemetry-of-the-fabric")


def test_a_pipe_gets_every_column_and_each_sentence_in_one_line(lab: Lab) -> None:
    rows = lab.run("devices").output.splitlines()
    assert len({line.index("SN4600C") for line in rows[1:]}) == 1
    assert "the left power supply is replaced by its vendor, until 2026-01-02T00:00:00Z" in rows[2]
    assert "...02T00:00:00Z" in lab.run("devices", env={"COLUMNS": "80"}).output
    assert lab.run("devices", "-o", "wide", env={"COLUMNS": "80"}).output.splitlines()[0].endswith("SERIAL")
    sentence = "or now with: praetorctl rollout retry telemetry-of-the-fabric"
    assert sentence in lab.run("explain", "telemetry-of-the-fabric").output


async def test_the_picture_on_a_terminal_is_broken_and_never_cut(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = progress(lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "telemetry-of-the-fabric"))
    async with lab.open(Target()) as cluster:
        states = await waves_of(cluster, shown)
    assert states
    Screen(terminal=True, quiet=False).show(evolve(shown, wave="canary-of-the-site"), states)
    lines = capsys.readouterr().out.split("\x1b[J")[-1].splitlines()
    assert max(len(line) for line in lines) < 80
    assert f"    {COMMAND}" in lines
    assert all(f"{count} {name}" in " ".join(" ".join(lines).split()) for name, count in shown.reasons.items())


@pytest.mark.parametrize(
    ("width", "header"),
    [(60, "NAME BACK WHY LAST"), (30, "NAME BACK WHY"), (20, "NAME WHY"), (5, "NAME WHY")],
)
def test_columns_leave_by_priority_and_prose_is_cut_last(width: int, header: str) -> None:
    columns = [Column("NAME"), Column("BACK", leaves=1), Column("WHY", cut=True), Column("LAST", leaves=2)]
    row = ["leaf-1", "init", "because it is", "8"]
    table = Table(columns, [row], width=width)
    assert str(table).splitlines()[0].split() == header.split()
    assert table.lines([row])[0].startswith("leaf-1")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short enough: praetorctl devices", ["short enough: praetorctl devices"]),
        ("wait or now with: praetorctl rollout retry tel", ["wait or now with:", "    praetorctl rollout retry tel"]),
        (
            "see (kubectl get dp -o wide) for more about it",
            ["see", "    kubectl get dp -o wide", "    for more about it"],
        ),
        (
            "    a list, that goes on, and on, and on, and on",
            ["    a list, that goes on, and on,", "    and on, and on"],
        ),
        (
            "a\x1b[32mb\x1b[0m c \x1b[32mis as wide as it looks\x1b[0m",
            ["a\x1b[32mb\x1b[0m c \x1b[32mis as wide as it looks\x1b[0m"],
        ),
    ],
)
def test_sentences_are_broken_between_words_and_commands_never(text: str, lines: list[str]) -> None:
    assert fitted(text, 34).splitlines() == lines
    assert fitted(text, None) == text
