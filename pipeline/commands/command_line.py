"""A command line that says what an argument may have been which it does not know."""

import argparse
from collections.abc import Sequence
from typing import Any

from pipeline.foundation.formatting import did_you_mean, printable


class CommandLine(argparse.ArgumentParser):
    """As argparse's own, whose message for a mistyped option is that it is not recognized."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse; ends with status 2 where an argument is left over."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown: {printable(' '.join(unknown))[:200]}{self._hint(unknown)}")
        return found, unknown

    def _hint(self, unknown: Sequence[str]) -> str:
        first = unknown[0].partition("=")[0]
        if not first.startswith("-"):
            return ""
        actions = self._actions  # argparse has no public name for them
        if hint := did_you_mean(first, [option for action in actions for option in action.option_strings]):
            return hint
        takes_words = any(not action.option_strings for action in actions)
        return ": put -- before what begins with -" if takes_words else ""
