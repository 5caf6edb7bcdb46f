# SPDX-License-Identifier: Apache-2.0
"""`praetorctl airgap verify`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from praetor_api.wire import clean_text
from praetor_controller.ctl.airgap.archive import Damaged, opened
from praetor_controller.ctl.airgap.bundle import Parts, below, digest_of, faults, named_images
from praetor_controller.ctl.errors import BadInput, ExitCode
from praetor_controller.ctl.output import counted, show


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--sha256",
    metavar="DIGEST",
    help="What bundle printed, brought by another way: it proves that the archive is the one that was made.",
)
@click.pass_context
def verify(context: click.Context, file: Path, sha256: str | None) -> None:
    """Check that an archive is whole, unchanged and complete.

    \b
    Exit codes:
      0  every file has its checksum, and nothing is missing
      2  FILE cannot be read
      3  the archive is damaged or incomplete
    """
    try:
        if sha256 is not None and digest_of_file(file) != sha256.strip().lower():
            show(f"bad: the SHA-256 of {file} is {digest_of_file(file)}, not that of --sha256")
            context.exit(ExitCode.FAILED)
        with opened(file) as parts:
            found = list(faults(parts))
            said = f"good: {file}: {contents(parts, named_images(parts))}" if not found else ""
    except Damaged as e:
        found, said = [str(e)], ""
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        found, said = [f"a part of it cannot be understood: {e}"], ""
    except OSError as e:
        raise BadInput(f"FILE: cannot read {file}: {e.strerror}; name what airgap bundle wrote") from e
    show(clean_text(said or "\n".join(f"bad: {fault}" for fault in found)))
    context.exit(ExitCode.FAILED if found else ExitCode.DONE)


def contents(parts: Parts, images: Iterable[str]) -> str:
    """Return what an archive holds, in lines."""
    wheels = counted(len(below(parts, "wheels")), "wheel")
    return "\n  ".join([f"{counted(len(parts), 'file')}, {wheels}, the chart, and the images", *sorted(images)])


def digest_of_file(file: Path) -> str:
    """Return the SHA-256 of *file*."""
    with file.open("rb") as content:
        return digest_of(content)
