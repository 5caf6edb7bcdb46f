# SPDX-License-Identifier: Apache-2.0
"""Options before the command: kubectl takes them in any place, click only behind the command they belong to."""

from __future__ import annotations

import click

_CLUSTER = ("-n", "--namespace", "--kubeconfig", "--context")
_SHARED = (*_CLUSTER, "-o", "--output")
_FLAGS = ("-A", "--all-namespaces")


class ForwardingGroup(click.Group):
    """A group that accepts the options that commands share before the command, too, as kubectl does.

    They are moved behind it. As with kubectl, a command that needs no cluster ignores those that select one.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = self.load_command(ctx, cmd_name)
        for each in command.params if command is not None else ():
            if isinstance(each, click.Option):
                each.show_envvar = True
        return command

    def load_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, if there is one."""
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, rest = _leading_options(args)
        name = next(iter(rest), "")
        command = self.get_command(ctx, name) if given and name in self.list_commands(ctx) else None
        if command is not None:
            known = {name for each in command.params for name in each.opts}
            takes = isinstance(command, click.Group) or bool(known.intersection(_CLUSTER))
            moved = [word for option, *words in given for word in (option, *words) if takes or option not in _CLUSTER]
            args = [name, *moved, *rest[1:]]
        elif not {name for each in self.params for name in each.opts}.intersection(_SHARED):
            args = rest  # no command follows: its lack, or its name, is what is wrong
        return super().parse_args(ctx, args)


def _leading_options(args: list[str]) -> tuple[list[list[str]], list[str]]:
    """Return the shared options that *args* begin with, each with its value if it has one, and the rest."""
    given: list[list[str]] = []
    rest = list(args)
    while rest:
        option, equals, value = rest[0].partition("=") if rest[0].startswith("--") else (rest[0], "", "")
        if not option.startswith("--") and option[:2] in _SHARED and len(option) > 2:
            option, equals, value = option[:2], "=", option[2:].removeprefix("=")
        if option in _FLAGS and not equals:
            given.append([option])
        elif option in _SHARED and equals:
            given.append([option, value])
        elif option in _SHARED and len(rest) > 1:
            given.append([option, rest.pop(1)])
        else:
            break
        rest.pop(0)
    return given, rest
