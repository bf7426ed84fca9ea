"""Every script imports this first: it ends with one line where Python is too old or a package is not installed.

It also has the version, which `--version` prints. Python 3.6 has to be able to read this file and the scripts.
"""

import os
import sys
from types import TracebackType
from typing import NoReturn, Type  # noqa: UP035 - for old Pythons

VERSION = "1.0.0.dev0"
LEAST = (3, 11)

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_ENVIRONMENT = os.path.join(_ROOT, ".venv")


def _refuse(problem: str) -> NoReturn:
    """End with status 2; where the checkout has an environment that is not in use, name its Python."""
    remedy = "pip install -r requirements.txt"
    if sys.prefix != _ENVIRONMENT and os.path.exists(os.path.join(_ENVIRONMENT, "bin", "python")):
        remedy = "run it with " + os.path.join(_ENVIRONMENT, "bin", "python")
    sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {problem}: {remedy}\n")
    raise SystemExit(2)


def _tell(kind: Type[BaseException], error: BaseException, trace: TracebackType) -> None:  # noqa: UP006
    """Say in one line which package is missing; any other error keeps its traceback."""
    package = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    ours = os.path.join(_ROOT, package)
    if not package or os.path.exists(ours) or os.path.exists(ours + ".py"):
        sys.__excepthook__(kind, error, trace)
    else:
        _refuse(f"{sys.executable} has no package {package!r}")


if sys.version_info < LEAST:
    _least, _found = (".".join(map(str, version[:3])) for version in (LEAST, sys.version_info))
    _refuse(f"Python {_least} or later is required; {sys.executable} is {_found}")
sys.excepthook = _tell  # type: ignore[assignment]
