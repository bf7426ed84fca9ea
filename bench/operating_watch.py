"""How soon the pipeline notices: new archives among many known ones, and what goes wrong with the fleet."""

import argparse
import contextlib
import re
import secrets
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from pipeline.foundation import redis_client
from pipeline.operations.status import observe
from pipeline.store.database import Database
from pipeline.transfer.discovery import Watch
from pipeline.transfer.ssh import FileState, RemoteHost
from tests.faults.proxy import Proxy
from tests.support.child import Child, free_port, wait_until
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import SHORT, make_tar, sample

KNOWN = (100, 1_000, 10_000, 100_000)  # archives that are kept on the EC2 host
QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]
PATIENCE_SECONDS = 400.0
PRODUCTION = {
    "HEARTBEAT_SECONDS": "30",
    "RETRY_SECONDS": "30",
    "EC2_WATCH_SECONDS": "60",
    "HOST_LOST_SECONDS": "900",
    "RECONCILE_SECONDS": "0",  # it would repair what is to be reported
}
ROLES = ("transfer", "unpack", "gpu")


# --- the watch of the EC2 host -----------------------------------------------------------------------------


def watch_part(given: argparse.Namespace, fleet: Fleet) -> Iterator[str]:
    """The table of the looks at the EC2 host."""
    client: Any = redis_client.connect(fleet.valkey.url)
    ssh = fleet.ssh
    host = RemoteHost(ssh.host, ssh.port, ssh.user, str(ssh.key_file), str(ssh.known_hosts))
    folder = ssh.folder / "kept"
    folder.mkdir()
    yield "| archives kept | listing over SSH | comparison, nothing new | one new | commands of Redis |"
    yield "|---:|---:|---:|---:|---:|"
    for known in KNOWN:
        for number in range(known):
            folder.joinpath(f"{number:06}.tar").touch()
        client.flushall()
        *seconds, asked = _looks(client, partial(host.look, str(folder)), given.rounds)
        print(known, seconds, asked, file=sys.stderr)
        yield f"| {known:,} | {' | '.join(f'{1000 * of:.1f} ms' for of in seconds)} | {asked} |"
    client.close()


def _looks(
    client: Any, listing: Callable[[], dict[str, FileState]], rounds: int
) -> tuple[float, float, float, int]:
    """Medians of the seconds of a listing, of a look with nothing new and of one with a new archive, and the
    commands that Redis does for a look with nothing new."""
    watch, files = Watch(client, "queue:transfer", "bench"), listing()
    for _ in range(2):  # a file is new when two looks found it the same
        watch.look(files)
    listings, same, new = [], [], []
    before = _commands(client)
    for _ in range(rounds):
        listings.append(_timed(listing))
        same.append(_timed(partial(watch.look, files)))
    asked = (_commands(client) - before - 1) // rounds
    for number in range(rounds):
        files = {**files, f"/new/{number}.tar": FileState(1, number)}
        watch.look(files)
        new.append(_timed(partial(watch.look, files)))
    return statistics.median(listings), statistics.median(same), statistics.median(new), asked


def _commands(client: Any) -> int:
    """How many commands the server has done so far, those of scripts included."""
    return sum(int(of["calls"]) for of in client.info("commandstats").values())


def _timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


