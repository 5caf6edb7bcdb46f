"""`praetor-agent simulate`: the agent's command line calls it with what follows the word."""

from __future__ import annotations

from collections.abc import Sequence

from praetor_agent.simulate.flags import settings_of
from praetor_agent.simulate.fleet import simulate


def main(arguments: Sequence[str]) -> None:
    """Be the fleet that *arguments* ask for; UsageError and AgentError are told by the caller."""
    simulate(settings_of(arguments))
