"""Transcripts as files to keep: of one recording, or of many, which are sent while they are read."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from flask import Response, abort
from werkzeug.exceptions import ServiceUnavailable

from pipeline.store.database import Database
from pipeline.store.export_formats import FORMATS, Format
from pipeline.store.export_zip import MEDIA_TYPE, zipped
from pipeline.store.search_query import Query
from pipeline.store.transcripts import AudioFile, every_file

AT_ONCE = 2  # downloads of many: each has a thread and a connection to PostgreSQL, and the pages need some too
_room = threading.BoundedSemaphore(AT_ONCE)


def format_of(name: str) -> Format:
    """The format of this name; an answer with status 404 where there is none."""
    return FORMATS.get(name) or abort(404, f"There is no format {name}.")


def of_one(file: AudioFile, form: Format, names: Sequence[str]) -> Response:
    """The transcript of a recording; `names` are those of the speakers of its channels."""
    return _attached(
        form.encoded([file], names), form.media_type, f"{_stem(str(file.audio_id), form)}.{form.suffix}"
    )


def of_many(database: Database, query: Query, form: Format, names: Sequence[str], title: str) -> Response:
    """Every transcript that the query asks for, in a file called so: of a format with a file for each recording, a
    zip of them. `Permanent` where PostgreSQL cannot look for it. What fails before the first is read has an answer
    of its own; later, the connection ends before the file does, which the browser reports."""
    with ExitStack() as opened:
        opened.enter_context(_place())
        rest = opened.enter_context(closing(every_file(database, query)))
        files = itertools.chain(list(itertools.islice(rest, 1)), rest)
        if form.is_for_each:
            pieces, media_type, name = zipped(files, form, names), MEDIA_TYPE, f"{title}-{form.name}.zip"
        else:
            pieces, media_type = form.encoded(files, names), form.media_type
            name = f"{_stem(title, form)}.{form.suffix}"
        answer = _attached(opened.enter_context(closing(pieces)), media_type, name)
        answer.call_on_close(opened.pop_all().close)
        return answer


@contextmanager
def _place() -> Iterator[None]:
    """One of the places for downloads of many; an answer with status 503 where all are taken."""
    if not _room.acquire(blocking=False):
        raise ServiceUnavailable(
            f"{AT_ONCE} downloads are in progress. Try again when one has ended.", retry_after=60
        )
    try:
        yield
    finally:
        _room.release()


def _stem(title: str, form: Format) -> str:
    return title if form.name == form.suffix else f"{title}-{form.name}"


def _attached(pieces: Iterator[bytes], media_type: str, name: str) -> Response:
    """An answer that the browser keeps as a file of this name, which is ours: letters, digits, dots and dashes."""
    answer = Response(pieces, mimetype=media_type)
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
