"""Numbers, times and hostile text, as people read and write them."""

import difflib
from collections.abc import Iterable


def count(number: int, noun: str) -> str:
    """The number with its noun: 1 file, 3 files, 2 batches."""
    ending = "es" if noun.endswith(("ch", "s")) else "s"
    return f"{number} {noun}{'' if number == 1 else ending}"


def amount(size: float) -> str:
    """So many bytes, for people: 12.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 1000 else f"{size:.0f} TB"


def duration(seconds: float) -> str:
    """So many seconds, for people: 1 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def whole_number(text: str, most: int = 2**63 - 1) -> int | None:
    """The number that the text is in plain digits; None where it is not a number, or more than `most`. Python's
    own `int` takes a while over many digits, and raises over a few thousand."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
    return None if number is None or number > most else number


def clock(seconds: float) -> str:
    """A time in a recording: 1:02:03."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def endpoint(host: str, port: int) -> str:
    """127.0.0.1:9100, or [::1]:9100: an address of IPv6 has brackets, or nobody sees where it ends."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """The text for a terminal, a log or a page, which is not to obey it: what does not print (an escape, a line
    break, half of a surrogate pair, a mark that turns the direction of writing) as \\xNN."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message about a mistyped word: what it may have been, in whatever case, or nothing."""
    names = {name.casefold(): name for name in known}
    asked = given.casefold()
    close = [name for name in names if asked and name.startswith(asked)]
    close = close or difflib.get_close_matches(asked, names, cutoff=0.75)
    return f": did you mean {' or '.join(names[name] for name in close[:3])}?" if close else ""
