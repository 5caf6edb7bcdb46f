# SPDX-License-Identifier: Apache-2.0
"""Hostile archives: nothing outside the root, and nothing beyond the limits."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praetor_agent.artifacts.rootfs_writer import MAX_ENTRIES, RootfsWriter
from praetor_agent.artifacts.unpack import unpack
from praetor_agent.errors import ArtifactError
from praetor_api.protocol import ArtifactReason as Reason

Member = tuple[tarfile.TarInfo, bytes]
CANARY = b"this must not change"


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", target: str = "", mode: int = 0o644
) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, target, mode, len(content)
    return info, content


def packed(*members: Member, compress: bool = False, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return gzip.compress(out.getvalue()) if compress else out.getvalue()


@contextmanager
def surrounded(tmp: Path) -> Iterator[Path]:
    """Yield a root beside files that must not change, and check that they did not."""
    host = tmp / "host"
    root = host / "store" / "root"
    root.mkdir(parents=True)
    (host / "etc").mkdir()
    (host / "etc" / "passwd").write_bytes(CANARY)
    (host / "store" / "state").write_bytes(CANARY)
    before = outside(host, root)
    yield root
    assert outside(host, root) == before


def outside(host: Path, root: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for at, directories, names in os.walk(host):
        if Path(at) == root:
            directories.clear()
            continue
        for name in (*directories, *names):
            path = Path(at, name)
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (path.lstat().st_mode, content)
    return found


def lay(root: Path, *layers: bytes, image: bool = False, max_bytes: int = 64 * 1024**2) -> None:
    tree = RootfsWriter(root, max_bytes, image=image)
    try:
        for layer in layers:
            unpack(io.BytesIO(layer), len(layer), tree, image=image)
    finally:
        tree.close()


def chain() -> tuple[Member, ...]:
    """The archive of CVE-2025-4517: a path so long that realpath gives up, and then a link out of it."""
    deep, steps, members = "d" * 247, "abcdefghijklmnop", []
    path = ""
    for step in steps:
        members.append(member(os.path.join(path, deep), tarfile.DIRTYPE, mode=0o755))
        members.append(member(os.path.join(path, step), tarfile.SYMTYPE, target=deep))
        path = os.path.join(path, deep)
    long = os.path.join("/".join(steps), "l" * 254)
    members.append(member(long, tarfile.SYMTYPE, target="../" * len(steps)))
    members.append(member("escape", tarfile.SYMTYPE, target=long + "/../../../etc"))
    members.append(member("flag", tarfile.LNKTYPE, target="escape/passwd"))
    members.append(member("flag", content=b"overwritten"))
    return tuple(members)


def sparse(size: int) -> bytes:
    block = bytearray(packed(member("hole"), form=tarfile.GNU_FORMAT))
    block[156:157] = b"S"
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def many(count: int) -> bytes:
    """Directories, which are the fastest to write."""
    block = bytearray(packed(member("00000000", tarfile.DIRTYPE), form=tarfile.USTAR_FORMAT)[:512])
    block[148:156] = b"        "
    rest = sum(block) - 8 * ord("0")
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
        for number in range(count):
            block[:8] = b"%08d" % number
            block[148:156] = b"%06o\0 " % (rest + sum(block[:8]))
            file.write(block)
    return out.getvalue()


DIRECTORY = tarfile.DIRTYPE
HOSTILE = [
    pytest.param(lambda: packed(member("l", tarfile.SYMTYPE, target="/etc/passwd")), id="symlink"),
    pytest.param(
        lambda: packed(member("l", tarfile.SYMTYPE, target="../.."), member("l/etc/passwd", content=b"x")),
        id="through-symlink",
    ),
    pytest.param(lambda: packed(member("h", tarfile.LNKTYPE, target="../../etc/passwd")), id="hardlink"),
    pytest.param(lambda: packed(*chain()), id="CVE-2025-4517"),
    pytest.param(lambda: packed(member("d", tarfile.CHRTYPE)), id="device"),
    pytest.param(lambda: packed(member("d", tarfile.BLKTYPE)), id="block-device"),
    pytest.param(lambda: packed(member("f", tarfile.FIFOTYPE)), id="fifo"),
    pytest.param(lambda: packed(member("/etc/passwd", content=b"x")), id="absolute"),
    pytest.param(lambda: packed(member("../state", content=b"x")), id="dotdot"),
    pytest.param(lambda: packed(member("a/../../state", content=b"x")), id="inner-dotdot"),
    pytest.param(lambda: packed(member("..", DIRECTORY)), id="dotdot-itself"),
    pytest.param(lambda: packed(member("a", content=b"1"), member("./a", content=b"2")), id="duplicate"),
    pytest.param(lambda: packed(member("a", content=b"1"), member("a", DIRECTORY)), id="file-then-directory"),
    pytest.param(lambda: packed(member("a", content=b"1"), member("a/b", content=b"2")), id="below-a-file"),
    pytest.param(lambda: packed(member("Run/a"), member("run/b")), id="case"),
    pytest.param(lambda: sparse(1024**4), id="sparse-1TB"),
    pytest.param(lambda: many(1_000_000), id="1M-entries"),
    pytest.param(lambda: packed(member("z", content=bytes(48 * 1024**2)), compress=True), id="1000:1"),
    pytest.param(lambda: packed(member("/".join("d" * 100))), id="deep"),
    pytest.param(lambda: packed(member("n" * 256)), id="long-name"),
    pytest.param(lambda: packed(member("ä\0../../etc/passwd"), form=tarfile.PAX_FORMAT), id="NUL"),
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_archive_is_refused_and_changes_nothing_outside(tmp_path: Path, hostile: Callable[[], bytes]) -> None:
    with surrounded(tmp_path) as root, pytest.raises(ArtifactError) as caught:
        lay(root, hostile())
    assert caught.value.reason in (Reason.UNSAFE_ARCHIVE, Reason.TOO_LARGE)
    assert sum(path.lstat().st_size for path in tmp_path.rglob("*")) <= 65 * 1024**2
    assert len(list(root.iterdir())) <= MAX_ENTRIES


@pytest.mark.parametrize("hostile", HOSTILE)
def test_as_a_layer_of_an_image_it_changes_nothing_outside_either(tmp_path: Path, hostile: Callable[[], bytes]) -> None:
    with surrounded(tmp_path) as root:
        try:
            lay(root, hostile(), image=True)
        except ArtifactError as e:
            assert e.reason in (Reason.UNSAFE_ARCHIVE, Reason.TOO_LARGE)  # noqa: PT017 - some are fine as images
        for path in root.rglob("*"):
            assert Path(os.path.realpath(path)).is_relative_to(root)


@pytest.mark.parametrize("cut", [100, 700, 1600])
@pytest.mark.parametrize("compress", [True, False])
def test_a_truncated_or_corrupt_archive_is_reported(tmp_path: Path, cut: int, compress: bool) -> None:
    whole = packed(member("a", content=os.urandom(1000)), member("b", content=os.urandom(1000)), compress=compress)
    with pytest.raises(ArtifactError, match="damaged") as caught:
        lay(tmp_path, whole[:cut])
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def test_a_corrupt_header_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="checksum is wrong"):
        lay(tmp_path, b"x" + packed(member("a"))[1:])


def test_what_unpacks_to_more_than_there_may_be_is_stopped_while_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="more than 1000000 bytes") as caught:
        lay(tmp_path, packed(member("a", content=os.urandom(4_000_000))), max_bytes=1_000_000)
    assert caught.value.reason is Reason.TOO_LARGE
    assert (tmp_path / "a").stat().st_size <= 1_000_000


def test_only_the_right_to_execute_survives_of_a_mode(tmp_path: Path) -> None:
    lay(tmp_path, packed(member("bin/a", mode=0o6755), member("b", mode=0o666), member("d", DIRECTORY, mode=0o1777)))
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("bin/a", "b", "d", "bin")}
    assert modes == {"bin/a": 0o755, "b": 0o644, "d": 0o755, "bin": 0o755}


def test_links_of_an_archive_that_stay_inside_are_kept(tmp_path: Path) -> None:
    content = packed(
        member("lib/x.so.1", content=b"1"),
        member("lib/x.so", tarfile.SYMTYPE, target="x.so.1"),
        member("bin/y", tarfile.SYMTYPE, target="../lib/./x.so"),
        member("lib/same", tarfile.LNKTYPE, target="lib/x.so.1"),
        compress=True,
    )
    lay(tmp_path, content)
    assert [(tmp_path / name).read_bytes() for name in ("lib/x.so", "bin/y", "lib/same")] == [b"1"] * 3


@pytest.mark.parametrize("target", ["/lib/x", "../x", "lib/../../x", "..", "", "../bin/../../x"])
def test_links_of_an_archive_that_lead_out_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        lay(tmp_path, packed(member("x", content=b"1"), member("l", tarfile.SYMTYPE, target=target)))
    assert caught.value.reason is Reason.UNSAFE_ARCHIVE


def test_links_of_images_lead_nowhere_but_inside(tmp_path: Path) -> None:
    with surrounded(tmp_path) as root:
        lay(root, packed(
            member("usr/bin/busybox", content=b"box", mode=0o755),
            member("bin", tarfile.SYMTYPE, target="usr/bin"),
            member("usr/bin/sh", tarfile.SYMTYPE, target="/usr/bin/busybox"),
            member("usr/bin/ash", tarfile.SYMTYPE, target="../../../../../usr/bin/busybox"),
            member("usr/bin/ls", tarfile.LNKTYPE, target="usr/bin/busybox"),
            member("out", tarfile.SYMTYPE, target="/../../etc"),
        ), image=True)  # fmt: skip
        for name in ("bin/sh", "usr/bin/ash", "usr/bin/ls", "bin/busybox"):
            assert (root / name).read_bytes() == b"box"
        assert os.path.realpath(root / "out") == str(root / "etc")


@pytest.mark.parametrize(
    "second",
    [
        pytest.param((member("link/x", content=b"x"),), id="a file through a lower link"),
        pytest.param((member("h", tarfile.LNKTYPE, target="link"),), id="a hard link to a link"),
        pytest.param((member("h", tarfile.LNKTYPE, target="link/x"),), id="a hard link through a link"),
        pytest.param((member("link/.wh.file"),), id="a whiteout through a link"),
    ],
)
def test_no_layer_writes_through_a_link_of_another(tmp_path: Path, second: tuple[Member, ...]) -> None:
    first = packed(member("dir/file", content=b"1"), member("link", tarfile.SYMTYPE, target="dir"))
    with surrounded(tmp_path) as root:
        with pytest.raises(ArtifactError) as caught:
            lay(root, first, packed(*second), image=True)
        assert (root / "dir" / "file").read_bytes() == b"1"
    assert caught.value.reason is Reason.UNSAFE_ARCHIVE


def test_layers_replace_and_white_out_what_is_below_them(tmp_path: Path) -> None:
    lay(
        tmp_path,
        packed(
            member("keep", content=b"1"), member("gone", content=b"1"), member("d/old", content=b"1"),
            member("d/sub/old", content=b"1"), member("was/dir", content=b"1"), member("file", content=b"1"),
            member("tree/a", content=b"1"),
        ),
        packed(
            member(".wh.gone"), member("d/new", content=b"2"), member("d/.wh..wh..opq"),
            member("d/sub/new", content=b"2"),
            member("was", content=b"2"), member("file", DIRECTORY), member("file/x", content=b"2"), member(".wh.tree"),
        ),
        image=True,
    )  # fmt: skip
    there = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {"keep": b"1", "d/new": b"2", "d/sub/new": b"2", "was": b"2", "file/x": b"2"}


NAMES = st.lists(st.sampled_from(["a", "b", "A", "..", ".", "", "ä", ".wh.a", ".wh..wh..opq"]), min_size=1, max_size=4)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.REGTYPE, DIRECTORY, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
MEMBERS = st.builds(
    lambda name, kind, to, body: member("/".join(name), kind, body if kind == b"0" else b"", "/".join(to)),
    NAMES, KINDS, NAMES, st.binary(max_size=20),
)  # fmt: skip


@settings(max_examples=300)
@given(layers=st.lists(st.lists(MEMBERS, max_size=8), min_size=1, max_size=3), image=st.booleans())
def test_no_archive_whatsoever_writes_or_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[Member]], image: bool
) -> None:
    with surrounded(tmp_path_factory.mktemp("any")) as root:
        try:
            lay(root, *(packed(*layer) for layer in layers), image=image)
        except ArtifactError as e:
            assert e.reason is Reason.UNSAFE_ARCHIVE  # noqa: PT017 - some are fine
        for path in root.rglob("*"):
            assert Path(os.path.realpath(path)).is_relative_to(root)


PATHS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60), min_size=1, max_size=5
)


@settings(max_examples=150)
@given(
    files=st.dictionaries(PATHS.map("/".join), st.binary(max_size=2000), max_size=6),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    compress=st.booleans(),
)
def test_well_behaved_archives_unpack_as_the_library_reads_them(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], form: int, compress: bool
) -> None:
    content = packed(*(member(name, content=body) for name, body in files.items()), compress=compress, form=form)
    root = tmp_path_factory.mktemp("well")
    try:
        lay(root, content)
    except ArtifactError:
        parts = [name.split("/") for name in files]
        assert any({".", ".."} & set(part) or any(len(p.encode()) > 255 for p in part) for part in parts) or clashes(
            files
        )
        return
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for info in archive:
            found = archive.extractfile(info)
            assert found is not None
            assert (root / info.name).read_bytes() == found.read()


def clashes(names: dict[str, bytes]) -> bool:
    """Return whether two of *names* exclude each other, or differ in case only."""
    paths = ["/".join(name.split("/")[:end]) for name in names for end in range(1, name.count("/") + 2)]
    exact = set(paths)
    return len({path.casefold() for path in exact}) < len(exact) or any(
        f"{name}/" in f"{o}/" for name in names for o in names if o != name
    )


def test_sizes_beyond_octal_are_read_in_both_spellings(tmp_path: Path) -> None:
    block = bytearray(packed(member("a", content=b"x" * 600), form=tarfile.USTAR_FORMAT))
    block[124:136] = struct.pack(">BxxxQ", 0x80, 600)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block[:512])
    lay(tmp_path, bytes(block))
    assert (tmp_path / "a").read_bytes() == b"x" * 600
