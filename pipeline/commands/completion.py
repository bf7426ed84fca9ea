"""pipelinectl completion: what a shell needs to complete commands, options and batches."""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.commands import common
from pipeline.jobs.batches import OPEN

SHELLS = ("bash", "zsh")
DESCRIPTION = """Print a script that completes commands, options and batch ids. For this shell alone:

  eval "$(pipelinectl completion bash)"          zsh: after compinit, eval "$(pipelinectl completion zsh)"

For every user: pipelinectl completion bash | sudo tee /etc/bash_completion.d/pipelinectl
`completion batches` prints the ids that the script offers: open batches and the newest others."""

BATCHES = '$(timeout 2 "${COMP_WORDS[0]}" completion batches 2>/dev/null)'  # a service may be down
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
SCRIPT = """# Written by `pipelinectl completion`.
_pipelinectl() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD - 1]}" command="" words="" index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "${COMP_WORDS[index]}" in
            -*) ;;
            *) command="${COMP_WORDS[index]}"; break ;;
        esac
    done
    case "$command $before $word" in
CASES
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _pipelinectl pipelinectl
"""


def run(arguments: argparse.Namespace, top: Any) -> None:
    """Print the script, or the ids of batches."""
    if arguments.wanted == "batches":
        for batch_id in batches():
            common.say(batch_id)
        return
    cases = [f'        " "*) words="{" ".join([*top.choices, "--help", "--version"])}" ;;']
    cases += [f"        {case}" for name, parser in top.choices.items() for case in cases_of(name, parser)]
    script = SCRIPT.replace("CASES", "\n".join(cases))
    print((ZSH if arguments.wanted == "zsh" else "") + script, end="")


def batches() -> list[str]:
    """The ids of the open batches, then of the newest others."""
    opened = common.connect().zrange(OPEN, 0, -1)
    with common.connect_database() as database:
        return list(dict.fromkeys([*opened, *common.newest_batches(database)]))


def cases_of(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """What is offered behind a command: the values of an option, its options, what stands without an option."""
    actions = parser._actions  # argparse has no public name for them
    options = " ".join(option for action in actions for option in action.option_strings if option[:2] == "--")
    yield f'"{name} "*" -"*) words="{options}" ;;'
    for action in actions:
        if action.option_strings and action.nargs != 0:
            before = " | ".join(f'"{name} {option} "*' for option in action.option_strings)
            yield f'{before}) words="{values_of(action)}" ;;'
    positionals = [action for action in actions if not action.option_strings]
    yield f'"{name} "*) words="{values_of(positionals[0]) if positionals else options}" ;;'


def values_of(action: argparse.Action) -> str:
    """The words for the value of an argument; where there are none, shells offer the names of files."""
    if action.dest in ("batch", "batch_id"):
        return BATCHES
    return " ".join(map(str, action.choices or ()))


def add(commands: Any) -> None:
    """Its arguments; the script is of all commands that have been added by then."""
    completing = commands.add_parser(
        "completion", help="print a script for the completion of a shell", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    completing.add_argument("wanted", choices=(*SHELLS, "batches"), help="the shell")
    completing.set_defaults(run=partial(run, top=commands))