# --- what goes wrong ---------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A fleet of one host with the settings of production, its services behind proxies, with a page and an
    exporter."""

    fleet: Fleet
    proxies: dict[str, Proxy]
    workers: dict[str, Child] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fleet, known = self.fleet, self.fleet.settings()
        servers = {"REDIS_URL": fleet.valkey, "DATABASE_URL": fleet.postgres, "S3_ENDPOINT": fleet.s3}
        urls = {
            name: known[name].replace(f":{of.port}", f":{self.proxies[name].port}") for name, of in servers.items()
        }
        fleet.changes = {**PRODUCTION, **urls}
        self.workers = {role: fleet.worker(role) for role in ROLES}
        self.redis: Any = redis_client.connect(fleet.valkey.url)
        self.asked = redis_client.connect(urls["REDIS_URL"]), Database(urls["DATABASE_URL"])
        self.token = secrets.token_hex(16)
        _, self.page = fleet.page(self.token)
        listen = f"127.0.0.1:{free_port()}"
        self.metrics = f"http://{listen}/metrics"
        fleet.run([str(PROJECT / "pipelinectl.py"), "exporter", "--listen", listen], "exporter")
        wait_until(self.is_healthy, "a healthy fleet", PATIENCE_SECONDS)

    def is_healthy(self) -> bool:
        """Whether nobody has anything to tell."""
        with contextlib.suppress(OSError):  # the page or the exporter has just started
            return not self.status() and self.page_says() == "healthy" and self.exports("redis_up 1")
        return False

    def status(self) -> list[str]:
        """What the status tells of."""
        return [trouble.what for trouble in observe(self.asked[0], QUEUES, self.asked[1]).troubles]

    def page_says(self) -> str:
        """The word in which the page says how the fleet is."""
        found = re.search(r"The fleet is <span class=.(\w+)", self._fetch(f"{self.page}/"))
        return found[1] if found else ""

    def exports(self, pattern: str) -> bool:
        """Whether this stands in what Prometheus gets of the exporter."""
        return re.search(pattern, self._fetch(self.metrics)) is not None

    def _fetch(self, address: str) -> str:
        asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:  # nosec B310
            text: str = answer.read().decode()
            return text

    def put(self, name: str) -> None:
        """Queue an archive, so that there is something to do."""
        path = make_tar(self.fleet.ssh.folder / f"{name}.tar", {f"{name}.mp3": sample(SHORT[0])})
        self.fleet.control("enqueue", str(path))


@contextlib.contextmanager
def _through(scene: Scene, name: str, fault: Callable[[Proxy], None]) -> Iterator[None]:
    fault(scene.proxies[name])
    scene.put(f"{name}-{secrets.token_hex(4)}") if name != "REDIS_URL" else None
    yield
    scene.proxies[name].passes()


@contextlib.contextmanager
def _without_ec2(scene: Scene) -> Iterator[None]:
    scene.fleet.ssh.kill()
    yield
    scene.fleet.ssh.start()


@contextlib.contextmanager
def _worker(scene: Scene, role: str, number: signal.Signals) -> Iterator[None]:
    child = scene.workers[role]
    assert child.process is not None
    child.process.send_signal(number)
    yield
    child.process.send_signal(signal.SIGCONT)
    if number == signal.SIGKILL:
        child.kill()
        child.start()


@contextlib.contextmanager
def _stranded(scene: Scene) -> Iterator[None]:
    """A batch whose file has no job any more, as a failover can leave it."""
    gpu = scene.workers["gpu"]
    gpu.stop()
    scene.put("stranded")
    wait_until(lambda: scene.redis.llen(QUEUES[2]) == 1, "a file")
    job = scene.redis.lpop(QUEUES[2])
    yield
    scene.redis.rpush(QUEUES[2], job)
    gpu.start()


def scenes() -> Iterator[tuple[str, Callable[[Scene], AbstractContextManager[None]], str, str]]:
    """What is done, how, what the exporter then says (a pattern), and the alert of it."""
    gone = r'workers{role="",state="gone"} [1-9]'
    redis, postgres = partial(_through, name="REDIS_URL"), partial(_through, name="DATABASE_URL")
    yield "Redis: a black hole", partial(redis, fault=Proxy.holds), r"redis_up 0", "RedisDown"
    yield "Redis: connections cut", partial(redis, fault=Proxy.cuts), r"redis_up 0", "RedisDown"
    yield "PostgreSQL: connections cut", partial(postgres, fault=Proxy.cuts), "", "ServiceAway"
    yield "S3: answers 503", partial(_through, name="S3_ENDPOINT", fault=_answers_503), "", "ServiceAway"
    yield "EC2 host: gone, nothing is queued", _without_ec2, "", "ServiceAway"
    yield "GPU worker: SIGKILL", partial(_worker, role="gpu", number=signal.SIGKILL), gone, "WorkersGone"
    yield "unpack worker: SIGSTOP", partial(_worker, role="unpack", number=signal.SIGSTOP), gone, "WorkersGone"
    yield "a batch whose file has no job", _stranded, r"batches_stranded.* [1-9]", "BatchesStranded"


def _answers_503(proxy: Proxy) -> None:
    proxy.answers(503)


def notice_part(_given: argparse.Namespace, fleet: Fleet) -> Iterator[str]:
    """The table of what goes wrong, and of the seconds until somebody says so."""
    alerts = {
        rule["alert"]: str(rule["for"])
        for group in yaml.safe_load((PROJECT / "monitoring" / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    yield "| what goes wrong | status | page | exporter | alert, after it lasted |"
    yield "|---|---:|---:|---:|---|"
    servers = {"REDIS_URL": fleet.valkey, "DATABASE_URL": fleet.postgres, "S3_ENDPOINT": fleet.s3}
    with contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(Proxy(server.port)) for name, server in servers.items()}
        scene = Scene(fleet, proxies)
        for name, fault, pattern, alert in scenes():
            with fault(scene):
                began = time.monotonic()
                says: dict[str, Callable[[], object]] = {
                    "status": scene.status,
                    "page": lambda: scene.page_says() != "healthy",
                }
                if pattern:
                    says["exporter"] = partial(scene.exports, pattern)
                seconds = _first_said(says, began)
                print(name, seconds, scene.status(), file=sys.stderr)
            cells = (f"{seconds[who]:.0f} s" if who in seconds else "–" for who in ("status", "page", "exporter"))
            lasted = alerts.get(f"AudioPipeline{alert}", "–")
            yield f"| {name} | {' | '.join(cells)} | {alert}, {lasted} |"
            wait_until(scene.is_healthy, f"a healthy fleet after {name}", PATIENCE_SECONDS)


def _first_said(says: dict[str, Callable[[], object]], began: float) -> dict[str, float]:
    """The seconds after which each has said it, of those who do so in time; each is asked again and again."""

    def seconds(is_said: Callable[[], object]) -> float | None:
        while time.monotonic() - began < PATIENCE_SECONDS:
            if is_said():
                return time.monotonic() - began
            time.sleep(0.2)
        return None

    with ThreadPoolExecutor(len(says)) as pool:
        found = zip(says, pool.map(seconds, says.values()), strict=True)
        return {who: passed for who, passed in found if passed is not None}
