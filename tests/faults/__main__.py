"""Breaks the pipeline on purpose, at length, and says what was lost, doubled, stranded or leaked.

Real workers as processes on real servers, in a temporary folder. The table is printed, and written to
tests/faults/results.md with the seeds; of the parts that were not run, the last results stay there, and what was
run with --match stands in place of the same rows of its whole part until that is run again.
"""

import argparse
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.store.database import Database
from tests.faults import at_once, kills, outage_parts, scenarios, table
from tests.faults.checker import Findings
from tests.faults.points import FUNCTIONS, Point, points
from tests.faults.table import Row
from tests.support.fleet import PROJECT, Fleet

RESULTS = PROJECT / "tests" / "faults" / "results.json"
KILLS_A_ROUND = 200
LOST_SECONDS = 100  # times that the last second of Redis is lost
POINTS_A_ROUND = 12  # of each worker
EPILOG = """Seeds: a part that plays several rounds takes SEED, SEED+1 and so on, and prints each; what has gone
wrong in a round is tried again with its seed, and with --match for the points of that round.

Exit status: 0 where nothing was found, 1 where something was, 2 for wrong arguments."""


@dataclass
class Play:
    """One run of the command: what was asked for, the servers, and what has come of it."""

    fleet: Fleet
    folder: Path
    seed: int
    kills: int
    trials: int
    match: str
    minutes: float
    say: Callable[[str], object]
    rounds: int = 0
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def round(self, what: str) -> Iterator[Fleet]:
        """The servers, clean, for one round."""
        self.rounds += 1
        self.say(f"{what} ...")
        folder = self.folder / f"round-{self.rounds}"
        folder.mkdir()
        self.fleet.clean(folder)
        yield self.fleet
        self.fleet.check()

    def tell(self, what: str, findings: Findings) -> Findings:
        """Print what was found in the round; the folder of one without findings goes."""
        for line in findings.lines():
            self.say(f"{what}: {line}")
        if not findings:
            shutil.rmtree(self.folder / f"round-{self.rounds}", ignore_errors=True)
        return findings


def instants(play: Play) -> Iterator[Row]:
    """SIGKILL at random instants."""
    found, done, seed = Findings(), 0, play.seed
    recovery: list[float] = []
    archives = files = 0
    while done < play.kills:
        what = f"SIGKILL at random instants, seed {seed}"
        with play.round(what) as fleet:
            result = kills.kill_at_instants(fleet, seed, min(KILLS_A_ROUND, play.kills - done), play.say)
        found.add(play.tell(what, result.findings))
        done, seed = done + len(result.kills), seed + 1
        archives, files = archives + result.archives, files + result.files
        recovery += result.recovery.values()
    play.notes.append(f"seeds {play.seed} to {seed - 1}, {archives:,} archives of {files:,} files")
    yield table.row("SIGKILL at a random instant, 7 workers on 2 hosts", done, found, recovery)


def at_points(play: Play) -> Iterator[Row]:
    """SIGKILL before and after every side effect."""
    chosen = {role: [p for p in points(role) if play.match in str(p)] for role in FUNCTIONS}
    found, recovery, deaths, seed = (
        Findings(),
        [],
        dict.fromkeys(sum(chosen.values(), list[Point]()), 0),
        play.seed,
    )
    for start in range(0, max(map(len, chosen.values())), POINTS_A_ROUND):
        now = [point for role in FUNCTIONS for point in chosen[role][start : start + POINTS_A_ROUND]]
        what = f"SIGKILL at {len(now)} points, seed {seed}"
        with play.round(what) as fleet:
            result = kills.kill_at_points(fleet, seed, play.trials, now, play.say)
        found.add(play.tell(what, result.findings))
        for kill in result.kills:
            if kill.point is not None:
                deaths[kill.point] += 1
                recovery += [result.recovery[kill]] if kill in result.recovery else []
        seed += 1
    never = [str(point) for point, count in deaths.items() if not count]
    few = [f"{point} ({count})" for point, count in deaths.items() if 0 < count < play.trials]
    reached = len(deaths) - len(never)
    play.notes.append(f"seeds {play.seed} to {seed - 1}, {play.trials} kills or more at each of {reached} points")
    play.notes += [f"fewer at {', '.join(few)}"] if few else []
    play.notes += [f"none at {', '.join(never)}: no worker came there"] if never else []
    of = f" of {play.match}" if play.match else ""
    fault = f"SIGKILL before and after every side effect, {reached} points{of}"
    yield table.row(fault, sum(deaths.values()), found, recovery)


def poison(play: Play) -> Iterator[Row]:
    """A file that kills its worker each time."""
    with play.round("one poison among 500 files") as fleet:
        found, recovery = scenarios.poison(fleet)
    yield table.row("one file of 500 that kills its worker each time", 1, play.tell("poison", found), recovery)


def lost_host(play: Play) -> Iterator[Row]:
    """A host that is lost with five open batches."""
    for returns in ("never", "with scratch", "without scratch"):
        what = f"a host lost with 5 open batches; it returns {returns}"
        with play.round(what) as fleet:
            found, recovery = scenarios.lost_host(fleet, returns)
        yield table.row(what.replace("returns never", "never returns"), 1, play.tell(what, found), recovery)


def two_owners(play: Play) -> Iterator[Row]:
    """Two that each believe that a batch is theirs."""
    for role, places in scenarios.STOPPED_AT.items():
        found, trials = Findings(), 0
        recovery: list[float] = []
        for place in places:
            for wakes in ("at once", "late"):
                what = f"{role} worker stopped {place}, woken {wakes}"
                if play.match not in what:
                    continue
                with play.round(what) as fleet:
                    found_now, seconds = scenarios.two_owners(fleet, role, place, wakes)
                found.add(play.tell(what, found_now))
                recovery += seconds
                trials += 1
        fault = f"{role} worker stopped (SIGSTOP) at {len(places)} places, woken after another took over"
        yield table.row(fault, trials, found, recovery)


