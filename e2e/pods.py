"""The pods of deploy/base without a kubelet: their images, arguments, accounts and limits, in local containers.

They talk to the apiserver with tokens of the service accounts that deploy/base binds, as in a cluster.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from e2e.clusters.rawapi import RawApi
from e2e.images import LIMITS, RUN_S, Engine, output_of
from e2e.manifests import BASE, Object, read
from e2e.stack.kube import accepted

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_S = 3600


@frozen(kw_only=True)
class Container:
    """A container that runs; it shares the network of this machine."""

    engine: Engine
    name: str

    def execute(self, argv: Sequence[str]) -> str:
        """Run a command inside, as a hook of a pod does; ImageError when it fails."""
        return output_of([str(self.engine), "exec", self.name, *argv], timeout_s=RUN_S)

    def logs(self) -> str:
        """Return all that it printed."""
        command = [str(self.engine), "logs", self.name]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_S, check=False
        ).stdout

    def stop(self, grace_s: int) -> int:
        """Ask it to end and wait at most *grace_s*; return its exit status, which tells whether it had to be killed."""
        output_of([str(self.engine), "stop", f"--time={grace_s}", self.name], timeout_s=grace_s + RUN_S)
        state = output_of([str(self.engine), "inspect", "--format={{.State.ExitCode}}", self.name], timeout_s=RUN_S)
        return int(state)

    def remove(self) -> None:
        """End it at once, whatever it does, and remove what it leaves."""
        output_of([str(self.engine), "rm", "--force", "--volumes", self.name], timeout_s=RUN_S)


@contextmanager
def running(engine: Engine, name: str, image: str, *words: str, options: Sequence[str] = ()) -> Iterator[Container]:
    """Run a container under the limits of deploy/base within the block."""
    output_of(
        [str(engine), "run", "--detach", f"--name={name}", "--network=host", *LIMITS, *options, image, *words],
        timeout_s=RUN_S,
    )
    container = Container(engine=engine, name=name)
    try:
        yield container
    finally:
        container.remove()


def deployment_of(program: str) -> Object:
    """Return the Deployment of deploy/base that runs *program*."""
    return next(
        item for item in read(BASE) if item["kind"] == "Deployment" and item["metadata"]["name"] == f"praetor-{program}"
    )


def account_files(api: RawApi, deployment: Mapping[str, Any], ca: Path, folder: Path) -> Path:
    """Write what a kubelet mounts for the pod's service account into *folder*, and return it."""
    namespace = deployment["metadata"]["namespace"]
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": TOKEN_S},
    }
    answer = api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
    files = {"token": accepted(answer)["status"]["token"], "namespace": namespace, "ca.crt": ca.read_text()}
    return readable_folder(folder, files)


def readable_folder(folder: Path, files: Mapping[str, str]) -> Path:
    """Write *files* such that a container's user can read them; *folder* itself must be where nobody else comes."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o444)
    return folder


def pod_options(
    deployment: Mapping[str, Any], *, apiserver: str, account: Path, secrets: Mapping[str, Path]
) -> list[str]:
    """Return the options of `run` that stand for the pod; *secrets* are folders by the name of the Secret."""
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    address = urlsplit(apiserver)
    volumes = {volume["name"]: secrets[volume["secret"]["secretName"]] for volume in pod.get("volumes", ())}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container.get("volumeMounts", ())}
    user = pod["securityContext"]
    return [
        f"--user={user['runAsUser']}:{user['runAsGroup']}",
        f"--env=KUBERNETES_SERVICE_HOST={address.hostname}",
        f"--env=KUBERNETES_SERVICE_PORT={address.port}",
        *(f"--volume={folder}:{place}:ro" for place, folder in {ACCOUNT: account, **mounts}.items()),
    ]


def pod_words(deployment: Mapping[str, Any], ports: Mapping[str, int]) -> list[str]:
    """Return the manifest's arguments with *ports* in place of its own, by their names: they share one network here."""
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    chosen = {f"=:{port['containerPort']}": f"=127.0.0.1:{ports[port['name']]}" for port in container["ports"]}
    return [
        next((word.replace(old, new) for old, new in chosen.items() if word.endswith(old)), word)
        for word in container["args"]
    ]
