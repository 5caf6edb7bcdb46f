# SPDX-License-Identifier: Apache-2.0
"""What `praetorctl devices import` reads: each cell of a CSV file, the shapes of NetBox, and faults by their place."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.kube.client.patches import apply_merge_patch
from praetor_controller.ctl.imports import table as reading
from praetor_controller.ctl.imports.changes import Action, Rules, compare
from praetor_controller.ctl.imports.mapping import FIELDS, LABELS, BadMapping, Mapped, Wanted, map_devices, mapping_of
from praetor_controller.ctl.imports.table import Unreadable, read_table

BOM = "\ufeff"
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)


def mapped(content: str | bytes, labels: Sequence[str] = (), fields: Sequence[str] = ()) -> Mapped:
    data = content.encode() if isinstance(content, str) else content
    table = read_table(data)
    return map_devices(table, mapping_of(labels, LABELS, "--label"), mapping_of(fields, FIELDS, "--field"))


def faults(content: str, **given: Sequence[str]) -> list[str]:
    return [str(each) for each in mapped(content, **given).faults]


def netbox(**changed: Any) -> dict[str, Any]:
    """Return a device as /api/dcim/devices/ of NetBox 4 has it, in the parts that matter here."""
    device = {
        "id": 17,
        "url": "https://netbox.example.com/api/dcim/devices/17/",
        "display": "leaf-1",
        "name": "leaf-1",
        "device_type": {"id": 3, "manufacturer": {"slug": "nvidia"}, "model": "SN4600C-CS2RC", "slug": "sn4600c"},
        "role": {"id": 2, "name": "Leaf", "slug": "leaf"},
        "platform": None,
        "serial": "MT2026X1",
        "site": {"id": 1, "name": "Frankfurt 1", "slug": "fra1"},
        "rack": {"id": 9, "display": "r12", "name": "r12"},
        "status": {"value": "active", "label": "Active"},
        "primary_ip": {"id": 5, "family": {"value": 4}, "address": "10.0.0.1/24"},
        "tags": [{"slug": "canary"}],
        "custom_fields": {"ring": "canary", "weight": 1.50, "lab": False},
    }
    return device | changed


LEAF = {"site": "fra1", "rack": "r12", "role": "leaf", "device-type": "sn4600c", "status": "active"}
SPEC = {"managementAddress": "10.0.0.1", "model": "SN4600C-CS2RC", "serialNumber": "MT2026X1"}


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_every_cell_of_a_csv_file_comes_back_with_the_row_that_a_spreadsheet_shows(
    rows: list[tuple[str, str, str]], delimiter: str, end: str, bom: bool, quoting: Any
) -> None:
    text = StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["Name", "b", "C d"])
    writer.writerows(rows)
    content = ((BOM if bom else "") + text.getvalue()).encode()
    kept = [(number, row) for number, row in enumerate(rows, 2) if any(cell.strip() for cell in row)]
    if not kept:
        with pytest.raises(Unreadable, match="has no device"):
            read_table(content)
        return
    found = read_table(content)
    assert found.header == ["name", "b", "c_d"]
    assert found.faults == []
    assert [(each.where, tuple(each.cells.values())) for each in found.rows] == [(f"row {n}", row) for n, row in kept]


@pytest.mark.parametrize(
    ("document", "labels", "spec"),
    [
        pytest.param({"count": 1, "next": None, "results": [netbox()]}, LEAF, SPEC, id="the-list"),
        pytest.param([netbox()], LEAF, SPEC, id="a-bare-list"),
        pytest.param(
            [netbox(role=None, device_role={"slug": "leaf"}, primary_ip=None)],
            {key: value for key, value in LEAF.items() if key != "role"},
            {key: value for key, value in SPEC.items() if key != "managementAddress"},
            id="without-role-and-address",
        ),
        pytest.param(
            [{"name": "leaf-1", "device_role": {"slug": "leaf"}, "status": {"value": "active"}}],
            {"role": "leaf", "status": "active"},
            {},
            id="before-netbox-3.6",
        ),
        pytest.param(
            [{"name": "leaf-1", "site": "fra1", "rack": 12, "primary_ip4": "fd00::1/64", "platform": ""}],
            {"site": "fra1", "rack": "12"},
            {"managementAddress": "fd00::1"},
            id="texts-and-numbers",
        ),
    ],
)
def test_the_shapes_of_netbox(document: Any, labels: Mapping[str, str], spec: Mapping[str, str]) -> None:
    found = mapped(json.dumps(document))
    assert (found.faults, found.unused) == ([], [])
    (device,) = found.devices
    assert (device.name, device.labels, device.spec) == ("leaf-1", labels, spec)


def test_columns_are_chosen_by_flags_and_defaults_taken_away() -> None:
    labels = ["ring=custom_fields.ring", "weight=custom_fields.weight", "lab=custom_fields.lab", "rack=rack.id"]
    found = mapped(json.dumps([netbox()]), [*labels, "site="], ["model=", "name=display"])
    (device,) = found.devices
    assert "site" not in device.labels
    assert "model" not in device.spec
    chosen = {"ring": "canary", "weight": "1.5", "lab": "false", "rack": "9"}
    assert chosen.items() <= device.labels.items()


def test_a_netbox_table_in_csv_with_excels_semicolons() -> None:
    text = f'{BOM}sep=;\r\nName;Status;Site;Type;IP Address;Notes\r\nleaf-1;active;fra1;SN4600;10.0.0.1/24;"a\r\nb"\r\n'
    found = mapped(text, ["notes="])
    assert found.unused == ["notes"]
    (device,) = found.devices
    assert (device.name, device.where) == ("leaf-1", "row 3")
    assert device.labels == {"status": "active", "site": "fra1", "device-type": "SN4600"}
    assert device.spec == {"managementAddress": "10.0.0.1", "model": "SN4600"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_excel_may_name_its_delimiter(delimiter: str) -> None:
    (device,) = mapped(f"sep={delimiter}\r\nname{delimiter}rack\r\nleaf-1{delimiter}r1\r\n").devices
    assert (device.name, device.labels) == ("leaf-1", {"rack": "r1"})
    assert faults('sep="\r\nname,rack\r\n') == ["row 2: has 2 cells and the header 1; check its quotes"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "name,rack\nSW_01.Lab,r1\n", ["row 2, column 'name': 'SW_01.Lab' is no device name; write 'sw-01.lab'"]
        ),
        pytest.param("name\nZürich-1\n", ["row 2, column 'name': 'Zürich-1' is no device name; write 'zurich-1'"]),
        pytest.param(
            "name,rack\n!!,r1\n",
            ["row 2, column 'name': '!!' is no device name; write lower-case letters, digits, - and ."],
        ),
        pytest.param("name,rack\n,r1\n", ["row 2, column 'name': is empty; write the name of the device"]),
        pytest.param("name,rack\na,\nb,\na,\n", ["row 4, column 'name': 'a' is in row 2, too; keep one of them"]),
        pytest.param("name,rack\na,R 12\n", ["row 2, column 'rack': 'R 12' is no label value; write 'R-12'"]),
        pytest.param(
            "name,rack\na,-\n", ["row 2, column 'rack': '-' is no label value; write letters, digits, -, _ and ."]
        ),
        pytest.param(
            f"name,rack\na,{'x' * 64}\n",
            [f"row 2, column 'rack': '{'x' * 45}...' has 64 characters, a label 63; write '{'x' * 45}...'"],
        ),
        pytest.param("name,rack\na,\x1b[2J\n", ["row 2, column 'rack': '\\x1b[2J' is no label value; write '2J'"]),
        pytest.param("name,rack\na,r1,\nb\nc,r1\n", [
            "row 2: has 3 cells and the header 2; check its quotes",
            "row 3: has 1 cells and the header 2; check its quotes",
        ]),
        pytest.param(
            "name,Rack,rack\na,1,2\n",
            ["row 1, column 'rack': is there twice; give one of them another name or remove it"],
        ),
        pytest.param(
            "name,serial\na,x\x07\n",
            ["row 2, column 'serial': 'x\\x07' has characters that cannot be printed; write it without them"],
        ),
        pytest.param(
            f"name,serial\na,{'x' * 254}\n",
            [f"row 2, column 'serial': '{'x' * 45}...' has 254 characters; write at most 253"],
        ),
        pytest.param(
            "name,primary_ip\na,10.0.0.300/24\nb,fe80::1%\x1b[2J\nc,leaf.example.com\nd,10.0.0.1/99\ne,10.0.0.300\n",
            [
                f"row {row}, column 'primary_ip': {value} is no address; write one such as 10.0.0.1, 10.0.0.1/24 or a "
                "host name"
                for row, value in zip(
                    (2, 3, 5, 6),
                    ("'10.0.0.300/24'", "'fe80::1%\\x1b[2J'", "'10.0.0.1/99'", "'10.0.0.300'"),
                    strict=True,
                )
            ],
        ),
        pytest.param(
            json.dumps({"results": [netbox(), netbox(name=None, rack=["r"]), 7, netbox()]}),
            [
                "results[2]: is no object; give what /api/dcim/devices/?limit=0 answers",
                "results[1], column 'name': is empty; write the name of the device",
                "results[1], column 'rack': is a list or an object; name one value in it, as in custom_fields.ring",
                "results[3], column 'name': 'leaf-1' is in results[0], too; keep one of them",
            ],
        ),
    ],
)  # fmt: skip
def test_each_fault_names_its_row_its_column_and_what_to_write(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "has no header; write", id="empty"),
        pytest.param(b"name,rack\r\n,\r\n", "has no device; check", id="a-header-alone"),
        pytest.param(b"[]", "has no device; check", id="an-empty-list"),
        pytest.param("name\nleaf-1\n".encode("utf-16"), "is UTF-16; save it as CSV UTF-8", id="utf-16"),
        pytest.param(b"name,site\na,b\nc,Z\xfcrich\n", "line 3 is not UTF-8; save it", id="latin-1"),
        pytest.param(b'name,site\na,"b\n', "row 2 is not CSV: unexpected end of data; check its quotes", id="a-quote"),
        pytest.param(b"name,site\na," + b"x" * 200_000, "row 2 is not CSV: field larger than", id="a-huge-cell"),
        pytest.param(b'{"detail": "Invalid token"}', "but says 'Invalid token'; give what", id="netbox-refused"),
        pytest.param(b'{"results": {}}', "has no list results; give what", id="no-list"),
        pytest.param(b'[{"name": "a"}', "is not JSON: ", id="cut-off"),
        pytest.param(b"[" * 100_000, "is not JSON: ", id="deep"),
        pytest.param(b'[{"name": ' + b"9" * 5_000 + b"}]", "is not JSON: ", id="a-huge-number"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(content: bytes, words: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read_table(content)
    assert words in str(caught.value)


def test_more_devices_than_one_import_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ROWS", 3)
    with pytest.raises(Unreadable, match="more than 3 devices; give them in parts, each with a --source"):
        read_table(b"name\na\nb\nc\nd\ne\n")


@pytest.mark.parametrize(
    ("labels", "fields", "words"),
    [
        (["rack"], [], "--label: 'rack' has no =; write it as in --label rack=rack.name"),
        (["a b=rack"], [], "--label: 'a b' is no label key; write one such as"),
        ([f"{'k' * 64}=rack"], [], "is no label key"),
        ([], ["maintenance=rack"], "--field: 'maintenance' cannot be set; write one of name,"),
        ([], ["name="], "--field: 'name' cannot be set"),
        (["rack=rakc"], [], "there is no column 'rakc'; did you mean 'rack'?"),
        (["site=site"], [], "there is no column 'site'; there are: 'name', 'rack'"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_named(labels: list[str], fields: list[str], words: str) -> None:
    with pytest.raises(BadMapping) as caught:
        mapped("name,rack\nleaf-1,r1\n", labels, fields)
    assert words in str(caught.value)


def test_a_file_without_names_says_which_flag_to_write() -> None:
    with pytest.raises(BadMapping, match="no column 'name'; write --field name=COLUMN"):
        mapped("host,rack\nleaf-1,r1\n")
    assert mapped("host,rack\nleaf-1,r1\n", fields=["name=host"]).devices[0].name == "leaf-1"


DEVICES = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(st.sampled_from(["rack", "role"]), st.sampled_from("12"))
)
EDITS = st.tuples(st.sampled_from("abc"), st.sampled_from(["rack", "role", "ring"]), st.sampled_from(["1", "2", None]))
STEPS = st.lists(st.one_of(DEVICES, EDITS), max_size=8)


@given(STEPS, st.booleans())
def test_imports_among_the_edits_of_others_touch_nothing_of_theirs_and_settle_at_once(
    steps: list[dict[str, dict[str, str]] | tuple[str, str, str | None]], prune: bool
) -> None:
    rules = Rules(namespace="lab", source="default", prune=prune)
    live: dict[str, dict[str, Any]] = {}
    ours: dict[tuple[str, str], str] = {}  # what an import wrote last
    made: set[str] = set()  # by an import
    for step in steps:
        if isinstance(step, tuple):
            device, label, value = step
            live.setdefault(device, {"metadata": {"name": device}, "spec": {}})
            live[device] = apply_merge_patch(live[device], {"metadata": {"labels": {label: value}}})
            continue
        wanted = [Wanted(name=name, labels=labels, spec={}) for name, labels in step.items()]
        before = {name: dict(each["metadata"].get("labels") or {}) for name, each in live.items()}
        found = compare(wanted, live.values(), rules)
        for change in found.changes:
            if change.action is Action.DELETE:
                del live[change.device]
            elif change.action is not Action.CONFLICT:
                live[change.device] = apply_merge_patch(live.get(change.device, {}), change.patch)
            made |= {change.device} if change.action is Action.CREATE else set()
        held = {each.device for each in found.of(Action.CONFLICT)}
        for name, labels in before.items():
            after = live[name]["metadata"].get("labels") or {} if name in live else {}
            theirs = {label: value for label, value in labels.items() if ours.get((name, label)) != value}
            assert {label: after.get(label) for label in theirs} == theirs
            assert name in live or (prune and name in made and name not in step)
            assert name not in held or after == labels
        for name, labels in step.items():
            for label in ("rack", "role"):
                now = (live[name]["metadata"].get("labels") or {}).get(label)
                if name not in held:
                    assert now == labels.get(label, now)
                    if now != before.get(name, {}).get(label) and now is not None:
                        ours[name, label] = now
                    elif ours.get((name, label)) != now:
                        ours.pop((name, label), None)
        made &= live.keys()
        ours = {(name, label): value for (name, label), value in ours.items() if name in live}
        again = compare(wanted, live.values(), rules)
        assert {each.action for each in again.changes} <= {Action.CONFLICT}


def test_columns_may_have_the_names_of_the_fields_and_a_row_of_another_kind_is_a_fault() -> None:
    rows = "name,kind,managementAddress,serialNumber\na,networkswitch,10.0.0.1,X1\nb,,10.0.0.2,X2\nc,Rack,,\nd,BMC,,\n"
    found = mapped(rows)
    assert [each.spec for each in found.devices[:2]] == [
        {"managementAddress": "10.0.0.1", "serialNumber": "X1"},
        {"managementAddress": "10.0.0.2", "serialNumber": "X2"},
    ]
    assert found.unused == []
    (fault,) = found.faults
    assert str(fault).endswith("is BMC; import it from a file of its own, with --kind BMC")
