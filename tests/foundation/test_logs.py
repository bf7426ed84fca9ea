"""The log: one line for each event, with what it is about, whatever the names are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import DAMAGED, SPEECH, make_tar
from tests.support.steps import BATCH, log_of, rows, unpack_job, upload, wait_for

HOSTILE = 'a\n2026-01-01 00:00:00 INFO all is well\r\x1b[31m <b>\udcff"\u2028' + "x" * 300 + ".mp3"
FORMATS = pytest.mark.parametrize("form", ["text", "json"])


def logged(form: str, code: str) -> list[str]:
    """The lines that a process with this log set up writes."""
    start = (
        "import json, logging, threading; from pipeline.foundation import logs;"
        "from pipeline.jobs.job_queue import Job;"
        f"logs.set_up('INFO', {form!r}, 'w1', 'gpu'); name = json.loads({json.dumps(HOSTILE)!r});"
        "job = Job(json.dumps({'batch_id': 'b1', 'original_filename': name}), 1, 't');"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{start}\n{code}"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    return done.stderr.split("\n")[:-1]


@FORMATS
def test_no_name_breaks_a_line_or_speaks_to_a_terminal(form: str) -> None:
    (line,) = logged(form, "with logs.about(job): logging.warning('%s failed', name)")
    assert line.isprintable()
    if form == "json":
        event = json.loads(line)
        assert list(event) == ["time", "level", "message", "worker", "role", "job", "batch", "file"]
        assert (event["worker"], event["role"], event["batch"], event["file"]) == ("w1", "gpu", "b1", HOSTILE)
        assert event["message"] == f"{HOSTILE} failed"
        assert len(event["job"]) == 12


def test_the_text_names_batch_and_job_and_not_twice_what_the_message_says() -> None:
    (line,) = logged("text", "with logs.about(job): logging.warning('%s is gone', name)")
    assert " w1 WARNING [job=" in line
    assert " batch=b1] a\\n2026-01-01" in line
    assert "file=" not in line


@FORMATS
@pytest.mark.parametrize("where", ["caught", "main", "thread"])
def test_an_exception_is_part_of_its_event(form: str, where: str) -> None:
    code = {
        "caught": "try: raise ValueError(name)\nexcept ValueError: logging.exception('broken')",
        "main": "raise ValueError(name)",
        "thread": "def work(): raise ValueError(name)\nthread = threading.Thread(target=work)\nthread.start()",
    }[where]
    first, *rest = logged(form, code)
    if form == "json":
        assert rest == []
        assert "Traceback" in json.loads(first)["exception"]
        assert "all is well" in json.loads(first)["exception"]
    else:
        assert rest
        assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_a_line_outside_of_a_job_names_none() -> None:
    code = "with logs.about(job), logs.naming(file='b.mp3'): pass\nlogging.info('ready')"
    assert set(json.loads(logged("json", code)[0])) == {"time", "level", "message", "worker", "role"}


@FORMATS
def test_the_life_of_a_file_is_found_by_its_batch_id_and_its_name(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"call.mp3": SPEECH, "bad.mp3": DAMAGED}))
    redis.rpush("queue:unpack", unpack_job(file_count=2))
    fleet.changes = {"LOG_FORMAT": form}
    workers = [fleet.worker("unpack"), fleet.worker("gpu")]
    wait_for(lambda: sorted(row[0] for row in rows(fleet).values()) == ["done", "failed"], fleet, "the batch")
    wait_for(lambda: "is finished" in "".join(map(log_of, workers)), fleet, "its end")
    fleet.stop_workers()
    lines = [line for worker in workers for line in log_of(worker).splitlines()]
    life = [line for line in lines if BATCH in line and "call.mp3" in line]
    if form == "json":
        events = [json.loads(line) for line in lines]
        ours = [event for event in events if event.get("batch") == BATCH and event.get("file") == "call.mp3"]
        life = [event["message"] for event in ours]
        assert all(event["job"] and event["worker"] and event["role"] for event in ours)
    steps = ("unpacked to", "queued", "transcribed, ", "kept as processed/", "done, counted")
    places = [next((n for n, line in enumerate(life) if step in line), -1) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    assert any("bad.mp3 failed: " in line and BATCH in line for line in lines)


def test_the_argument_goes_before_the_setting(fleet: Fleet) -> None:
    script = [str(PROJECT / "transfer_worker.py"), "--log-format", "json"]
    worker = fleet.run(script, "transfer", LOG_FORMAT="text")
    wait_for(lambda: " ready, " in log_of(worker), fleet, "the worker")
    assert all(json.loads(line)["worker"] == "test-transfer" for line in log_of(worker).splitlines())
