"""The connection to Redis, on real servers that change places."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from pipeline.foundation import redis_client
from pipeline.foundation.errors import unavailable_service
from tests.faults.proxy import Proxy
from tests.support import replicas
from tests.support.child import wait_until
from tests.support.replicas import SERVICE, OtherValkey, SentinelServer
from tests.support.servers import HUSH, Valkey
from tests.support.tls import Terminator, certificate


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Valkey]]:
    """Two servers, for all tests of this file."""
    folder = tmp_path_factory.mktemp("replicas")
    with Valkey(folder / "one") as one, Valkey(folder / "two") as two:
        yield [one, two]


@pytest.fixture
def primary(both: list[Valkey]) -> Valkey:
    """A primary without keys."""
    replicas.promote(both[0])
    with replicas.admin(both[0]) as client:
        client.flushall()
    return both[0]


@pytest.fixture
def replica(both: list[Valkey], primary: Valkey) -> Valkey:
    """Its replica."""
    replicas.follow(both[1], primary)
    return both[1]


@pytest.fixture
def address(primary: Valkey) -> Iterator[Proxy]:
    """The address of the primary, which can be led elsewhere: connections stay where they are."""
    with Proxy(primary.port) as proxy:
        yield proxy


@pytest.fixture
def client(address: Proxy) -> Iterator[Any]:
    """A client of that address, connected."""
    with contextlib.closing(redis_client.connect(f"redis://127.0.0.1:{address.port}/0")) as client:
        client.set("name", "old")
        yield client


def raised_by(work: Callable[[], object]) -> Exception:
    with pytest.raises(redis.RedisError) as caught:
        work()
    assert isinstance(caught.value, Exception)
    return caught.value


# --- a failover ------------------------------------------------------------------------------------------


def test_a_writer_goes_where_the_address_leads_after_a_failover(
    client: Any, address: Proxy, primary: Valkey, replica: Valkey
) -> None:
    replicas.hand_over(primary, replica)
    address.target_port = replica.port
    assert unavailable_service(raised_by(lambda: client.set("name", "new"))) == "Redis"
    assert client.set("name", "new")
    with replicas.admin(replica) as there:
        assert there.get("name") == "new"


def test_a_reader_goes_there_within_a_minute_though_nothing_fails(
    client: Any, address: Proxy, primary: Valkey, replica: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter and the page write nothing: the old primary would show them the past for ever."""
    replicas.promote(replica)
    with replicas.admin(replica) as there:
        there.set("name", "new")
    address.target_port = replica.port
    assert client.get("name") == "old"
    monkeypatch.setattr(redis_client, "CONNECTION_SECONDS", 0)
    assert client.get("name") == "new"


def test_a_replica_is_not_read(primary: Valkey, replica: Valkey) -> None:
    client = redis_client.connect(replica.url)
    error = raised_by(lambda: client.get("name"))
    assert unavailable_service(error) == "Redis"
    assert f"127.0.0.1:{replica.port} is a replica" in str(error)
    assert unavailable_service(raised_by(lambda: redis_client.refusal(client))) == "Redis"
    replicas.promote(replica)
    assert redis_client.refusal(client) is None


@pytest.mark.parametrize(
    ("setting", "value", "usual"),
    [("min-replicas-to-write", "2", "0"), ("maxmemory", "1", "0")],
    ids=["NOREPLICAS", "OOM"],
)
def test_any_server_that_cannot_serve_is_left(
    client: Any, address: Proxy, primary: Valkey, replica: Valkey, setting: str, value: str, usual: str
) -> None:
    replicas.promote(replica)
    with replicas.admin(primary) as admin:
        admin.config_set(setting, value)
        address.target_port = replica.port
        try:
            assert unavailable_service(raised_by(lambda: client.set("name", "new"))) == "Redis"
            assert client.set("name", "new")
        finally:
            admin.config_set(setting, usual)


def test_an_answer_about_one_job_leaves_the_connection(client: Any, address: Proxy) -> None:
    raised_by(lambda: client.lpush("name", "no list"))
    assert client.get("name") == "old"
    assert len(address.brought) == 1


def test_the_answers_of_steps_stay_in_order_when_one_says_that_the_server_cannot_serve(
    client: Any, address: Proxy, primary: Valkey, replica: Valkey
) -> None:
    replicas.hand_over(primary, replica)
    steps = client.pipeline(transaction=False).get("name").set("name", "new").get("name")
    answers = steps.execute(raise_on_error=False)
    assert (answers[0], type(answers[1]), answers[2]) == ("old", redis.ReadOnlyError, "old")


def test_a_transaction_is_unavailable_redis_where_the_server_has_become_a_replica_before_its_end(
    primary: Valkey, replica: Valkey
) -> None:
    """Each step was taken; EXEC is refused with a code of its own."""
    connection = redis_client.connect(primary.url).connection_pool.get_connection()
    for command in (("MULTI",), ("SET", "name", "new")):
        connection.send_command(*command)
        connection.read_response()
    replicas.hand_over(primary, replica)
    connection.send_command("EXEC")
    error = raised_by(connection.read_response)
    assert isinstance(error, redis.exceptions.ExecAbortError)
    assert unavailable_service(error) == "Redis"


