# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent run`: builds everything and runs the three threads. The processes outlive the agent."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
from collections.abc import Callable

from praetor_agent.__about__ import __version__
from praetor_agent.artifacts.fetcher import Fetcher, device_sources
from praetor_agent.artifacts.store import IMAGES, ArtifactStore
from praetor_agent.backends import procfs
from praetor_agent.backends.probes import Probes
from praetor_agent.clock import Pulse, SystemClock, Waker
from praetor_agent.core.masking import Masking
from praetor_agent.files.store import FileStore
from praetor_agent.host import Backends, Host
from praetor_agent.link.client import GatewayClient, address_of
from praetor_agent.link.facts import Facts, allowance_facts
from praetor_agent.link.poller import Inbox, Poller
from praetor_agent.link.reporter import Reporter
from praetor_agent.loop import Dependencies, Loop
from praetor_agent.masked_log import mask_log
from praetor_agent.settings import RunSettings, loose_mode
from praetor_agent.state import State, installation_id, lock_directory
from praetor_api.protocol import Report

log = logging.getLogger(__name__)


def run(settings: RunSettings) -> None:
    """Run the agent until SIGTERM or SIGINT; AgentError if that is impossible."""
    os.umask(0o022)  # other users execute unpacked files; secrets get a stricter mode
    lock = lock_directory(settings.state_dir)
    waker = Waker()
    try:
        poller, reporter, loop = _build(settings, waker)
        _on_signals(loop.stop, waker)
        loose = settings.token_file and loose_mode(settings.token_file)
        if loose:  # only a warning: an agent that refuses to start may be out of reach
            log.warning("token file is not safe reason=%s", loose)
        log.info("agent starts device=%s gateway=%s version=%s", settings.device, settings.gateway, __version__)
        poller.start()
        reporter.start()
        gc.collect()
        gc.freeze()  # later collections need not touch the pages of what is loaded by now
        loop.run()
        poller.stop()
        reporter.stop()
        log.info("agent stops; the processes keep running")
    finally:
        os.close(lock)


def _build(settings: RunSettings, waker: Waker) -> tuple[Poller, Reporter, Loop]:
    clock, state = SystemClock(), State(settings.state_dir)
    masking = Masking()
    mask_log(masking)
    boot_id = procfs.boot_id() or os.urandom(16).hex()
    installation_id(settings.state_dir, create=True)
    inbox = Inbox(waker.wake, state.load_desired(settings.device))
    sources = device_sources(settings.registries, settings.artifact_ca_bundle)
    backends = Backends(
        settings.device,
        settings.state_dir,
        boot_id,
        settings.container_runtime,
        settings.container_options,
        settings.allowances,
    )
    files = FileStore(settings.state_dir / "files", settings.state_dir / "files.json", settings.file_roots)
    images = settings.state_dir / IMAGES
    store = ArtifactStore(settings.state_dir / "artifacts", max_bytes=settings.artifact_store_bytes, images=images)
    fetching = (store, sources, clock, waker.wake)
    fetcher = Fetcher(*fetching)
    probe = None
    if settings.container_runtime is not None:
        from praetor_agent.backends.container import Runtime, probe_in
        from praetor_agent.backends.images import Images

        runtime = Runtime(settings.container_runtime)
        fetcher = Images(runtime, images, *fetching)
        probe = probe_in(runtime, settings.device)
    address = address_of(settings, _promotion())
    splay = settings.start_splay * random.random()  # noqa: S311 - no secret
    identity = Report(agent_version=__version__, boot_id=boot_id)
    allowed = allowance_facts(settings.allowances, settings.file_roots)
    facts = Facts(settings.state_dir, allowed=allowed).read
    pulse = Pulse(clock, waker.wake)
    reporter = Reporter(
        GatewayClient(address),
        inbox,
        clock,
        identity,
        lambda: poller.nudge(),
        facts,
        waker.wake,
        splay,
        waker.note,
        alive=pulse.wait,
        masking=masking,
    )
    client = GatewayClient(address)
    poller = Poller(client, inbox, clock, reporter, wait=settings.poll_wait, splay=splay, alive=pulse.wait)
    reporter.exchange = state.load_view().exchange  # of the agent before, until there is a newer one
    dependencies = Dependencies(
        state=state,
        inbox=inbox,
        host=Host(backends, backends.unavailable, fetcher, boot_id, settings.allowances, files, masking),
        probes=Probes(clock, probe, waker.wake, files.directory_of, masking),
        reporter=reporter,
        waker=waker,
        clock=clock,
        freeze_file=settings.freeze_file,
        proving_seconds=settings.proving_seconds,
        beat=pulse.beat,
        masking=masking,
    )
    return poller, reporter, Loop(settings.device, dependencies)


def _promotion() -> Callable[[], None] | None:
    """Return what makes a version on trial the current one, to be called when the gateway answers; else None."""
    if "PRAETOR_AGENT_ON_TRIAL" not in os.environ:
        return None
    from praetor_agent.service.installation import promote

    return promote


def _on_signals(stop: Callable[[], None], waker: Waker) -> None:
    signal.set_wakeup_fd(waker.descriptor, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
