"""The files and folders that settings name: whether this user may use them, and nobody else may change them."""

import fcntl
import os
import ssl
import tempfile
from pathlib import Path

from pipeline.foundation import scratch


def certificate_file_problem(path: str, is_key: bool) -> str:
    """What is wrong with a file of certificates, or with a key file that is there; nothing where all is well."""
    try:
        if is_key:
            Path(path).open("rb").close()
        else:
            ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return "there is no certificate in it"
    except OSError as error:
        return str(error.strerror)
    return ""


def nearest(path: Path) -> Path:
    """The path, or the nearest one above it that exists: below it the rest can be made."""
    return next(there for there in (path, *path.parents) if os.path.lexists(there))


def is_writable(path: Path) -> bool:
    """Whether folders, files and locks can be made there; also where a full or failing disk has to be waited for.

    Tried, since root may do what a file system cannot (/proc).
    """
    try:
        with tempfile.TemporaryDirectory(dir=path) as folder, tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"x")
    except OSError as error:
        return error.errno in scratch.PASSING_ERRNOS
    return True


def is_foreign(path: Path) -> bool:
    """Whether a folder is another user's, as one that was put into /var/tmp before ours."""
    return path.exists() and path.stat().st_uid not in (0, os.geteuid())
