"""A pod of deploy/base as a local container: the account, the mounts and the arguments that the manifest gives it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from e2e.release.manifests import BASE, collection_of, read
from e2e.release.pods import ACCOUNT, deployment_of, pod_options, pod_words, readable_folder

SECRET = "praetor-device-tokens"


def test_a_gateways_container_gets_its_account_its_secret_and_the_address_of_the_apiserver(tmp_path: Path) -> None:
    options = pod_options(
        deployment_of("gateway"),
        apiserver="https://127.0.0.1:6443",
        account=tmp_path / "account",
        secrets={SECRET: tmp_path / "secret"},
    )
    assert set(options) == {
        "--user=65532:65532",
        "--env=KUBERNETES_SERVICE_HOST=127.0.0.1",
        "--env=KUBERNETES_SERVICE_PORT=6443",
        f"--volume={tmp_path / 'account'}:{ACCOUNT}:ro",
        f"--volume={tmp_path / 'secret'}:/etc/praetor/device-tokens:ro",
    }


def test_a_secret_that_nobody_made_is_missed_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=SECRET):
        pod_options(deployment_of("gateway"), apiserver="https://127.0.0.1:1", account=tmp_path, secrets={})


@pytest.mark.parametrize("program", ["controller", "gateway"])
def test_arguments_are_the_manifests_but_for_the_ports(program: str) -> None:
    deployment = deployment_of(program)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    words = pod_words(deployment, {"http": 10001, "probes": 10002})
    assert [word.split("=")[0] for word in words] == [word.split("=")[0] for word in container["args"]]
    assert "--health-probe-bind-address=127.0.0.1:10002" in words
    assert not [word for word in words if "=:" in word]


def test_a_containers_user_can_read_its_files_and_write_none(tmp_path: Path) -> None:
    folder = readable_folder(tmp_path / "account", {"token": "abc"})
    assert (folder / "token").read_text(encoding="utf-8") == "abc"
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o444


def test_every_kind_of_the_base_has_its_place_in_the_api() -> None:
    places = {item["kind"]: collection_of(item) for item in read(BASE)}
    assert places["Namespace"] == "/api/v1/namespaces"
    assert places["ServiceAccount"] == "/api/v1/namespaces/praetor-system/serviceaccounts"
    assert places["ClusterRole"] == "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    assert places["Deployment"] == "/apis/apps/v1/namespaces/praetor-system/deployments"
    assert collection_of({"apiVersion": "azure.com/v1alpha1", "kind": "NetworkSwitch", "metadata": {}}) == (
        "/apis/azure.com/v1alpha1/networkswitches"
    )
