# SPDX-License-Identifier: Apache-2.0
"""What one revision gives each device of a fleet: its template, with the overrides that match the device. Pure.

Most templates have no overrides; then nothing is asked per device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from praetor_controller.model.rows import DeviceRow, ProcessRow, Template


def variant_key(template: Template, applied: Iterable[int]) -> str:
    """Return what the template of *template* with the overrides *applied* is filed under."""
    return f"{template.revision}/{','.join(map(str, applied))}"


def variants(templates: Iterable[Template | None], devices: Iterable[DeviceRow]) -> dict[str, Template]:
    """Return what *templates* with overrides give *devices*, where that is not the template itself."""
    found: dict[str, Template] = {}
    for template in templates:
        if template is not None and template.overrides:
            for applied in set(template.applied_to([device.labels for device in devices])) - {()}:
                found[variant_key(template, applied)] = template.with_overrides(applied)
    return found


class Specs:
    """What *template* gives each of *devices*.

    *stored_as* are the hashes that the API is known to store for a spec, by its own hash, where it changes what is
    written. *known* is variants(): a recorded template cannot be resolved again, for its values are left out.
    """

    def __init__(
        self,
        template: Template,
        devices: Sequence[DeviceRow],
        stored_as: Mapping[str, frozenset[str]],
        known: Mapping[str, Template],
    ) -> None:
        self.template = template
        self.hashes = self._hashes(template, stored_as)
        self._devices = devices
        self._templates: Sequence[Template] | None = None  # in the order of the devices, as those of _hashes_of
        self._hashes_of: Sequence[frozenset[str]] | None = None
        self._by_name: dict[str, int] | None = None  # made when it is needed
        if not template.overrides:
            return
        applied = template.applied_to([device.labels for device in devices])
        made = {each: known.get(variant_key(template, each)) or template.with_overrides(each) for each in set(applied)}
        self._templates = [made[each] for each in applied]
        of = {each: self._hashes(variant, stored_as) for each, variant in made.items()}
        self._hashes_of = [of[each] for each in applied]
        self._made = made.values()

    @staticmethod
    def _hashes(template: Template, stored_as: Mapping[str, frozenset[str]]) -> frozenset[str]:
        return stored_as.get(template.spec_hash, frozenset()) | {template.spec_hash}

    @property
    def varies(self) -> bool:
        """Whether devices may be given different specs."""
        return self._templates is not None

    def of(self, device: str) -> Template:
        """Return what the device with this name is given."""
        if self._templates is None:
            return self.template
        number = self._numbers().get(device)
        return self.template if number is None else self._templates[number]

    def runs(self, process: ProcessRow) -> bool:
        """Return whether *process* has the spec that its device is given."""
        if self._hashes_of is None:
            return process.spec_hash in self.hashes
        number = self._numbers().get(process.device)
        return process.spec_hash in (self.hashes if number is None else self._hashes_of[number])

    def _numbers(self) -> Mapping[str, int]:
        if self._by_name is None:
            self._by_name = {device.name: number for number, device in enumerate(self._devices)}
        return self._by_name

    def run_by(self, hashes: Sequence[str | None]) -> Sequence[bool]:
        """Return which of *hashes*, of the process of each device or None, are of the spec that the device is given."""
        if self._hashes_of is None:
            mine = self.hashes
            return [each in mine for each in hashes]
        return [each in own for each, own in zip(hashes, self._hashes_of, strict=True)]

    def groups(self) -> Iterable[tuple[Template, Sequence[DeviceRow]]]:
        """Return the devices that are given the same."""
        if self._templates is None:
            return ((self.template, self._devices),)
        found: dict[int, tuple[Template, list[DeviceRow]]] = {}
        for device, template in zip(self._devices, self._templates, strict=True):
            found.setdefault(id(template), (template, []))[1].append(device)
        return tuple(found.values())

    def same_as(self, other: Specs) -> Sequence[bool]:
        """Return which devices are given the same spec by *other*, which is for the same devices."""
        mine, others = self._templates or (), other._templates or ()
        count = len(self._devices)
        return [
            one.spec_hash == two.spec_hash
            for one, two in zip(mine or (self.template,) * count, others or (other.template,) * count, strict=True)
        ]

    def faults(self) -> Mapping[str, str]:
        """Return the devices that cannot be given what the overrides make of the template, and why."""
        if self._templates is None or not any(each.fault for each in self._made):
            return {}
        given = zip(self._devices, self._templates, strict=True)
        return {device.name: template.fault for device, template in given if template.fault}
