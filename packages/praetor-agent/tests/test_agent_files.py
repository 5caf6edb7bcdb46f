# SPDX-License-Identifier: Apache-2.0
"""The files of processes on a real disk: written whole, owned, collected, and never where they may not be."""

from __future__ import annotations

import base64
import errno
import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_testing import mounted
from praetor_agent.errors import FileError
from praetor_agent.files.place import Place
from praetor_agent.files.store import FileStore
from praetor_agent.state import JsonFile
from praetor_api.files import File, OnChange, ReloadSignal
from praetor_api.keyrefs import SecretKeyRef
from praetor_api.protocol import DesiredItem, FileValue
from praetor_api.spec import Backend, Execution, ProcessSpec

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def item(*files: File, uid: str = "u1", version: str = "v1", **execution: Any) -> DesiredItem:
    run = Execution(**{"backend": Backend.PROCESS, "command": ("/bin/true",), "files": files, **execution})
    return DesiredItem(uid=uid, namespace="net", name=uid, spec=ProcessSpec(execution=run), spec_hash=version)


def file(path: object, content: str = "one", **more: Any) -> File:
    return File(path=str(path), content=content, **more)


class Disk:
    """A state directory, an allowed root, and what is outside of it."""

    def __init__(self, place: Path) -> None:
        self.state, self.root, self.outside = place / "state", place / "root", place / "outside"
        for directory in (self.state, self.root, self.outside):
            directory.mkdir()
        self.store = self.new_store()

    def new_store(self, *roots: Path) -> FileStore:
        """Return what an agent that starts now has."""
        self.store = FileStore(self.state / "files", self.state / "files.json", map(str, roots or (self.root,)))
        return self.store

    def own(self, uid: str = "u1") -> Path:
        return Path(self.store.own(uid))

    def tree(self) -> set[str]:
        """Return every name below the root, and below the directory of all own directories."""
        return {str(path.relative_to(top)) for top in (self.root, self.state / "files") for path in top.rglob("*")}

    def refusal(self, wanted: DesiredItem) -> str:
        """Return what is said of the files of *wanted*, which are not written, before a start and at it."""
        before = self.tree()
        problem = self.store.problem(wanted)
        with pytest.raises(FileError) as raised:
            self.store.write(wanted)
        assert problem is not None
        assert (str(problem), problem.allowed) == (str(raised.value), raised.value.allowed)
        assert self.tree() == before
        return f"{problem}{'' if problem.allowed else ' [NotAllowed]'}"


def link_to(target: str, path: Path) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_files_are_written_below_the_own_directory_and_below_an_allowed_root(disk: Disk) -> None:
    wanted = item(file("etc/app.conf", "é\n"), file(disk.root / "app.conf", mode="0640"), file("empty", ""))
    assert disk.store.problem(wanted) is None
    assert len(disk.store.write(wanted)) == 3
    own = disk.own()
    assert disk.store.directory_of(wanted) == str(own)
    assert (own / "etc/app.conf").read_bytes() == "é\n".encode()
    assert (own / "empty").read_bytes() == b""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (own / "etc/app.conf", own / "etc", own)}
    assert modes == {"app.conf": 0o644, "etc": 0o755, own.name: 0o755}
    assert stat.S_IMODE((disk.root / "app.conf").stat().st_mode) == 0o640
    assert disk.state.stat().st_mode & 0o011 == 0o011  # processes of other users go through it
    assert stat.S_IMODE((disk.state / "files.json").stat().st_mode) == 0o600
    assert disk.store.write(wanted) == ()
    assert disk.store.directory_of(item()) == ""
    elsewhere = item(file(disk.root / "app.conf"))
    assert disk.store.directory_of(elsewhere) == ""  # there is nothing to mount
    disk.store.write(elsewhere)
    assert disk.tree() == {"app.conf"}


@root_only
def test_a_file_belongs_to_the_user_of_its_process_or_to_its_owner(disk: Disk) -> None:
    wanted = item(file("a", mode="0600"), file("b", owner="root"), file("c", owner="12345:daemon"), user="nobody")
    disk.store.write(wanted)
    other, daemon = pwd.getpwnam("nobody"), grp.getgrnam("daemon").gr_gid
    found = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in disk.own().iterdir()}
    assert found == {"a": (other.pw_uid, other.pw_gid), "b": (0, 0), "c": (12345, daemon)}
    contained = item(file("a"), file("b"), uid="u2", backend=Backend.CONTAINER, user="app")
    disk.store.write(contained)  # a name of the image means nothing on the device
    assert {path.stat().st_uid for path in disk.own("u2").iterdir()} == {0}
    assert "there is no user 'nosuchuser'" in disk.refusal(item(file("a", owner="nosuchuser"), uid="u3"))
    assert "there is no group 'nosuch'" in disk.refusal(item(file("a", owner="root:nosuch"), uid="u3"))


