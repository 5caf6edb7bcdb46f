"""`python -m e2e.trial`: the images, the manifests, the roles and the samples of deploy/ together, without a node.

Controller and gateway run as deploy/base says, three devices are containers of the agent's image, and the sample
deployment must become available on them. What a kubelet would do is done with a local container engine.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import requests
import yaml
from attrs import frozen

from e2e.build import ROOT
from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName, launch
from e2e.clusters.ports import free_ports
from e2e.clusters.rawapi import RawApi
from e2e.images import Engine, ImageError, find_engine, image_of
from e2e.manifests import BASE, Object, install, read
from e2e.pods import (
    Container,
    account_files,
    deployment_of,
    pod_options,
    pod_words,
    readable_folder,
    running,
)
from e2e.stack.kube import Kube
from e2e.stack.waiting import eventually
from praetor_api.tokens import device_token

SECRET = "praetor-device-tokens"
SAMPLES = ROOT / "deploy" / "samples"
NAMESPACE = "default"


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


class Trial:
    """Starts the pods and the devices against *api*; all of it ends with the context."""

    def __init__(self, api: RawApi, engine: Engine, ca: Path, workdir: Path, opened: ExitStack) -> None:
        self._api = api
        self._engine = engine
        self._ca = ca
        self._workdir = workdir
        self._opened = opened
        self._mark = secrets.token_hex(3)
        self._secret = secrets.token_hex(32)

    def pod(self, program: str) -> Pod:
        """Start a pod and return when its own probes say that it is ready."""
        deployment = deployment_of(program)
        [spec] = deployment["spec"]["template"]["spec"]["containers"]
        names = [port["name"] for port in spec["ports"]]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        account = account_files(self._api, deployment, self._ca, self._workdir / program)
        options = pod_options(
            deployment, apiserver=self._api.url, account=account, secrets={SECRET: self._secret_folder()}
        )
        container = self._run(program, spec["image"], *pod_words(deployment, ports), options=options)
        pod = Pod(program=program, deployment=deployment, container=container, ports=ports)
        for probe in ("livenessProbe", "readinessProbe"):
            path = spec[probe]["httpGet"]["path"]
            with self._logged(container):
                eventually(lambda path=path: pod.probe(path) == 200, what=f"{program} answers {path}")  # type: ignore[misc]
        return pod

    def device(self, name: str, gateway: str) -> Container:
        """Start the agent of a device."""
        token = {"token": device_token(self._secret.encode(), name)}
        folder = readable_folder(self._workdir / "devices" / name, token)
        image = image_of("agent", ROOT / "dist").name
        words = (
            "run",
            f"--gateway={gateway}",
            f"--device={name}",
            "--token-file=/etc/praetor/token",
            "--start-splay=0",
        )
        return self._run(name, image, *words, options=(f"--volume={folder}:/etc/praetor:ro",))

    def _run(self, name: str, image: str, *words: str, options: tuple[str, ...] | list[str]) -> Container:
        return self._opened.enter_context(
            running(self._engine, f"praetor-trial-{self._mark}-{name}", image, *words, options=options)
        )

    def _secret_folder(self) -> Path:
        folder = self._workdir / "secret"
        return folder if folder.exists() else readable_folder(folder, {"secrets": self._secret})

    @contextmanager
    def _logged(self, container: Container) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            raise ImageError(f"{error}; {container.name} logged:\n{container.logs()}") from error


def try_out(api: RawApi, engine: Engine, ca: Path, workdir: Path) -> None:
    """Install deploy/, run it, see the samples become available, and end it."""
    for kind in install(api, read(BASE)):
        click.echo(f"not installed: this cluster is too old for {kind}")
    with ExitStack() as opened:
        trial = Trial(api, engine, ca, workdir, opened)
        pods = [trial.pod(program) for program in ("controller", "gateway")]
        click.echo("controller and gateway are ready")
        kube, samples = Kube(api, NAMESPACE), read(SAMPLES)
        kube.apply(*samples)
        devices = [item["metadata"]["name"] for item in samples if item["kind"] == "NetworkSwitch"]
        gateway = f"http://127.0.0.1:{pods[1].ports['http']}"
        agents = [trial.device(name, gateway) for name in devices]
        try:
            status = await_available(kube, "telemetry", len(devices))
        except AssertionError as error:
            logs = "\n".join(f"--- {part.name}\n{part.logs()}" for part in (*(pod.container for pod in pods), *agents))
            raise ImageError(f"{error}\n{logs}") from error
        click.echo(f"telemetry is available on {status['numberAvailable']} devices")
        for pod in pods:
            pod.check_requests()
            pod.end()
            click.echo(f"{pod.program} was forbidden nothing, and ended by itself")


def await_available(kube: Kube, name: str, count: int) -> Object:
    """Return the status of a deployment once *count* of its processes are available."""
    found = eventually(
        lambda: kube.deployment(name).get("status", {}),
        lambda status: status.get("numberAvailable") == count,
        what=f"{name} is available on {count} devices",
        within_s=90,
    )
    return dict(found)


def authority_of(kubeconfig: Path) -> Path:
    """Return the file of the certificate authority that a kubeconfig names."""
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    path: str | None = config["clusters"][0]["cluster"].get("certificate-authority")
    if path is None:
        raise ImageError("pods need an apiserver with TLS; use --cluster envtest")
    return kubeconfig.parent / path


@click.command()
@click.option("--engine", type=click.Choice([engine.value for engine in Engine]), help="docker or podman.")
@click.option("--assets", type=click.Path(path_type=Path), help="Folder of etcd and kube-apiserver.")
def main(engine: str | None, assets: Path | None) -> None:
    """Run deploy/ on a real kube-apiserver; the images must have been built."""
    chosen = Engine(engine) if engine else find_engine(able_to_run=True)
    with tempfile.TemporaryDirectory(prefix="praetor-trial-") as temporary:
        workdir = Path(temporary)
        try:
            with (
                launch(ClusterName.ENVTEST, workdir / "cluster", assets=assets) as cluster,
                RawApi.from_kubeconfig(cluster.kubeconfig) as api,
            ):
                try_out(api, chosen, authority_of(cluster.kubeconfig), workdir)
        except ClusterError as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
