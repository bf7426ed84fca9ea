"""pipeline/transfer/stale_uploads.py on moto and on OpenStack Swift: only ours are ended, and only dead ones."""

import datetime
from typing import Any

import pytest

import config
import s3_utils
from pipeline.transfer import stale_uploads
from pipeline.transfer.stale_uploads import abort_stale
from tests.support.servers import S3Server

PART = bytes(5 * 2**20)
KEYS = ("archives/20250622-143052.tar", "processed/2025-06-22/1.opus")


def begin(key: str, parts: int = 1) -> str:
    """An upload that nobody ends."""
    client = s3_utils.get_s3_client()
    upload_id = str(client.create_multipart_upload(Bucket=config.S3_BUCKET, Key=key)["UploadId"])
    for number in range(1, parts + 1):
        client.upload_part(
            Bucket=config.S3_BUCKET, Key=key, UploadId=upload_id, PartNumber=number, Body=PART
        )  # fmt: skip
    return upload_id


def open_uploads() -> list[str]:
    answer = s3_utils.get_s3_client().list_multipart_uploads(Bucket=config.S3_BUCKET)
    return sorted(upload["Key"] for upload in answer.get("Uploads", []))


def sweep(hours_later: float, **changes: Any) -> list[str]:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours_later)
    client = s3_utils.get_s3_client()
    return abort_stale(client, config.S3_BUCKET, s3_utils.PREFIXES, changes.get("hours", 24), now)


def test_old_uploads_of_ours_are_aborted(s3: S3Server) -> None:
    for key in KEYS:
        begin(key)
    begin(KEYS[0], parts=0)
    assert sorted(sweep(25)) == sorted([*KEYS, KEYS[0]])
    assert open_uploads() == []
    assert sweep(25) == []


def test_young_uploads_go_on(s3: S3Server) -> None:
    for key in KEYS:
        begin(key)
    assert sweep(23) == []
    assert open_uploads() == sorted(KEYS)


@pytest.mark.parametrize("s3", ["swift"], indirect=True)  # in moto every upload was begun in 2010
def test_a_young_upload_whose_first_part_is_on_its_way_goes_on(s3: S3Server) -> None:
    begin(KEYS[0], parts=0)
    assert sweep(23) == []
    assert open_uploads() == [KEYS[0]]


def test_nothing_of_others_is_touched(s3: S3Server) -> None:
    others = ["archives-of-others/a.tar", "backup/archives/a.tar", "other.tar", "processed"]
    for key in others:
        begin(key)
    assert sweep(1000) == []
    assert open_uploads() == sorted(others)


def test_an_old_upload_that_still_receives_parts_goes_on(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(KEYS[0])
    client = s3_utils.get_s3_client()
    begun = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=30)

    class Aged:
        """The client, with the upload begun 30 hours ago."""

        def get_paginator(self, name: str) -> Any:
            return self if name == "list_multipart_uploads" else client.get_paginator(name)

        def paginate(self, **_: Any) -> list[dict[str, Any]]:
            page = client.list_multipart_uploads(Bucket=config.S3_BUCKET)
            return [{"Uploads": [{**upload, "Initiated": begun} for upload in page["Uploads"]]}]

    assert abort_stale(Aged(), config.S3_BUCKET, ["archives/"], 24) == []
    assert open_uploads() == [KEYS[0]]


def test_what_is_stored_stays(s3: S3Server) -> None:
    client = s3_utils.get_s3_client()
    client.put_object(Bucket=config.S3_BUCKET, Key=KEYS[0], Body=b"whole")
    begin(KEYS[0])
    assert sweep(25) == [KEYS[0]]
    assert client.get_object(Bucket=config.S3_BUCKET, Key=KEYS[0])["Body"].read() == b"whole"


def test_an_upload_that_ended_meanwhile_is_no_error(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(KEYS[0])
    found = list(stale_uploads._begun_before(
        s3_utils.get_s3_client(), config.S3_BUCKET, "archives/", datetime.datetime.max.replace(tzinfo=datetime.UTC)
    ))  # fmt: skip
    sweep(25)
    monkeypatch.setattr(stale_uploads, "_begun_before", lambda *_: found)
    assert sweep(25) == []
