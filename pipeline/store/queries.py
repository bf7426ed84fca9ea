"""The longer queries, the files of sql/: read at the start, so that a process keeps those of its own release."""

from pathlib import Path

QUERIES = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}
