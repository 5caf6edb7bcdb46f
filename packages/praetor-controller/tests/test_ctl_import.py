# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices import`: what it sets is its own, what others set stays, and a second run writes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ctl_testing import NAMESPACE, Lab
from kube_testing import body_of
from praetor_api.annotations import IMPORTED_ANNOTATION
from praetor_api.kube.client.errors import Forbidden, KubeError, Unreachable, api_error
from praetor_api.kube.client.resource import DEVICES, NETWORK_SWITCHES, Key
from praetor_api.spec import DeviceKind

FILE = "name,site,rack,primary_ip\nleaf-1,fra1,r1,10.0.0.1/24\nleaf-2,fra1,r2,10.0.0.2/24\n"
WRITES = {"create", "patch", "delete"}


@pytest.fixture
def lab() -> Lab:
    return Lab()


def run(lab: Lab, text: str, *words: str, **settings: Any) -> Result:
    return lab.run("devices", "import", "-", *words, input=text, **settings)


def imports(lab: Lab, text: str, *words: str) -> str:
    """Import *text* and return what was printed; it must succeed."""
    result = run(lab, text, "--yes", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def writes(lab: Lab) -> int:
    return sum(each.verb in WRITES for each in lab.kube.requests)


def labels(lab: Lab, name: str) -> Mapping[str, str]:
    found: Mapping[str, str] = lab.stored(NETWORK_SWITCHES, name)["metadata"].get("labels") or {}
    return found


def names(lab: Lab) -> list[str]:
    return sorted(key.name for key in lab.kube.objects(NETWORK_SWITCHES))


def fleet(count: int) -> str:
    return "name,rack\n" + "".join(f"leaf-{number:04},r{number % 40}\n" for number in range(count))


def test_a_preview_writes_nothing_and_a_second_import_neither(lab: Lab) -> None:
    for words in ([], ["--dry-run"]):
        shown = run(lab, FILE, *words)
        assert shown.exit_code == 0
        assert shown.stdout.splitlines() == [
            "create leaf-1: site=fra1, rack=r1, managementAddress=10.0.0.1",
            "create leaf-2: site=fra1, rack=r2, managementAddress=10.0.0.2",
            "2 devices: 2 to create, 0 to update, 0 to delete, 0 as they are, 0 conflicts",
            "nothing was written; --yes writes it",
        ]
        assert writes(lab) == 0
    assert imports(lab, FILE).splitlines()[-1] == "2 created"
    stored = lab.stored(NETWORK_SWITCHES, "leaf-1")
    assert stored["metadata"]["labels"] == {"site": "fra1", "rack": "r1"}
    assert stored["spec"] == {"managementAddress": "10.0.0.1"}
    before = writes(lab)
    assert imports(lab, FILE).splitlines() == [
        "2 devices: 0 to create, 0 to update, 0 to delete, 2 as they are, 0 conflicts",
        "nothing to write",
    ]
    assert writes(lab) == before


def test_changed_cells_become_changes_and_empty_ones_take_away_what_was_imported(lab: Lab) -> None:
    imports(lab, FILE)
    lab.patch(NETWORK_SWITCHES, "leaf-1", metadata={"labels": {"ring": "canary"}}, spec={"credentialEpoch": 3})
    said = imports(lab, "name,site,rack,primary_ip\nleaf-1,,r9,\nleaf-2,fra1,r2,10.0.0.2/24\n")
    assert said.splitlines()[0] == "update leaf-1: rack r1 -> r9, -site, -managementAddress"
    assert labels(lab, "leaf-1") == {"rack": "r9", "ring": "canary"}
    assert lab.stored(NETWORK_SWITCHES, "leaf-1")["spec"] == {"credentialEpoch": 3}


@pytest.mark.parametrize("set_before", [True, False], ids=["before-the-import", "after-it"])
def test_what_others_set_is_a_conflict_and_its_device_stays_whole_until_forced(lab: Lab, set_before: bool) -> None:
    if set_before:
        lab.switch("leaf-1", {"rack": "mine"})
    else:
        imports(lab, FILE)
        lab.patch(NETWORK_SWITCHES, "leaf-1", metadata={"labels": {"rack": "mine"}})
    changed = FILE.replace("fra1", "fra2")
    refused = run(lab, changed, "--yes")
    assert refused.exit_code == 3
    assert "conflict leaf-1: rack is mine, the file has r1\n" in refused.stdout
    assert "--force-conflicts overwrites what others set" in refused.stdout
    assert labels(lab, "leaf-1").get("site") == (None if set_before else "fra1")
    assert labels(lab, "leaf-2")["site"] == "fra2"
    before = writes(lab)
    assert run(lab, changed, "--yes").exit_code == 3
    assert writes(lab) == before
    assert "rack mine -> r1" in imports(lab, changed, "--force-conflicts")
    assert labels(lab, "leaf-1") == {"site": "fra2", "rack": "r1"}
    assert run(lab, changed, "--yes").exit_code == 0


def test_what_others_set_to_the_same_value_stays_theirs(lab: Lab) -> None:
    lab.switch("leaf-1", {"rack": "r1"})
    imports(lab, "name,rack\nleaf-1,r1\n")
    assert IMPORTED_ANNOTATION not in (lab.stored(NETWORK_SWITCHES, "leaf-1")["metadata"].get("annotations") or {})
    imports(lab, "name,rack\nleaf-1,\n")
    assert labels(lab, "leaf-1") == {"rack": "r1"}


def test_a_label_that_others_changed_is_left_to_them_when_the_file_no_longer_has_it(lab: Lab) -> None:
    imports(lab, FILE)
    lab.patch(NETWORK_SWITCHES, "leaf-1", metadata={"labels": {"rack": "mine"}})
    said = imports(lab, FILE.replace(",r1,", ",,"))
    assert said.splitlines()[0] == "update leaf-1: rack is left to others"
    assert labels(lab, "leaf-1")["rack"] == "mine"


def test_prune_deletes_what_imports_created_and_nothing_else(lab: Lab) -> None:
    imports(lab, FILE)
    lab.switch("by-hand")
    lab.switch("adopted")
    imports(lab, FILE + "adopted,fra1,r3,\n")
    kept = run(lab, "name,site,rack\nleaf-2,fra1,r2\n", "--label", "managementAddress=", "--yes")
    assert "1 imported device not in the file; --prune deletes it\n" in kept.stdout
    assert "leaf-1" in names(lab)
    said = imports(lab, "name,site,rack\nleaf-2,fra1,r2\n", "--prune")
    assert said.splitlines()[0] == "delete leaf-1"
    assert said.splitlines()[-1] == "1 deleted"
    assert names(lab) == ["adopted", "by-hand", "leaf-2"]


def test_a_device_that_others_changed_is_pruned_by_force_alone(lab: Lab) -> None:
    imports(lab, FILE)
    lab.patch(NETWORK_SWITCHES, "leaf-1", metadata={"labels": {"ring": "x"}}, spec={"credentialEpoch": 3})
    rest = FILE.replace("leaf-1,fra1,r1,10.0.0.1/24\n", "")
    refused = run(lab, rest, "--prune", "--yes")
    assert refused.exit_code == 3
    assert "conflict leaf-1: is not in the file, but others set credentialEpoch, ring\n" in refused.stdout
    assert "leaf-1" in names(lab)
    said = imports(lab, rest, "--prune", "--force-conflicts")
    assert said.splitlines()[0] == "delete leaf-1: and what others set: credentialEpoch, ring"
    assert names(lab) == ["leaf-2"]


def test_many_removals_are_refused_until_their_number_is_allowed(lab: Lab) -> None:
    imports(lab, fleet(40))
    for words in (["--prune"], ["--prune", "--yes"], ["--prune", "--yes", "--allow-removals=9"]):
        refused = run(lab, fleet(30), *words)
        assert refused.exit_code == 2
        assert "--allow-removals: 10 of 40 imported devices would be deleted" in refused.stderr
        assert "write --allow-removals 10" in refused.stderr
        assert len(names(lab)) == 40
    assert "4 deleted" in imports(lab, fleet(36), "--prune")
    assert "6 deleted" in imports(lab, fleet(30), "--prune", "--allow-removals=6")


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("", ["--prune"], "has no header"),
        ("name,rack\n", ["--prune"], "has no device"),
        ("[]", ["--prune", "--force-conflicts", "--allow-removals=1000"], "has no device"),
        (json.dumps({"count": 2, "results": [{"name": "leaf-1"}]}), ["--prune"], "--prune: FILE has not every device"),
        (json.dumps({"next": "u", "results": [{"name": "leaf-1"}]}), ["--prune"], "--prune: FILE has not every device"),
        (json.dumps({"count": 1, "next": "u", "results": [{"name": "a"}]}), ["--prune"], "FILE has not every device"),
        (FILE, ["--dry-run"], "--dry-run: cannot be given with --yes"),
        (FILE, ["--allow-removals=3"], "--allow-removals: removes nothing without --prune"),
        (FILE, ["--source=a b"], "--source: 'a b' is no name"),
        (FILE, ["--label=rack"], "--label: 'rack' has no ="),
        (FILE, ["--label=rack=none"], "there is no column 'none'"),
    ],
)
def test_what_cannot_be_used_writes_nothing(lab: Lab, text: str, words: list[str], said: str) -> None:
    imports(lab, FILE)
    before = writes(lab)
    result = run(lab, text, "--yes", *words)
    assert (result.exit_code, writes(lab)) == (2, before)
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_page_of_an_export_is_imported_with_a_warning(lab: Lab) -> None:
    page = json.dumps({"count": 2, "results": [{"name": "leaf-1"}]})
    result = run(lab, page, "--yes")
    assert (result.exit_code, names(lab)) == (0, ["leaf-1"])
    assert "Warning: FILE has not every device that its server has" in result.stderr


