"""pipelinectl.py: what the operator types, sees and pipes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pipelinectl
import s3_utils
from pipeline.foundation.file_warnings import FileWarning, as_json
from pipeline.operations.reconcile import Finding, Reconciler
from pipeline.store.database import Database
from tests.store.test_transcripts import CUT, hear
from tests.support.child import Child, free_port
from tests.support.fleet import PROJECT, Fleet, batch_keys
from tests.support.recordings import DAMAGED, SILENCE, SPEECH, SPOKEN, make_tar
from tests.support.steps import (
    BATCH,
    add_batch,
    add_dead_letter,
    add_file,
    dead,
    exit_status,
    is_idle,
    log_of,
    object_keys,
    put,
    rows,
    s3_client,
    unpack_job,
    upload,
    use_s3,
    wait_for,
    wait_for_log,
    warn,
)

Done = subprocess.CompletedProcess[str]
COLUMNS = 80


def control(fleet: Fleet, *arguments: str, **changes: str) -> Done:
    return fleet.control(*arguments, COLUMNS=str(COLUMNS), **changes)


def printed(done: Done) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complaint(done: Done, status: int) -> str:
    """The one line on stderr; no secret in it."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pipelinectl")
    assert "hunter2" not in line
    return line


def refusal(done: Done) -> str:
    """The one line of a service that refuses us; no secret in it."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert "hunter2" not in line
    return line


# --- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_shows_every_command_with_examples(fleet: Fleet, arguments: list[str]) -> None:
    text = printed(control(fleet, *arguments))
    commands = (
        "enqueue", "status", "search", "show", "export", "failures", "retry", "reconcile", "drain", "migrate",
    )  # fmt: skip
    for word in (*commands, "--json", "exit status", "examples:"):
        assert word in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("enqueue", "path of a tar archive"),
        ("search", "the newest first"),
        ("show", "everything about one file"),
        ("export", "{txt,vtt,srt,json,csv}"),
        ("status", "--json"),
        ("migrate", "the role that owns the tables"),
        ("failures", "and the dead letters"),
        ("exporter", "/metrics"),
        ("retry", "What is done stays done"),
        ("reconcile", "Safe while workers run"),
        ("drain", "Exit status 1 while it has some"),
    ],
)
def test_every_command_has_help(fleet: Fleet, command: str, words: str) -> None:
    text = printed(control(fleet, command, "--help"))
    assert f"pipelinectl.py {command}" in text
    assert words in text


@pytest.mark.parametrize("arguments", [[], ["dance"], ["enqueue"], ["status", "now"], ["migrate", "--json"]])
def test_wrong_arguments_give_the_usage(fleet: Fleet, arguments: list[str]) -> None:
    done = control(fleet, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: pipelinectl.py")
    assert "Traceback" not in done.stderr


# --- migrate -----------------------------------------------------------------------------------------------


def test_migrate_makes_the_tables_and_may_be_repeated(fleet: Fleet) -> None:
    url = fleet.postgres.new_database(f"migrate{time.time_ns()}")
    first = printed(control(fleet, "migrate", DATABASE_URL=url))
    assert first.startswith("applied ")
    assert first.index("001_audio_files") < first.index("002_s3_opus_path")
    assert printed(control(fleet, "migrate", DATABASE_URL=url)) == "the schema is up to date\n"


def test_migrate_indexes_transcripts_of_an_older_release(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", "a fire")
    fleet.query("UPDATE transcripts SET indexed_at = NULL, folded_at = NULL")
    fleet.query("TRUNCATE passages")
    found = control(fleet, "search", "fire")
    assert (found.returncode, found.stdout) == (0, "nothing found\n")
    assert found.stderr.startswith("pipelinectl: some older transcripts are not indexed yet")
    assert printed(control(fleet, "migrate")) == "the schema is up to date\n1 transcript indexed\n"
    assert printed(control(fleet, "search", "fire")).startswith(f"{audio_id}  ")


def test_migrate_of_the_schema_alone_leaves_the_rows_as_they_are(fleet: Fleet) -> None:
    hear(fleet, "a.mp3", "a fire")
    fleet.query("UPDATE transcripts SET indexed_at = NULL, folded_at = NULL")
    assert printed(control(fleet, "migrate", "--schema-only")) == "the schema is up to date\n"
    assert fleet.query("SELECT folded_at FROM transcripts") == [(None,)]
    assert printed(control(fleet, "migrate")) == "the schema is up to date\n1 transcript indexed\n"


def test_migrate_needs_no_redis(fleet: Fleet) -> None:
    printed(control(fleet, "migrate", REDIS_URL=""))


# --- enqueue -----------------------------------------------------------------------------------------------


def test_enqueue_queues_exactly_the_paths(fleet: Fleet, redis: Any) -> None:
    paths = ["/recordings/monday.tar", "/recordings/two words.tar", "/in/ümläut \"'$x.tar"]
    assert printed(control(fleet, "enqueue", *paths)).splitlines() == [
        *(f"queued {path}" for path in paths),
        "follow it with: pipelinectl.py batch /recordings/monday.tar --wait",
        "follow it with: pipelinectl.py batch '/recordings/two words.tar' --wait",
        "follow it with: pipelinectl.py batch '/in/ümläut \"'\"'\"'$x.tar' --wait",
    ]
    jobs = [json.loads(job) for job in redis.lrange("queue:transfer", 0, -1)]
    assert jobs == [{"remote_path": path} for path in paths]


def test_enqueue_uses_the_queue_that_is_set(fleet: Fleet, redis: Any) -> None:
    printed(control(fleet, "enqueue", "/a.tar", TRANSFER_QUEUE="queue:other"))
    assert redis.lrange("queue:other", 0, -1) == ['{"remote_path": "/a.tar"}']
    assert redis.llen("queue:transfer") == 0


def test_enqueue_takes_a_path_that_is_not_utf8(fleet: Fleet, redis: Any) -> None:
    done = control(fleet, "enqueue", "/caf\udce9.tar", "/b.tar", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "")
    jobs = [json.loads(job) for job in redis.lrange("queue:transfer", 0, -1)]
    assert jobs == [{"remote_path": "/caf\udce9.tar"}, {"remote_path": "/b.tar"}]


# --- what goes wrong ---------------------------------------------------------------------------------------


def test_redis_away_is_one_line_and_status_1(fleet: Fleet) -> None:
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    assert "Redis is unavailable" in complaint(control(fleet, "enqueue", "/a.tar", REDIS_URL=url), 1)


@pytest.mark.parametrize(("change", "reason"), [("user:hunter2@", "password"), ("", "DB index")])
@pytest.mark.parametrize("command", [["status"], ["enqueue", "/a.tar"]])
def test_a_redis_that_refuses_is_named_with_status_2(
    fleet: Fleet, command: list[str], change: str, reason: str
) -> None:
    url = fleet.valkey.url.replace("redis://", f"redis://{change}").replace("/0", "/0" if change else "/99")
    line = refusal(control(fleet, *command, REDIS_URL=url))
    assert "REDIS_URL" in line
    assert reason in line


def test_postgresql_away_is_one_line_and_status_1(fleet: Fleet) -> None:
    url = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/x"
    line = complaint(control(fleet, "migrate", DATABASE_URL=url), 1)
    where = url.partition("@")[2].removesuffix("/x")
    assert line.endswith(
        f"PostgreSQL is unavailable: {where}: Connection refused;"
        " Is the server running on that host and accepting TCP/IP connections?"
    )


def test_a_missing_database_is_one_line(fleet: Fleet) -> None:
    url = fleet.postgres.url.replace("postgres@", "postgres:hunter2@") + "-of-nobody"
    assert "of-nobody" in refusal(control(fleet, "migrate", DATABASE_URL=url))


def test_a_role_that_may_not_migrate_is_refused(fleet: Fleet) -> None:
    line = refusal(control(fleet, "migrate", DATABASE_URL=fleet.postgres.worker_url))
    assert "DATABASE_URL: permission denied" in line
    assert "the role that owns the tables" in line


def test_an_empty_path_is_refused_and_queues_nothing(fleet: Fleet, redis: Any) -> None:
    assert "'' is not absolute" in complaint(control(fleet, "enqueue", "/a.tar", ""), 2)
    assert redis.llen("queue:transfer") == 0


def test_a_relative_path_is_refused_and_queues_nothing(fleet: Fleet, redis: Any) -> None:
    assert "'a.tar' is not absolute" in complaint(control(fleet, "enqueue", "/b.tar", "a.tar"), 2)
    assert redis.llen("queue:transfer") == 0


def test_a_reader_that_goes_away_is_no_traceback(fleet: Fleet) -> None:
    done = subprocess.run(
        f"'{sys.executable}' '{PROJECT}/pipelinectl.py' status --json | true",
        shell=True, capture_output=True, text=True, check=False, env={**os.environ, **fleet.settings()},
    )  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["status"], "REDIS_URL"), (["enqueue", "/a"], "REDIS_URL"), (["migrate"], "DATABASE_URL")],
)
def test_a_missing_setting_is_named_with_status_2(fleet: Fleet, arguments: list[str], name: str) -> None:
    done = control(fleet, *arguments, **{name: ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == f"pipelinectl.py: {name} is not set"


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("status", "REDIS_URL", "user:hunter2@127.0.0.1:6379"),
        ("migrate", "DATABASE_URL", "user:hunter2@127.0.0.1/x"),
    ],
)
def test_an_address_that_is_none_is_named_with_status_2(fleet: Fleet, command: str, name: str, value: str) -> None:
    done = control(fleet, command, **{name: value})
    assert done.returncode == 2, done.stderr
    assert name in done.stderr
    assert "hunter2" not in done.stderr


# --- failures ----------------------------------------------------------------------------------------------


ESCAPES = "\x1b]0;owned\x07\x1b[2J\nqueued everything\u202e.mp3"


@pytest.fixture
def broken(fleet: Fleet, redis: Any) -> list[str]:
    """Failed files and dead letters, many of them hostile; gives the names of the files."""
    names = ["plain.mp3", ESCAPES, "n" * 300 + ".mp3", "caf\\xe9.mp3", "[red]x[/red] [/].mp3"]
    add_batch(fleet, files=len(names))
    for name in names:
        add_file(fleet, name, "failed", f"ffmpeg: cannot read {name}")
    add_dead_letter(redis, "queue:transfer", json.dumps({"remote_path": "/monday.tar"}), "no such file")
    add_dead_letter(redis, "queue:transfer", ESCAPES, ESCAPES)
    add_dead_letter(redis, "queue:unpack", "[" * 50_000, "not a job")
    redis.execute_command(
        "RPUSH", "queue:transcribe:dead", b"\xff\xfe\x1b[2J", "{}", '{"job": 1, "attempts": 1e999}'
    )
    return names


def assert_harmless(text: str) -> None:
    """Nothing that a terminal obeys, and no half of a surrogate pair."""
    assert all(char.isprintable() or char == "\n" for char in text), repr(text)
    assert "owned" not in text or "\\x1b]0;owned" in text.replace("\n", "")
    assert "\nqueued everything" not in text


def test_failures_are_shown_whatever_they_hold(fleet: Fleet, broken: list[str]) -> None:
    text = printed(control(fleet, "failures", PYTHONIOENCODING="utf-8:strict"))
    assert_harmless(text)
    assert f"failed files: {len(broken)}" in text
    assert "dead letters: 6" in text
    assert "no such file" in text
    assert "[red]x" in text
    assert max(len(line) for line in text.splitlines()) <= COLUMNS


def test_failures_as_json_hold_every_byte(fleet: Fleet, broken: list[str]) -> None:
    answer = json.loads(printed(control(fleet, "failures", "--json")))
    assert sorted(file["original_filename"] for file in answer["files"]) == sorted(broken)
    jobs = [job["job"] for job in answer["jobs"]]
    assert {ESCAPES, "\udcff\udcfe\x1b[2J", "{}", '{"job": 1, "attempts": 1e999}'} < set(jobs)
    (shown,) = (job for job in answer["jobs"] if job["error"] == "no such file")
    assert (shown["queue"], shown["attempts"], shown["worker"]) == ("queue:transfer", 3, "w")


@pytest.mark.usefixtures("broken")
def test_failures_are_filtered_counted_and_cut(fleet: Fleet) -> None:
    by_reason = printed(control(fleet, "failures", "--by-reason", "--queue", "queue:transcribe"))
    assert by_reason.split() == ["reasons:", "1", "number", "reason", "3", "not", "a", "dead", "letter"]
    few = printed(control(fleet, "failures", "--limit", "1", "--batch", BATCH))
    assert "failed files: 5, the first 1" in few
    assert "dead letters: 0" in few
    none = json.loads(printed(control(fleet, "failures", "--json", "--reason", "NO SUCH", "--since", "30m")))
    assert (none["files"], none["jobs"]) == ([], [])
    some = json.loads(printed(control(fleet, "failures", "--json", "--reason", "NO SUCH", "--since", "99999d")))
    assert [job["error"] for job in some["jobs"]] == ["no such file"]


def test_ids_and_times_are_not_broken_into_lines(fleet: Fleet, redis: Any) -> None:
    """They are searched for, and copied into the next command."""
    add_file(fleet, f"{'long/' * 20}a.mp3", "failed", "no sound " * 20, when="2025-06-22 14:30:52+00")
    add_dead_letter(redis, "queue:unpack", unpack_job(), "it is cut " * 20)
    (job,) = json.loads(printed(control(fleet, "failures", "--json")))["jobs"]
    lines = [line.split() for line in printed(control(fleet, "failures")).splitlines()]
    assert ["2025-06-22T14:30:52Z", BATCH] in [line[:2] for line in lines]
    assert [job["id"], "2025-06-22T14:30:52Z"] in [line[:2] for line in lines]


def test_behind_a_pipe_a_row_is_a_line(fleet: Fleet, redis: Any) -> None:
    """For grep, awk and cut: nothing is folded, and one long cell does not make all rows as long."""
    names = {f"{letter * 200}.mp3": f"{letter}: {'no sound ' * 30}".rstrip() for letter in "ab"}
    for name, reason in names.items():
        add_file(fleet, name, "failed", reason)
        warn(fleet, add_file(fleet, f"x{name}", "done"), CUT)
        add_dead_letter(redis, "queue:unpack", json.dumps({"batch_id": BATCH, "s3_key": name}), reason)
    add_file(fleet, "short.mp3", "failed", "no")
    put(fleet, f"archives/{BATCH}.tar")
    failed, warned, health, reasons, amiss = (
        fleet.control(*command, COLUMNS="").stdout.splitlines()
        for command in (
            ["failures"],
            ["failures", "--warnings"],
            ["status"],
            ["failures", "--by-reason"],
            ["reconcile"],
        )
    )
    for name, reason in names.items():
        for row in ([name, reason], [f'"s3_key": "{name}"}}', reason]):
            assert [line for line in failed if all(cell in line for cell in row)], row
        assert [line for line in warned if f"x{name}" in line and CUT.message in line]
        assert [line for line in health if reason in line]
        assert [line for line in reasons if line.endswith(f"  {reason}")]
    assert [line for line in amiss if BATCH in line and "reconcile" not in line]
    (short,) = [line for line in failed if "short.mp3" in line]
    assert len(short) < 120
    assert not [line for line in failed if line.endswith(" ")]


def test_failures_without_any(fleet: Fleet) -> None:
    text = printed(control(fleet, "failures"))
    assert "failed files: 0" in text
    assert "dead letters: 0" in text


def test_files_with_warnings_are_shown(fleet: Fleet) -> None:
    names = [*("n" * 30 + f"{number}.mp3" for number in range(3)), ESCAPES]
    for name in names:
        audio_id = add_file(fleet, name, "done", when="2025-06-22 14:30:52+00")
        warn(fleet, audio_id, CUT, FileWarning(ESCAPES, None, ESCAPES))
    add_file(fleet, "sound.mp3", "done")
    text = printed(control(fleet, "failures", "--warnings", REDIS_URL=""))
    assert_harmless(text)
    assert "files with warnings: 4" in text
    assert ["2025-06-22T14:30:52Z", BATCH] in [line.split()[:2] for line in text.splitlines()]
    assert "missing_end," in text
    assert "sound.mp3" not in text
    few = printed(control(fleet, "failures", "--warnings", "--limit", "2"))
    assert "files with warnings: 4, the first 2" in few
    answer = json.loads(printed(control(fleet, "failures", "--warnings", "--json", "--reason", "missing_END")))
    assert [file["original_filename"] for file in answer["files"]] == names[::-1]
    assert answer["files"][0]["warnings"] == as_json([CUT, FileWarning(ESCAPES, None, ESCAPES)])
    assert answer["files"][0].keys() == {
        "batch_id", "original_filename", "status", "warnings", "changed_at", "audio_id", "archive"
    }  # fmt: skip
    none = json.loads(printed(control(fleet, "failures", "--warnings", "--json", "--since", "24h")))
    assert none == {"files": []}
    counted = printed(control(fleet, "failures", "--warnings", "--by-reason", "--batch", BATCH))
    assert counted.split()[:5] == ["warnings:", "2", "files", "warning", "4"]
    assert counted.split()[-2:] == ["4", "missing_end"]
    assert_harmless(counted)


def test_dead_letters_have_no_warnings(fleet: Fleet) -> None:
    done = control(fleet, "failures", "--warnings", "--queue", "queue:unpack")
    assert "leave --queue out" in complaint(done, 2)


# --- what is typed wrong -----------------------------------------------------------------------------------

USAGE = [
    ["failures", "--since", "yesterday"], ["failures", "--since", "999999d"], ["failures", "--since", "١d"],
    ["failures", "--limit", "0"], ["failures", "--limit", "9" * 5000], ["failures", "--reason", "\udcff"],
    ["failures", "--batch", "\udcff"], ["failures", "--reason", "x" * 9000], ["retry", "--reason", "\udcff"],
    ["drain"], ["reconcile", "now"], ["retry", "--job"],
]  # fmt: skip
COMPLAINTS = [
    (["retry", ""], "name a batch", 2), (["retry", BATCH, "--reason", "x"], "do not go together", 2),
    (["retry", "--job", "\x1b[2J"], "no dead letter \\x1b", 2),
    (["reconcile", "--delete-orphans"], "--apply", 2),
    (["retry", "\udcff"], "is invalid", 1), (["retry", BATCH, "\x1b[2J\n.mp3"], f"there is no batch {BATCH}", 2),
    (["drain", "\x1b[2J\udcff"], "no worker of \\x1b[2J", 2),
    (["drain", "nohost", "--undo"], "no worker of nohost", 2),
    (["drain", "here", "--undo", "--hand-back"], "--undo does not go with", 2),
    (["retry", "--job", "x", "--reason", "y"], "do not go together", 2),
    (["search", "--since", "2d", "--until", "3d"], "--since is not before --until", 2),
    (["search", "--processed-since", "2d", "--processed-until", "3d"], "--processed-since is not before", 2),
    (["export", "--all", "--search", "fire", "--format", "csv"], "--all takes every transcript", 2),
    (["enqueue", "/recordings/../etc/x.tar"], "has .. in it", 2),
]  # fmt: skip


@pytest.mark.parametrize("arguments", USAGE, ids=lambda arguments: repr(arguments)[:40])
def test_what_cannot_be_read_gives_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        pipelinectl.parser(arguments).parse_args(arguments)
    answer = capsys.readouterr()
    assert (ended.value.code, answer.out) == (2, "")
    assert answer.err.startswith("usage: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reconcile", "--aply"], "unknown: --aply: did you mean --apply?"),
        (["search", "--sice=7d", "fire"], "unknown: --sice=7d: did you mean --since?"),
        (["search", "-fire"], "unknown: -fire: put -- before what begins with -"),
        (["status", "-x"], "unknown: -x"), (["reconcile", "\x1b[2J"], "unknown: \\x1b[2J"),
    ],
)  # fmt: skip
def test_an_option_that_is_mistyped_is_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        pipelinectl.parser(arguments).parse_args(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {said}\n")


def test_without_an_ec2_host_it_says_whose_is_used(fleet: Fleet, redis: Any) -> None:
    done = control(fleet, "enqueue", "/a.tar", EC2_HOST="")
    assert "EC2_HOST is not set here" in done.stderr
    assert (done.returncode, redis.llen("queue:transfer")) == (0, 1)


def test_what_begins_with_a_dash_is_searched_for_behind_two(fleet: Fleet) -> None:
    assert printed(control(fleet, "search", "--", "-fire")) == "nothing found\n"


def test_what_needs_no_s3_does_not_load_its_library() -> None:
    code = (
        "import errno, sys, pipelinectl; from pipeline.foundation.errors import unavailable_service;"
        "pipelinectl.parser(['status']);"
        "assert unavailable_service(OSError(errno.ENOSPC, 'full')) == 'the disk';"
        "assert 'boto3' not in sys.modules;"
        "from botocore.exceptions import ReadTimeoutError;"
        "assert unavailable_service(ReadTimeoutError(endpoint_url='x')) == 'S3'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_what_is_typed_wrong_is_one_line_and_never_a_traceback(fleet: Fleet, redis: Any) -> None:
    for arguments, reason, status in COMPLAINTS:
        line = complaint(control(fleet, *arguments), status)
        assert reason in line
        assert_harmless(line)
    assert list(redis.scan_iter()) == []


@pytest.mark.parametrize("command", [["failures"], ["retry", BATCH], ["reconcile", "--apply"], ["drain", "here"]])
def test_a_service_that_is_unavailable_is_one_line(fleet: Fleet, redis: Any, command: list[str]) -> None:
    redis.zadd("hosts:seen", {"here": redis.time()[0]})
    away = {"Redis": {"REDIS_URL": f"redis://user:hunter2@127.0.0.1:{free_port()}/0"}}
    if command[0] != "drain":
        away["PostgreSQL"] = {"DATABASE_URL": f"postgresql://user:hunter2@127.0.0.1:{free_port()}/x"}
    if command[0] == "reconcile":
        away["S3"] = {"S3_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    for service, change in away.items():
        assert f"{service} is unavailable" in complaint(control(fleet, *command, **change), 1)


def test_a_bucket_that_is_none_is_named(fleet: Fleet) -> None:
    assert "there is no such bucket" in refusal(control(fleet, "reconcile", S3_BUCKET="nobodys"))


def test_a_database_without_tables_is_named(fleet: Fleet) -> None:
    url = fleet.postgres.new_database(f"empty{time.time_ns()}")
    for command in (["failures"], ["reconcile"]):
        assert "run `python pipelinectl.py migrate`" in refusal(control(fleet, *command, DATABASE_URL=url))


# --- retry -------------------------------------------------------------------------------------------------


def waiting(redis: Any, queue: str = "queue:unpack") -> list[str]:
    """The batches of the unpack jobs that wait."""
    return [json.loads(job)["batch_id"] for job in redis.lrange(queue, 0, -1)]


def test_all_that_failed_for_one_reason_is_tried_again_each_batch_once(fleet: Fleet, redis: Any) -> None:
    for batch_id in ("one", "two", "three"):
        put(fleet, f"archives/{batch_id}.tar")
        add_batch(fleet, batch_id, files=2)
        for name in ("a.mp3", ESCAPES):
            add_file(fleet, name, "failed", "no room" if batch_id != "three" else "broken", batch_id)
            job = {"batch_id": batch_id, "original_filename": name}
            add_dead_letter(redis, "queue:transcribe", json.dumps(job), "no room")
    add_dead_letter(redis, "queue:unpack", unpack_job("one"), "no room")
    add_dead_letter(redis, "queue:transfer", '{"remote_path": "/x\\u001b"}', "No Room")
    add_dead_letter(redis, "queue:transfer", "\x1b[2J", "no room")
    asked = complaint(control(fleet, "retry", "--reason", "no room"), 1)
    assert asked.endswith("try 4 files of 2 batches and 3 dead letters again: say --yes")
    assert (waiting(redis), redis.llen("queue:transfer")) == ([], 0)
    text = printed(control(fleet, "retry", "--reason", "no room", "--yes"))
    assert text.splitlines()[:2] == ["queued 2 files of batch one", "queued 2 files of batch two"]
    assert_harmless(text)
    assert waiting(redis) == ["one", "two"]
    assert redis.llen("queue:transfer") == 2
    assert redis.llen("queue:unpack:dead") == redis.llen("queue:transfer:dead") == 0
    assert redis.llen("queue:transcribe:dead") == 2  # of the batch that failed for another reason
    printed(control(fleet, "retry", "--queue", "queue:transcribe", "--yes"))
    assert waiting(redis) == ["one", "two", "three"]
    assert redis.llen("queue:transcribe:dead") == 0
    assert printed(control(fleet, "retry", "--reason", "no room", "--yes")) == (
        "there is no failed file or dead letter with 'no room' in its reason\n"
    )


def test_dead_letters_that_are_none_are_taken_away(fleet: Fleet, redis: Any) -> None:
    add_dead_letter(redis, "queue:unpack", ESCAPES, "no job")
    kept = add_dead_letter(redis, "queue:unpack", "{}", "no job")
    dead_letters = json.loads(printed(control(fleet, "failures", "--json")))["jobs"]
    job = next(dead_letter["id"] for dead_letter in dead_letters if dead_letter["job"] == ESCAPES)
    asked = complaint(control(fleet, "retry", "--job", job, "--forget"), 1)
    assert asked.endswith("take 1 dead letter away for good: say --yes")
    assert redis.llen("queue:unpack:dead") == 2
    text = printed(control(fleet, "retry", "--job", job, "--forget", "--yes"))
    assert text.startswith("gone: \\x1b]0;owned")
    assert_harmless(text)
    assert redis.lrange("queue:unpack:dead", 0, -1) == [kept]
    assert redis.llen("queue:unpack") == 0
    assert "--forget is for dead letters" in complaint(control(fleet, "retry", BATCH, "--forget"), 2)


def test_dead_letters_are_tried_again_by_their_ids(fleet: Fleet, redis: Any) -> None:
    put(fleet, f"archives/{BATCH}.tar")
    add_batch(fleet, files=2)
    for name in ("a.mp3", "b.mp3", "c.mp3"):
        add_file(fleet, name, "failed", "broken")
        add_dead_letter(redis, "queue:transcribe", json.dumps({"batch_id": BATCH, "original_filename": name}))
    dead_letters = json.loads(printed(control(fleet, "failures", "--json", "--queue", "queue:transcribe")))["jobs"]
    ids = [dead_letter["id"] for dead_letter in dead_letters if "c.mp3" not in dead_letter["job"]]
    done = control(fleet, "retry", "--job", ids[0], "--job", ids[1], "--job", ids[0])
    assert printed(done) == f"queued 2 files of batch {BATCH}\n"
    assert waiting(redis) == [BATCH]
    assert "no dead letter" in complaint(control(fleet, "retry", "--job", ids[0]), 2)


def test_a_name_that_begins_with_a_dash_can_be_tried_again(fleet: Fleet) -> None:
    put(fleet, f"archives/{BATCH}.tar")
    add_batch(fleet)
    add_file(fleet, "-rf.mp3", "failed", "broken")
    assert printed(control(fleet, "retry", BATCH, "--", "-rf.mp3")) == f"queued 1 file of batch {BATCH}\n"


# --- reconcile ---------------------------------------------------------------------------------------------


def reconcile(fleet: Fleet, *arguments: str, status: int = 0, **changes: str) -> dict[str, str]:
    """What is amiss, by subject: kind and outcome."""
    done = control(fleet, "reconcile", "--json", *arguments, **changes)
    assert (done.returncode, done.stderr) == (status, ""), done.stderr
    return {row["subject"]: f"{row['kind']}: {row['outcome']}" for row in json.loads(done.stdout)}


def test_reconcile_tells_mends_and_is_content(fleet: Fleet, redis: Any) -> None:
    assert printed(control(fleet, "reconcile")) == "S3, PostgreSQL and Redis agree\n"
    put(fleet, f"archives/{BATCH}.tar", "processed/2025-06-22/7.opus")
    add_file(fleet, "a.mp3", "processing", batch_id="gone")
    orphan, gone = "processed/2025-06-22/7.opus", {"gone": "archive gone: left"}
    answer = control(fleet, "reconcile")
    assert (answer.returncode, answer.stderr) == (1, "")
    assert "nothing was changed" in answer.stdout
    found = {BATCH: "unqueued: found", "gone": "archive gone: found", orphan: "orphan: found"}
    assert reconcile(fleet, status=1) == found
    assert redis.llen("queue:unpack") == 0
    repaired = {BATCH: "unqueued: repaired", **gone, orphan: "orphan: left"}
    assert reconcile(fleet, "--apply", "--yes", status=1) == repaired  # --yes alone deletes nothing
    assert waiting(redis) == [BATCH]
    done = control(fleet, "reconcile", "--apply", "--delete-orphans")
    assert (done.returncode, object_keys(fleet, "processed/")) == (1, [orphan])
    assert done.stderr == "pipelinectl: delete 1 object in S3: say --yes\n"
    deleted = {**gone, orphan: "orphan: repaired"}
    assert reconcile(fleet, "--apply", "--delete-orphans", "--yes", status=1) == deleted
    assert object_keys(fleet, "processed/") == []
    assert reconcile(fleet, "--apply", status=1) == gone
    assert waiting(redis) == [BATCH]
    fleet.query("TRUNCATE audio_files CASCADE")
    assert reconcile(fleet) == {}


@pytest.mark.parametrize(
    ("answer", "left"), [("y\n", []), ("n\n", ["processed/2025-06-22/7.opus"]), ("\x04", None)]
)
def test_reconcile_asks_on_a_terminal(fleet: Fleet, answer: str, left: list[str] | None) -> None:
    put(fleet, "processed/2025-06-22/7.opus")
    master, terminal = os.openpty()
    command = [sys.executable, f"{PROJECT}/pipelinectl.py", "reconcile", "--apply", "--delete-orphans", "--json"]
    with os.fdopen(master, "r+b", buffering=0) as keyboard, os.fdopen(terminal) as stdin:
        keyboard.write(answer.encode())
        done = subprocess.run(
            command, stdin=stdin, capture_output=True, text=True, check=False, env=fleet.environment(), timeout=60
        )
    assert done.stderr == "delete 1 object in S3? [y/N] "
    assert len(json.loads(done.stdout)) == 1
    assert object_keys(fleet, "processed/") == (["processed/2025-06-22/7.opus"] if left is None else left)


@pytest.mark.parametrize(
    ("point", "arguments"),
    [
        ("pipeline.operations.retry:reopen after 1", ["retry", BATCH]),
        ("pipeline.operations.retry:Retry._queue after 1", ["retry", BATCH]),
        ("pipeline.store.batch_states:forget_opus after 1", ["reconcile", "--apply"]),
        ("pipeline.store.batch_states:unfinish after 1", ["reconcile", "--apply"]),
    ],
)
def test_a_pipelinectl_that_dies_between_two_services_is_healed(
    fleet: Fleet, redis: Any, point: str, arguments: list[str]
) -> None:
    put(fleet, f"archives/{BATCH}.tar")
    add_batch(fleet, files=2)
    done = add_file(fleet, "a.mp3", "done")
    if arguments[0] == "retry":  # reconcile works on it again
        put(fleet, f"processed/2025-06-22/{done}.opus")
    add_file(fleet, "b.mp3", "failed", "broken")
    strike = [
        str(PROJECT / "tests" / "support" / "kill_at.py"),
        *point.split(),
        "KILL",
        str(PROJECT / "pipelinectl.py"),
    ]
    victim = fleet.run([*strike, *arguments], "pipelinectl")
    assert exit_status(victim) == -9, log_of(victim)
    fleet.workers.remove(victim)
    control(fleet, "reconcile", "--apply")
    assert reconcile(fleet, "--apply") == {}
    assert waiting(redis) == [BATCH]
    assert fleet.query("SELECT finished_at FROM batches") == [(None,)]
    assert "processing" in {row[0] for row in rows(fleet).values()}


# --- with workers ------------------------------------------------------------------------------------------

TWO = {"speech.mp3": SPEECH, "silence.mp3": SILENCE}


def settled(fleet: Fleet, redis: Any, files: int) -> Callable[[], bool]:
    """Whether so many files are done, and nothing is left to do."""

    def is_settled() -> bool:
        done = fleet.query("SELECT count(*) FILTER (WHERE status = 'done'), count(*) FROM audio_files")
        unfinished = fleet.query("SELECT count(*) FROM batches WHERE finished_at IS NULL")
        return (done, unfinished) == ([(files, files)], [(0,)]) and not batch_keys(redis)

    return is_settled


def assert_kept_once(fleet: Fleet) -> None:
    """Every file has its Opus and its transcript in S3, and there is no other object."""
    kept = sorted(path for (path,) in fleet.query("SELECT s3_opus_path FROM audio_files"))
    texts = [path.removesuffix(".opus") + ".json" for path in kept]
    assert object_keys(fleet, "processed/") == sorted(kept + texts)
    assert fleet.query("SELECT count(*) FROM transcripts") == [(len(kept),)]


def stop_at(fleet: Fleet, role: str, point: str, name: str = "", how: str = "STOP", **changes: str) -> Child:
    """A worker that stands still, or dies, at a step; it has got there."""
    strike = [
        str(PROJECT / "tests" / "support" / "kill_at.py"),
        *point.split(),
        how,
        str(PROJECT / f"{role}_worker.py"),
    ]
    child = fleet.run(strike, name or role, **changes)
    wait_for_log(child, "signal sent")
    if how == "KILL":
        assert exit_status(child) == -9
        fleet.workers.remove(child)
    return child


def go_on(child: Child) -> None:
    assert child.process is not None
    child.process.send_signal(signal.SIGCONT)


def test_archives_that_were_repaired_in_s3_are_unpacked_again(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was cut, and so never unpacked; and one of whose files was damaged and another is no more."""
    fleet.changes = {"RETRY_SECONDS": "0"}
    whole = make_tar(tmp_path / "whole.tar", TWO)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:-9000])
    bad = make_tar(tmp_path / "bad.tar", {"silence.mp3": SILENCE, "speech.mp3": DAMAGED, "gone.mp3": DAMAGED})
    for batch_id, tar in (("20250622-000001", cut), ("20250622-000002", bad)):
        upload(fleet, monkeypatch, tar, batch_id)
        redis.rpush("queue:unpack", unpack_job(batch_id))
    fleet.worker("unpack")
    fleet.worker("gpu")
    wait_for(
        lambda: dead(redis, "queue:unpack") and len(rows(fleet)) == 3 and not batch_keys(redis),
        fleet,
        "the failures",
    )
    for batch_id in ("20250622-000001", "20250622-000002"):  # by a person: a worker would refuse to write over it
        key = f"archives/{batch_id}.tar"
        s3_client(fleet).put_object(Bucket=fleet.bucket, Key=key, Body=whole.read_bytes())
    assert printed(control(fleet, "retry", "20250622-000001")) == "queued batch 20250622-000001\n"
    assert printed(control(fleet, "retry", "20250622-000002")) == "queued 2 files of batch 20250622-000002\n"
    done = dict.fromkeys([(f"20250622-00000{number}", name) for number in (1, 2) for name in TWO], "done")
    gone = {("20250622-000002", "gone.mp3"): "failed"}

    def is_repaired() -> bool:
        return {name: row[0] for name, row in rows(fleet).items()} == {**done, **gone} and not batch_keys(redis)

    wait_for(is_repaired, fleet, "the repaired archives")
    assert rows(fleet)["20250622-000002", "gone.mp3"][1] == "it is no longer in its archive"
    assert rows(fleet)["20250622-000002", "speech.mp3"][2] == SPOKEN
    assert dead(redis, "queue:unpack") == []
    assert reconcile(fleet) == {}


