"""Runs a worker whose clock is wrong by as many seconds as a file says, which may change meanwhile.

python tests/support/skewed.py FILE unpack_worker.py
"""

import runpy
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

if __name__ == "__main__":
    file, script = sys.argv[1:]
    right = time.time
    time.time = lambda: right() + float(Path(file).read_text() or 0)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")