def test_all_faults_are_listed_up_to_a_bound_and_nothing_is_written(lab: Lab) -> None:
    result = run(lab, "name,rack\n" + "".join(f"L_{number},r1\n" for number in range(30)) + "ok,r1\n", "--yes")
    assert (result.exit_code, result.stdout, writes(lab)) == (2, "", 0)
    lines = result.stderr.splitlines()
    assert lines[0] == "row 2, column 'name': 'L_0' is no device name; write 'l-0'"
    assert lines[19:] == [
        "row 21, column 'name': 'L_19' is no device name; write 'l-19'",
        "and 10 more",
        "Error: FILE: - has 30 faults; nothing was written",
    ]


def test_sources_have_their_own_devices(lab: Lab) -> None:
    imports(lab, "name,rack\na-1,r1\n", "--source=a")
    imports(lab, "name,rack\nb-1,r1\n", "--source=b", "--prune")
    assert names(lab) == ["a-1", "b-1"]
    taken = run(lab, "name,rack\na-1,r2\nb-1,r1\n", "--source=b", "--yes")
    assert taken.exit_code == 3
    assert "conflict a-1: it is from --source a\n" in taken.stdout
    assert "rack r1 -> r2" in imports(lab, "name,rack\na-1,r2\nb-1,r1\n", "--source=b", "--force-conflicts")
    imports(lab, "name,rack\nother,r1\n", "--source=a", "--prune")
    assert names(lab) == ["a-1", "b-1", "other"]


