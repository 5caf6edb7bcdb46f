# SPDX-License-Identifier: Apache-2.0
"""`praetorctl airgap bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from praetor_controller.ctl.airgap.archive import write
from praetor_controller.ctl.airgap.bundle import below, faults, named_images
from praetor_controller.ctl.airgap.collect import OPTION, collect
from praetor_controller.ctl.commands.airgap.verify import contents, digest_of_file
from praetor_controller.ctl.errors import BadInput
from praetor_controller.ctl.output import show, warn


@click.command("bundle")
@click.option(
    OPTION,
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with the releases of the four wheels, the wheels that they need, and the saved images.",
)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The archive; by default praetor-airgap-VERSION.tar, with the version of the controller.",
)
def bundle(folder: Path, target: Path | None) -> None:
    """Make one archive that installs everything without an internet.

    Each file is checked against the checksums of its release, each other wheel against the digests that a release pins.
    The same files give the same bytes. docs/airgap.md says how to fill DIR, and how to install from the archive.
    """
    parts = collect(folder)
    if found := list(faults(parts)):
        for fault in found:
            warn(fault)
        raise BadInput(f"{OPTION}: {folder} is not complete, see above and docs/airgap.md")
    (wheel,) = (name for name in below(parts, "wheels") if name.startswith("wheels/praetor_controller-"))
    top = f"praetor-airgap-{wheel.split('-')[1]}"
    target = target or Path(f"{top}.tar")
    try:
        write(target, top, parts)
    except OSError as e:
        raise BadInput(f"--to: cannot write {target}: {e.strerror}; name a file in a folder with room for it") from e
    show(f"{target}: {contents(parts, named_images(parts))}\nsha256 {digest_of_file(target)}")
