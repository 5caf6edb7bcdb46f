# SPDX-License-Identifier: Apache-2.0
"""Containers of podman, as it runs on hosts without CAP_SYS_RESOURCE and with control groups of both versions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
OPTIONS = "--ulimit nproc=1000:1000 --ulimit nofile=1024:1024"
APPLETS = ("sh", "sleep", "test", "sha256sum", "cat", "true")


def podman(*words: str) -> str:
    """Run podman and return what it printed."""
    return subprocess.run((*PODMAN, *words), capture_output=True, text=True, check=True, timeout=300).stdout


def busybox() -> dict[str, bytes]:
    """Return the files of an image that has busybox, and this machine's flock, which Debian's busybox has not."""
    program = Path(str(shutil.which("busybox"))).read_bytes()
    flock = str(shutil.which("flock"))
    output = subprocess.run(("ldd", flock), capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+) \(", output)
    return {
        "bin/busybox": program,
        **{f"bin/{applet}->busybox": b"" for applet in APPLETS},
        "bin/flock": Path(flock).read_bytes(),
        **{library.lstrip("/"): Path(library).read_bytes() for library in libraries},
    }


def made_image(name: str, workdir: Path) -> str:
    """Make an image of busybox from a folder; return its reference by digest."""
    root = workdir / "root"
    for folder in ("bin", "tmp", "etc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "only-in-the-image").touch()
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    subprocess.run(("tar", "-C", str(root), "-cf", f"{root}.tar", "."), check=True)
    podman("import", f"{root}.tar", f"{name}:1")
    return f"{name}@{json.loads(podman('image', 'inspect', f'{name}:1'))[0]['Digest']}"


def kept_in_storage(texts: Collection[str]) -> dict[Path, bool]:
    """Return the files of podman's storage that hold one of *texts*, and whether users other than root can read each.

    The root file systems of containers are left out: they are what the program itself writes and mounts.
    """
    words = [word for text in texts for word in ("-e", text)]
    folders = podman("info", "--format", "{{.Store.GraphRoot}} {{.Store.RunRoot}}").split()
    searched = [
        folder for each in (*folders, "/run/libpod", "/run/runc", "/run/crun") if (folder := Path(each)).is_dir()
    ]
    command = ("grep", "-rlF", "--devices=skip", "--exclude-dir=merged", *words, *map(str, searched))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return {path: _is_open(path) for path in map(Path, done.stdout.splitlines())}


def _is_open(path: Path) -> bool:
    """Return whether others than root can read the file *path*, through all the folders that lead to it."""
    try:
        return bool(path.stat().st_mode & 0o044) and all(each.stat().st_mode & 0o011 for each in path.parents)
    except FileNotFoundError:
        return False
