"""What a run at length has shown, one row for each fault: on the terminal, as Markdown, as JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.faults.checker import Findings

COLUMNS = ("fault", "trials", "lost", "doubled", "stranded", "leaked", "recovery, median", "worst")


@dataclass(frozen=True)
class Row:
    """One fault: how often it was made, how many findings the checker had in all trials together, and the seconds
    to recover (median and worst of the trials) where that was measured."""

    fault: str
    trials: int
    lost: int
    doubled: int
    stranded: int
    leaked: int
    recovery: float | None = None
    worst: float | None = None

    @property
    def is_clean(self) -> bool:
        """Whether the checker found nothing."""
        return not (self.lost or self.doubled or self.stranded or self.leaked)

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of COLUMNS; a dash where nothing was measured."""
        counts = (self.trials, self.lost, self.doubled, self.stranded, self.leaked)
        times = ("–" if seconds is None else f"{seconds:.1f} s" for seconds in (self.recovery, self.worst))
        return (self.fault, *(f"{count:,}" for count in counts), *times)


def row(fault: str, trials: int, findings: Findings, recovery: Iterable[float] = ()) -> Row:
    """The row of a fault: what the checker found after so many trials of it, and the seconds of each recovery."""
    counts = (len(findings.lost), len(findings.doubled), len(findings.stranded), len(findings.leaked))
    seconds = list(recovery)
    times = (round(median(seconds), 3), round(max(seconds), 3)) if seconds else ()
    return Row(fault, trials, *counts, *times)


def show(rows: Iterable[Row], console: Console) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for one in rows:
        table.add_row(*one.cells(), style=None if one.is_clean else "bold red")
    console.print(table)


def markdown(rows: Iterable[Row]) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(one.cells()) + " |" for one in rows]
    return "\n".join(lines) + "\n"


def as_json(rows: Iterable[Row]) -> str:
    """The table for scripts; recovery in seconds."""
    return json.dumps([asdict(one) for one in rows], indent=2)


def write(rows: Iterable[Row], path: Path, before: str, after: str = "") -> None:
    """Write the table as Markdown, with text before and after it."""
    parts = [before.strip(), markdown(rows).strip(), after.strip()]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")