def everything(play: Play) -> Iterator[Row]:
    """A fleet of three hosts under everything at once."""
    what = f"a fleet of 3 hosts for {play.minutes:.0f} min, everything at once, seed {play.seed}"
    with play.round(what) as fleet:
        result = at_once.run(fleet, play.seed, play.minutes, play.say, play.match)
    found = play.tell(what, result.findings)
    trials = result.played.total()
    play.notes.append(
        f"seed {play.seed}: {result.archives:,} archives of {result.files:,} files, {len(result.recovery)} rounds;"
        f" recovery is the time without any command from the end of a round's last fault until all is done"
    )
    play.notes.append(", ".join(f"{name} {count}" for name, count in sorted(result.played.items())))
    of = f" of {play.match}" if play.match else ""
    fault = f"a fleet of 3 hosts for {play.minutes:.0f} minutes: {len(result.played)} kinds of faults{of} at once"
    yield table.row(fault, trials, found, result.recovery)


def lost_second(play: Play) -> Iterator[Row]:
    """A Redis that forgets its last second, again and again."""
    what = f"Redis forgets its last second {LOST_SECONDS} times, seed {play.seed}"
    with play.round(what) as fleet:
        result = at_once.run(fleet, play.seed, 600, play.say, "last second lost", LOST_SECONDS)
    found = play.tell(what, result.findings)
    play.notes.append(
        f"seed {play.seed}: {result.archives:,} archives of {result.files:,} files; 3 hosts, a primary that dies"
        " and a replica that lacks up to a second; no command is typed"
    )
    fault = "Redis: a failover that loses the last second of writes, under work"
    yield table.row(fault, result.played.total(), found, result.recovery)


PARTS: dict[str, Callable[[Play], Iterator[Row]]] = {
    "instants": instants,
    "points": at_points,
    "poison": poison,
    "lost-host": lost_host,
    "two-owners": two_owners,
    **outage_parts.PARTS,
    "fleet": everything,
    "lost-second": lost_second,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (1)")
    parser.add_argument("--kills", type=int, default=1000, metavar="N", help="SIGKILLs at random instants (1000)")
    parser.add_argument("--points", type=int, default=20, metavar="N", help="SIGKILLs at each point (20)")
    parser.add_argument(
        "--match", default="", metavar="TEXT", help="only points and places whose name has this in it"
    )
    parser.add_argument("--minutes", type=float, default=30, metavar="N", help="of `fleet` (30)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON; progress goes to stderr")
    given = parser.parse_args()
    if unknown := [part for part in given.part if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}: {', '.join(PARTS)}")
    if min(given.kills, given.points) < 1 or given.minutes <= 0:
        parser.error("--kills and --points are 1 at least, --minutes more than 0")
    return given


def keep(part: str, match: str, rows: list[Row], notes: list[str], seconds: float) -> None:
    """Put a part's results, or those of a piece of it, in place of its last ones, row by row."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    piece = f" --match '{match}'"
    if not match:
        kept = {known: results for known, results in kept.items() if not known.startswith(f"{part} --match")}
    else:
        again = {row.fault for row in rows}
        for known, results in kept.items():
            if known.partition(" --match")[0] == part:
                results["rows"] = [row for row in results["rows"] if row["fault"] not in again]
    kept[part + piece * bool(match)] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "minutes": round(seconds / 60),
        "cores": len(os.sched_getaffinity(0)),
        "notes": notes,
        "rows": [asdict(row) for row in rows],
    }
    lines = (f"{json.dumps(name)}: {json.dumps(results)}" for name, results in kept.items())
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    write(kept)


def write(kept: dict[str, dict[str, Any]]) -> None:
    """Write results.md: what was run, and nothing else."""
    rows, notes = [], []
    order = [*PARTS]
    for part in sorted(kept, key=lambda known: (order.index(known.partition(" --match")[0]), known)):
        if kept[part]["rows"]:
            rows += [Row(**row) for row in kept[part]["rows"]]
            notes.append(
                f"- `{part}` on {kept[part]['date']}, {kept[part]['cores']} cores, {kept[part]['minutes']} min"
            )
            notes += [f"  - {note}" for note in kept[part]["notes"]]
    before = "What `python -m tests.faults` has found; a finding is one thing that is not as it must be."
    table.write(rows, RESULTS.with_suffix(".md"), before, "\n".join(notes))


def main() -> int:
    """Play the parts."""
    given = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = Console(stderr=given.json)

    def say(text: str) -> None:
        log.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False, highlight=False)

    folder = Path(tempfile.mkdtemp(prefix="audio-pipeline-faults-"))
    shown: list[Row] = []
    with Fleet(folder) as fleet:
        database = Database(fleet.postgres.url)
        database.migrate()
        database.close()
        fleet.postgres.grant()
        play = Play(fleet, folder, given.seed, given.kills, given.points, given.match, given.minutes, say)
        for part in given.part or PARTS:
            begun, play.notes = time.monotonic(), []
            rows = list(PARTS[part](play))
            shown += rows
            if rows:
                keep(part, given.match, rows, play.notes, time.monotonic() - begun)
    if given.json:
        print(table.as_json(shown))
    else:
        table.show(shown, log)
    if all(row.is_clean for row in shown):
        shutil.rmtree(folder)
        return 0
    say(f"what the rounds with findings have left is in {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
