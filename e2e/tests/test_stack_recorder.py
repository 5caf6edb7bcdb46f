# SPDX-License-Identifier: Apache-2.0
"""A record of a watch holds all that was written before it ended, and is not touched by what comes afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.clusters.launch import launch
from e2e.stack.kube import SWITCHES, Kube, install_definitions
from e2e.stack.manifests import network_switch
from e2e.stack.recorder import Recorder


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    """The kubeconfig of a control plane that knows our kinds."""
    with launch("embedded", tmp_path) as cluster:
        with RawApi.from_kubeconfig(cluster.kubeconfig) as api:
            install_definitions(api)
        yield cluster.kubeconfig


def test_the_last_write_is_recorded_however_soon_the_record_ends(kubeconfig: Path) -> None:
    with RawApi.from_kubeconfig(kubeconfig) as api:
        kube = Kube(api, "default")
        kube.apply(network_switch("leaf-1"))
        for number in range(20):
            with Recorder(kubeconfig, kube.path(SWITCHES)) as record:
                kube.apply(network_switch(f"new-{number}"))
                kube.patch(SWITCHES, "leaf-1", {"spec": {"model": f"model {number}"}})
                kube.delete(SWITCHES, f"new-{number}")
            events = [(frame.type, frame.object["metadata"]["name"]) for frame in record.frames[record.listed :]]
            assert events == [("ADDED", f"new-{number}"), ("MODIFIED", "leaf-1"), ("DELETED", f"new-{number}")]
            kube.patch(SWITCHES, "leaf-1", {"spec": {"model": "later"}})
            assert list(record.states()[-1]) == ["leaf-1"]
            assert record.states()[-1]["leaf-1"]["spec"]["model"] == f"model {number}"


def test_what_the_apiserver_has_forgotten_is_recorded_as_it_is_then(kubeconfig: Path) -> None:
    with RawApi.from_kubeconfig(kubeconfig) as api:
        kube = Kube(api, "default")
        kube.apply(network_switch("same"), network_switch("changed"), network_switch("gone"))
        with Recorder(kubeconfig, kube.path(SWITCHES)) as record:
            record._ended.set()  # no window is open: the apiserver is away
            record._thread.join()
            kube.patch(SWITCHES, "changed", {"spec": {"model": "first"}})
            kube.patch(SWITCHES, "changed", {"spec": {"model": "last"}})
            kube.delete(SWITCHES, "gone")
            kube.apply(network_switch("new"))
            api.post("/-/compact", None)
            record._ended.clear()
            record._window()
        events = [(frame.type, frame.object["metadata"]["name"]) for frame in record.frames[record.listed :]]
    assert events == [("DELETED", "gone"), ("MODIFIED", "changed"), ("ADDED", "new")]
    assert record.states()[-1]["changed"]["spec"]["model"] == "last"
