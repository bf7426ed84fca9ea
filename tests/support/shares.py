"""The order of the tests: each process of pytest-xdist begins with the longest, and ends with short ones.

`--dist worksteal` gives each process a run of the list, and an idle one takes half of what another has left. When
a test of a minute begins last, the others wait for it for a minute.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

# Modules with long tests, or with servers that take long to start, the longest first. Each begins in one process,
# which starts its servers once.
LONGEST = (
    "tests/faults/test_outages.py",
    "tests/faults/test_kills.py",
    "tests/project/test_places.py",
    "tests/faults/test_points.py",
    "tests/web/test_browser.py",
    "tests/faults/test_scenarios.py",
    "tests/security/test_secrets.py",
    "tests/faults/test_losses.py",
)


def sizes(items: int, processes: int) -> Iterator[int]:
    """How many tests each process gets at first, as pytest-xdist deals them out."""
    for left in range(processes, 0, -1):
        yield items // left
        items -= items // left


def in_order(
    items: Sequence[Item], module: Callable[[Item], str], is_slow: Callable[[Item], bool], processes: int
) -> list[Item]:
    """The tests as each process is to run them: of LONGEST, other slow ones, quick ones."""
    modules = [[item for item in items if module(item) == name] for name in LONGEST]
    slow = [item for item in items if module(item) not in LONGEST and is_slow(item)]
    quick = [item for item in items if module(item) not in LONGEST and not is_slow(item)]
    ordered: list[Item] = []
    for share, size in enumerate(sizes(len(items), processes)):
        first = [item for tests in modules[share::processes] for item in tests]
        first += slow[len(slow) * share // processes : len(slow) * (share + 1) // processes]
        rest = max(0, size - len(first))
        ordered += [*first, *quick[:rest]]
        del quick[:rest]
    return ordered + quick