def test_a_file_that_killed_its_worker_is_tried_again(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"MAX_ATTEMPTS": "1"}
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"call.mp3": SPEECH}))
    redis.rpush("queue:unpack", unpack_job())
    fleet.worker("unpack")
    stop_at(fleet, "gpu", "pipeline.speech.voice_windows:ends_whole before 1", how="KILL")
    fleet.worker("gpu")
    wait_for(lambda: dead(redis, "queue:transcribe") and not batch_keys(redis), fleet, "the poison")
    assert printed(control(fleet, "retry", BATCH, "call.mp3")) == f"queued 1 file of batch {BATCH}\n"
    wait_for(settled(fleet, redis, 1), fleet, "the file")
    assert rows(fleet)[BATCH, "call.mp3"][:3] == ("done", None, SPOKEN)
    assert dead(redis, "queue:transcribe") == []
    assert_kept_once(fleet)


@contextmanager
def comparing(fleet: Fleet, redis: Any) -> Iterator[Callable[[], list[Finding]]]:
    """`pipelinectl reconcile` in this process, where a look takes milliseconds."""
    database = Database(fleet.postgres.url)
    compare = Reconciler(
        redis, database, "queue:transfer", "queue:unpack", ["queue:transcribe"],
        s3_utils.archives, s3_utils.sources, s3_utils.opus_keys, s3_utils.exists, s3_utils.delete_opus,
    )  # fmt: skip
    yield lambda: list(compare.findings())
    database.close()