@pytest.mark.parametrize(
    "annotation",
    [
        "{", "[]", "7", "null", '"x"', "[" * 100_000, '{"source": "default", "created": true}',
        '{"source": "default", "created": true, "device": "lab/other", "labels": {}, "spec": {}}',
        '{"source": 7, "created": true, "device": "lab/leaf-9", "labels": {}, "spec": {}}',
        '{"source": "default", "created": 1, "device": "lab/leaf-9", "labels": {}, "spec": {}}',
        '{"source": "default", "created": true, "device": "lab/leaf-9", "labels": {"a": {}}, "spec": {}}',
        '{"source": "default", "created": true, "device": "lab/leaf-9", "labels": [], "spec": {}}',
    ],
)  # fmt: skip
def test_a_damaged_or_copied_annotation_owns_nothing(lab: Lab, annotation: str) -> None:
    lab.put(NETWORK_SWITCHES, "leaf-9", {"annotations": {IMPORTED_ANNOTATION: annotation}, "labels": {"rack": "r1"}})
    assert "0 to delete" in imports(lab, FILE, "--prune", "--force-conflicts")
    assert "leaf-9" in names(lab)


def test_an_annotation_says_nothing_that_a_terminal_acts_on(lab: Lab) -> None:
    noted = {"source": "\x1b[2J", "created": False, "device": "lab/leaf-1", "labels": {"\x1b]0;x\x07": "v"}, "spec": {}}
    lab.put(NETWORK_SWITCHES, "leaf-1", {"annotations": {IMPORTED_ANNOTATION: json.dumps(noted)}})
    for words, code in (([], 3), (["--force-conflicts"], 0)):
        result = run(lab, FILE, *words)
        assert (result.exit_code, "\x1b" in result.output) == (code, False)


