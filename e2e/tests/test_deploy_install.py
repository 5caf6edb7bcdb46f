# SPDX-License-Identifier: Apache-2.0
"""Installing manifests on clusters that have them already, are too old for them, or refuse them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from contract.rawapi import RawApi

from e2e.release.manifests import BASE, ManifestError, collection_of, install, read

ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "leases", "namespace": "lab"},
    "rules": [],
}
BUDGET = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "lab"}}


class OldApiserver(BaseHTTPRequestHandler):
    """Keeps Roles of the namespace lab, by path; it knows no policy/v1, as a Kubernetes of before 1.21."""

    stored: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = f"{self.path}/{body['metadata']['name']}"
        if self.path.startswith("/apis/policy/"):
            self.answer(HTTPStatus.NOT_FOUND, {"kind": "Status", "reason": "NotFound", "details": {}})
        elif "/namespaces/lab/" not in self.path:
            details = {"name": body["metadata"]["namespace"], "kind": "namespaces"}
            self.answer(
                HTTPStatus.NOT_FOUND, {"reason": "NotFound", "message": "no such namespace", "details": details}
            )
        elif path in self.stored:
            self.answer(HTTPStatus.CONFLICT, {"kind": "Status", "reason": "AlreadyExists"})
        else:
            self.stored[path] = body
            self.answer(HTTPStatus.CREATED, body)

    def do_PATCH(self) -> None:
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        self.stored[self.path] |= json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(HTTPStatus.OK, self.stored[self.path])

    def answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def stored() -> dict[str, dict[str, Any]]:
    return {}


@pytest.fixture
def api(stored: dict[str, dict[str, Any]]) -> Iterator[RawApi]:
    handler = type("Handler", (OldApiserver,), {"stored": stored})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with RawApi(f"http://127.0.0.1:{server.server_port}") as client:
            yield client
        server.shutdown()
        thread.join()


def test_installing_twice_brings_what_is_there_up_to_date(api: RawApi, stored: dict[str, dict[str, Any]]) -> None:
    install(api, [ROLE])
    changed = ROLE | {"rules": [{"verbs": ["get"]}]}
    assert install(api, [changed]) == ()
    assert list(stored.values()) == [changed]


def test_a_kind_that_the_cluster_is_too_old_for_is_returned_and_the_rest_is_installed(
    api: RawApi, stored: dict[str, dict[str, Any]]
) -> None:
    assert install(api, [BUDGET, ROLE]) == ("PodDisruptionBudget (policy/v1)",)
    assert list(stored.values()) == [ROLE]


def test_a_missing_namespace_is_an_error_and_not_an_old_cluster(api: RawApi) -> None:
    lost = ROLE | {"metadata": {"name": "leases", "namespace": "nowhere"}}
    with pytest.raises(ManifestError, match="Role leases: 404 no such namespace"):
        install(api, [lost])


def test_every_kind_of_the_base_has_its_place_in_the_api() -> None:
    places = {item["kind"]: collection_of(item) for item in read(BASE)}
    assert places["Namespace"] == "/api/v1/namespaces"
    assert places["ServiceAccount"] == "/api/v1/namespaces/praetor-system/serviceaccounts"
    assert places["ClusterRole"] == "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    assert places["Deployment"] == "/apis/apps/v1/namespaces/praetor-system/deployments"
    assert collection_of({"apiVersion": "azure.com/v1alpha1", "kind": "NetworkSwitch", "metadata": {}}) == (
        "/apis/azure.com/v1alpha1/networkswitches"
    )
