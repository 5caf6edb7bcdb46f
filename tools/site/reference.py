# SPDX-License-Identifier: Apache-2.0
"""Write docs/metrics.md and docs/flags.md out of the programs themselves: `hatch run manifests`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import yaml
from attrs import evolve
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from gateway_testing import SETTINGS
from kube_testing import FakeClock, InProcessKube
from kubeplane.http.tls import server_context
from praetor_agent.flags import parser as agent_parser
from praetor_agent.simulate.flags import _parser as simulate_parser
from praetor_api.kube.options import BindAddress
from praetor_api.kube.runtime.clock import SystemClock
from praetor_controller.cli import main as controller
from praetor_controller.ctl.cli import main as ctl
from praetor_controller.main import Program
from praetor_controller.settings import Settings
from praetor_gateway.cli import main as gateway
from praetor_gateway.gateway import Gateway
from praetor_gateway.main import serve
from praetor_gateway.settings import PeerSettings

DOCS = Path(__file__).parents[2] / "docs"
MONITORING = Path(__file__).parents[2] / "deploy" / "components" / "monitoring"
NAMED = re.compile(r"\b(?:praetor|process)_\w+")
OF_HISTOGRAM = re.compile(r"_(?:bucket|sum|count)$")
AGENT_HELP = re.compile(r"(?P<help>.*) \[PRAETOR_AGENT_\w+(?:, default (?P<default>.*))?\]$", re.DOTALL)
DEFAULT_IN_HELP = re.compile(r"\s*[\[(]default: (.*)[\])]$")
SHARED_BY = 3

METRICS = """# Metrics

[All pages](README.md)

What the programs show at `/metrics`: the controller at `--metrics-bind-address`, the gateway on the
port of its probes. No label holds a device's name. The alerts and dashboards are those of
`deploy/components/monitoring`; [runbooks](runbooks.md) says what to do when an alert fires.
"""
FLAGS = """# Flags

[All pages](README.md)

Every flag of the programs. Each can be set by an environment variable, too: `--state-dir` of
praetor-agent is `PRAETOR_AGENT_STATE_DIR`, `--qps` of praetor-controller is
`PRAETOR_CONTROLLER_QPS`, and so with `PRAETOR_GATEWAY_` and `PRAETOR_CTL_`.
"""


class Metric(NamedTuple):
    """A row of the page of metrics."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class Flag(NamedTuple):
    """A row of the page of flags."""

    names: str
    value: str
    default: str
    text: str


def main() -> None:
    """Write both pages."""
    for name in [name for name in os.environ if name.startswith("PRAETOR_")]:
        del os.environ[name]  # a flag's default may come from it
    (DOCS / "metrics.md").write_text(METRICS + metrics_page(), encoding="utf-8")
    (DOCS / "flags.md").write_text(FLAGS + flags_page(), encoding="utf-8")


def metrics_page() -> str:
    """Return the tables of metrics: those of each program, and of every process once."""
    programs = {"praetor-controller": controller_registry(), "praetor-gateway": asyncio.run(gateway_registry())}
    found = {program: list(metrics_of(registry)) for program, registry in programs.items()}
    shared = sorted(set.intersection(*map(set, found.values())))
    used, text = users(), ""
    for title, metrics in (*found.items(), ("Both", shared)):
        rows = sorted(metric for metric in metrics if title == "Both" or metric not in shared)
        shown = (
            (f"`{each.name}`", each.kind, words(each.labels), cell(each.text), ", ".join(used[each.name]))
            for each in rows
        )
        text += f"\n## {title}\n\n" + table(["metric", "type", "labels", "meaning", "used by"], shown)
    return text


def controller_registry() -> CollectorRegistry:
    """Return what a controller shows."""
    return Program(InProcessKube(), FakeClock(), Settings(metrics=None, probes=None)).metrics.registry


async def gateway_registry() -> CollectorRegistry:
    """Return what a gateway with TLS and peers shows, once it serves."""
    registry, stop = CollectorRegistry(), asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="praetor-reference-") as name:
        folder = Path(name)
        server_context(folder)
        peers = PeerSettings(addr=BindAddress("127.0.0.1", 0), advertise="a:1", tokens=("x",))
        tls = {"tls_cert": folder / "apiserver.crt", "tls_key": folder / "apiserver.key"}
        settings = evolve(SETTINGS, peers=peers, **tls)
        served = Gateway(InProcessKube(), settings, SystemClock(), registry)
        await serve(served, settings, stop, lambda **_: stop.set())
    return registry


def metrics_of(registry: CollectorRegistry) -> Iterator[Metric]:
    """Yield the metrics of *registry*, those without a sample, too."""
    for collector in set(registry._collector_to_names):  # what is collected does not show labels without values
        is_one = isinstance(collector, MetricWrapperBase)
        for family in collector.describe() if is_one else collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = getattr(collector if is_one else family, "_labelnames", ())
            yield Metric(name, family.type, tuple(labels), family.documentation)