@pytest.mark.parametrize(
    ("error", "words", "unknown"),
    [
        (api_error(403, "Forbidden", "exceeded quota"), "not allowed: exceeded quota", False),
        (api_error(500, "InternalError", "etcd"), "500 InternalError: etcd", False),
        (Unreachable("cut off"), "the cluster is not reachable: cut off", True),
    ],
)
def test_a_refusal_stops_the_import_says_what_was_done_and_the_next_run_does_the_rest(
    lab: Lab, error: KubeError, words: str, unknown: bool
) -> None:
    imports(lab, fleet(100))
    lab.kube.fail_next(error, verb="create", resource=NETWORK_SWITCHES)
    result = run(lab, fleet(300), "--yes")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert words in said
    done = len(names(lab)) - 100
    assert f"done: {f'{done} created' if done else 'nothing'}; not done: {200 - done} (" in said
    assert done < 50
    assert ("whether leaf-0100 was written is unknown" in said) is unknown
    assert imports(lab, fleet(300)).splitlines()[-1] == f"{200 - done} created"
    assert len(names(lab)) == 300


def test_who_may_only_read_is_told_so(lab: Lab) -> None:
    error = api_error(403, "Forbidden", "you may not create")
    assert isinstance(error, Forbidden)
    lab.kube.fail_next(error, verb="create", times=100)
    result = run(lab, FILE, "--yes")
    assert result.exit_code == 1
    assert "create leaf-1: not allowed: you may not create; ask for a role" in " ".join(result.stderr.split())
    assert "done: nothing; not done: 2 (leaf-1, leaf-2)" in " ".join(result.stderr.split())


