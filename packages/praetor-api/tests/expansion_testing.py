# SPDX-License-Identifier: Apache-2.0
"""What `$(NAME)` becomes, by the words of Kubernetes' documentation of a container's command."""

from __future__ import annotations


def by_the_rules(text: str, env: dict[str, str]) -> str:
    """Return the expansion of *text*, one character after the other."""
    if not text.startswith("$"):
        return text[0] + by_the_rules(text[1:], env) if text else ""
    if text.startswith("$$"):
        return "$" + by_the_rules(text[2:], env)
    name, closed, rest = text[2:].partition(")")
    if not text.startswith("$(") or not closed:
        return "$" + by_the_rules(text[1:], env)
    return env.get(name, f"$({name})") + by_the_rules(rest, env)
