"""Servers started once for the run, and a clean pipeline on them for each test."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import config
import s3_utils
from pipeline.foundation import redis_client
from pipeline.jobs.job_queue import JobQueue
from pipeline.store.database import Database
from tests.support import shares
from tests.support.fleet import Fleet
from tests.support.nursery import Nursery
from tests.support.servers import GuardedS3, MotoS3, S3Server, SwiftS3
from tests.support.steps import AT_LENGTH

SWIFT_BIN = Path(os.environ.get("SWIFT_BIN", Path(__file__).parent.parent / ".venv-swift" / "bin"))


@pytest.hookimpl(trylast=True)  # after -k and the like have taken theirs away
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the share of each test process, the longest first: what is left at the end is short."""
    items[:] = shares.in_order(
        items,
        module=lambda item: item.nodeid.partition("::")[0],
        is_slow=lambda item: "fleet" in getattr(item, "fixturenames", ()),
        processes=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")),
    )


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Valkey, PostgreSQL, moto's S3 and an SSH host, for the whole run; `fleet` cleans them for a test."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        database = Database(fleet.postgres.url)
        database.migrate()
        database.close()
        fleet.postgres.grant()
        yield fleet


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery | None]:
    """What starts the scripts; at length they start as the operator's do."""
    if AT_LENGTH:
        yield None
        return
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "nursery.log")
    yield nursery
    nursery.close()


@pytest.fixture
def fleet(servers: Fleet, nursery: Nursery | None, tmp_path: Path) -> Iterator[Fleet]:
    """The fleet with empty queues, tables and bucket, and folders of this test's own."""
    servers.clean(tmp_path)
    servers.nursery = nursery
    yield servers
    servers.stop_workers()
    servers.check()


@pytest.fixture
def redis(fleet: Fleet) -> Iterator[Any]:
    """A client of the empty Redis, as the workers make theirs."""
    client = redis_client.connect(fleet.valkey.url)
    yield client
    client.close()


@pytest.fixture
def queue_of(redis: Any) -> Callable[[str], JobQueue]:
    """`queue_of("w1")`: the queue `queue:test` as that worker sees it."""
    return lambda worker_id: JobQueue(redis, "queue:test", worker_id)


@pytest.fixture
def database(fleet: Fleet) -> Iterator[Database]:
    """The migrated, empty database."""
    database = Database(fleet.postgres.url)
    yield database
    database.close()


@pytest.fixture(scope="module")
def guarded_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedS3]:
    """An S3 that checks credentials, and what they allow."""
    with GuardedS3(tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftS3]:
    """A real OpenStack Swift."""
    if not (SWIFT_BIN / "swift-proxy-server").exists():
        pytest.fail(f"no OpenStack Swift in {SWIFT_BIN}: ./test installs it")
    with SwiftS3(tmp_path_factory.mktemp("swift"), SWIFT_BIN) as server:
        yield server


@pytest.fixture(params=["moto", "swift"])
def s3(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """`s3_utils` pointed at an empty bucket, on moto and on Swift; scratch is the test's own."""
    if request.param == "moto":
        server: MotoS3 | SwiftS3 = request.getfixturevalue("servers").s3
    else:
        server = request.getfixturevalue("swift")
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    server.create_bucket(bucket)
    for name, value in (("ENDPOINT", server.endpoint), ("ACCESS_KEY", server.access_key), ("BUCKET", bucket)):
        monkeypatch.setattr(config, f"S3_{name}", value)
    monkeypatch.setattr(config, "S3_SECRET_KEY", server.secret_key)
    monkeypatch.setattr(config, "SCRATCH_ROOT", tmp_path / "scratch")
    s3_utils.get_s3_client.cache_clear()
    yield server
    s3_utils.get_s3_client.cache_clear()