def test_a_path_outside_of_every_root_is_refused(disk: Disk) -> None:
    said = disk.refusal(item(file("ok"), file(disk.outside / "a.conf")))
    assert said == (
        f"spec.execution.files[1].path: '{disk.outside}/a.conf' is not allowed on this device; write a relative path, "
        f"or start the agent with --allow-file-root {disk.outside} [NotAllowed]"
    )
    disk.new_store(Path("/nonexistent"))
    assert "NotAllowed" in disk.refusal(item(file(disk.root / "a.conf")))


def test_a_link_that_leads_out_of_the_root_is_not_followed(disk: Disk) -> None:
    (disk.root / "out").symlink_to(disk.outside)
    (disk.root / "real").mkdir()
    (disk.root / "in").symlink_to("real")
    said = disk.refusal(item(file(disk.root / "out" / "a.conf")))
    assert f"'{disk.outside}/a.conf' is not allowed" in said
    assert f"('{disk.root}/out/a.conf' leads there) [NotAllowed]" in said
    disk.store.write(item(file(disk.root / "in" / "a.conf")))
    assert (disk.root / "real" / "a.conf").read_text() == "one"


def test_a_directory_that_becomes_a_link_after_the_check_leads_nowhere(disk: Disk) -> None:
    place = Place(str(disk.root / "sub"), "a.conf")
    (disk.root / "sub").symlink_to(disk.outside)
    with pytest.raises(OSError, match="it is a link or a file, and not a directory"), place.opened():
        pass
    own = disk.own()
    own.mkdir(parents=True)
    (own / "sub").symlink_to(disk.outside)  # as a process may that runs as the agent's own user
    with pytest.raises(FileError, match="it is a link or a file"):
        disk.store.write(item(file("sub/a.conf")))
    assert not [*disk.outside.iterdir()]


def test_what_someone_else_put_there_is_refused_and_stays(disk: Disk) -> None:
    theirs = disk.root / "theirs.conf"
    theirs.write_text("one")  # even with the same content
    assert "was not written by praetor-agent; move it away" in disk.refusal(item(file(theirs)))
    (disk.root / "dir").mkdir()
    assert "is a directory; move it away" in disk.refusal(item(file(disk.root / "dir")))
    (disk.root / "link").symlink_to(theirs)
    assert "was not written by praetor-agent" in disk.refusal(item(file(disk.root / "link")))
    disk.new_store(Path("/"))
    assert "the directory '/nonexistent' is not there; make it first" in disk.refusal(item(file("/nonexistent/a")))
    disk.new_store()
    disk.store.write(item(file(disk.root / "shared"), uid="u1"))
    said = disk.refusal(item(file(disk.root / "shared"), uid="u2"))
    assert "belongs to the process net/u1; write another path" in said
    disk.store.collect(())
    assert (theirs.read_text(), (disk.root / "link").is_symlink()) == ("one", True)


def test_a_file_that_leaves_the_spec_is_removed_and_all_with_the_process(disk: Disk) -> None:
    disk.store.write(item(file("etc/deep/a"), file("etc/b"), file(disk.root / "c"), file("d")))
    (disk.root / "by-hand").write_text("mine")
    disk.store.write(item(file("etc/b"), file("e")))
    assert disk.tree() >= {"by-hand"}
    own = disk.own()
    assert {str(path.relative_to(own)) for path in own.rglob("*")} == {"etc", "etc/b", "e"}
    disk.store.write(item(file(disk.root / "other"), uid="u2"))
    disk.new_store().collect({"u2"})
    assert disk.tree() == {"by-hand", "other"}
    disk.new_store().collect(())
    assert disk.tree() == {"by-hand"}
    assert JsonFile(disk.state / "files.json").load() == {"format": 1, "files": []}


