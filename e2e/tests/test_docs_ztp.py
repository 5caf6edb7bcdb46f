# SPDX-License-Identifier: Apache-2.0
"""The first boot of docs/examples/ztp, as a switch runs it: a real gateway and zipapp, each token given out once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from attrs import evolve, frozen
from prometheus_client import CollectorRegistry

from agent_testing import certificates
from e2e.lab.payload import install_zipapp
from gateway_testing import SETTINGS, conditions, listening, switch_object
from kube_testing import InProcessKube
from praetor_api.kube.client.resource import NETWORK_SWITCHES
from praetor_api.kube.runtime.clock import SystemClock
from praetor_api.tokens import device_token
from praetor_gateway.gateway import Gateway
from praetor_gateway.settings import Credentials

pytestmark = pytest.mark.timeout(600)  # seven seconds on two idle cores
ZTP = Path(__file__).resolve().parents[2] / "docs" / "examples" / "ztp"
FIRST_BOOT = ZTP / "first-boot.sh"
SECRET, DEVICE, SERIAL = b"secret", "leaf-1", "MT2201X00042"
TOKEN = device_token(SECRET, DEVICE)
DEVICE_OF_ITS_OWN = """
mount --bind /usr/local/bin /usr/local/bin && mount -o remount,bind,ro /usr/local/bin || exit 1
for each in /etc/init.d /run /var/lib /var/log; do mount -t tmpfs tmpfs "$each" || exit 1; done
export PATH="$SWITCH_PATH"
sh "$0"; echo "ended with $?"
sh "$0"; echo "ended with $?"
ls /var/lib/praetor-ztp 2>/dev/null
exec cat
"""
"""Where the agent of the host is not, and what ends when standard input does, with all that it started."""


@frozen
class Served:
    """The folder that server.py serves, and its URL."""

    folder: Path
    url: str

    def get(self, path: str) -> int:
        """Return the status of an answer."""
        try:
            with urlopen(f"{self.url}/{path}", timeout=60) as answer:
                return int(answer.status)
        except HTTPError as e:
            return e.code


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_zipapp(tmp_path_factory.mktemp("zipapp"))


@contextmanager
def serving(folder: Path, zipapp: Path, *flags: str) -> Iterator[Served]:
    """Run server.py for one device."""
    for name in ("files", "tokens"):
        (folder / name).mkdir(parents=True)
    shutil.copy(zipapp, folder / "files")
    (folder / "devices").write_text(f"{SERIAL} {DEVICE}\n")
    (folder / "tokens" / DEVICE).write_text(f"{TOKEN}\n")
    words = [sys.executable, str(ZTP / "server.py"), str(folder), "--address=127.0.0.1", "--port=0", *flags]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split()[-1]
            yield Served(folder, f"{'https' if flags else 'http'}://127.0.0.1:{port}")
        finally:
            server.kill()


@pytest.fixture
def served(tmp_path: Path, zipapp: Path) -> Iterator[Served]:
    with serving(tmp_path / "served", zipapp) as served:
        yield served


def environment(place: Path, served: Served, zipapp: Path, *, curl: bool) -> dict[str, str]:
    """Return the environment of a switch below *place*, with nothing on its PATH but busybox, Python and maybe curl."""
    programs, busybox = place / "bin", shutil.which("busybox")
    if busybox is None or (curl and shutil.which("curl") is None):
        pytest.skip("busybox or curl is not installed; try the package busybox-static")
    programs.mkdir(parents=True)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in applets:
        (programs / name).symlink_to(busybox)
    (programs / "python3").symlink_to(getattr(sys, "_base_executable", sys.executable))
    if curl:
        (programs / "curl").symlink_to(str(shutil.which("curl")))
    (programs / "decode-syseeprom").write_text(f'#!/bin/sh\n[ "$1" = -s ] && echo "{SERIAL} "\n')
    (programs / "decode-syseeprom").chmod(0o755)
    return {
        "PATH": str(programs),
        "PRAETOR_ZTP_SERVER": served.url,
        "PRAETOR_ZTP_GATEWAY": "http://127.0.0.1:1",
        "PRAETOR_ZTP_AGENT_SHA256": hashlib.sha256(zipapp.read_bytes()).hexdigest(),
        "PRAETOR_ZTP_ROOT": str(place / "root"),
        "PRAETOR_ZTP_FOLDER": str(place / "ztp"),
        "PRAETOR_ZTP_TRIES": "1",
    }


def first_boot(environ: Mapping[str, str]) -> tuple[int, str]:
    """Run the script and return its exit code and the last line that it printed."""
    shell = Path(environ["PATH"], "sh")
    done = subprocess.run([shell, FIRST_BOOT], env=environ, capture_output=True, text=True, check=False)
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_the_scripts_are_clean() -> None:
    done = subprocess.run(["shellcheck", "-s", "sh", FIRST_BOOT], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.skipif(
    not shutil.which("unshare") or bool(subprocess.run(["unshare", "--mount", "true"], check=False).returncode),
    reason="a device with an init system of its own needs root, and leave to mount",
)
@pytest.mark.parametrize("curl", [True, False], ids=["curl-and-tls", "busybox-wget"])
async def test_a_first_boot_installs_an_agent_that_connects_and_a_second_one_changes_nothing(
    tmp_path: Path, zipapp: Path, *, curl: bool
) -> None:
    tls: list[str] = []
    if curl:
        authority, certificate = certificates(tmp_path)
        tls = [f"--cert={certificate}"]
    kube = InProcessKube()
    await kube.create(NETWORK_SWITCHES, "lab", switch_object(DEVICE))
    settings = evolve(SETTINGS, credentials=Credentials(secrets=(SECRET.decode(),)))
    app = Gateway(kube, settings, SystemClock(), CollectorRegistry())
    with serving(tmp_path / "served", zipapp, *tls) as served:
        environ = environment(tmp_path / "switch", served, zipapp, curl=curl)
        del environ["PRAETOR_ZTP_FOLDER"]
        async with app.lifespan(), listening(app.app) as listener:
            environ["PRAETOR_ZTP_GATEWAY"] = f"http://127.0.0.1:{listener.port}"
            environ |= {"PRAETOR_ZTP_CA": str(authority)} if curl else {}
            variables = {**environ, "PATH": os.environ["PATH"], "SWITCH_PATH": environ["PATH"]}
            words = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", DEVICE_OF_ITS_OWN)
            device = await asyncio.create_subprocess_exec(
                "unshare", *words, FIRST_BOOT, env=variables,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                assert device.stdout is not None
                said = await device.stdout.readline() + await device.stdout.readline()
                if said == b"ended with 0\nended with 0\n":
                    await connected(kube)
            finally:
                left, errors = await device.communicate(b"")
    assert (said, left) == (b"ended with 0\nended with 0\n", b""), errors.decode()
    root = tmp_path / "switch" / "root"
    assert (root / "token").read_text() == f"{TOKEN}\n"
    assert (root / "token").stat().st_mode & 0o777 == 0o600
    assert errors.decode().splitlines()[-1] == f"praetor first boot: the agent is installed in {root}"
    assert TOKEN not in errors.decode()
    assert list((tmp_path / "served" / "tokens").iterdir()) == []


async def connected(kube: InProcessKube) -> None:
    """Return when the device's NetworkSwitch says that its agent is connected."""
    async with aclosing(kube.watch(NETWORK_SWITCHES, "lab", resource_version="0", timeout_s=500)) as events:
        async for event in events:
            if conditions(event.object).get("AgentConnected") == "True":
                return
    raise AssertionError("not connected")


