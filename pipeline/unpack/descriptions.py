"""What is known of a recording before it is opened: when it was made, and what else is said of it.

The first source counts whose time can be true: the sidecar, the name, the time at which the member was changed.
The tags come between sidecar and name; they are known when the recording is decoded (`pipeline.audio.tags`).
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from pipeline.foundation.file_metadata import Description, bounded
from pipeline.foundation.filename_times import Form, read_name
from pipeline.foundation.recording_times import Clock, Moment
from pipeline.unpack import sidecars
from pipeline.unpack.archive import Member


def describe(archive: BinaryIO, member: Member, forms: Sequence[Form], clock: Clock) -> Description:
    """What its sidecar, its name (by these forms) and its header in the archive say of a member."""
    told, metadata = _sidecar(archive, member, clock)
    named, fields = read_name(member.original_filename, forms, clock)
    moments = {"sidecar": told, "name": named, "mtime": clock.moment(member.changed)}
    source, moment = _first({source: moment for source, moment in moments.items() if moment})
    return Description(moment.at if moment else None, source, bounded({**fields, **metadata}))


def parts(members: Sequence[Member], size: int) -> Iterator[Sequence[Member]]:
    """The members, so many at a time: an archive may hold gigabytes of sidecars."""
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _sidecar(archive: BinaryIO, member: Member, clock: Clock) -> tuple[Moment | None, dict[str, Any]]:
    if member.sidecar is None:
        return None, {}
    offset, size = member.sidecar
    return sidecars.read(os.pread(archive.fileno(), size, offset), clock) or (None, {})


def _first(moments: dict[str, Moment]) -> tuple[str | None, Moment | None]:
    """The first time, or of one that is a day alone the first that says when on that day."""
    for source, moment in moments.items():
        closer = ((other, one) for other, one in moments.items() if moment.holds(one))
        return next(closer, (source, moment))
    return None, None
