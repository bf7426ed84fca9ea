"""What is lost on the way: the reply to one command or another, and all that Redis holds."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.foundation import redis_client
from tests.faults.checker import Findings
from tests.faults.proxy import Proxy
from tests.faults.rig import Rig

SCRIPTS = Path(redis_client.__file__).parents[1] / "jobs" / "lua"


def _sha1(path: Path) -> bytes:
    """What EVALSHA calls the script."""
    return hashlib.sha1(path.read_bytes()).hexdigest().encode()


# Service -> what is to be unanswered -> bytes that its request holds.
REPLIES: dict[str, dict[str, bytes]] = {
    "redis": {
        "BLMOVE": b"\r\nBLMOVE\r\n",
        "SET (heartbeat)": b"\r\nSET\r\n",
        "LRANGE": b"\r\nLRANGE\r\n",
        **{path.stem: _sha1(path) for path in sorted(SCRIPTS.glob("*.lua"))},
    },
    "postgres": {"BEGIN": b"BEGIN", "COMMIT": b"COMMIT"},
    "s3": {"PUT": b"PUT /", "HEAD": b"HEAD /", "GET": b"GET /"},
}


@dataclass(frozen=True)
class Trial:
    """What came of it: findings, and how many replies of each kind were lost."""

    findings: Findings
    replies: dict[str, int]


def lose_replies(rig: Rig, service: str, times: int, archives: int = 6, files: int = 12) -> Trial:
    """While archives are worked on, lose the replies to so many requests of each kind: the request is done, and
    its connection ends before the answer."""
    proxy: Proxy = getattr(rig, service)
    kinds = REPLIES[service]
    rig.put_in(archives, files)
    for _ in range(times):
        proxy.drop_replies += rig.random.sample([*kinds.values()], len(kinds))
    rig.wait_until_quiet()
    lost, proxy.drop_replies, proxy.dropped = Counter(proxy.dropped), [], []
    return Trial(rig.check(), {kind: lost[text] for kind, text in kinds.items() if lost[text]})


def wipe_redis(rig: Rig, archives: int = 20, files: int = 6) -> Trial:
    """Redis is wiped when so many batches are open and some of their files are done; the workers rebuild it."""
    gpu = rig.workers["gpu"]
    gpu.stop()
    rig.put_in(archives, files)
    rig.wait_for(lambda: rig.client.zcard("batches:open") == archives, "open batches")
    rig.wait_for(lambda: not any(rig.sources()), "the end of the transfers")
    gpu.start()
    rig.wait_for(lambda: rig.fleet.query("SELECT count(*) > 10 FROM transcripts")[0][0], "transcripts")
    rig.client.flushall()
    return Trial(rig.check(), {})
