# SPDX-License-Identifier: Apache-2.0
"""The parts that every kind of cluster is made of."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
from contract.rawapi import RawApi, UnsupportedCredentials
from cryptography.hazmat.primitives import serialization

from e2e.clusters.api import credentials
from e2e.clusters.api.counts import parse_counts
from e2e.clusters.api.kubectl import find_kubectl, output_of
from e2e.clusters.cluster import Request
from e2e.clusters.envtest import find_assets
from e2e.clusters.errors import ClusterError
from e2e.clusters.existing import current_kubeconfig
from e2e.clusters.kind import Kind, missing_parts
from e2e.clusters.launch import launch
from e2e.clusters.programs.ports import free_ports

METRICS = """\
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="widgets",subresource="",verb="LIST"} 3
apiserver_request_total{code="404",resource="widgets",subresource="",verb="LIST"} 1
apiserver_request_total{code="200",resource="widgets",subresource="status",verb="PATCH"} 1e+03
apiserver_request_duration_seconds_count{resource="widgets",verb="LIST"} 9
"""


def test_counts_are_summed_over_outcomes() -> None:
    assert parse_counts(METRICS) == {Request("LIST", "widgets"): 4, Request("PATCH", "widgets/status"): 1000}


def test_ports_are_different() -> None:
    assert len(set(free_ports(10))) == 10


def test_only_the_administrator_is_a_master_in_the_token_file_and_programs_are_service_accounts() -> None:
    assert credentials.token_file({"admin": "t1", "praetor-gateway": "t2", "tenant": "t3"}) == (
        't1,admin,admin,"system:masters"\n'
        't2,system:serviceaccount:praetor-system:praetor-gateway,praetor-gateway,"system:serviceaccounts"\n'
        "t3,tenant,tenant\n"
    )


def test_every_user_has_a_token_of_its_own() -> None:
    tokens = credentials.new_tokens(["one", "two"])
    assert set(tokens) == {"admin", "one", "two"}
    assert len(set(tokens.values())) == 3


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    private, public = credentials.service_account_keys(tmp_path)
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*form) == public.read_bytes()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_a_client_talks_to_the_cluster_of_its_kubeconfig(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    credentials.write_kubeconfig(path, url="http://127.0.0.1:1", user="me", credentials={"token": "t"})
    config = yaml.safe_load(path.read_text())
    assert config["current-context"] == config["contexts"][0]["name"]
    with RawApi.from_kubeconfig(path) as api:
        assert api.url == "http://127.0.0.1:1"


def test_a_kubeconfig_with_a_credential_plugin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    credentials.write_kubeconfig(path, url="http://127.0.0.1:1", user="me", credentials={})
    config = yaml.safe_load(path.read_text())
    config["users"][0]["user"] = {"exec": {"command": "aws"}}
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UnsupportedCredentials, match="credential plugins are not understood"):
        RawApi.from_kubeconfig(path)


def test_an_unknown_name_is_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        launch("nonsense", tmp_path)


def test_assets_must_be_complete(tmp_path: Path) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    with pytest.raises(ClusterError, match="has no kube-apiserver; point KUBEBUILDER_ASSETS"):
        find_assets(tmp_path)


def test_assets_are_found_in_the_named_folder(tmp_path: Path) -> None:
    for program in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / program).touch(mode=0o755)
    assert find_assets(tmp_path) == tmp_path
    assert find_kubectl(tmp_path) == str(tmp_path / "kubectl")


def test_kind_names_what_is_missing(tmp_path: Path) -> None:
    if not (missing := missing_parts()):
        pytest.skip("all that kind needs is here")
    with pytest.raises(ClusterError, match="kind needs") as error:
        Kind(tmp_path)
    assert all(part in str(error.value) for part in missing)


def test_a_missing_kubeconfig_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"there is no kubeconfig .*nope; give --kubeconfig"):
        current_kubeconfig(tmp_path / "nope")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no-such-program-anywhere"], "no-such-program-anywhere is not installed"),
        (["sh", "-c", "echo it hurts >&2; exit 4"], "failed with 4: it hurts"),
    ],
)
def test_the_error_output_of_a_tool_that_fails_is_reported(argv: list[str], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        output_of(argv)


def test_the_output_of_a_tool_is_returned() -> None:
    assert output_of(["cat"], stdin="hello") == "hello"
