"""What the bytes of an Opus file of ours say: how many channels it has, and whether it ends whole."""

from pathlib import Path

_MOST_PAGE_BYTES = 65_307  # of an Ogg page


def opus_channels(path: Path) -> int:
    """How many channels an Opus of ours has (RFC 7845, section 5.1); 1 where it is something else."""
    with path.open("rb") as file:
        head = file.read(64)
    place = head.find(b"OpusHead")
    return max(1, head[place + 9]) if 0 <= place < len(head) - 9 else 1


def ends_whole(path: Path) -> bool:
    """Whether an Ogg file ends with its last page (RFC 3533, section 6): a decoder does not miss what is cut."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _MOST_PAGE_BYTES))
        tail = file.read()
    start = tail.rfind(b"OggS")
    while start >= 0:
        page = tail[start:]
        if len(page) >= 27 and len(page) == 27 + page[26] + sum(page[27 : 27 + page[26]]):
            return bool(page[5] & 4)  # the end-of-stream flag
        start = tail.rfind(b"OggS", 0, start)  # those four bytes may also occur in the sound
    return False
