"""Which bytes of a file hold its sound: one stretch as a rule, several where recordings were joined, and other
bytes than its header says where a recorder crashed before it could write the header again.

ffmpeg reads the first of several joined recordings of some formats and is silent about the rest, and believes a
WAV header that says less than is there.
"""

from collections.abc import Callable
from pathlib import Path

from pipeline.audio import containers, joined_files, pcm_headers
from pipeline.audio.sound_pieces import Piece, Pieces, behind_tags

_HEAD = 2**16
_UNKNOWN_LARGE = 2**62  # sizes from here on stand for "not known" in headers of 64 bits
# ASF 01.20.05, section 3.2: the File Properties Object, whose size of the file is 40 bytes behind its start.
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# Demuxers that read the ID3 tags in front of the sound themselves.
_TAGGED = frozenset(("mp3", "aac", "ac3", "eac3", "flac", "tta", "ape", "mpc", "mpc8", "wv"))
_READERS = {
    "wav": pcm_headers.wav, "aiff": pcm_headers.aiff,
    "mp3": joined_files.mp3, "ogg": joined_files.ogg, "mov": joined_files.mov, "amr": joined_files.amr,
}  # fmt: skip


def pieces(path: Path) -> Pieces:
    """Where the sound of a file is. What is in it decides, never its name."""
    with path.open("rb") as file:
        size = path.stat().st_size

        def read_at(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        head = read_at(0, _HEAD)
        form = containers.recognise(head, read_at, size)
        if form is None:
            return Pieces(problem="it holds no sound in a format that is read here" if size else "it is empty")
        begin = containers.tag_bytes(head, read_at, size)
        if reader := _READERS.get(form):
            return reader(file, size, begin)
        piece = Piece(form) if form in _TAGGED else behind_tags(form, begin, size)
        return Pieces([piece], share=_share(form, read_at, begin, size))


def _share(form: str, read_at: Callable[[int, int], bytes], begin: int, size: int) -> float:
    """How much is there of the bytes that the header counts, 0 to 1."""
    declared = 0
    head = read_at(begin, _HEAD)
    if form == "avi":  # RIFF, of which the first chunk is the file, or its first gigabyte
        declared = 8 + int.from_bytes(head[4:8], "little")
    elif form == "w64":
        declared = int.from_bytes(head[16:24], "little")
    elif form == "asf" and (place := head.find(_ASF_FILE)) >= 0:
        declared = int.from_bytes(head[place + 40 : place + 48], "little")
    elif form == "caf" and (place := head.find(b"data")) >= 0:
        length = int.from_bytes(head[place + 4 : place + 12], "big", signed=True)
        declared = place + 12 + length if length > 0 else 0
    return (size - begin) / declared if size - begin < declared < _UNKNOWN_LARGE else 1.0
