"""Numbers, times and hostile text, as people read them."""


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


def clock(seconds: float) -> str:
    """A time in a recording: 1:02:03."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def printable(text: str) -> str:
    """The text for a terminal or a page, which is not to obey it: what does not print (an escape, a newline, half
    of a surrogate pair, a mark that turns the direction of writing) as \\xNN."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