def test_ctrl_c_says_how_far_the_import_came(tmp_path: Path) -> None:
    (tmp_path / "devices.csv").write_text(fleet(200), encoding="utf-8")
    program = """
import os, signal, sys
from ctl_testing import Lab
from praetor_controller.ctl.cli import main

lab = Lab()
original = lab.kube.create

async def create(*words, **settings):
    if len(lab.kube.requests) == 100:
        os.kill(os.getpid(), signal.SIGINT)
    return await original(*words, **settings)

lab.kube.create = create
main(["devices", "import", sys.argv[1], "--yes"], obj=lab.open)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "devices.csv")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 130
    assert re.search(r"^interrupted after \d+ of 200 changes; run it again for the rest$", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


class Crossing(Lab):
    """A lab in which another client writes to leaf-1 just before each of the first writes of the import."""

    def __init__(self, patch: Mapping[str, Any], subresource: str | None = None, times: int = 3) -> None:
        super().__init__()
        self._left = 0
        self._times = times
        original = self.kube.patch

        async def crossed(resource: Any, key: Key, body: Any, **rest: Any) -> dict[str, Any]:
            if rest.get("field_manager") == "praetorctl-import" and self._left:
                self._left -= 1
                await original(resource, key, patch, subresource=subresource)
            return await original(resource, key, body, **rest)

        self.kube.patch = crossed  # type: ignore[method-assign]

    def cross(self) -> None:
        self._left = self._times


def test_a_status_that_crosses_a_write_does_not_stop_it() -> None:
    lab = Crossing({"status": {"agentVersion": "0.1.0"}}, "status", times=1)
    imports(lab, FILE)
    lab.cross()
    imports(lab, FILE.replace("r1", "r9"))
    assert labels(lab, "leaf-1")["rack"] == "r9"
    assert lab.stored(NETWORK_SWITCHES, "leaf-1")["status"]["agentVersion"] == "0.1.0"


def test_a_label_that_crosses_a_write_is_not_overwritten() -> None:
    lab = Crossing({"metadata": {"labels": {"rack": "mine"}}}, times=1)
    imports(lab, FILE)
    lab.cross()
    result = run(lab, FILE.replace("r1", "r9"), "--yes")
    assert result.exit_code == 1
    assert "update leaf-1: another client changed it meanwhile" in " ".join(result.stderr.split())
    assert labels(lab, "leaf-1")["rack"] == "mine"


def test_a_preview_of_many_devices_is_short_and_fits_and_writing_them_says_how_far_it_is(lab: Lab) -> None:
    text = fleet(1000).replace("rack", "rack,serial").replace("\n", ",a-serial-number\n")
    text = text.replace("rack,serial,a-serial-number", "rack,serial")
    narrow = run(lab, text, env={"COLUMNS": "80"})
    lines = narrow.stdout.splitlines()
    assert "and 990 more" in lines
    assert max(map(len, lines)) <= 80
    result = run(lab, text, "--yes", "--max-devices=0")
    assert result.stdout.splitlines()[-1] == "1000 created"
    assert "1000 of 1000 written" in result.stderr


def test_programs_read_every_change(lab: Lab) -> None:
    data = json.loads(run(lab, FILE, "-o", "json").stdout)
    assert data == {
        "devices": 2,
        "create": 2,
        "update": 0,
        "delete": 0,
        "conflict": 0,
        "unchanged": 0,
        "missing": 0,
        "written": False,
        "unusedColumns": [],
        "changes": [
            {
                "device": f"leaf-{number}",
                "action": "create",
                "what": ["site=fra1", f"rack=r{number}", f"managementAddress=10.0.0.{number}"],
            }
            for number in (1, 2)
        ],
    }
    assert json.loads(run(lab, FILE, "-o", "json", "--yes").stdout)["written"] is True


def test_a_file_is_named_and_its_absence_said(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    path.write_text(FILE, encoding="utf-8")
    assert lab.run("devices", "import", str(path), "--yes").exit_code == 0
    for missing in (tmp_path / "none", tmp_path):
        result = lab.run("devices", "import", str(missing))
        assert (result.exit_code, "FILE: cannot read" in result.stderr) == (2, True)


def test_a_device_that_another_client_made_meanwhile_is_not_overwritten(lab: Lab) -> None:
    original = lab.kube.create

    async def crossed(resource: Any, namespace: str, body: Any, **rest: Any) -> dict[str, Any]:
        if body["metadata"]["name"] == "leaf-2":
            await original(resource, namespace, body_of(NETWORK_SWITCHES, "leaf-2", {"labels": {"by": "hand"}}))
        return await original(resource, namespace, body, **rest)

    lab.kube.create = crossed  # type: ignore[method-assign]
    assert run(lab, FILE, "--yes").exit_code == 1
    assert labels(lab, "leaf-2") == {"by": "hand"}
    asyncio.run(lab.kube.delete(NETWORK_SWITCHES, Key(NAMESPACE, "leaf-2")))


def test_the_example_of_the_documentation_prints_what_the_page_says(lab: Lab, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "inventory.md").read_text(encoding="utf-8")
    files = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    outputs = re.findall(r"```\n\$ praetorctl (.*?)\n(.*?)```", page, re.DOTALL)
    assert len(files) == len(outputs) == 2
    path = tmp_path / "devices.csv"
    for content, (command, printed) in zip(files, outputs, strict=True):
        path.write_text(content, encoding="utf-8")
        words = [str(path) if each == path.name else each for each in command.split()]
        assert lab.run(*words, env={"COLUMNS": "80"}).stdout == printed
        assert lab.run(*words, "--yes").exit_code == 0


def test_a_kind_is_imported_by_itself_and_pruned_by_itself(lab: Lab) -> None:
    imports(lab, FILE)
    dpus = DEVICES[DeviceKind.DPU]
    assert "1 created" in imports(lab, "name,rack\ncard-1,r1\n", "--kind", "dpu")
    assert [key.name for key in lab.kube.objects(dpus)] == ["card-1"]
    assert lab.stored(dpus, "card-1")["metadata"]["labels"] == {"rack": "r1"}
    assert imports(lab, "name,rack\ncard-1,r1\n", "--kind", "DPU", "--prune").endswith("nothing to write\n")
    assert names(lab) == ["leaf-1", "leaf-2"]
    imports(lab, "name,rack\ncard-1,r2\n", "--kind", "DPU")
    assert lab.stored(dpus, "card-1")["metadata"]["labels"] == {"rack": "r2"}