def test_a_script_is_there_after_a_failover(client: Any, address: Proxy, primary: Valkey, replica: Valkey) -> None:
    forget = redis_client.script(client, "forget")
    client.hset("notes", mapping={"a": "1", "b": "2"})
    assert forget(keys=["notes"], args=["a", "1"]) == 1
    replicas.follow(replica, primary)
    replicas.hand_over(primary, replica)
    address.target_port = replica.port
    raised_by(lambda: forget(keys=["notes"], args=["b", "2"]))
    assert forget(keys=["notes"], args=["b", "2"]) == 1


# --- Sentinel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["", f"{HUSH}of/the@sentinel"], ids=["", "with a login"])
def test_sentinels_lead_to_the_new_primary(
    both: list[Valkey], primary: Valkey, replica: Valkey, tmp_path: Path, password: str
) -> None:
    with SentinelServer(tmp_path, primary, password) as sentinel:
        url = f"redis+sentinel://[::1]:9,127.0.0.1:{sentinel.port}/{SERVICE}/0"
        url += "?sentinel_password=" + password.replace("/", "%2F").replace("@", "%40") if password else ""
        with contextlib.closing(redis_client.connect(url)) as client:
            assert redis_client.refusal(client) is None
            client.set("name", "old")
            wait_until(sentinel.knows_replica, "a Sentinel that knows the replica")
            primary.kill()
            try:
                wait_until(lambda: is_set(client), "the new primary")
            finally:
                primary.start()
    with replicas.admin(replica) as there:
        assert there.get("name") == "new"


def is_set(client: Any) -> bool:
    try:
        return bool(client.set("name", "new"))
    except redis.RedisError as error:
        if unavailable_service(error) != "Redis" or HUSH in str(error):
            raise
        return False


def test_sentinels_that_do_not_know_the_service_refuse_it(primary: Valkey, tmp_path: Path) -> None:
    with SentinelServer(tmp_path, primary) as sentinel:
        client = redis_client.connect(f"redis+sentinel://127.0.0.1:{sentinel.port}/calls")
        expected = f"REDIS_URL: the Sentinels know no service calls, but {SERVICE}"
        assert redis_client.refusal(client) == expected
    error = raised_by(lambda: redis_client.refusal(client))
    assert (unavailable_service(error), str(error)) == ("Redis", "none of the Sentinels names a primary")


def test_a_sentinel_that_refuses_the_login_is_reported(primary: Valkey, tmp_path: Path) -> None:
    with SentinelServer(tmp_path, primary, "secret") as sentinel:
        client = redis_client.connect(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}")
        assert "a Sentinel refuses it (sentinel_username and sentinel_password)" in str(
            redis_client.refusal(client)
        )


def test_sentinels_and_their_primary_are_asked_with_tls() -> None:
    url = "rediss+sentinel://me:one@127.0.0.1:9/calls?ssl_ca_certs=/ca.pem&sentinel_username=you&sentinel_password=two"
    pool = redis_client.connect(url).connection_pool
    (sentinel,) = (one.connection_pool for one in pool.sentinel_manager.sentinels)
    for of, login in ((pool, ("me", "one")), (sentinel, ("you", "two"))):
        assert issubclass(of.connection_class, redis.SSLConnection)
        settings = of.connection_kwargs
        assert (settings["username"], settings["password"], settings["ssl_ca_certs"]) == (*login, "/ca.pem")


def test_a_sentinel_behind_tls_is_asked_where_its_certificate_is_right(primary: Valkey, tmp_path: Path) -> None:
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with (
        SentinelServer(tmp_path / "sentinel", primary) as sentinel,
        Terminator(sentinel.port, certificate(authority, "localhost")) as secured,
    ):
        url = f"rediss+sentinel://localhost:{secured.port}/calls"
        known = f"REDIS_URL: the Sentinels know no service calls, but {SERVICE}"
        assert redis_client.refusal(redis_client.connect(f"{url}?ssl_ca_certs={ca}")) == known
        assert "CERTIFICATE_VERIFY_FAILED" in str(redis_client.refusal(redis_client.connect(url)))


def test_a_sentinel_is_no_redis(primary: Valkey, tmp_path: Path) -> None:
    with SentinelServer(tmp_path, primary) as sentinel:
        refused = str(redis_client.refusal(redis_client.connect(f"redis://127.0.0.1:{sentinel.port}/0")))
    assert "runs in sentinel mode: name the Sentinels" in refused


# --- a cluster, an address of IPv6 -----------------------------------------------------------------------


def test_a_cluster_is_refused(tmp_path: Path) -> None:
    with replicas.cluster(tmp_path) as server:
        client = redis_client.connect(f"redis://127.0.0.1:{server.port}/0")
        refused = str(redis_client.refusal(client))
        assert refused.startswith(f"REDIS_URL: 127.0.0.1:{server.port} runs in cluster mode: ")
        assert unavailable_service(raised_by(client.ping)) == "Redis"


def test_an_address_of_ipv6_is_reached(tmp_path: Path) -> None:
    with OtherValkey(tmp_path, "--bind", "::1", "127.0.0.1") as server:
        client = redis_client.connect(f"redis://[::1]:{server.port}/0")
        assert redis_client.refusal(client) is None
        assert client.client_info()["laddr"] == f"[::1]:{server.port}"
