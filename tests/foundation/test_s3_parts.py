"""Parts of files on their way to S3 and back: few enough for OpenStack Swift, and no larger than they must be."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.foundation import s3_parts


@given(size=st.integers(0, 5 * 10**12))
def test_it_needs_at_most_1000_parts_of_16_mib_or_more(size: int) -> None:
    part = s3_parts.part_bytes(size)
    assert part >= 16 * 2**20
    assert part % 2**20 == 0
    assert -(-size // part) <= 1000
    assert part <= 5 * 2**30  # what S3 takes as one part


def test_it_grows_parts_only_where_it_must() -> None:
    least = 16 * 2**20
    assert s3_parts.part_bytes(1000 * least) == least
    assert s3_parts.part_bytes(1000 * least + 1) == least + 2**20
