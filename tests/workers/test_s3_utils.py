"""S3 and the scratch copy: the user's five functions on moto and on OpenStack Swift."""

import datetime
import hashlib
import inspect
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.exceptions
import pytest
from botocore.retries import standard

import config
import s3_utils
from pipeline.foundation import s3_client as s3_connection
from pipeline.foundation import s3_parts
from pipeline.foundation.archive_origin import Origin, as_kept
from pipeline.foundation.errors import Outage, Permanent, Stopping, unavailable_service
from tests.faults.proxy import Proxy
from tests.support.child import free_port
from tests.support.fleet import PROJECT
from tests.support.null_s3 import NullS3
from tests.support.servers import S3Server

ID = "20250622-143052"
KEY = f"archives/{ID}.tar"
BYTES = bytes(range(256)) * 64
ON_SWIFT = pytest.mark.parametrize("s3", ["swift"], indirect=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's retries without the waits between them."""
    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda *_: 0.0)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "local.tar"
    path.write_bytes(BYTES)
    return path


def put(key: str, body: bytes, **metadata: str) -> None:
    """Store an object behind the back of `s3_utils`."""
    s3_utils.get_s3_client().put_object(Bucket=config.S3_BUCKET, Key=key, Body=body, Metadata=metadata)


def head(key: str) -> Any:
    return s3_utils.get_s3_client().head_object(Bucket=config.S3_BUCKET, Key=key)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the contract ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("get_s3_client", "() -> Any"),
        ("upload_archive", "(local_path: pathlib.Path, batch_id: str) -> str"),
        ("download_archive", "(s3_key: str, batch_id: str) -> pathlib.Path"),
        ("upload_opus", "(local_path: pathlib.Path, audio_id: int, date_str: str) -> str"),
        ("cleanup_scratch", "(batch_id: str) -> None"),
    ],
)
def test_it_has_the_functions_that_were_asked_for(name: str, signature: str) -> None:
    whole = inspect.signature(getattr(s3_utils, name))
    asked = [given for given in whole.parameters.values() if given.kind is not given.KEYWORD_ONLY]
    found = str(whole.replace(parameters=asked))
    assert found.replace("typing.Any", "Any").replace("pathlib._local.", "pathlib.") == signature
    assert all(given.default is not given.empty for given in whole.parameters.values() if given not in asked)


def test_it_signs_and_addresses_as_swift_needs_it(s3: S3Server) -> None:
    settings = s3_utils.get_s3_client().meta.config
    assert settings.signature_version == "s3v4"
    assert settings.s3["addressing_style"] == "path"
    assert settings.request_checksum_calculation == "when_required"
    assert settings.response_checksum_validation == "when_required"
    assert s3_utils.get_s3_client() is s3_utils.get_s3_client()


# --- archives -------------------------------------------------------------------------------------------


def test_it_brings_an_archive_up_and_down(s3: S3Server, archive: Path) -> None:
    assert not s3_utils.archive_exists(ID)
    assert s3_utils.upload_archive(archive, ID) == "archives/20250622-143052.tar"
    assert s3_utils.archive_exists(ID)
    path = s3_utils.download_archive(KEY, ID)
    assert path == config.SCRATCH_ROOT / ID / "archive.tar"
    assert path.read_bytes() == BYTES
    assert listing(path.parent) == ["archive.tar"]


def test_it_keeps_the_sha256_with_the_archive(s3: S3Server, archive: Path) -> None:
    s3_utils.upload_archive(archive, ID)
    assert head(KEY)["Metadata"] == {"sha256": hashlib.sha256(BYTES).hexdigest()}


@pytest.mark.parametrize(
    "path", ["/recordings/monday.tar", "/записи/день " + "ю" * 120 + ".tar", "/a\udcff\n.tar"]
)
def test_it_keeps_with_the_archive_where_it_came_from(s3: S3Server, archive: Path, path: str) -> None:
    s3_utils.upload_archive(archive, ID, origin=Origin(path, "ec2.example.net"))
    digest = hashlib.sha256(BYTES).hexdigest()
    assert s3_utils.archive_origin(KEY) == Origin(as_kept(path), "ec2.example.net", len(BYTES), digest)
    s3_utils.upload_archive(archive, ID, origin=Origin("/moved.tar", "other"))  # the first one stays
    assert s3_utils.archive_origin(KEY).path == as_kept(path)


