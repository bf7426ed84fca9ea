"""The operator's command: queue archives, see what is in progress and what failed, retry it, repair the rest."""

import pipeline.foundation.startup

import argparse
import importlib
import os
import sys

from pipeline.commands.command_line import CommandLine
from pipeline.commands.common import complain
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import did_you_mean

EPILOG = """examples:
  python pipelinectl.py migrate                          make or update the tables
  python pipelinectl.py enqueue /recordings/monday.tar   bring this archive from the EC2 host
  python pipelinectl.py batch monday.tar                 what became of it
  python pipelinectl.py status --json | jq .queues       for scripts
  python pipelinectl.py search fire --since 7d           what was said, in which recordings
  python pipelinectl.py show 4711 --play                 one of them
  python pipelinectl.py export --tag Siren --format csv  transcripts for others
  python pipelinectl.py failures --reason ffmpeg         what failed, and why
  python pipelinectl.py retry 20250622-143052            the failed files of a batch once more
  python pipelinectl.py alerts add fires 'fire or smoke'  an alert for each new transcript that has it
  python pipelinectl.py delete monday.tar --dry-run      what would go; without --dry-run it goes for good
  python pipelinectl.py reconcile --apply                after Redis was lost: queue what S3 and PostgreSQL know of
  python pipelinectl.py rebuild                          after PostgreSQL was lost: make the database from S3
  python pipelinectl.py drain gpu-04 --wait              before a host is taken down
  python pipelinectl.py web                              all this to look at in a browser
  python pipelinectl.py tokens create alice --days 90    and whom that is for

exit status: 0 success, 1 a service is unavailable or something is left to do, 2 wrong arguments or settings
(example.env). `completion` sets up the completion of bash and zsh."""

COMMANDS = (
    "enqueue", "status", "batch", "search", "labels", "languages", "show", "export", "failures",
    "retry", "alerts", "webhooks", "delete", "hold", "release", "retention", "audit",
    "reconcile", "drain", "migrate", "backup", "rebuild", "exporter", "web", "tokens", "completion",
)  # fmt: skip


def parser(given: list[str]) -> argparse.ArgumentParser:
    """The command line. Where the first of the arguments given is a command, only that one is added, since the
    modules of the others take a while to load; `completion` needs them all."""
    top = CommandLine(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"pipelinectl {pipeline.foundation.startup.VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    first = given[0] if given else "--help"
    if first not in COMMANDS and not first.startswith("-"):
        top.error(f"no command {first!r}{did_you_mean(first, COMMANDS) or ': see --help'}")
    for command in (first,) if first in COMMANDS and first != "completion" else COMMANDS:
        importlib.import_module(f"pipeline.commands.{command}").add(commands)
    return top


def main() -> int:
    """Run one command."""
    arguments = parser(sys.argv[1:]).parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # paths that are not UTF-8
    try:
        exit_status = arguments.run(arguments) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        service = unavailable_service(error)
        if service is None:
            raise
        complain(f"{service} is unavailable: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return int(exit_status)


if __name__ == "__main__":
    raise SystemExit(main())
