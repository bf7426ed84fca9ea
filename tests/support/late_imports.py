"""Runs a script of the project; from when a file is there, nothing more of what is installed can be imported, as
after a deploy that has taken its release away, and each file of the checkout that is opened or run is printed.

python tests/support/late_imports.py FILE unpack_worker.py
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

PROJECT = str(Path(__file__).parents[2])
sys.path.insert(0, PROJECT)


class Gone:
    """Finds no module but Python's own."""

    def __init__(self, file: str) -> None:
        self.file = file

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> None:
        """`ModuleNotFoundError`, or None: then others are asked."""
        if name.partition(".")[0] not in sys.stdlib_module_names and os.path.exists(self.file):
            print(f"late: {name}", flush=True)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def watch_files(file: str) -> None:
    """Print each file of the checkout that is opened or handed to a program once the file is there. Modules that
    are opened are left out: a traceback shows their lines."""

    def watch(event: str, given: tuple[Any, ...]) -> None:
        names = [given[0]] if event == "open" else given[1] if event == "subprocess.Popen" else ()
        found = [name for name in names if isinstance(name, str) and name.startswith(f"{PROJECT}/pipeline/")]
        late = [name for name in found if event != "open" or not name.endswith(".py")]
        if late and os.path.exists(file):
            print(f"late: {late[0]}", flush=True)

    sys.addaudithook(watch)


if __name__ == "__main__":
    file, script = sys.argv[1:]
    sys.meta_path.insert(0, Gone(file))
    watch_files(file)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")
