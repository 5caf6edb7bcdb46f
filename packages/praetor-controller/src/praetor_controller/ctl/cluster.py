# SPDX-License-Identifier: Apache-2.0
"""The cluster of a command: the options that select it, a client for it, and lists read whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click
import yaml
from attrs import frozen

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.connection import ApiConnection, from_kubeconfig, pod_namespace
from praetor_api.kube.client.resource import Resource
from praetor_api.kube.options import kubeconfig_options
from praetor_api.kube.runtime.clock import Clock, SystemClock
from praetor_controller.ctl.output import OutputFormat, fitted_lines, show

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

FIELD_MANAGER = "praetorctl"
DEFAULT_NAMESPACE = "default"


@frozen(kw_only=True)
class Target:
    """The cluster and namespace that the options select; None means as the kubeconfig says.

    *dry_run*: the API answers writes and stores nothing.
    """

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    dry_run: bool = False


@frozen(kw_only=True)
class Cluster:
    """A client of the cluster, and the namespace that was selected."""

    api: KubeApi
    namespace: str
    clock: Clock


Opener: TypeAlias = Callable[[Target], AbstractAsyncContextManager[Cluster]]


def cluster_options(command: F) -> F:
    """Add the options that select a cluster; the command gets them as *target*, and how to connect as *opener*."""

    def with_target(*args: Any, kubeconfig: str | None, context: str | None, namespace: str | None, **rest: Any) -> Any:
        target = Target(kubeconfig=kubeconfig, context=context, namespace=namespace)
        return command(*args, target=target, opener=click.get_current_context().obj or opened, **rest)

    with_target.__doc__ = command.__doc__
    namespace_option = click.option(
        "-n",
        "--namespace",
        envvar="PRAETOR_CTL_NAMESPACE",
        show_envvar=True,
        help="Namespace; the kubeconfig context's when unset.",
    )
    decorated: Any = namespace_option(kubeconfig_options("PRAETOR_CTL")(with_target))
    if hasattr(command, "__click_params__"):
        decorated.__click_params__ += command.__click_params__
    result: F = decorated
    return result


def on_cluster(command: Callable[..., Coroutine[Any, Any, str]]) -> Callable[..., None]:
    """Add the options that select a cluster, run *command* with a client, and print what it returns, if anything."""

    @wraps(command)
    def run(*, target: Target, opener: Opener, **options: Any) -> None:
        text = run_on_cluster(opener, target, lambda cluster: command(cluster, **options))
        if text:
            show(text if "output" in options else fitted_lines(text.splitlines(), OutputFormat.TABLE))

    return cluster_options(run)


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Cluster]:
    """Connect to the cluster that *target* selects."""
    connection = await ApiConnection.open(from_kubeconfig(target.kubeconfig, target.context))
    namespace = target.namespace or default_namespace(target.kubeconfig, target.context, os.environ, Path.home())
    async with KubeClient(connection, user_agent="praetorctl", dry_run=target.dry_run) as client:
        yield Cluster(api=client, namespace=namespace, clock=SystemClock())


def run_on_cluster(opener: Opener, target: Target, work: Callable[[Cluster], Coroutine[Any, Any, T]]) -> T:
    """Connect to the cluster and return what *work* returns; KubeError when a request fails."""

    async def run() -> T:
        async with opener(target) as cluster:
            return await work(cluster)

    return asyncio.run(run())


async def list_all(
    cluster: Cluster, resource: Resource, label_selector: str | None = None, *, everywhere: bool = False
) -> list[dict[str, Any]]:
    """Return all objects of a kind in the namespace, or *everywhere*."""
    namespace = None if everywhere else cluster.namespace
    objects: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        page = await cluster.api.list_page(resource, namespace, continue_token=token, label_selector=label_selector)
        objects += page["items"]
        token = page["metadata"].get("continue")
        if not token:
            return objects


def default_namespace(path: str | None, context: str | None, environ: Mapping[str, str], home: Path) -> str:
    """Return the namespace to use when none is given: the context's, else the pod's, else `default`."""
    given = path or environ.get("KUBECONFIG") or str(home / ".kube" / "config")
    files = [Path(part).expanduser() for part in given.split(os.pathsep) if part]
    found = [file for file in files if file.is_file()]
    if not found and (own := pod_namespace()):
        return own
    return context_namespace([_document(file) for file in found], context)


def context_namespace(documents: Sequence[Mapping[str, Any]], context: str | None) -> str:
    """Return the namespace of *context*, else of the current one, in *documents*: the first that says so wins."""
    wanted = context or next((each["current-context"] for each in documents if each.get("current-context")), None)
    for document in documents:
        for entry in document.get("contexts") or ():
            if entry.get("name") == wanted:
                return (entry.get("context") or {}).get("namespace") or DEFAULT_NAMESPACE
    return DEFAULT_NAMESPACE


def _document(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # the client names what is wrong with it
        return {}
    return content if isinstance(content, dict) else {}