def test_a_token_is_given_out_once_and_again_when_it_is_put_back(served: Served) -> None:
    assert [served.get(f"token/{SERIAL}"), served.get(f"token/{SERIAL}")] == [200, 410]
    (served.folder / "tokens" / DEVICE).write_text(TOKEN)
    assert served.get(f"token/{SERIAL}") == 200
    for path in ("token/other", "token/", "token/../devices", "files/../devices", "files/", "devices", ""):
        assert served.get(path) == 404, path


@pytest.mark.parametrize("curl", [True, False], ids=["curl", "busybox-wget"])
def test_what_fails_is_named_and_costs_no_token(served: Served, zipapp: Path, tmp_path: Path, *, curl: bool) -> None:
    environ = environment(tmp_path, served, zipapp, curl=curl)
    wrong = first_boot({**environ, "PRAETOR_ZTP_AGENT_SHA256": "0" * 64})
    assert (wrong[0], wrong[1].endswith(f"not {'0' * 64}; nothing was installed")) == (1, True)
    code, said = first_boot({**environ, "PRAETOR_ZTP_KEY": "another"})
    assert (code, "device/another: not found; add the key" in said) == (1, True)
    code, said = first_boot({**environ, "PRAETOR_ZTP_AGENT_SHA256": ""})
    assert (code, said) == (1, "praetor first boot: there is no praetor-agent on PATH; write AGENT_SHA256")
    code, said = first_boot(
        {**environ, "PRAETOR_ZTP_SERVER": "http://127.0.0.1:1", "PRAETOR_ZTP_FOLDER": f"{tmp_path}/b"}
    )
    assert (code, said.startswith("praetor first boot: http://127.0.0.1:1/files/praetor-agent.pyz: ")) == (1, True)
    assert (served.folder / "tokens" / DEVICE).exists()
    assert served.get(f"token/{SERIAL}") == 200
    code, said = first_boot(environ)
    assert (code, "was given out before; if not to this device, raise its credentialEpoch" in said) == (1, True)


def test_a_first_boot_that_was_cut_short_goes_on_with_the_token_that_it_has(
    served: Served, zipapp: Path, tmp_path: Path
) -> None:
    environ = environment(tmp_path, served, zipapp, curl=False)
    (tmp_path / "root").write_text("in the way of the installation")
    for _ in range(2):
        code, said = first_boot(environ)
        assert (code, said.endswith("install failed, see above; run this script again")) == (1, True)
        assert (tmp_path / "ztp" / "token").read_text() == f"{TOKEN}\n"
        assert (tmp_path / "ztp" / "token").stat().st_mode & 0o777 == 0o600
    assert served.get(f"token/{SERIAL}") == 410
