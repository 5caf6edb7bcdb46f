# SPDX-License-Identifier: Apache-2.0
"""Which column of an inventory becomes which label and field of a device. Pure; nothing is normalised silently."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial

from attrs import field, frozen

from praetor_api.kube.objects import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN
from praetor_api.names import MAX_NAME_LENGTH, is_device_name
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.imports.table import Fault, Row, Table, quoted

NAME = "name"
ADDRESS = "managementAddress"
FIELDS: Mapping[str, Sequence[str]] = {
    NAME: ("name",),
    ADDRESS: ("primary_ip", "primary_ip4", "primary_ip6", "ip_address", "management_address", "managementaddress"),
    "model": ("device_type.model", "model", "device_type", "type"),
    "serialNumber": ("serial", "serial_number", "serialnumber"),
}
"""Fields, and the columns that they come from: the first that the file has."""

LABELS: Mapping[str, Sequence[str]] = {
    "site": ("site",),
    "rack": ("rack",),
    "role": ("role", "device_role"),
    "device-type": ("device_type", "type"),
    "platform": ("platform",),
    "status": ("status",),
}
"""Labels, as FIELDS."""

MAX_VALUE = 253
"""Characters of a field, as the CRD has it."""
MAX_LABEL = 63
"""Characters of a label's value, and of its key behind the /."""


class BadMapping(ValueError):
    """A --label or --field cannot be used; the message names it, and what to write instead."""


@frozen(kw_only=True)
class Wanted:
    """A device as the file has it; *where* takes no part in comparisons."""

    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, str]
    where: str = field(default="", eq=False)


@frozen(kw_only=True)
class Mapped:
    """The devices of a file, what is wrong with it, and the columns of it that nothing uses."""

    devices: Sequence[Wanted]
    faults: Sequence[Fault]
    unused: Sequence[str]


def mapping_of(given: Iterable[str], defaults: Mapping[str, Sequence[str]], option: str) -> dict[str, Sequence[str]]:
    """Return *defaults* with what *option* was given as KEY=COLUMN; an empty COLUMN takes a default away.

    BadMapping when it is not of that form, or when the key cannot be used.
    """
    found = dict(defaults)
    for each in given:
        key, equals, column = each.partition("=")
        if not equals:
            raise BadMapping(f"{option}: {quoted(each)} has no =; write it as in {option} rack=rack.name")
        if defaults is FIELDS and (key not in FIELDS or (key == NAME and not column)):
            raise BadMapping(f"{option}: {quoted(key)} cannot be set; write one of {', '.join(FIELDS)}")
        if defaults is not FIELDS and not _is_label_key(key):
            raise BadMapping(f"{option}: {quoted(key)} is no label key; write one such as rack or example.com/rack")
        found[key] = (column,) if column else ()
    return found


def map_devices(
    table: Table,
    labels: Mapping[str, Sequence[str]],
    fields: Mapping[str, Sequence[str]],
    kind: DeviceKind = DeviceKind.NETWORK_SWITCH,
) -> Mapped:
    """Return the devices of *table*, each of the *kind*; BadMapping when a column that was asked for is not there.

    A row that says another kind in a column of that name is a fault.
    """
    label_columns = {key: column for key, paths in labels.items() if (column := _column(table, paths, LABELS.get(key)))}
    columns = {key: column for key, paths in fields.items() if (column := _column(table, paths, FIELDS.get(key)))}
    faults = list(table.faults)
    if NAME not in columns and table.rows:
        raise BadMapping("there is no column 'name'; write --field name=COLUMN")
    devices: list[Wanted] = []
    places: dict[str, str] = {}
    kinds = table.column("kind")
    for row in table.rows:
        if kinds is not None:
            _read(table, row, kinds, partial(_kind_fault, kind), faults)
        name = _read(table, row, columns[NAME], _name_fault, faults)
        if name and name in places:
            faults.append(
                Fault(row.where, columns[NAME], f"{quoted(name)} is in {places[name]}, too; keep one of them")
            )
        places.setdefault(name, row.where)
        found = {key: _read(table, row, column, _label_fault, faults) for key, column in label_columns.items()}
        spec = {
            key: _read(table, row, column, _address_fault if key == ADDRESS else _value_fault, faults)
            for key, column in columns.items()
            if key != NAME
        }
        if ADDRESS in spec:
            spec[ADDRESS] = spec[ADDRESS].partition("/")[0]
        devices.append(
            Wanted(
                name=name,
                labels={key: value for key, value in found.items() if value},
                spec={key: value for key, value in spec.items() if value},
                where=row.where,
            )
        )
    used = {*label_columns.values(), *columns.values(), kinds}
    return Mapped(devices=devices, faults=faults, unused=[each for each in table.header or () if each not in used])


