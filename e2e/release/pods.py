"""The pods of deploy/base without a kubelet: their images, arguments, accounts and limits, in local containers.

They talk to the apiserver with tokens of the service accounts that deploy/base binds, as in a cluster.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from attrs import frozen

from e2e.clusters.api.rawapi import RawApi
from e2e.clusters.programs.ports import free_ports
from e2e.release.images import LIMITS, RUN_S, Engine, ImageError, output_of
from e2e.release.manifests import BASE, Object, read
from e2e.stack.kube import accepted
from e2e.stack.waiting import eventually

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


@frozen(kw_only=True)
class Pod:
    """A program of deploy/base that runs here, and where."""

    program: str
    deployment: Object
    container: Container
    ports: Mapping[str, int]

    def probe(self, path: str) -> int:
        """Return the status of a path of the probe port."""
        return requests.get(f"http://127.0.0.1:{self.ports['probes']}{path}", timeout=2).status_code

    def check_requests(self) -> None:
        """Raise when the apiserver forbade something, by the program's own count of the answers it got."""
        metrics = requests.get(f"http://127.0.0.1:{self.ports['probes']}/metrics", timeout=5).text
        counted = [line for line in metrics.splitlines() if "_apiserver_requests_total{" in line]
        forbidden = [line for line in counted if 'code="403"' in line]
        if forbidden or not counted:
            raise ImageError(f"{self.program} may not do what it does: {forbidden or 'it counts no requests'}")

    def end(self) -> None:
        """Do what a kubelet does: the hook, SIGTERM, and no longer than the grace period."""
        pod = self.deployment["spec"]["template"]["spec"]
        [spec] = pod["containers"]
        if "lifecycle" in spec:
            self.container.execute(spec["lifecycle"]["preStop"]["exec"]["command"])
        status = self.container.stop(pod["terminationGracePeriodSeconds"])
        if status:
            raise ImageError(f"{self.program} ended with {status}; it logged:\n{self.container.logs()}")


class Host:
    """Starts containers with a local engine and ends all of them with *opened*; files for them go to *workdir*."""

    def __init__(self, engine: Engine, workdir: Path, opened: ExitStack) -> None:
        self.engine = engine
        self.workdir = workdir
        self._opened = opened
        self._mark = secrets.token_hex(3)

    def run(self, name: str, image: str, *words: str, options: Sequence[str] = ()) -> Container:
        """Start a container that nothing else is called like."""
        full_name = f"praetor-{self._mark}-{name}"
        return self._opened.enter_context(running(self.engine, full_name, image, *words, options=options))

    def pod(self, api: RawApi, ca: Path, program: str, secrets: Mapping[str, Path]) -> Pod:
        """Start the pod of a program of deploy/base and return when its own probes say that it is ready."""
        deployment = deployment_of(program)
        [spec] = deployment["spec"]["template"]["spec"]["containers"]
        names = [port["name"] for port in spec["ports"]]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        account = account_files(api, deployment, ca, self.workdir / program)
        options = pod_options(deployment, apiserver=api.url, account=account, secrets=secrets)
        container = self.run(program, spec["image"], *pod_words(deployment, ports), options=options)
        pod = Pod(program=program, deployment=deployment, container=container, ports=ports)
        for probe in ("livenessProbe", "readinessProbe"):
            _await_probe(pod, spec[probe]["httpGet"]["path"])
        return pod


def _await_probe(pod: Pod, path: str) -> None:
    try:
        eventually(lambda: pod.probe(path) == HTTPStatus.OK, what=f"{pod.program} answers {path}")
    except AssertionError as error:
        raise ImageError(f"{error}; it logged:\n{pod.container.logs()}") from error
