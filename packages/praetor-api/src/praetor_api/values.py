# SPDX-License-Identifier: Apache-2.0
"""What a process is started with: values of its device, and the expansion of `$(NAME)` as in a Pod. Pure.

The gateway resolves references, the agent starts a process with the values, and `praetorctl render` shows the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any, Optional, Union

from praetor_api.backports import TypeAlias, dataclass
from praetor_api.canonical import canonical_json
from praetor_api.files import FILES_VARIABLE, MAX_CONTENT, OnChange
from praetor_api.spec import FIELD_PATH, Execution

__all__ = [
    "ABSENT",
    "CONFIG_MAP",
    "DIGEST_DIGITS",
    "INCOMPLETE",
    "INVALID",
    "MAX_TEXT",
    "MAX_TEXTS",
    "MAX_VALUE",
    "SECRET",
    "Contents",
    "DeviceFields",
    "ExpansionError",
    "Reference",
    "Resolved",
    "Source",
    "Started",
    "Unusable",
    "Value",
    "approved_sources",
    "content_digest",
    "env_fault",
    "expanded",
    "exposed_secret",
    "lacks_an_object",
    "missing_references",
    "pending_references",
    "references_of",
    "refused_reference",
    "required_sources",
    "resolve",
    "restarts",
    "started_with",
    "too_large",
    "variables_in",
    "with_approved",
]

MAX_TEXT = 131_071
"""Longest argument or variable after expansion, in characters: Linux starts nothing with more bytes in one."""
MAX_TEXTS = 1_048_576
"""Most characters of all together: half of what Linux usually starts a program with."""

DIGEST_DIGITS = 32
"""Hexadecimal digits of an approved digest."""

MAX_VALUE = 32_768
"""Longest value of a reference, in characters: as long as one that stands in the spec."""

CONFIG_MAP, SECRET, INVALID = "configmap", "secret", "invalid"
"""Kinds of sources; INVALID stands for the references of a spec that says one of them wrongly, or would show a Secret:
what is wrong is the name."""
_KEY_REFS = {"configMapKeyRef": CONFIG_MAP, "secretKeyRef": SECRET}
_DEVICE_REF = "deviceFieldRef"

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_FIELD_PATH = re.compile(FIELD_PATH)


class ExpansionError(ValueError):
    """The expansion is longer than anything that can be started; the text names the field."""


@dataclass(frozen=True)
class Source:
    """The *key* of the object *name* of the process's namespace; *kind* is CONFIG_MAP or SECRET."""

    kind: str
    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name} key {self.key}"


@dataclass(frozen=True)
class Unusable:
    """Stands for a value that is there and cannot be given; *why* follows the name of its source."""

    why: str


