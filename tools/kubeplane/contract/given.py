# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that gives the contract the cluster of a kubeconfig.

pytest -p contract.given --kubeconfig FILE --can cel,gc,selectable_fields contract
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from contract.rawapi import RawApi

CAPABILITIES = ("cel", "gc", "selectable_fields")


class GivenCluster:
    """The current context of a kubeconfig. What a test makes there is removed again."""

    disposable = False

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.kubectl = shutil.which("kubectl")

    def _lacks(self, *_: object) -> NoReturn:
        raise NotImplementedError("a cluster of a kubeconfig can do only what --can names")

    kubeconfig_for = stop_apiserver = start_apiserver = request_counts = compact = _lacks


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the cluster and what it can do."""
    group = parser.getgroup("contract", "the cluster that the contract checks")
    group.addoption("--kubeconfig", type=Path, required=True, help="kubeconfig of the cluster's administrator")
    group.addoption("--can", default="", help=f"comma-separated capabilities, of {', '.join(CAPABILITIES)}")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark that names what a test needs, and check --can."""
    config.addinivalue_line("markers", "needs(capability): runs only on clusters that have the capability")
    if unknown := _capabilities(config) - {*CAPABILITIES}:
        raise pytest.UsageError(f"--can: unknown {', '.join(sorted(unknown))}; choose of {', '.join(CAPABILITIES)}")


def _capabilities(config: pytest.Config) -> set[str]:
    return set(filter(None, config.getoption("can").split(",")))


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> GivenCluster:
    """The cluster of --kubeconfig."""
    return GivenCluster(pytestconfig.getoption("kubeconfig"))


@pytest.fixture(scope="session")
def api(cluster: GivenCluster) -> Iterator[RawApi]:
    """Raw HTTP as the administrator."""
    with RawApi.from_kubeconfig(cluster.kubeconfig) as client:
        yield client


@pytest.fixture(scope="session")
def unprivileged_user() -> str:
    """The user of the tests of access, which need the capability rbac: no kubeconfig is given for it here."""
    return ""


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    """Skip a test that needs what the cluster lacks."""
    for mark in request.node.iter_markers("needs"):
        if mark.args[0] not in _capabilities(request.config):
            pytest.skip(f"--can does not name {mark.args[0]}")