def test_reconcile_beside_busy_workers_finds_nothing(
    fleet: Fleet, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"TRANSCRIBE_QUEUE": "queue:transcribe:here"}  # which pipelinectl is not answer of
    use_s3(fleet, monkeypatch)
    tars = [make_tar(fleet.ssh.folder / f"{number}.tar", TWO) for number in range(10)]
    for role in ("transfer", "unpack", "gpu"):
        fleet.worker(role)
    fleet.control("enqueue", *map(str, tars))
    found: dict[str, Finding] = {}
    looks = 0
    with comparing(fleet, redis) as look:
        while not settled(fleet, redis, 20)() or redis.llen("queue:transfer"):
            for finding in look():
                found[finding.subject] = finding
                if finding.repair is not None:
                    finding.repair()
            looks += 1
            for worker in fleet.workers:
                worker.require_running()
    assert found == {}
    assert looks > 10
    assert reconcile(fleet, "--apply", TRANSCRIBE_QUEUE="queue:transcribe") == {}
    assert_kept_once(fleet)
    assert fleet.query("SELECT count(*) FROM batches") == [(10,)]


def test_a_redis_that_was_wiped_is_rebuilt_from_s3_and_postgresql(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one batch being finished, one in transcription and one being unpacked."""
    fleet.changes = {
        "TRANSCRIBE_QUEUE": "queue:transcribe:here", "CONVERT_JOBS": "1", "WHISPER_BATCH_SIZE": "2",
    }  # fmt: skip
    many = {f"{number}.mp3": SPEECH for number in range(9)}
    for number, files in enumerate([TWO, many, TWO], 1):
        batch_id = f"20250622-00000{number}"
        upload(fleet, monkeypatch, make_tar(tmp_path / "a.tar", files), batch_id)
        redis.rpush("queue:unpack", unpack_job(batch_id))
    unpack = stop_at(fleet, "unpack", "pipeline.jobs.batches:Batches.push after 12")
    gpu = stop_at(fleet, "gpu", "s3_utils:cleanup_scratch before 1")
    assert redis.hkeys("batches:finishing") == ["20250622-000001"]
    assert redis.zrange("batches:open", 0, -1) == ["20250622-000002", "20250622-000003"]
    redis.flushall()
    repaired = {f"20250622-00000{number}": "unqueued: repaired" for number in (1, 2, 3)}
    repaired["20250622-000001"] = "unmarked: repaired"
    assert repaired.items() <= reconcile(fleet, "--apply", TRANSCRIBE_QUEUE="queue:transcribe").items()
    go_on(unpack)
    go_on(gpu)
    queues = ("queue:unpack", "queue:transcribe:here")
    wait_for(lambda: all(redis.zcard(f"{name}:workers") for name in queues), fleet, "the workers' heartbeats")
    later = []
    with comparing(fleet, redis) as look:
        while not settled(fleet, redis, 13)():
            later += look()
            for worker in fleet.workers:
                worker.require_running()
    assert later == []
    assert_kept_once(fleet)
    assert {row[2] for (_, name), row in rows(fleet).items() if name != "silence.mp3"} == {SPOKEN}


def test_a_remote_file_never_becomes_two_batches(fleet: Fleet, redis: Any) -> None:
    """Queued again by hand, and by the watch of a transfer worker whose Redis was wiped."""
    fleet.changes = {"EC2_WATCH_SECONDS": "1"}
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"call.mp3": SILENCE})
    transfer = fleet.worker("transfer")
    for role in ("unpack", "gpu"):
        fleet.worker(role)
    wait_for(settled(fleet, redis, 1), fleet, "the batch")

    def is_known(times: int) -> bool:
        idle = is_idle(redis, "queue:transfer") and is_idle(redis, "queue:unpack")
        return log_of(transfer).count("already") == times and idle

    printed(control(fleet, "enqueue", str(tar)))
    wait_for(lambda: is_known(1), fleet, "the archive queued by hand")
    redis.flushall()
    wait_for(lambda: is_known(2), fleet, "the archive queued by the watch")
    assert fleet.query("SELECT count(*), count(finished_at) FROM batches") == [(1, 1)]
    assert len(object_keys(fleet, "archives/")) == 1
    assert_kept_once(fleet)
    assert reconcile(fleet) == {}


def test_an_archive_whose_transfer_goes_on_after_redis_was_wiped_is_in_its_hands(fleet: Fleet, redis: Any) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", TWO)
    printed(control(fleet, "enqueue", str(tar)))
    stop_at(fleet, "transfer", "s3_utils:upload_archive after 1", how="KILL")
    redis.flushall()
    printed(control(fleet, "enqueue", str(tar)))
    transfer = stop_at(fleet, "transfer", "s3_utils:upload_archive after 1", "transfer-2")
    assert reconcile(fleet) == {}
    go_on(transfer)
    wait_for(lambda: is_idle(redis, "queue:transfer"), fleet, "the transfer")
    assert [f"archives/{batch_id}.tar" for batch_id in waiting(redis)] == object_keys(fleet, "archives/")


def test_a_drained_host_finishes_what_it_has_and_takes_no_more(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"HOST_NAME": "one"}
    for number in (1, 2):
        batch_id = f"20250622-00000{number}"
        upload(fleet, monkeypatch, make_tar(tmp_path / "a.tar", TWO), batch_id)
        redis.rpush("queue:unpack", unpack_job(batch_id))
    unpack = stop_at(fleet, "unpack", "pipeline.jobs.batches:Batches.push after 1")
    answer = control(fleet, "drain", "one")
    assert (answer.returncode, answer.stderr) == (1, "")
    assert "takes no new work" in answer.stdout
    assert "1 batch with 2 files to do" in answer.stdout
    go_on(unpack)
    fleet.worker("gpu")
    assert printed(control(fleet, "drain", "one", "--wait")).endswith("has no work: its workers can be stopped\n")
    assert waiting(redis) == ["20250622-000002"]
    assert fleet.query("SELECT batch_id FROM batches WHERE finished_at IS NOT NULL") == [("20250622-000001",)]
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    wait_for(lambda: "draining" in control(fleet, "status").stdout, fleet, "the status")
    assert printed(control(fleet, "drain", "one", "--undo")) == "one takes work again\n"
    assert printed(control(fleet, "drain", "one", "--undo")) == "one was not draining\n"
    wait_for(settled(fleet, redis, 4), fleet, "the second archive")


def test_a_drained_host_gives_its_batches_to_another(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "a.tar", TWO))
    redis.rpush("queue:unpack", unpack_job())
    one = stop_at(fleet, "unpack", "pipeline.jobs.batches:Batches.push after 1", "one", HOST_NAME="one")
    asked = control(fleet, "drain", "one", "--hand-back")
    assert asked.stderr == "pipelinectl: give 1 open batch of one to other hosts, which start again: say --yes\n"
    assert (asked.returncode, waiting(redis)) == (1, [])
    given = control(fleet, "drain", "one", "--hand-back", "--yes")
    assert f"batch {BATCH} is queued again" in given.stdout
    assert waiting(redis) == [BATCH]
    two = {"HOST_NAME": "two", "SCRATCH_ROOT": str(tmp_path / "two"), "TRANSCRIBE_QUEUE": "queue:transcribe:two"}
    for role in ("unpack", "gpu"):
        fleet.worker(role, f"two-{role}", **two)
    go_on(one)
    wait_for(settled(fleet, redis, 2), fleet, "the batch on the other host")
    assert fleet.query("SELECT host FROM batches") == [("two",)]
    assert_kept_once(fleet)
    printed(control(fleet, "drain", "one", "--wait"))
    assert log_of(one).count("another host's now") == 1