def test_an_archive_that_others_put_there_has_no_origin_but_its_size(s3: S3Server) -> None:
    put(KEY, BYTES)
    assert s3_utils.archive_origin(KEY) == Origin(size=len(BYTES))
    with pytest.raises(Permanent, match="is not in the bucket"):
        s3_utils.archive_origin("archives/none.tar")


def test_it_uploads_the_same_archive_again(s3: S3Server, archive: Path) -> None:
    assert s3_utils.upload_archive(archive, ID) == s3_utils.upload_archive(archive, ID)
    assert s3_utils.download_archive(KEY, ID).read_bytes() == BYTES


@pytest.mark.parametrize("metadata", [{"sha256": "0" * 64}, {}])
@pytest.mark.parametrize("other", [BYTES[::-1], b"x"])
def test_it_overwrites_no_archive_with_other_bytes(
    s3: S3Server, archive: Path, other: bytes, metadata: dict[str, str]
) -> None:
    put(KEY, other, **metadata)
    with pytest.raises(Permanent, match=f"{KEY} is in S3 already, with other bytes"):
        s3_utils.upload_archive(archive, ID)
    assert s3_utils.get_s3_client().get_object(Bucket=config.S3_BUCKET, Key=KEY)["Body"].read() == other


def test_it_uploads_an_archive_again_that_did_not_arrive_whole(s3: S3Server, archive: Path) -> None:
    put(KEY, BYTES[:100], sha256=hashlib.sha256(BYTES).hexdigest())
    s3_utils.upload_archive(archive, ID)
    assert s3_utils.download_archive(KEY, ID).read_bytes() == BYTES


def test_it_refuses_an_archive_whose_bytes_changed(s3: S3Server) -> None:
    put(KEY, BYTES[::-1], sha256=hashlib.sha256(BYTES).hexdigest())
    with pytest.raises(OSError, match=f"{KEY}: the SHA-256 differs") as caught:
        s3_utils.download_archive(KEY, ID)
    assert unavailable_service(caught.value) is None
    assert "archive.tar" not in listing(config.SCRATCH_ROOT / ID)


def test_it_takes_an_archive_that_carries_no_sha256(s3: S3Server) -> None:
    put(KEY, BYTES)
    assert s3_utils.download_archive(KEY, ID).read_bytes() == BYTES


def test_it_brings_an_empty_archive_down(s3: S3Server) -> None:
    put(KEY, b"", sha256=hashlib.sha256(b"").hexdigest())
    assert s3_utils.download_archive(KEY, ID).read_bytes() == b""