def users() -> Mapping[str, list[str]]:
    """Return the alerts and dashboards that ask for a metric, by its name."""
    asked = list[tuple[str, str]]()
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["spec"]["groups"]:
        for rule in group["rules"]:
            asked.append((rule["expr"], f"[{rule['alert']}](runbooks.md#{rule['alert'].lower()})"))
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            asked += [(target["expr"], f"dashboard `{file.stem}`") for target in panel["targets"]]
    found = defaultdict[str, list[str]](list)
    for query, user in asked:
        for name in {OF_HISTOGRAM.sub("", name) for name in NAMED.findall(query)}:
            if user not in found[name]:
                found[name].append(user)
    return found


def flags_page() -> str:
    """Return the tables of flags, of each program and command."""
    text = ""
    for program, command in {"praetor-controller": controller, "praetor-gateway": gateway}.items():
        text += f"\n## {program}\n\n" + flag_table(click_flags(command, program))
    parsers = {**agent_parser()[1], "simulate": simulate_parser()}
    text += sections("praetor-agent", {name: list(agent_flags(parser)) for name, parser in parsers.items()})
    return text + sections("praetorctl", {name: list(click_flags(found, name)) for name, found in commands(ctl)})


def sections(program: str, by_command: Mapping[str, list[Flag]]) -> str:
    """Return what the page says of a *program* that has commands; what many have stands at the top."""
    counted = Counter(flag for flags in by_command.values() for flag in flags)
    shared = [flag for flag, count in counted.items() if count >= SHARED_BY]
    text = f"\n## {program}\n\nOf several commands:\n\n" + flag_table(shared)
    for command, flags in by_command.items():
        if own := [flag for flag in flags if flag not in shared]:
            text += f"\n### {program} {command}\n\n" + flag_table(own)
    return text


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield the commands of *group* and of the groups in it, by their words."""
    context = click.Context(group)
    if path and group.params:
        yield path.strip(), group
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        elif command is not None:
            yield f"{path}{name}", command


def click_flags(command: click.Command, name: str) -> Iterator[Flag]:
    """Yield the flags of a *command* of click."""
    context = click.Context(command, info_name=name, show_default=True)
    for each in command.params:
        if not isinstance(each, click.Option) or each.hidden or each.name == "version":
            continue
        extra = each.get_help_extra(context)
        said = " ".join((each.help or "").split())
        inline = DEFAULT_IN_HELP.search(said)
        default = inline[1] if inline else str(extra.get("default", "")).strip('"()')
        if each.secondary_opts and default:
            default = f"`--{default.removeprefix('--')}`"
        names = ", ".join(f"`{option}`" for option in (*each.opts, *each.secondary_opts))
        yield Flag(names, value_of(each, context), default, DEFAULT_IN_HELP.sub("", said))


def value_of(option: click.Option, context: click.Context) -> str:
    """Return what kind of value *option* takes, with its bounds."""
    if option.is_flag or option.count:
        return ""
    if isinstance(option.type, click.Choice):
        return " or ".join(f"`{choice}`" for choice in option.type.choices)
    if isinstance(option.type, (click.IntRange, click.FloatRange)):
        kind = "integer" if isinstance(option.type, click.IntRange) else "number"
        low, high = (None if each is None else f"{each:.10g}" for each in (option.type.min, option.type.max))
        bound = f" more than {low}" if option.type.min_open else f" from {low}" if low is not None else ""
        return f"{kind}{bound}" + (f" to {high}" if high is not None else "")
    return str(option.metavar or option.type.name)


def agent_flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    """Yield the flags of a command of the agent."""
    for action in parser._actions:
        if not action.option_strings or isinstance(action, argparse._HelpAction):
            continue
        found = AGENT_HELP.match(action.help or "")
        said, default = (found["help"], found["default"] or "") if found else (action.help or "", "")
        inline = DEFAULT_IN_HELP.search(said)
        names = ", ".join(f"`{option}`" for option in action.option_strings)
        default = default or (inline[1] if inline else "")
        yield Flag(names, "text" if action.nargs is None else "", default, DEFAULT_IN_HELP.sub("", said))


def flag_table(flags: Iterator[Flag] | list[Flag]) -> str:
    """Return a table of *flags*."""
    rows = ((each.names, each.value, cell(each.default), cell(each.text)) for each in flags)
    return table(["flag", "value", "default", "meaning"], rows)


def table(heads: list[str], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [" | ".join(heads), " | ".join("--" for _ in heads), *(" | ".join(row) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def words(labels: tuple[str, ...]) -> str:
    """Return *labels* as the page shows them."""
    return ", ".join(f"`{label}`" for label in labels)


def cell(text: str) -> str:
    """Return *text* as it may stand in a cell of a table."""
    return re.sub(r"([|<*_\[\]])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    main()
