"""pipeline/foundation/checksum.py: the SHA-256 of a file that is written in any order."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.foundation.checksum import HashedFile

BYTES = bytes(range(256)) * 1000


def write(file: HashedFile, start: int, data: bytes) -> None:
    file.seek(start)
    assert file.write(data) == len(data)
    assert file.tell() == start + len(data)


@given(st.data())
def test_pieces_in_any_order_and_more_than_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As s3transfer writes them: parts beside each other, and those that broke off again from their start."""
    ends = [*sorted(data.draw(st.sets(st.integers(1, len(BYTES) - 1), max_size=12))), len(BYTES)]
    pieces = list(zip([0, *ends], ends, strict=False))
    again = data.draw(st.lists(st.tuples(st.integers(0, len(BYTES)), st.integers(0, len(BYTES))), max_size=6))
    path = tmp_path_factory.getbasetemp() / "pieces"
    with HashedFile(path) as file:
        for start, end in data.draw(st.permutations(pieces + [(min(pair), max(pair)) for pair in again])):
            write(file, start, BYTES[start:end])
    assert file.hashed == len(BYTES)
    assert file.hexdigest() == hashlib.sha256(BYTES).hexdigest()
    assert path.read_bytes() == BYTES


def test_what_is_hashed_is_never_written_again(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "file") as file:
        write(file, 0, b"good")
        write(file, 0, b"bad and more")
    assert (tmp_path / "file").read_bytes() == b"goodand more"
    assert file.hexdigest() == hashlib.sha256(b"goodand more").hexdigest()


def test_what_was_written_twice_before_its_turn_is_hashed_as_it_is_in_the_file(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "file") as file:
        write(file, 4, b"first")
        write(file, 4, b"again")
        write(file, 0, b"the ")
    assert (tmp_path / "file").read_bytes() == b"the again"
    assert file.hexdigest() == hashlib.sha256(b"the again").hexdigest()


def test_a_gap_is_not_hashed_over(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "file") as file:
        write(file, 0, b"start")
        write(file, 6, b"rest")
    assert file.hashed == 5


def test_a_file_that_somebody_cut_is_an_error(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "file") as file:
        write(file, 2**16, bytes(2**16))
        file.truncate(0)
        with pytest.raises(OSError, match="lost bytes"):
            write(file, 0, bytes(2**16))