Value: TypeAlias = Union[str, bytes, Unusable]
"""The value of a key: bytes where it is no text."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A *variable* whose value stands in the field *path* of the device, or in a *source*, which *path* then names.

    With *file* it is the content of the file of that path, and no variable. An *optional* one may be missing.
    *approved* is the digest of the only content that may be given; empty: any may.
    """

    variable: str
    path: str
    optional: bool = False
    source: Optional[Source] = None
    file: str = ""
    approved: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFields:
    """What references may name of a device."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """What files hold that are given by reference, in base64 *by_path*. Many devices share one: all is made once."""

    by_path: Mapping[str, str] = field(repr=False)
    _json: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)
    _digests: dict[bytes, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """How many bytes they have together."""
        return sum(len(text) // 4 * 3 - text[-2:].count("=") for text in self.by_path.values())

    @property
    def json(self) -> bytes:
        """The `fileValues` of an item, as JSON."""
        if not self._json:
            said = [{"path": path, "content": content} for path, content in self.by_path.items()]
            self._json.append(canonical_json(said))
        return self._json[0]

    def digest(self, key: bytes) -> str:
        """Return a digest with *key*, in hexadecimal digits."""
        if key not in self._digests:
            self._digests[key] = _digest(self.json, key)
        return self._digests[key]


@dataclass(frozen=True)
class Resolved:
    """*values* by variable, and the paths of those that are *missing* and not optional.

    *files* are the contents of files that are given by reference, None if there is no such file. *refused* says why
    none is given, whatever is there. Values with a Secret among them are digested with a *key*. *kept* are the paths of
    files whose content is not the approved one.
    """

    values: Mapping[str, str] = field(repr=False)
    missing: tuple[str, ...] = ()
    refused: str = ""
    key: bytes = field(default=b"", repr=False)
    files: Optional[Contents] = None
    kept: tuple[str, ...] = ()
    _digests: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def held(self) -> str:
        """Why its process is held, as a reason; empty when nothing holds it."""
        if self.refused:
            return refused_reference(self.refused)
        return missing_references(self.missing) if self.missing else ""

    @property
    def digest(self) -> str:
        """The `valuesHash` of an item: `sha256:` or `hmac-sha256:`, and 64 hexadecimal digits."""
        if not self._digests:
            said: object = self.values if self.files is None else [self.values, self.files.digest(self.key)]
            said = [said, *self.kept] if self.kept else said
            head = "hmac-sha256:" if self.key else "sha256:"
            self._digests.append(head + _digest(canonical_json(said), self.key))
        return self._digests[0]


def _digest(text: bytes, key: bytes) -> str:
    return hmac.new(key, text, "sha256").hexdigest() if key else hashlib.sha256(text).hexdigest()


def references_of(spec: Mapping[str, Any]) -> tuple[Reference, ...]:
    """Return the references in *spec*, a process spec as it is stored; CRDs without CEL let anything be stored.

    Of a spec that refers to something wrongly, or would show a Secret in its arguments, it is one reference alone, to
    an INVALID source.
    """
    execution = spec.get("execution")
    said = execution if isinstance(execution, Mapping) else {}
    files = tuple(_objects(said.get("files")))
    if why := env_fault(said.get("env")) or next(filter(None, map(_sources_fault, files)), ""):
        return _invalid(f"spec.{why}")
    found = (
        *(_reference(each) for each in _objects(said.get("env")) if each.get("valueFrom") is not None),
        *(_file_reference(each) for each in files if any(each.get(kind) is not None for kind in _KEY_REFS)),
    )
    if any(each.source is not None and each.source.kind == SECRET for each in found) and (why := exposed_secret(spec)):
        return _invalid(why)
    return found


def _invalid(why: str) -> tuple[Reference, ...]:
    return (Reference("", why, source=Source(INVALID, why, "")),)


def env_fault(env: object) -> str:
    """Return what is wrong with the sources of variables in *env*, as it is stored, and what to write; empty if
    nothing is.

    These are the rules of the CRD, for an API server that checks none. The text after the first comma is the remedy.
    """
    for index, variable in enumerate(env if isinstance(env, (list, tuple)) else ()):
        said = variable.get("valueFrom") if isinstance(variable, Mapping) else None
        if said is None:
            continue
        where = f"execution.env[{index}]"
        if variable.get("value"):
            return f"{where} has a value and a valueFrom, of which a variable has one; leave one of them out"
        given = [name for name, ref in said.items() if ref is not None] if isinstance(said, Mapping) else []
        if len(given) != 1 or given[0] not in (_DEVICE_REF, *_KEY_REFS):
            count = "several sources" if len(given) > 1 else "no source that is known"
            known = " and ".join(_KEY_REFS)
            return f"{where}.valueFrom has {count}, and needs one; write one of {_DEVICE_REF}, {known}"
    return ""


def _sources_fault(file: Mapping[str, Any]) -> str:
    given = [kind for kind in _KEY_REFS if file.get(kind) is not None]
    if len(given) > 1 or (given and file.get("content") is not None):
        return f"execution.files: {file.get('path')} has several sources, and a file has one; leave the others out"
    return ""


def _objects(said: object) -> Iterator[Mapping[str, Any]]:
    return (each for each in said if isinstance(each, Mapping)) if isinstance(said, (list, tuple)) else iter(())


def exposed_secret(spec: Mapping[str, Any]) -> str:
    """Return where *spec*, as it is stored, would show a Secret to all users of the device; empty if nowhere.

    The arguments of a process can be read by everyone, unlike its environment. A variable that a secret one is
    expanded into is secret, too.
    """
    execution = spec.get("execution")
    if not isinstance(execution, Mapping) or execution.get("expandVariables") is not True:
        return ""
    secret: set[str] = set()
    for variable in execution.get("env") or ():
        if not isinstance(variable, Mapping):
            continue
        source = variable.get("valueFrom")
        named = set(variables_in(variable.get("value"))) if source is None else set()
        if named & secret or (isinstance(source, Mapping) and source.get("secretKeyRef") is not None):
            secret.add(str(variable.get("name")))
    for field_name in ("command", "args"):
        for index, word in enumerate(execution.get(field_name) or ()):
            for name in variables_in(word):
                if name in secret:
                    return (
                        f"spec.execution.{field_name}[{index}] names the secret variable {name}, and everyone on the "
                        "device can read arguments; have the program read its environment"
                    )
    return ""


def variables_in(text: object) -> Iterator[str]:
    """Yield the names of the variables that *text* refers to by `$(NAME)`."""
    if isinstance(text, str) and "$(" in text:
        for match in _REFERENCE.finditer(text, 0, text.rfind(")") + 1):
            if match.group(1) is not None:
                yield match.group(1)


def _reference(variable: Mapping[str, Any]) -> Reference:
    said = variable["valueFrom"]
    given = {name: ref for name, ref in said.items() if ref is not None} if isinstance(said, Mapping) else {}
    name = str(variable.get("name"))
    kind, ref = next(iter(given.items()), ("", None))
    ref = ref if isinstance(ref, Mapping) else {}
    optional = ref.get("optional") is True
    if kind in _KEY_REFS:
        source = _source(kind, ref)
        return Reference(name, str(source), optional, source)
    return Reference(name, str(ref.get("fieldPath") if kind == _DEVICE_REF else None), optional)


def _file_reference(file: Mapping[str, Any]) -> Reference:
    path, kind = str(file.get("path")), next(kind for kind in _KEY_REFS if file.get(kind) is not None)
    ref = file[kind]
    ref = ref if isinstance(ref, Mapping) else {}
    source = _source(kind, ref)
    approved = file.get("approved") if restarts(file) else None
    return Reference("", str(source), ref.get("optional") is True, source, path, str(approved or ""))


def restarts(file: Mapping[str, Any]) -> bool:
    """Return whether a changed content of *file*, as it is stored, restarts the process."""
    return (file.get("onChange") or OnChange.RESTART) == OnChange.RESTART


ABSENT = "absent"
"""Stands for the digest of a content where there is none."""
INCOMPLETE = "incomplete"
"""Stands among digests, in the place of a source, where some are left out: what is not named may be there."""


def content_digest(key: bytes, namespace: str, source: Source, value: Value | None) -> str:
    """Return a digest with *key* of what *source* in *namespace* holds, which tells nothing of it without the key."""
    if value is None or isinstance(value, Unusable):
        return ABSENT
    content = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    said = b"\0".join((b"content", namespace.encode(), str(source).encode(), content))
    return hmac.new(key, said, "sha256").hexdigest()[:DIGEST_DIGITS]


def approved_sources(spec: Mapping[str, Any]) -> Mapping[str, Source]:
    """Return what the files of *spec*, or of a part of it, hold by reference that restart its process, by their paths.

    Files that refer to several sources, or to none, are left out.
    """
    return {str(file.get("path")): _source(kind, file[kind]) for file, kind in _approved_files(spec)}


def required_sources(spec: Mapping[str, Any]) -> Collection[Source]:
    """Return those of the approved_sources() that some file cannot do without."""
    return {_source(kind, file[kind]) for file, kind in _approved_files(spec) if file[kind].get("optional") is not True}


def _approved_files(spec: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    execution = spec.get("execution")
    for file in _objects(execution.get("files") if isinstance(execution, Mapping) else None):
        given = [kind for kind in _KEY_REFS if isinstance(file.get(kind), Mapping)]
        if len(given) == 1 and file.get("content") is None and restarts(file):
            yield file, given[0]


def with_approved(spec: Mapping[str, Any], digests: Mapping[str, str] | None) -> Mapping[str, Any]:
    """Return *spec*, or a part of it, with the digest of each of its approved_sources(), by the source as text.

    What says *approved* otherwise is corrected: only the controller approves. None: nothing is approved.
    """
    execution = spec.get("execution")
    files = execution.get("files") if isinstance(execution, Mapping) else None
    if not isinstance(execution, Mapping) or not isinstance(files, (list, tuple)):
        return spec
    sources = approved_sources(spec) if digests is not None else {}
    changed: list[object] = []
    for file in files:
        own = {name: value for name, value in file.items() if name != "approved"} if isinstance(file, Mapping) else file
        source = sources.get(str(file.get("path"))) if isinstance(file, Mapping) else None
        changed.append({**own, "approved": digests[str(source)]} if source is not None and digests else own)
    return {**spec, "execution": {**execution, "files": changed}}


def _source(kind: str, ref: Mapping[str, Any]) -> Source:
    return Source(_KEY_REFS[kind], str(ref.get("name")), str(ref.get("key")))


def resolve(
    references: Iterable[Reference],
    device: DeviceFields,
    read: Callable[[Source], Value | None] = lambda _: None,
    is_approved: Callable[[Reference], bool] = lambda _: True,
) -> Resolved:
    """Return the values of *references* on *device*, and what it lacks; *read* returns that of a source.

    *is_approved* returns whether what a reference names holds the content that it was approved with.
    """
    values: dict[str, str] = {}
    files: dict[str, str] | None = None
    missing, kept = [], []
    for reference in references:
        found = read(reference.source) if reference.source is not None else _field(reference.path, device)
        if reference.file:
            files = {} if files is None else files
        if reference.approved and not is_approved(reference):
            kept.append(reference.file)
            continue
        value = found if found is None else _content(found) if reference.file else _text(found)
        if isinstance(value, Unusable):
            missing.append(f"{reference.path} {value.why}")
        elif value is None:
            missing += [] if reference.optional else [reference.path]
        elif reference.file and files is not None:
            files[reference.file] = value
        else:
            values[reference.variable] = value
    contents = None if files is None else Contents(files)
    return Resolved(values, tuple(dict.fromkeys(missing)), files=contents, kept=tuple(kept))


def too_large(found: Resolved) -> str:
    """Return why *found*, of ConfigMaps and Secrets, is given to no process; empty if it may be."""
    if sum(map(len, found.values.values())) > MAX_TEXTS:
        return f"TooLarge more than {MAX_TEXTS} characters"
    if found.files is not None and found.files.size > MAX_CONTENT:
        return f"TooLarge files of more than {MAX_CONTENT} bytes"
    return ""


def _text(value: Value) -> str | Unusable:
    """Return *value* as a variable may have it."""
    if isinstance(value, Unusable):
        return value
    if isinstance(value, bytes) or "\0" in value:
        return Unusable("is no text")
    return Unusable(f"has more than {MAX_VALUE} characters") if len(value) > MAX_VALUE else value


def _content(value: Value) -> str | Unusable:
    """Return *value* in base64, as an item has the content of a file."""
    if isinstance(value, Unusable):
        return value
    content = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    if len(content) > MAX_CONTENT:
        return Unusable(f"has more than {MAX_CONTENT} bytes")
    return base64.b64encode(content).decode("ascii")


def _field(path: str, device: DeviceFields) -> str | None:
    found = _FIELD_PATH.fullmatch(path)
    if found is None:
        return None
    of_metadata, label, fact = found.groups()
    if label is not None:
        return device.labels.get(label)
    if fact is not None:
        return device.facts.get(fact)
    if of_metadata is None:
        return device.address or None
    return device.name if of_metadata == "name" else device.namespace


def missing_references(missing: Iterable[str]) -> str:
    """Return the reason of a device that lacks what *missing* names, for programs and people."""
    return f"ReferenceMissing({', '.join(missing)})"


def refused_reference(why: str) -> str:
    """Return the reason of a device that is given no values at all, for programs and people."""
    return f"ReferenceRefused({why})"


def pending_references(sources: Iterable[str]) -> str:
    """Return the reason of a deployment whose files no gateway has said the contents of, for programs and people."""
    return f"ReferencePending({', '.join(sources)})"


def lacks_an_object(reason: str) -> bool:
    """Return whether *reason*, of a device that lacks values, names a ConfigMap or Secret: all devices lack it."""
    head, _, rest = reason.partition("(")
    named = rest.partition("): ")[0].split(", ")
    return head == "ReferenceMissing" and any(each.startswith((f"{CONFIG_MAP}/", f"{SECRET}/")) for each in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a process is started with. *env* holds the variables of its spec in their order."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)


def expanded(text: str, env: Mapping[str, str]) -> str:
    """Return *text* with `$(NAME)` replaced by what *env* has, and `$$` by `$`; an unknown name stays as it is.

    ExpansionError if the result has more than MAX_TEXT characters. What replaces a name is not expanded again.
    """
    if "$" not in text:
        return text
    end = text.rfind(")") + 1  # no reference is closed after it, and to seek one at each `$(` would take forever
    parts: list[str] = []
    at, length = 0, len(text)
    for match in _REFERENCE.finditer(text, 0, end):
        found, name = match.group(), match.group(1)
        said = "$" if name is None else env.get(name, found)
        parts += text[at : match.start()], said
        at, length = match.end(), length + len(said) - len(found)
        if length > MAX_TEXT + end:
            break
    result = "".join(parts) + text[at:end] + text[end:].replace("$$", "$")
    if len(result) > MAX_TEXT:
        raise ExpansionError(f"is longer than {MAX_TEXT} characters after expansion; refer to less")
    return result


def started_with(execution: Execution, values: Mapping[str, str] | None = None, files: str = "") -> Started:
    """Return what *execution* starts a process with; ExpansionError naming the field that becomes too long.

    *values* are those of its references. They are not expanded, and a variable that has none is left out. *files* is
    the path of its own directory, if it has files.
    """
    values = values or {}
    own = {FILES_VARIABLE: files} if files else {}
    if not execution.expand_variables:
        given = {each.name: each.value if each.value_from is None else values.get(each.name) for each in execution.env}
        env = own | {name: value for name, value in given.items() if value is not None}
        return Started(command=execution.command, args=execution.args, env=env)
    size, env = 0, own

    def text(where: str, given: str) -> str:
        nonlocal size
        try:
            result = expanded(given, env)
        except ExpansionError as e:
            raise ExpansionError(f"spec.execution.{where}: {e}") from None
        size += len(result)
        if size > MAX_TEXTS:
            raise ExpansionError(
                f"spec.execution.{where}: command, args and env have more than {MAX_TEXTS} characters after expansion; "
                "refer to less"
            )
        return result

    for index, variable in enumerate(execution.env):
        if variable.value_from is None:
            env[variable.name] = text(f"env[{index}].value", variable.value)
        elif variable.name in values:
            env[variable.name] = values[variable.name]
    return Started(
        command=tuple(text(f"command[{index}]", word) for index, word in enumerate(execution.command)),
        args=tuple(text(f"args[{index}]", word) for index, word in enumerate(execution.args)),
        env=env,
    )