def test_a_file_that_was_replaced_by_hand_is_seen_written_back_and_not_removed_as_ours(disk: Disk) -> None:
    wanted = item(file(disk.root / "a"), file("b", mode="0600"))
    disk.store.write(wanted)
    assert not disk.store.edited("u1")
    for change in (
        lambda: (disk.root / "a").write_text("two"),
        lambda: (disk.root / "a").unlink(),
        lambda: (disk.own() / "b").chmod(0o666),
        lambda: link_to("/etc/passwd", disk.root / "a"),
    ):
        change()
        assert disk.store.edited("u1")
        assert len(disk.store.write(wanted)) == 1
        assert not disk.new_store().edited("u1")
        assert ((disk.root / "a").read_text(), (disk.root / "a").is_symlink()) == ("one", False)
        assert stat.S_IMODE((disk.own() / "b").stat().st_mode) == 0o600
    os.utime(disk.root / "a")  # touched, or on a disk whose inodes changed
    assert not disk.store.edited("u1")
    (disk.root / "fresh").write_text("theirs")
    (disk.root / "fresh").replace(disk.root / "a")
    disk.store.collect(())
    assert (disk.root / "a").read_text() == "theirs"


def test_files_are_changed_all_or_none(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.store.write(item(file("a"), file(disk.root / "b")))
    real, calls = os.fsync, iter((None, OSError(errno.ENOSPC, "No space left on device")))

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and "json" not in os.readlink(f"/proc/self/fd/{descriptor}"):
            error = next(calls)
            if error is not None:
                raise error
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FileError, match=r"files\[1\]: .*/root/b cannot be written: No space left on device"):
        disk.store.write(item(file("a", "two"), file(disk.root / "b", "two")))
    monkeypatch.undo()
    assert ((disk.own() / "a").read_text(), (disk.root / "b").read_text()) == ("one", "one")
    assert not [name for name in disk.tree() if ".praetor-" in name]
    disk.new_store().write(item(file("a", "three"), file(disk.root / "b", "three")))
    assert ((disk.own() / "a").read_text(), (disk.root / "b").read_text()) == ("three", "three")


class Killed(BaseException):
    """The agent was killed."""


STEPS = ("open", "link", "rename", "unlink", "replace", "fsync", "fchmod")


