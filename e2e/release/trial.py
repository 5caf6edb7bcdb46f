"""`python -m e2e.release.trial`: the images, the manifests, the roles and the samples of deploy/ together.

Controller and gateway run as deploy/base says, three devices are containers of the agent's image, and the sample
deployment must become available on them. On `--cluster kind` kubelets run the pods; on `envtest`, which has no nodes,
what a kubelet would do is done with a local container engine.
"""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import click
import yaml
from attrs import frozen

from e2e.clusters.api.rawapi import RawApi
from e2e.clusters.cluster import Cluster
from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName, launch
from e2e.release.build import PACKAGES, ROOT, build_all
from e2e.release.images import COMPONENTS, Engine, ImageError, build_images, find_engine, image_of
from e2e.release.incluster import TOKENS, gateway_url, install_base
from e2e.release.manifests import BASE, ManifestError, Object, install, read
from e2e.release.pods import Container, Host, readable_folder
from e2e.stack.kube import Kube
from e2e.stack.waiting import eventually
from praetor_api.tokens import device_token

DIST = ROOT / "dist"
SAMPLES = ROOT / "deploy" / "samples"
SAMPLE = "telemetry"
NAMESPACE = "default"
PROGRAMS = ("controller", "gateway")


@frozen(kw_only=True)
class Trial:
    """What every part of a trial needs; *secret* is that of the device tokens."""

    cluster: Cluster
    api: RawApi
    host: Host
    secret: str

    def run_samples(self, gateway: str, programs: Iterable[Container]) -> None:
        """Apply the samples, start their devices, and return when all of them run the sample process."""
        kube, samples = Kube(self.api, NAMESPACE), read(SAMPLES)
        kube.apply(*samples)
        names = [item["metadata"]["name"] for item in samples if item["kind"] == "NetworkSwitch"]
        devices = [self._device(name, gateway) for name in names]
        try:
            status = await_available(kube, SAMPLE, len(names))
        except AssertionError as error:
            logs = "\n".join(f"--- {container.name}\n{container.logs()}" for container in (*programs, *devices))
            raise ImageError(f"{error}\n{logs}") from error
        click.echo(f"{SAMPLE} is available on {status['numberAvailable']} devices")

    def _device(self, name: str, gateway: str) -> Container:
        token = {"token": device_token(self.secret.encode(), name)}
        folder = readable_folder(self.host.workdir / "devices" / name, token)
        flags = (f"--gateway={gateway}", f"--device={name}", "--token-file=/etc/praetor/token", "--start-splay=0")
        mount = f"--volume={folder}:/etc/praetor:ro"
        return self.host.run(name, image_of("agent", DIST).name, "run", *flags, options=(mount,))


def without_nodes(trial: Trial) -> None:
    """Install deploy/base, run its pods here with the samples, and end them as a kubelet would."""
    for kind in install(trial.api, read(BASE)):
        click.echo(f"not installed: this cluster is too old for {kind}")
    ca = authority_of(trial.cluster.kubeconfig)
    folders = {TOKENS: readable_folder(trial.host.workdir / "secret", {"secrets": trial.secret})}
    pods = [trial.host.pod(trial.api, ca, program, folders) for program in PROGRAMS]
    click.echo("controller and gateway are ready")
    trial.run_samples(f"http://127.0.0.1:{pods[1].ports['http']}", [pod.container for pod in pods])
    for pod in pods:
        pod.check_requests()
        pod.end()
        click.echo(f"{pod.program} was forbidden nothing, and ended by itself")


def on_nodes(trial: Trial) -> None:
    """Have the cluster's kubelets run deploy/base, and run the samples against it."""
    install_base(trial.cluster, trial.api, tuple(image_of(program, DIST) for program in PROGRAMS), trial.secret)
    click.echo("controller and gateway are rolled out")
    with gateway_url(trial.cluster.kubectl, trial.cluster.kubeconfig) as url:
        trial.run_samples(url, ())


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
        raise ImageError(f"{kubeconfig} names no file of a certificate authority, which pods need")
    return kubeconfig.parent / path


@click.command()
@click.option(
    "--cluster", "name", type=click.Choice([ClusterName.ENVTEST.value, ClusterName.KIND.value]), default="envtest"
)
@click.option("--engine", type=click.Choice([Engine.DOCKER.value, Engine.PODMAN.value]), help="Else what is installed.")
@click.option("--base", help="Base of the images; else the one that the Dockerfiles name.")
@click.option("--no-build", is_flag=True, help="Take the images that were built before.")
@click.option("--assets", type=click.Path(path_type=Path), help="envtest: folder of etcd and kube-apiserver.")
def main(name: str, engine: str | None, base: str | None, no_build: bool, assets: Path | None) -> None:
    """Build the wheels and the images, and run deploy/ on a real kube-apiserver."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # containers outlive whoever started them
    chosen = Engine(engine) if engine else find_engine(able_to_run=True)
    if not no_build:
        build_all(PACKAGES, DIST)
        build_images(COMPONENTS, engine=chosen, base=base)
    with tempfile.TemporaryDirectory(prefix="praetor-trial-") as temporary, ExitStack() as opened:
        workdir = Path(temporary)
        try:
            cluster = opened.enter_context(launch(name, workdir / "cluster", assets=assets))
            api = opened.enter_context(RawApi.from_kubeconfig(cluster.kubeconfig))
            host = Host(chosen, workdir / "host", opened)
            trial = Trial(cluster=cluster, api=api, host=host, secret=secrets.token_hex(32))
            (on_nodes if name == ClusterName.KIND else without_nodes)(trial)
        except (ClusterError, ManifestError) as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
