"""The cluster that a command speaks to: options that say which, a client for it, and lists read whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click
from attrs import frozen

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.connection import Connection, from_kubeconfig
from praetor_api.kube.client.resource import Resource
from praetor_api.kube.runtime.clock import Clock, SystemClock
from praetor_controller.ctl.kubeconfig import default_namespace

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

FIELD_MANAGER = "praetorctl"


@frozen(kw_only=True)
class Where:
    """Which cluster and namespace, as given; None means what the kubeconfig says. *dry_run*: writes change nothing."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    dry_run: bool = False


@frozen(kw_only=True)
class Cluster:
    """A cluster to speak to, and the namespace that is meant."""

    api: KubeApi
    namespace: str
    clock: Clock


Opener: TypeAlias = Callable[[Where], AbstractAsyncContextManager[Cluster]]


def cluster_options(command: F) -> F:
    """Add the options that say which cluster; the command gets them as one *where*, and how to open it as *opener*."""

    def with_where(*args: Any, kubeconfig: str | None, context: str | None, namespace: str | None, **rest: Any) -> Any:
        where = Where(kubeconfig=kubeconfig, context=context, namespace=namespace)
        return command(*args, where=where, opener=click.get_current_context().obj or opened, **rest)

    with_where.__doc__ = command.__doc__
    options = (
        click.option(
            "-n", "--namespace", envvar="PRAETOR_CTL_NAMESPACE", help="Namespace; the kubeconfig context's when unset."
        ),
        click.option(
            "--context", envvar="PRAETOR_CTL_CONTEXT", help="Context of the kubeconfig; its current one when unset."
        ),
        click.option(
            "--kubeconfig",
            type=click.Path(),
            envvar="PRAETOR_CTL_KUBECONFIG",
            help="Kubeconfig; $KUBECONFIG, ~/.kube/config or the pod's when unset.",
        ),
    )
    decorated: Any = with_where
    for option in options:
        decorated = option(decorated)
    if hasattr(command, "__click_params__"):
        decorated.__click_params__ += command.__click_params__
    result: F = decorated
    return result


@asynccontextmanager
async def opened(where: Where) -> AsyncIterator[Cluster]:
    """Open a client as a kubeconfig says."""
    connection = await Connection.open(from_kubeconfig(where.kubeconfig, where.context))
    namespace = where.namespace or default_namespace(where.kubeconfig, where.context, os.environ, Path.home())
    async with KubeClient(connection, user_agent="praetorctl", dry_run=where.dry_run) as client:
        yield Cluster(api=client, namespace=namespace, clock=SystemClock())


def ask(opener: Opener, where: Where, question: Callable[[Cluster], Coroutine[Any, Any, T]]) -> T:
    """Return the answer of the cluster to *question*; KubeError when it has none."""

    async def answer() -> T:
        async with opener(where) as cluster:
            return await question(cluster)

    return asyncio.run(answer())


async def list_all(cluster: Cluster, resource: Resource, label_selector: str | None = None) -> list[dict[str, Any]]:
    """Return all objects of a kind in the namespace."""
    objects: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        page = await cluster.api.list_page(
            resource, cluster.namespace, continue_token=token, label_selector=label_selector
        )
        objects += page["items"]
        token = page["metadata"].get("continue")
        if not token:
            return objects