@pytest.mark.parametrize("step", range(1, 30))
def test_an_agent_that_is_killed_at_any_step_leaves_whole_files_that_the_next_one_owns(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    old = item(file(disk.root / "a"), file("b"), file("gone"))
    new = item(file(disk.root / "a", "two"), file("b", "two"), file(disk.root / "c", "two"))
    disk.store.write(old)
    left = [step]

    def dying(name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, dying(name))
    with suppress(Killed):
        disk.store.write(new)
    monkeypatch.undo()
    for path in (disk.root / "a", disk.own() / "b"):
        assert path.read_text() in ("one", "two")
    assert not (disk.root / "c").exists() or (disk.root / "c").read_text() == "two"
    again = disk.new_store()
    assert again.problem(new) is None
    again.write(new)
    assert disk.tree() == {"a", "c", disk.own().name, f"{disk.own().name}/b"}
    disk.new_store().collect(())
    assert disk.tree() == set()


def test_a_foreign_file_that_appears_after_an_agent_was_killed_is_not_taken_for_ours(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(os, "link", killed)
    with pytest.raises(Killed):
        disk.store.write(item(file(disk.root / "a")))
    monkeypatch.undo()
    (disk.root / "a").write_text("theirs")
    disk.new_store()
    problem = disk.store.problem(item(file(disk.root / "a")))
    assert problem is not None
    assert "was not written by praetor-agent" in str(problem)
    disk.store.collect(())
    assert disk.tree() == {"a"}


def test_a_signal_is_due_until_it_was_sent_whatever_happens_to_the_agent(disk: Disk) -> None:
    def version(content: str) -> DesiredItem:
        return item(
            file("a", content, on_change=OnChange.SIGNAL),
            file("b", content, on_change=OnChange.SIGNAL, signal=ReloadSignal.USR2),
            file("c", content, on_change=OnChange.NONE),
        )

    disk.store.write(version("one"))
    assert (disk.store.due("u1"), disk.store.edited("u1")) == ((), False)  # it was not running
    disk.store.write(version("two"), running=True)
    disk.new_store()  # killed before it sent them
    assert (disk.store.due("u1"), disk.store.edited("u1")) == (("SIGHUP", "SIGUSR2"), True)
    assert disk.store.write(version("two"), running=True) == ()
    assert disk.store.due("u1") == ("SIGHUP", "SIGUSR2")
    disk.store.signalled("u1")
    assert (disk.new_store().due("u1"), disk.store.edited("u1")) == ((), False)


def test_a_disk_without_links_takes_files_too(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    disk.store.write(item(file(disk.root / "a")))
    assert disk.tree() == {"a"}


@pytest.fixture
def small(disk: Disk) -> Iterator[Path]:
    place = disk.root / "small"
    with mounted(place, "-t", "tmpfs", "-o", "size=512k", "tmpfs"):
        yield place


@root_only
def test_a_full_disk_and_a_read_only_one_are_known_before_the_start(disk: Disk, small: Path) -> None:
    disk.store.write(item(file(small / "a")))
    (small / "ballast").write_bytes(b"x" * 300_000)
    assert "No space left on device (2" in str(disk.store.problem(item(file(small / "a", "y" * 1000))))
    assert (small / "a").read_text() == "one"
    (small / "ballast").unlink()
    assert disk.store.problem(item(file(small / "a", "y" * 1000))) is None
    subprocess.run(("mount", "-o", "remount,ro", small), check=True)
    assert "Read-only file system" in str(disk.store.problem(item(file(small / "a", "y" * 1000))))
    assert disk.store.problem(item(file(small / "a"))) is None  # it is there already
    disk.store.collect(())  # is tried again later
    subprocess.run(("mount", "-o", "remount,rw", small), check=True)
    disk.new_store().collect(())
    assert not (small / "a").exists()


def test_records_of_a_newer_agent_are_left_alone(disk: Disk) -> None:
    disk.store.write(item(file("a")))
    ledger = JsonFile(disk.state / "files.json")
    for stored in ({"format": 2, "files": []}, {"format": 1, "files": [{"uid": "u1"}]}):
        ledger.save(stored)
        disk.new_store()
        assert "is of a newer agent" in str(disk.store.problem(item(file("b"))))
        with pytest.raises(FileError, match="upgrade this agent again"):
            disk.store.write(item(file("b")))
        disk.store.collect(())
        assert not disk.store.edited("u1")
        assert (disk.own() / "a").exists()
        assert ledger.load() == stored
    (disk.state / "files.json").write_text("damaged")
    (disk.state / "files.json.previous").unlink()
    disk.new_store().write(item(file("a", "two")))  # all below the own directory is the agent's
    assert (disk.own() / "a").read_text() == "two"


@root_only
def test_an_agent_that_is_not_root_gives_files_to_itself_alone(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "getegid", lambda: 12345)
    assert "the agent must run as root to give a file to 'root'" in disk.refusal(item(file("a", owner="root")))


PARTS = st.sampled_from(["a", "b", "c", "..", ".", " ", "é", "-", "", "...", "\\", "x" * 300])
NAMES = st.lists(PARTS, min_size=1, max_size=6).map("/".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.lists(NAMES, min_size=1, max_size=4), absolute=st.booleans())
def test_no_path_reaches_what_is_outside(disk: Disk, paths: list[str], absolute: bool) -> None:
    """Whatever is asked for, CRD or not: all that appears is below the own directory or below the root."""
    top = disk.root.parent
    (disk.root / "a").mkdir(exist_ok=True)
    link = disk.root / "b"
    if not link.is_symlink():
        link.symlink_to(disk.outside)
    wanted = item(*(file(f"{disk.root}/{path}" if absolute else path) for path in paths))
    before = {path for path in top.rglob("*") if disk.root not in path.parents and disk.state not in path.parents}
    with suppress(FileError):
        disk.store.write(wanted)
    after = {path for path in top.rglob("*") if disk.root not in path.parents and disk.state not in path.parents}
    assert after == before
    files = disk.state / "files"
    own = disk.own()
    written = {path for path in disk.state.rglob("*") if path.is_file() and own not in path.parents}
    assert {path.relative_to(disk.state).name for path in written} <= {"files.json", "files.json.previous"}
    assert {path.name for path in files.iterdir()} <= {own.name} if files.exists() else True
    disk.store.collect(())
    assert {path.name for path in disk.root.iterdir()} == {"a", "b"}


def from_secret(path: object, **more: Any) -> File:
    return File(path=str(path), secret_key_ref=SecretKeyRef("login", "key"), on_change=OnChange.SIGNAL, **more)


def given_contents(of: DesiredItem, **contents: bytes) -> DesiredItem:
    values = (FileValue(path=path, content=base64.b64encode(said).decode()) for path, said in contents.items())
    return replace(of, file_values=tuple(values))


def test_a_file_of_a_secret_holds_its_bytes_and_is_for_its_owner_alone(disk: Disk) -> None:
    wanted = given_contents(item(from_secret("a"), from_secret("b", mode="0400")), a=b"\xff\0\n", b=b"")
    disk.store.write(wanted)
    assert {path.name: (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in disk.own().iterdir()} == {
        "a": (0o600, b"\xff\0\n"),
        "b": (0o400, b""),
    }
    assert "\\xff" not in (disk.state / "files.json").read_text()
    assert "a file of a Secret is for its owner alone" in disk.refusal(item(from_secret("a", mode="0640"), uid="u2"))


def test_an_optional_file_comes_and_goes_and_a_running_program_is_told(disk: Disk) -> None:
    spec = item(from_secret("etc/a"), from_secret(disk.root / "b"))
    none, one = given_contents(spec), replace(given_contents(spec), file_values=(FileValue(path="etc/a", content=""),))
    disk.store.write(none)
    assert disk.tree() == {disk.own().name}  # the own directory is there, to be mounted
    disk.store.write(one, running=True)
    assert disk.store.due("u1") == ("SIGHUP",)
    disk.store.signalled("u1")
    assert (disk.own() / "etc/a").read_bytes() == b""
    assert disk.store.write(none, running=True) == ()
    assert disk.tree() == {disk.own().name}
    again = disk.new_store()  # of an agent that was killed before it sent the signal
    assert (again.due("u1"), again.edited("u1")) == (("SIGHUP",), True)
    assert again.write(none, running=True) == ()
    again.signalled("u1")
    assert (again.due("u1"), again.edited("u1"), again.write(none, running=True)) == ((), False, ())
    again.write(one)
    again.write(none)  # before a start there is no one to tell
    assert (again.due("u1"), disk.tree()) == ((), {disk.own().name})
    again.collect({"u1"})
    assert disk.tree() == {disk.own().name}
    again.collect(())
    assert disk.tree() == set()


def test_an_optional_file_that_came_back_before_its_program_was_told_is_written(disk: Disk) -> None:
    spec = item(from_secret(disk.root / "b"))
    one = replace(given_contents(spec), file_values=(FileValue(path=str(disk.root / "b"), content="eA=="),))
    disk.store.write(one)
    disk.store.write(given_contents(spec), running=True)
    disk.store.write(one, running=True)
    assert (disk.root / "b").read_text() == "x"
    assert disk.store.due("u1") == ("SIGHUP",)
    disk.store.signalled("u1")
    assert not disk.store.edited("u1")


def loop_of_links(path: Path) -> None:
    path.parent.rename(path.parent.with_name("away"))
    path.parent.symlink_to(path.parent.name)


def socket_at(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)


def device_at(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this user cannot make devices")


def fifo_at(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory_at(path: Path) -> None:
    path.unlink()
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


def no_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")


def other_names(path: Path) -> None:
    path.parent.rename(path.parent.with_name(os.fsdecode(b"not UTF-8 \xff")))
    path.parent.mkdir()
    path.write_text("edited")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (loop_of_links, "Too many levels of symbolic links"),
        (no_directory, "is a link or a file, and not a directory"),
        (directory_at, "is a directory"),
        (socket_at, None),
        (device_at, None),
        (fifo_at, None),
        (huge, None),
        (other_names, None),
    ],
)
def test_whatever_a_process_makes_of_its_files_is_said_of_it_or_set_right(
    disk: Disk, spoil: Callable[[Path], None], words: str | None
) -> None:
    path = disk.root / "d" / "x"
    path.parent.mkdir()
    wanted = item(file(path))
    disk.store.write(wanted)
    spoil(path)
    assert disk.store.edited("u1")
    if words is None:
        assert disk.store.problem(wanted) is None
        assert disk.store.write(wanted) == (str(path),)
        assert path.read_text() == "one"
        assert not disk.store.edited("u1")
        return
    with pytest.raises(FileError, match=words):
        disk.store.write(wanted, running=True)
    disk.store.collect(())  # the process is gone, and what it did stays
    assert os.path.lexists(path.parent)


@root_only
def test_a_directory_that_the_agent_may_not_enter_is_said_of_its_process(disk: Disk) -> None:
    path = disk.root / "x"
    disk.store.write(item(file(path, owner="nobody")))
    os.seteuid(65534)  # who may not go through the folders of the tests
    try:
        assert disk.store.edited("u1")
        with pytest.raises(FileError, match="Permission denied"):
            disk.store.write(item(file(path)), running=True)
    finally:
        os.seteuid(0)
    assert not disk.store.edited("u1")
