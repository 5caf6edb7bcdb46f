# SPDX-License-Identifier: Apache-2.0
"""The apiserver goes and comes back; what it counts while it is there."""

from __future__ import annotations

import pytest
import requests

from contract.cluster import Cluster
from contract.rawapi import RawApi
from contract.widgets import Collection, widget


@pytest.mark.needs("outage")
def test_nothing_stored_is_lost_in_an_outage(cluster: Cluster, widgets: Collection, api: RawApi) -> None:
    made = widgets.made(widget("a"))
    version = widgets.listing().body["metadata"]["resourceVersion"]
    cluster.stop_apiserver()
    try:
        with pytest.raises(requests.ConnectionError):
            api.get("/readyz")
    finally:
        cluster.start_apiserver()
    assert widgets.read("a") == made
    later = widgets.patch("a", {"spec": {"size": 2}}).body["metadata"]["resourceVersion"]
    assert int(later) > int(version)


@pytest.mark.needs("counts")
def test_requests_are_counted_by_verb_and_resource(cluster: Cluster, widgets: Collection) -> None:
    before = cluster.request_counts()
    widgets.made(widget("a"))
    for _ in range(3):
        widgets.listing()
    widgets.patch("a", {"status": {"ready": 1}}, subresource="status")
    after = cluster.request_counts()
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert grown["LIST", "widgets"] >= 3  # the garbage collector and ending namespaces list, too
    expected = {("POST", "widgets"): 1, ("PATCH", "widgets/status"): 1}
    assert {key: grown[key] for key in expected} == expected
