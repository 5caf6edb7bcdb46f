# SPDX-License-Identifier: Apache-2.0
"""Waiting until an apiserver answers, and what its version lets it do."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus

import requests
from contract.rawapi import RawApi

from e2e.clusters.cluster import Capability
from e2e.clusters.errors import ClusterError

PAUSE_S = 0.1
CEL_SINCE = (1, 29)
POLICIES_SINCE = (1, 30)
SELECTABLE_FIELDS_SINCE = (1, 32)


def wait_ready(api: RawApi, *, check: Callable[[], None], timeout_s: float) -> None:
    """Return when `/readyz` says ok; *check* is called between tries and raises when waiting is in vain."""
    deadline = time.monotonic() + timeout_s
    while not _ready(api):
        check()
        if time.monotonic() > deadline:
            raise ClusterError(f"{api.url} is not ready after {timeout_s:g} s")
        time.sleep(PAUSE_S)


def _ready(api: RawApi) -> bool:
    try:
        return api.get("/readyz").status == HTTPStatus.OK
    except (requests.RequestException, OSError):  # OSError: the CA file is not written yet
        return False


def served(api: RawApi) -> frozenset[Capability]:
    """Return the capabilities that follow from the apiserver's version alone."""
    version = api.get("/version").body
    release = (int(version["major"]), int("".join(filter(str.isdigit, version["minor"]))))
    since = {
        Capability.CEL: CEL_SINCE,
        Capability.POLICIES: POLICIES_SINCE,
        Capability.SELECTABLE_FIELDS: SELECTABLE_FIELDS_SINCE,
    }
    return frozenset(capability for capability, first in since.items() if release >= first)
