"""The longest tests begin first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shares import LONGEST, in_order, sizes


def ordered(tests: list[str], processes: int) -> Iterator[list[str]]:
    """What each process gets of tests like "tests/faults/test_kills.py::1 slow"."""
    found = in_order(tests, lambda name: name.partition("::")[0], lambda name: name.endswith("slow"), processes)
    assert sorted(found) == sorted(tests)
    for size in sizes(len(tests), processes):
        yield found[:size]
        del found[:size]
    assert not found


@pytest.mark.parametrize("more", range(9))
def test_each_process_has_long_tests_then_slow_ones_then_quick_ones(more: int) -> None:
    long = [f"{module}::{number}" for module in LONGEST for number in range(3)]
    others = [f"tests/{number:03}.py::x {'slow' if number % 3 else 'quick'}" for number in range(200 + more)]
    for share, tests in enumerate(ordered([*others, *long], 4)):
        kinds = [name.partition(" ")[2] for name in tests]
        count = kinds.index("slow")
        assert {name.partition("::")[0] for name in tests[:count]} == set(LONGEST[share::4])
        assert kinds == [*[""] * count, *["slow"] * kinds.count("slow"), *["quick"] * kinds.count("quick")]


@pytest.mark.parametrize(
    "tests", [[], ["a.py::a"], ["a.py::a slow", "b.py::b"], [f"{LONGEST[0]}::{n}" for n in range(9)]]
)
@pytest.mark.parametrize("processes", [1, 4, 8])
def test_no_test_is_lost_however_few_there_are(tests: list[str], processes: int) -> None:
    assert sum(map(len, ordered(tests, processes))) == len(tests)


def test_the_longest_are_there() -> None:
    assert [name for name in LONGEST if not (Path(__file__).parents[2] / name).exists()] == []
