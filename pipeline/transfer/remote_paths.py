"""How a path on the EC2 host is spelled: in one way, so that one file is never two batches."""

from pipeline.foundation.errors import Permanent


def canonical(path: str) -> str:
    """The path without `//`, `/./` and a `/` at its end; `Permanent` where it is not absolute, holds `..` (which
    symbolic links can lead elsewhere) or a NUL."""
    parts = path.split("/")
    if "\0" in path:
        raise Permanent(f"remote path {path!r} is not a path: it contains a NUL")
    if not path.startswith("/"):
        raise Permanent(f"remote path {path!r} is not absolute: it has to begin with /")
    if ".." in parts:
        raise Permanent(f"remote path {path!r} has .. in it: give the path without")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def is_canonical(path: str) -> bool:
    """Whether the path is absolute, and spelled so."""
    try:
        return canonical(path) == path
    except Permanent:
        return False