def test_it_refuses_an_archive_of_another_size(
    s3: S3Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_utils.upload_archive(archive, ID)
    monkeypatch.setattr(s3_utils, "_head", lambda key: {**head(key), "ContentLength": len(BYTES) + 1})
    with pytest.raises(Outage, match=f"{len(BYTES)} bytes arrived of {len(BYTES) + 1}"):
        s3_utils.download_archive(KEY, ID)
    assert "archive.tar" not in listing(config.SCRATCH_ROOT / ID)


def test_it_notices_an_upload_that_did_not_arrive_whole(
    s3: S3Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = s3_utils._upload

    def upload_half(path: Path, key: str, metadata: dict[str, str], content_type: str) -> None:
        half = path.with_suffix(".half")
        half.write_bytes(BYTES[: len(BYTES) // 2])
        upload(half, key, metadata, content_type)

    monkeypatch.setattr(s3_utils, "_upload", upload_half)
    with pytest.raises(Outage, match="is not what was uploaded"):
        s3_utils.upload_archive(archive, ID)


def test_it_replaces_what_a_killed_download_left(s3: S3Server, archive: Path) -> None:
    s3_utils.upload_archive(archive, ID)
    folder = config.SCRATCH_ROOT / ID
    folder.mkdir(parents=True)
    for name in ("archive.tar", "archive.tar.part", "archive.tar.part.1a2B3c4D", "file001.opus"):
        (folder / name).write_bytes(b"old")
    assert s3_utils.download_archive(KEY, ID).read_bytes() == BYTES
    assert listing(folder) == ["archive.tar", "file001.opus"]


def test_it_leaves_no_old_archive_where_a_download_fails(s3: S3Server) -> None:
    folder = config.SCRATCH_ROOT / ID
    folder.mkdir(parents=True)
    (folder / "archive.tar").write_bytes(b"old")
    with pytest.raises(Permanent):
        s3_utils.download_archive(KEY, ID)
    assert listing(folder) == []


@pytest.mark.parametrize("batch_id", ["", "..", "../x", "a/b", "/etc"])
def test_it_makes_no_key_and_no_folder_of_a_hostile_id(
    archive: Path, batch_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "SCRATCH_ROOT", archive.parent / "scratch")
    with pytest.raises(Permanent, match="batch id"):
        s3_utils.upload_archive(archive, batch_id)
    with pytest.raises(Permanent, match="batch id"):
        s3_utils.download_archive(KEY, batch_id)
    assert listing(archive.parent) == ["local.tar"]


# --- the way down ---------------------------------------------------------------------------------------

PARTS = bytes(os.urandom(2**20) * 23)  # 23 parts of 1 MiB, more than s3transfer has in flight


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_parts, "LEAST_PART_BYTES", 2**20)


def put_parts(body: bytes = PARTS) -> None:
    put(KEY, body, sha256=hashlib.sha256(PARTS).hexdigest())


@pytest.mark.usefixtures("small_parts")
def test_it_brings_many_parts_down_and_counts_their_bytes(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    put_parts()
    followed: dict[str, list[int]] = {}

    def follow(what: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
        assert total == len(PARTS)
        return nullcontext(followed.setdefault(what, []).append)

    monkeypatch.setattr(s3_utils, "follow", follow)
    path = s3_utils.download_archive(KEY, ID)
    assert path.read_bytes() == PARTS
    assert list(followed) == [f"downloading {KEY}"]
    assert sum(followed[f"downloading {KEY}"]) == len(PARTS)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("place", [0, 12 * 2**20 + 5, len(PARTS) - 1])
def test_it_notices_a_changed_byte_in_any_part(s3: S3Server, place: int) -> None:
    changed = bytearray(PARTS)
    changed[place] ^= 1
    put_parts(bytes(changed))
    with pytest.raises(OSError, match="the SHA-256 differs"):
        s3_utils.download_archive(KEY, ID)
    assert listing(config.SCRATCH_ROOT / ID) == []


@pytest.mark.usefixtures("small_parts")
def test_a_worker_that_is_to_stop_ends_a_download_and_leaves_nothing(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parts()

    def moved(_count: int) -> None:
        raise Stopping

    monkeypatch.setattr(s3_utils, "follow", lambda _what, _total: nullcontext(moved))
    with pytest.raises(Stopping):
        s3_utils.download_archive(KEY, ID)
    assert listing(config.SCRATCH_ROOT / ID) == []


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before S3, that `s3_utils` goes through."""
    with Proxy(s3.port) as proxy:
        monkeypatch.setattr(config, "S3_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
        s3_utils.get_s3_client.cache_clear()
        yield proxy


@pytest.fixture
def cut(proxy: Proxy, request: pytest.FixtureRequest) -> Proxy:
    """The proxy, which ends connections as it is configured to, or resets them."""
    proxy.cut_resets = request.param
    return proxy


@pytest.mark.usefixtures("small_parts", "impatient")
@pytest.mark.parametrize("cut", [False, True], indirect=True, ids=["ended", "reset"])
def test_parts_that_break_off_are_fetched_again(cut: Proxy) -> None:
    put_parts()
    cut.cut_at = [300_000, 700_000, 1_000_000]
    assert s3_utils.download_archive(KEY, ID).read_bytes() == PARTS
    assert cut.cut_at == []


@pytest.mark.usefixtures("small_parts", "impatient")
@pytest.mark.parametrize("cut", [False, True], indirect=True, ids=["ended", "reset"])
def test_a_body_that_is_cut_each_time_is_s3_being_unavailable(cut: Proxy) -> None:
    put_parts()
    cut.cut_at = [300_000] * 1000
    with pytest.raises(Exception, match=r".") as caught:
        s3_utils.download_archive(KEY, ID)
    assert unavailable_service(caught.value) == "S3"
    assert listing(config.SCRATCH_ROOT / ID) == []


@pytest.fixture
def null_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NullS3]:
    """An S3 that gives zeros."""
    with NullS3() as server:
        for name, value in (("ENDPOINT", server.endpoint), ("ACCESS_KEY", "key"), ("SECRET_KEY", "secret")):
            monkeypatch.setattr(config, f"S3_{name}", value)
        monkeypatch.setattr(config, "S3_BUCKET", "bucket")
        monkeypatch.setattr(config, "SCRATCH_ROOT", tmp_path / "scratch")
        s3_utils.get_s3_client.cache_clear()
        yield server
    s3_utils.get_s3_client.cache_clear()


@pytest.mark.usefixtures("impatient")
def test_a_503_is_s3_being_unavailable(null_s3: NullS3) -> None:
    null_s3.objects[KEY], null_s3.refusing = (100, {}), 503
    with pytest.raises(botocore.exceptions.ClientError, match="503") as caught:
        s3_utils.download_archive(KEY, ID)
    assert unavailable_service(caught.value) == "S3"
    assert listing(config.SCRATCH_ROOT / ID) == []


DOWNLOAD = f"""
import sys
import urllib.error
import urllib.request
sys.path.insert(0, {str(PROJECT)!r})
import s3_utils
print(s3_utils.download_archive({KEY!r}, {ID!r}).stat().st_size)
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_archive(null_s3: NullS3) -> None:
    def peak_mb(size: int) -> int:
        """The memory of a process that downloads so many bytes."""
        null_s3.objects[KEY] = (size, {})
        settings = {name: str(getattr(config, name)) for name in (*config.S3, "SCRATCH_ROOT")}
        command = [sys.executable, "-c", DOWNLOAD]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
        stored, peak = map(int, done.stdout.split())
        assert stored == size
        return peak // 1024

    small, large = peak_mb(100 * 10**6), peak_mb(600 * 10**6)
    assert large < small + 50
    assert large < 200


# --- parts ----------------------------------------------------------------------------------------------


@ON_SWIFT
def test_it_uploads_in_parts_above_100_mb_and_not_at_it(s3: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    etags = []
    for size, batch_id in ((100 * 2**20, "20250622-143053"), (100 * 2**20 + 1, ID)):
        path.touch()
        os.truncate(path, size)
        etags.append(head(s3_utils.upload_archive(path, batch_id))["ETag"].strip('"'))
    assert "-" not in etags[0]
    assert etags[1].endswith("-7")
    assert s3_utils.download_archive(KEY, ID).stat().st_size == 100 * 2**20 + 1


# --- Opus -----------------------------------------------------------------------------------------------


def test_it_keeps_opus_under_the_day_and_the_audio_id(s3: S3Server, tmp_path: Path) -> None:
    opus = tmp_path / "file001.opus"
    for body in (b"first", b"second"):  # a retry writes the same key
        opus.write_bytes(body)
        assert s3_utils.upload_opus(opus, 42, "2025-06-22") == "processed/2025-06-22/42.opus"
    client = s3_utils.get_s3_client()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=config.S3_BUCKET)["Contents"]]
    assert keys == ["processed/2025-06-22/42.opus"]
    stored = client.get_object(Bucket=config.S3_BUCKET, Key=keys[0])
    assert (stored["Body"].read(), stored["ContentType"]) == (b"second", "audio/ogg")


# --- what is wrong --------------------------------------------------------------------------------------


def test_it_names_a_missing_archive(s3: S3Server) -> None:
    with pytest.raises(Permanent, match=f"{KEY} is not in the bucket {config.S3_BUCKET}"):
        s3_utils.download_archive(KEY, ID)


def test_it_counts_a_missing_bucket_as_s3_being_unavailable(
    s3: S3Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3_utils.check_bucket() is None
    monkeypatch.setattr(config, "S3_BUCKET", "nowhere")
    assert s3_utils.check_bucket() == f"S3_BUCKET 'nowhere' at {s3.endpoint}: there is no such bucket"
    for step in (
        lambda: s3_utils.download_archive(KEY, ID),
        lambda: s3_utils.upload_archive(archive, ID),
        lambda: s3_utils.upload_opus(archive, 1, "2025-06-22"),
    ):
        with pytest.raises(Exception, match=r"nowhere|NoSuchBucket") as caught:
            step()
        assert unavailable_service(caught.value) == "S3"


@ON_SWIFT
def test_it_counts_a_wrong_secret_as_s3_being_unavailable(
    s3: S3Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "S3_SECRET_KEY", "wrong")
    s3_utils.get_s3_client.cache_clear()
    refused = (
        f"S3_BUCKET {config.S3_BUCKET!r} at {s3.endpoint}: the credentials are refused (SignatureDoesNotMatch)"
    )
    assert s3_utils.check_bucket() == refused
    for step in (
        lambda: s3_utils.download_archive(KEY, ID),
        lambda: s3_utils.upload_archive(archive, ID),
        lambda: s3_utils.archive_exists(ID),
    ):
        with pytest.raises(Outage, match=re.escape(refused)) as caught:
            step()
        assert unavailable_service(caught.value) == "S3"


@ON_SWIFT
def test_it_names_the_region_that_s3_asks_for(
    s3: S3Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = s3_utils.upload_archive(archive, ID)
    monkeypatch.setattr(config, "S3_REGION", "eu-west-9")
    s3_utils.get_s3_client.cache_clear()
    named = "S3_REGION is 'eu-west-9': S3 asks for 'us-east-1'"
    for step in (lambda: s3_utils.archive_bytes(key), lambda: s3_utils.exists(key), lambda: s3_utils._head("no")):
        with pytest.raises(Outage, match=named):
            step()
    assert s3_utils.check_bucket() == named


@ON_SWIFT
def test_a_clock_that_s3_does_not_agree_with_is_waited_for_and_named(
    s3: S3Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = s3_utils.upload_archive(archive, ID)
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=400)  # more than this Swift allows
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: long_ago)
    for step in (s3_utils.check_bucket, lambda: s3_utils.archive_bytes(key), lambda: s3_utils.exists(key)):
        with pytest.raises(Outage, match="RequestTimeTooSkewed") as caught:
            step()
        assert unavailable_service(caught.value) == "the clock"


@pytest.mark.parametrize("key", ["", "a/\0.tar", "a/\x1f.tar", "x" * 1025, "é" * 513, "half of one: \ud800"])
def test_a_key_that_no_object_can_have_fails_its_job_without_a_request(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_utils, "get_s3_client", None)
    for step in (s3_utils.archive_bytes, s3_utils.exists, lambda key: s3_utils.download_archive(key, ID)):
        with pytest.raises(Permanent, match="cannot be the key of an object"):
            step(key)


@ON_SWIFT
def test_a_key_that_s3_refuses_fails_its_job_alone(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_utils, "check_key", lambda _: None)  # as if it were not known to be refused
    with pytest.raises(Permanent, match=r"S3 refuses the key 'archives/\\x00' \(InvalidURI\)"):
        s3_utils.archive_bytes("archives/\0")


def test_a_proxy_that_has_no_s3_behind_it_takes_no_object_away(proxy: Proxy, archive: Path) -> None:
    """A HEAD that a proxy answers looks as if S3 had."""
    key = s3_utils.upload_archive(archive, ID)
    proxy.answers(404)
    for step in (lambda: s3_utils.archive_bytes(key), lambda: s3_utils.exists(key)):
        with pytest.raises(Outage, match="there is no such bucket"):
            step()


@pytest.mark.parametrize("status", [404, 405, 418])
def test_a_page_of_a_proxy_is_no_answer_of_s3_about_an_object(proxy: Proxy, archive: Path, status: int) -> None:
    proxy.answers(status, b"<html><body><h1>Not here</h1></body></html>")
    for step in (
        lambda: s3_utils.upload_opus(archive, 1, "2025-06-22"),
        lambda: s3_utils.batch_of_source("/seen"),
        lambda: s3_utils.note_source("/seen", ID, True),
        lambda: s3_utils.upload_archive(archive, ID),
        lambda: s3_utils.archive_bytes(KEY),
        lambda: s3_utils.download_archive(KEY, ID),
    ):
        with pytest.raises(Exception, match=r".") as caught:
            step()
        assert unavailable_service(caught.value) == "S3"


def test_who_asks_for_the_bucket_of_an_s3_that_hangs_is_answered_at_once(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_connection, "OF_A_PERSON", s3_connection.Patience(1, 1, 1))
    proxy.holds()
    began = time.monotonic()
    with pytest.raises(botocore.exceptions.ReadTimeoutError) as caught:
        s3_utils.check_bucket()
    assert time.monotonic() - began < 10
    assert unavailable_service(caught.value) == "S3"


@pytest.mark.usefixtures("impatient")
def test_it_counts_a_server_that_is_down_as_s3_being_unavailable(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"S3_ENDPOINT": f"http://127.0.0.1:{free_port()}", "SCRATCH_ROOT": tmp_path / "scratch"}
    settings |= {"S3_ACCESS_KEY": "key", "S3_SECRET_KEY": "secret", "S3_BUCKET": "bucket"}
    for name, value in settings.items():
        monkeypatch.setattr(config, name, value)
    s3_utils.get_s3_client.cache_clear()
    try:
        for step in (
            lambda: s3_utils.download_archive(KEY, ID),
            lambda: s3_utils.upload_archive(archive, ID),
            lambda: s3_utils.archive_exists(ID),
            s3_utils.check_bucket,
        ):
            with pytest.raises(botocore.exceptions.EndpointConnectionError) as caught:
                step()
            assert unavailable_service(caught.value) == "S3"
    finally:
        s3_utils.get_s3_client.cache_clear()
    assert listing(tmp_path / "scratch" / ID) == []


def is_done_or_away(step: Callable[[], object]) -> bool:
    """Whether the step succeeds, or fails for no other reason than that S3 is unavailable."""
    try:
        step()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return unavailable_service(error) == "S3"
    return True


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("most", [0, 5, 20, 100, 200, 300])
def test_it_counts_an_answer_that_is_cut_short_as_s3_being_unavailable(
    proxy: Proxy, archive: Path, most: int
) -> None:
    s3_utils.upload_archive(archive, ID)
    proxy.truncates(most)
    other = "20250622-143053"
    for step in (
        lambda: s3_utils.download_archive(KEY, ID),
        lambda: s3_utils.archive_bytes(KEY),
        lambda: s3_utils.upload_archive(archive, other),
        lambda: s3_utils.batch_of_source("/never seen"),
        lambda: s3_utils.note_source("/seen", ID, True),
    ):
        assert is_done_or_away(step)
    proxy.passes()
    s3_utils.get_s3_client.cache_clear()
    assert s3_utils.download_archive(KEY, ID).read_bytes() == BYTES


@pytest.mark.usefixtures("impatient")
def test_it_uploads_once_what_arrived_and_was_not_answered(proxy: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    path.touch()
    os.truncate(path, s3_parts.MULTIPART_BYTES + 1)
    proxy.drop_replies = [b"?uploadId="]  # of the first part
    s3_utils.upload_archive(path, ID)
    assert proxy.dropped
    began = sum(proxy.brought)
    s3_utils.upload_archive(path, ID)
    assert sum(proxy.brought) - began < 2000


# --- scratch --------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scratch with one batch in it, and a victim beside it."""
    root = tmp_path / "scratch"
    (root / ID / "deep").mkdir(parents=True)
    (root / ID / "deep" / "file.opus").write_bytes(b"opus")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_bytes(b"precious")
    (tmp_path / "x").mkdir()
    monkeypatch.setattr(config, "SCRATCH_ROOT", root)
    return root


def test_it_removes_the_scratch_of_a_batch_and_may_be_repeated(scratch: Path) -> None:
    (scratch / "20250622-143053").mkdir()
    for _ in range(2):
        s3_utils.cleanup_scratch(ID)
        assert listing(scratch) == ["20250622-143053"]


def test_it_needs_no_scratch_root(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SCRATCH_ROOT", scratch / "not" / "there")
    s3_utils.cleanup_scratch(ID)


@pytest.mark.parametrize("batch_id", ["", ".", "..", "../x", "../victim", "/etc", "a/b", "a\0b", f"{ID}/deep"])
def test_it_refuses_to_remove_anything_by_a_hostile_id(scratch: Path, batch_id: str) -> None:
    before = sorted(scratch.parent.rglob("*"))
    with pytest.raises(Permanent, match="batch id"):
        s3_utils.cleanup_scratch(batch_id)
    assert sorted(scratch.parent.rglob("*")) == before


def test_it_removes_nothing_behind_a_link_that_poses_as_a_batch(scratch: Path) -> None:
    victim = scratch.parent / "victim"
    (scratch / "20250622-143053").symlink_to(victim)
    s3_utils.cleanup_scratch("20250622-143053")
    assert listing(scratch) == [ID]
    assert (victim / "precious").read_bytes() == b"precious"


def test_it_removes_nothing_behind_a_link_inside_a_batch(scratch: Path) -> None:
    victim = scratch.parent / "victim"
    (scratch / ID / "folder").symlink_to(victim)
    (scratch / ID / "deep" / "file").symlink_to(victim / "precious")
    os.link(victim / "precious", scratch / ID / "hard")
    s3_utils.cleanup_scratch(ID)
    assert listing(scratch) == []
    assert (victim / "precious").read_bytes() == b"precious"


def test_it_says_when_it_cannot_remove_the_scratch(scratch: Path) -> None:
    (scratch / "20250622-143053").write_bytes(b"a file where a folder should be")
    with pytest.raises(NotADirectoryError):
        s3_utils.cleanup_scratch("20250622-143053")


# --- an Opus for people ------------------------------------------------------------------------------------


def test_an_opus_is_fetched_with_its_address_alone(s3: S3Server, archive: Path) -> None:
    key = s3_utils.upload_opus(archive, 7, "2025-06-22")
    address = s3_utils.opus_url(key, 60)
    assert address.startswith(f"{s3.endpoint}/")
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == BYTES
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(address.replace("/7.opus", "/8.opus"))


def test_an_address_ends_and_cannot_be_changed(swift: S3Server, s3: S3Server, archive: Path) -> None:
    key = s3_utils.upload_opus(archive, 7, "2025-06-22")
    address = s3_utils.opus_url(key, 60)
    assert "X-Amz-Expires=60" in address
    if s3 is swift:  # moto looks at no signature
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.replace("X-Amz-Expires=60", "X-Amz-Expires=600000"))


def test_an_address_is_that_of_s3_as_browsers_reach_it(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "S3_PUBLIC_ENDPOINT", "https://s3.example.org:8443")
    s3_utils._public_client.cache_clear()
    address = s3_utils.opus_url("processed/2025-06-22/7.opus", 60)
    s3_utils._public_client.cache_clear()
    assert address.startswith(f"https://s3.example.org:8443/{config.S3_BUCKET}/processed/2025-06-22/7.opus?")


def test_an_opus_is_downloaded_whole_to_a_new_file(s3: S3Server, archive: Path, tmp_path: Path) -> None:
    key = s3_utils.upload_opus(archive, 7, "2025-06-22")
    target = tmp_path / "7.opus"
    s3_utils.download_opus(key, target)
    assert target.read_bytes() == BYTES
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        s3_utils.download_opus(key, target)
    assert target.read_bytes() == b"mine"
    with pytest.raises(Permanent, match="is not in the bucket"):
        s3_utils.download_opus("processed/2025-06-22/8.opus", tmp_path / "8.opus")
    assert not (tmp_path / "8.opus").exists()


def test_only_an_opus_is_given_away(s3: S3Server, tmp_path: Path) -> None:
    for key in ("archives/x.tar", "sources/x.json", ""):
        with pytest.raises(ValueError, match="is no Opus"):
            s3_utils.opus_url(key, 60)
        with pytest.raises(ValueError, match="is no Opus"):
            s3_utils.download_opus(key, tmp_path / "x")
