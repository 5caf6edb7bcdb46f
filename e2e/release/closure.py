# SPDX-License-Identifier: Apache-2.0
"""`hatch run closure`: what `pip install praetor-agent` brings to an empty environment, and that it works there.

The two wheels are ours, freshly built; requests and what it needs come from the package index.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution, distributions
from pathlib import Path

import click
from attrs import frozen

from e2e.release.build import build_all

AGENT = "praetor-agent"
OURS = ("praetor-api", AGENT)
PULLED = frozenset({AGENT, "praetor-api", "requests", "certifi", "charset-normalizer", "idna", "urllib3"})
COMMANDS = (AGENT, "apollo-deviceprocess-agent")
UNREACHABLE = "http://127.0.0.1:9"
INSTALL_S = 1800  # packages are downloaded
STARTED_S = 120


class ClosureError(click.ClickException):
    """The agent pulls other packages than it should, or does not work with them."""


@frozen(kw_only=True)
class Size:
    """One installed distribution: how many bytes its files have, compiled ones left out."""

    name: str
    installed: int


@frozen(kw_only=True)
class Closure:
    """An environment that holds the agent and nothing else; *wheel* is the bytes of the agent's wheel."""

    python: Path
    wheel: int
    sizes: tuple[Size, ...]

    @property
    def installed(self) -> int:
        """Bytes of all that was pulled."""
        return sum(size.installed for size in self.sizes)


@contextmanager
def installed() -> Iterator[Closure]:
    """Build, install into an empty environment, and yield it; ClosureError when anything else came with it."""
    with tempfile.TemporaryDirectory(prefix="praetor-closure-") as name:
        folder = Path(name)
        wheels = {file.package: file for file in build_all(OURS, folder / "dist") if file.path.suffix == ".whl"}
        python = _empty_environment(folder / "env")
        before = {size.name for size in _sizes(python)}
        constraint = folder / "constraint.txt"
        # a wheel of that name from an index must not be taken for ours
        constraint.write_text(f"praetor-api @ {wheels['praetor-api'].path.as_uri()}\n")
        _run([str(python), "-m", "pip", "install", "-q", "-c", str(constraint), str(wheels[AGENT].path)], INSTALL_S)
        sizes = tuple(size for size in _sizes(python) if size.name not in before)
        check_pulled(size.name for size in sizes)
        yield Closure(python=python, wheel=wheels[AGENT].size, sizes=sizes)


def check_pulled(names: Iterable[str]) -> None:
    """Raise ClosureError unless *names* are exactly the packages that the agent needs."""
    found = frozenset(names)
    faults = [
        *(f"{name} is pulled, too" for name in sorted(found - PULLED)),
        *(f"{name} is missing" for name in sorted(PULLED - found)),
    ]
    if faults:
        raise ClosureError(f"pip install {AGENT}: {'; '.join(faults)}")


def sizes_of(found: Iterable[Distribution]) -> tuple[Size, ...]:
    """Return the size of each distribution, by its normalised name."""
    return tuple(
        sorted((Size(name=_normal(each.name), installed=_bytes(each)) for each in found), key=lambda size: size.name)
    )


def check_commands(closure: Closure, folder: Path) -> None:
    """Ask both commands for help, then run the agent, without a gateway to talk to, until it is asked to end."""
    scripts = closure.python.parent
    for command in COMMANDS:
        if "run" not in _run([str(scripts / command), "--help"]):
            raise ClosureError(f"{command} --help does not list its commands")
    state = folder / "state"
    flags = (f"--gateway={UNREACHABLE}", "--device=leaf-1", "--token=none", f"--state-dir={state}", "--start-splay=0")
    with (folder / "log").open("w+") as log:
        agent = subprocess.Popen([str(scripts / AGENT), "run", *flags], stdout=log, stderr=subprocess.STDOUT)
        try:
            _await(lambda: state.is_dir() and agent.poll() is None and "cannot" in (folder / "log").read_text())
            agent.send_signal(signal.SIGTERM)
            status = agent.wait(STARTED_S)
        except (subprocess.TimeoutExpired, ClosureError) as error:
            raise ClosureError(f"the agent did not run: {error}; its log:\n{(folder / 'log').read_text()}") from error
        finally:
            agent.kill()
            agent.wait()
    if status:
        raise ClosureError(f"the agent ended with status {status}; its log:\n{(folder / 'log').read_text()}")
    _run([str(scripts / AGENT), "status", f"--state-dir={state}"])


def table(closure: Closure) -> str:
    """Return what was pulled, a line each, and the sums."""
    lines = [f"{size.name:<20} {size.installed:>10,} B" for size in closure.sizes]
    lines.append(f"{'installed, in all':<20} {closure.installed:>10,} B")
    return "\n".join([*lines, f"{'wheel of the agent':<20} {closure.wheel:>10,} B"])


@click.command()
def main() -> None:
    """Install the agent into an empty environment, check what that pulls and that it works, and print the sizes."""
    with installed() as closure, tempfile.TemporaryDirectory(prefix="praetor-closure-") as folder:
        check_commands(closure, Path(folder))
        click.echo(table(closure))


def _empty_environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def _sizes(python: Path) -> tuple[Size, ...]:
    where = json.loads(_run([str(python), "-I", "-c", "import json, sys; print(json.dumps(sys.path))"]))
    return sizes_of(distributions(path=[path for path in where if "site-packages" in path]))


def _bytes(found: Distribution) -> int:
    files = (Path(str(file.locate())) for file in found.files or () if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in files if path.is_file())


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _run(argv: Sequence[str], timeout_s: float = 60.0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise ClosureError(f"{' '.join(argv)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _await(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTED_S
    while not happened():
        if time.monotonic() > deadline:
            raise ClosureError(f"it does not work after {STARTED_S} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