def _column(table: Table, paths: Sequence[str], defaults: Sequence[str] | None) -> str | None:
    found = next((column for path in paths if (column := table.column(path))), None)
    if found is None and paths and paths is not defaults and table.rows:
        known = table.known()
        close = get_close_matches(paths[0], known, n=1)
        hint = f"did you mean {quoted(close[0])}?" if close else f"there are: {', '.join(map(quoted, known[:10]))}"
        raise BadMapping(f"there is no column {quoted(paths[0])}; {hint}")
    return found


def _read(table: Table, row: Row, column: str, fault_of: Callable[[str], str], faults: list[Fault]) -> str:
    """Return the text of a cell, empty when it cannot be used, which *faults* then say."""
    try:
        value = table.value(row, column)
        fault = fault_of(value) if value or fault_of is _name_fault else ""
    except ValueError as e:
        fault = str(e)
    if fault:
        faults.append(Fault(row.where, column, fault))
        return ""
    return value


def _name_fault(name: str) -> str:
    if not name:
        return "is empty; write the name of the device"
    if is_device_name(name):
        return ""
    better = re.sub(r"\.[-.]*|-*\.[-.]*", ".", re.sub(r"[^a-z0-9.]+", "-", _ascii(name).lower())).strip("-.")
    better = better[:MAX_NAME_LENGTH].rstrip("-.")
    hint = quoted(better) if is_device_name(better) else "lower-case letters, digits, - and ."
    return f"{quoted(name)} is no device name; write {hint}"


def _kind_fault(kind: DeviceKind, value: str) -> str:
    said = next((each for each in DeviceKind if each.lower() == value.lower()), kind)
    return "" if said is kind else f"is {said}; import it from a file of its own, with --kind {said}"


def _label_fault(value: str) -> str:
    if len(value) <= MAX_LABEL and re.fullmatch(LABEL_VALUE_PATTERN[1:-1], value):
        return ""
    better = re.sub(r"[^-A-Za-z0-9_.]+", "-", _ascii(value)).strip("-_.")[:MAX_LABEL].rstrip("-_.")
    why = f"has {len(value)} characters, a label {MAX_LABEL}" if len(value) > MAX_LABEL else "is no label value"
    return f"{quoted(value)} {why}; write {quoted(better) if better else 'letters, digits, -, _ and .'}"


def _value_fault(value: str) -> str:
    if len(value) > MAX_VALUE:
        return f"{quoted(value)} has {len(value)} characters; write at most {MAX_VALUE}"
    return (
        "" if value.isprintable() else f"{quoted(value)} has characters that cannot be printed; write it without them"
    )


def _address_fault(value: str) -> str:
    address, slash, _ = value.partition("/")
    try:
        if len(value) > MAX_VALUE or not value.isascii() or not value.isprintable():  # the zone of fe80::1%zone
            raise ValueError(value)
        ipaddress.ip_interface(value)
    except ValueError:
        last = address.rpartition(".")[2]  # 10.0.0.300 is no host name
        if slash or last.isdigit() or not is_device_name(address.lower()):
            return f"{quoted(value)} is no address; write one such as 10.0.0.1, 10.0.0.1/24 or a host name"
    return ""


def _is_label_key(key: str) -> bool:
    prefix, _, name = key.rpartition("/")
    return (
        re.fullmatch(LABEL_KEY_PATTERN[1:-1], key) is not None and len(name) <= MAX_LABEL and len(prefix) <= MAX_VALUE
    )


def _ascii(text: str) -> str:
    """Return *text* with letters instead of accented ones: a proposal of what to write."""
    return "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
