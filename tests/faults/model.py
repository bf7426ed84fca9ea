"""What Redis must hold and answer: the queues and the batches as plain Python lists, sets and numbers.

`Model.apply` does to the model what a command of the pipeline must do to Redis; `Model.content` is what Redis must
hold then. Keys are not taken from the commands but from who sends them: a command on a wrong key shows as a
difference. What holds in every state, whatever the scripts say, is in `Model.check`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.commands.core import Script

LATER = 1000  # seconds: delays as long as this are not over until the test says so
LOST = 900  # seconds of silence that make a host lost
LUA = Path(__file__).parents[2] / "pipeline" / "jobs" / "lua"
UNKNOWN = object()  # the answer to a command that only reads


def load_scripts(client: Any) -> dict[str, str]:
    """Have the server know every script; gives hash -> name."""
    scripts = {path.stem: Script(client, path.read_text()) for path in LUA.glob("*.lua")}
    for script in scripts.values():
        client.script_load(script.script)
    return {script.sha: name for name, script in scripts.items()}


@dataclass
class Queue:
    """A queue, and what became of each of its jobs."""

    name: str
    waiting: list[str] = field(default_factory=list)
    delayed: dict[str, int | None] = field(default_factory=dict)  # job -> its rank among those due, or None
    working: dict[str, list[str]] = field(default_factory=dict)  # by worker
    attempts: dict[str, list[str]] = field(default_factory=dict)  # job -> the deliveries that count
    dead: list[str] = field(default_factory=list)  # dead letters
    workers: set[str] = field(default_factory=set)
    added: Counter[str] = field(default_factory=Counter)  # jobs, and what became of them
    settled: Counter[str] = field(default_factory=Counter)
    dead_lettered: Counter[str] = field(default_factory=Counter)
    merged: Counter[str] = field(default_factory=Counter)  # with an equal one, while both were delayed

    def add(self, job: str) -> int:
        self.waiting.append(job)
        self.added[job] += 1
        return len(self.waiting)

    def of(self, worker: str) -> list[str]:
        """The worker's list."""
        return self.working.setdefault(worker, [])

    def move(self, worker: str) -> str | None:
        if not self.waiting:
            return None
        self.of(worker).append(self.waiting.pop(0))
        return self.of(worker)[-1]

    def begin(self, worker: str, job: str, token: str, in_hand: int) -> int:
        if self.of(worker).count(job) <= in_hand:
            return 0
        self.workers.add(worker)
        if token in self.attempts.get(job, ()):
            return len(self.attempts[job])
        elsewhere = any(job in self.of(other) for other in self.workers - {worker})
        if elsewhere or self.of(worker).count(job) > 1 or job in self.delayed:
            del self.of(worker)[-1 - self.of(worker)[::-1].index(job)]
            self.merged[job] += job in self.delayed
            self.delayed.setdefault(job, None)
            return -1
        self.attempts.setdefault(job, []).append(token)
        return len(self.attempts[job])

    def leave(self, worker: str, job: str, ends: bool) -> bool:
        """Take the job from the worker's list, for good where it `ends`; False where it is not there."""
        if job not in self.of(worker):
            return False
        self.of(worker).remove(job)
        if ends:
            self.attempts.pop(job, None)
        return True

    def settle(self, worker: str, job: str) -> int:
        if not self.leave(worker, job, ends=True):
            return 0
        self.settled[job] += 1
        return 1

    def dead_letter(self, worker: str, job: str, dead_letter: str) -> int:
        if not self.leave(worker, job, ends=True):
            return 0
        self._write(job, dead_letter)
        self.dead_lettered[job] += 1
        return 1

    def _write(self, job: str, dead_letter: str) -> None:
        assert json.loads(dead_letter)["job"] == job
        self.dead.append(dead_letter)

    def put_back(self, worker: str, job: str, delay: int, uncounted: str) -> int:
        self.uncount(job, uncounted)
        if job not in self.of(worker):
            return 0
        if delay < 0:
            return 1
        self.leave(worker, job, ends=False)
        if delay == 0:
            self.waiting.insert(0, job)
        else:
            self.merged[job] += job in self.delayed
            self.delayed[job] = None
        return 1

    def uncount(self, job: str, token: str) -> None:
        if token in self.attempts.get(job, ()):
            self.attempts[job].remove(token)
            if not self.attempts[job]:
                del self.attempts[job]

    def promote(self) -> None:
        for job, _ in sorted(self._due().items(), key=lambda pair: pair[1]):
            self.waiting.append(job)
            del self.delayed[job]

    def _due(self) -> dict[str, int]:
        return {job: rank for job, rank in self.delayed.items() if rank is not None}

    def time_passes(self) -> dict[str, int]:
        """Make every delayed job due; gives those that were not, with the rank that they have now."""
        rank = max(self._due().values(), default=0)
        made = {job: rank + n for n, job in enumerate((j for j, r in self.delayed.items() if r is None), 1)}
        self.delayed.update(made)
        return made

    def recover(self, worker: str) -> int:
        jobs = self.of(worker)
        self.working[worker] = []
        self.waiting = jobs + self.waiting
        return len(jobs)

    def places(self) -> Counter[str]:
        """How often each job is somewhere in the queue."""
        in_progress = (job for jobs in self.working.values() for job in jobs)
        return Counter((*self.waiting, *self.delayed, *in_progress))

    def content(self) -> dict[str, Any]:
        """The keys that Redis must hold."""
        delayed = {job: "later" if rank is None else str(rank) for job, rank in self.delayed.items()}
        attempts = {job: f"{len(tokens)}:{' '.join([*tokens, ''])}" for job, tokens in self.attempts.items()}
        keys: dict[str, Any] = {self.name: self.waiting, f"{self.name}:delayed": delayed}
        keys |= {f"{self.name}:attempts": attempts, f"{self.name}:dead": self.dead}
        keys |= {f"{self.name}:working:{worker}": jobs for worker, jobs in self.working.items()}
        keys[f"{self.name}:workers"] = dict.fromkeys(self.workers, "heard")
        return keys

    def check(self) -> None:
        """No job is in no place, none is done more often than it was added."""
        for job, added in self.added.items():
            gone = self.settled[job] + self.dead_lettered[job] + self.merged[job]
            assert self.places()[job] + gone == added, f"{job}: added {added} times, in {self}"
        assert set(self.places()) <= set(self.added)
        assert set(self.attempts) <= set(self.places()), "attempts of a job that has gone"


@dataclass
class Batch:
    """A batch that is open or finishing; `completions` counts the callers that were informed of its end."""

    host: str = ""
    s3_key: str = ""
    job: str = ""
    total: int | None = None
    processed: int = 0
    failed: int = 0
    settled: set[str] = field(default_factory=set)
    queued: set[str] = field(default_factory=set)
    completions: int = 0

    def is_over(self) -> bool:
        """Whether every file is settled."""
        return self.total is not None and len(self.settled) >= self.total

    def counts(self) -> tuple[str, str, str]:
        """Total, processed and failed as Redis has them, '' where it does not."""
        return ("", "", "") if self.total is None else (str(self.total), str(self.processed), str(self.failed))

    def content(self, name: str) -> dict[str, Any]:
        """The keys that Redis must hold."""
        keys: dict[str, Any] = {"host": self.host, "s3_key": self.s3_key, "job": self.job}
        keys |= {"settled": self.settled, "queued": self.queued}
        if self.total is not None:
            keys |= {"total": str(self.total), "processed": str(self.processed), "failed": str(self.failed)}
        return {f"batch:{name}:{key}": value for key, value in keys.items()}


@dataclass
class Model:
    """All of it. `scripts`: hash -> name."""

    scripts: dict[str, str]
    queues: dict[str, Queue]
    batches: dict[str, Batch] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    finishing: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)  # host -> "heard" or "lost"
    heartbeats: dict[str, str] = field(default_factory=dict)

    # --- what a command does ---------------------------------------------------------------------------

    def observe(self, process: Any, command: Sequence[Any], answer: Any) -> tuple[str, list[Any]]:
        """Do what the command must do, and compare the answer; gives its name, or that of its script, and its
        arguments."""
        name, *args = command
        keys: list[str] = []
        if name == "EVALSHA":
            sha, count, *rest = args
            name, keys, args = self.scripts[sha], rest[:count], rest[count:]
        expected = self.apply(process, name, [str(key) for key in keys], args)
        assert expected is UNKNOWN or answer == expected, f"{name}{args}: {answer!r}, not {expected!r}"
        return name, args

    def apply(self, process: Any, name: str, keys: list[str], args: list[Any]) -> Any:
        """Do what the command must do, and give what it must answer."""
        worker, host = process.id, process.host
        queue = self.queues[process.queue.name]
        match name, args:
            # A queue. Each process works on one; RPUSH adds to any.
            case "RPUSH", [place, job]:
                return self.queues[place].add(job)
            case "BLMOVE", _:
                return queue.move(worker)
            case "ZADD", [place, *_] if place == "hosts:seen":
                self.hosts[host] = "heard"
            case "ZADD", _:
                queue.workers.add(worker)
            case "SET", [_, value, *_]:
                self.heartbeats[worker] = value
            case "take_identity", [ours, _, dead]:
                return self.take_identity(worker, ours, dead)
            case "promote", []:
                queue.promote()
            case "begin", [job, token, _, in_hand, _]:
                return queue.begin(worker, job, token, in_hand)
            case "settle", [job, next_job, note, value]:
                answer = queue.settle(worker, job)
                if answer and next_job:
                    self.queues[keys[3]].add(next_job)
                assert (note, value) == ("", "")
                return answer
            case "put_back", [job, delay, uncounted]:
                return queue.put_back(worker, job, delay, uncounted)
            case "dead_letter", [job, dead_letter]:
                return queue.dead_letter(worker, job, dead_letter)
            case "unregister", [_]:
                return self.unregister(queue, worker)
            case "recover", []:
                of = keys[0].removeprefix("worker:")
                assert of != worker, "took back its own jobs"
                return 0 if of in self.heartbeats else queue.recover(of)
            # A batch.
            case "adopt", [batch, _, s3_key, job]:
                return self.adopt(host, batch, s3_key, job)
            case "open", [batch, _, total]:
                return self.start(host, batch, total)
            case "push", [_, filename, job]:
                return self.push(host, filename, job, keys[2])
            case "settle_file", [batch, _, filename, outcome, job, dead_letter]:
                return self.settle_file(queue, worker, host, batch, filename, outcome, job, dead_letter)
            case "close", [batch, of]:
                return self.close(batch, of)
            case "abandon", [batch, _, job]:
                return self.abandon(host, batch, job in queue.of(worker))
            case "take_over", [lost, _]:
                return self.take_over(keys[0].split(":")[1], lost, keys[3])
            case "hand_back", [batch, of, *seen, job]:
                return self.hand_back(batch, of, seen, job, keys[5])
            case "requeue", [batch, job]:
                return self.requeue(batch, job, keys[2])
            case _:  # reads, and ZREMRANGEBYSCORE of what is a week old
                return UNKNOWN
        return None if name == "promote" else UNKNOWN

    def take_identity(self, worker: str, ours: str, dead: str) -> str | None:
        held = self.heartbeats.get(worker)
        if held not in (None, dead, ours):
            return held
        self.heartbeats[worker] = ours
        return None

    def unregister(self, queue: Queue, worker: str) -> int:
        if queue.of(worker):
            return 0
        self.heartbeats.pop(worker, None)
        was_known = worker in queue.workers
        queue.workers.discard(worker)
        return int(was_known)

    def adopt(self, host: str, name: str, s3_key: str, job: str) -> str:
        if name in self.finishing:
            return "finishing"
        batch = self.batches.get(name, Batch())
        if batch.host != host:
            batch = Batch(host)
        batch.s3_key, batch.job = s3_key, job
        self.batches[name] = batch
        self.open.add(name)
        return "adopted"

    def start(self, host: str, name: str, total: int) -> str:
        batch = self.batches.get(name)
        if batch is None or batch.host != host:
            return "foreign"
        if batch.total is None:
            batch.total, batch.processed, batch.failed, batch.completions = total, 0, 0, 0
        if not batch.is_over():
            return "open"
        self._finish(name, host)
        return "complete"

    def _finish(self, name: str, host: str) -> None:
        self.open.discard(name)
        self.finishing[name] = host

    def push(self, host: str, filename: str, job: str, place: str) -> int:
        batch = self.batches.get(json.loads(job)["batch_id"])
        if batch is None or batch.host != host:
            return -1
        if filename in batch.queued:
            return 0
        batch.queued.add(filename)
        self.queues[place].add(job)
        return 1

    def settle_file(
        self,
        queue: Queue,
        worker: str,
        host: str,
        name: str,
        filename: str,
        outcome: str,
        job: str,
        dead_letter: str,
    ) -> str:
        if job and not queue.settle(worker, job):
            return "lost"
        if dead_letter:
            queue._write(job, dead_letter)
        batch = self.batches.get(name)
        if batch is None or batch.total is None:
            return "closed"
        if batch.host != host:
            return "foreign"
        if filename in batch.settled:
            return "counted"
        batch.settled.add(filename)
        batch.processed += outcome == "processed"
        batch.failed += outcome == "failed"
        if not batch.is_over():
            return "counted"
        self._finish(name, host)
        batch.completions += 1
        return "complete"

    def close(self, name: str, host: str) -> int:
        if self.finishing.get(name) != host:
            return 0
        del self.finishing[name]
        self._forget(name)
        return 1

    def abandon(self, host: str, name: str, holds_job: bool) -> int:
        batch = self.batches.get(name, Batch())
        counts_here = batch.host == host and batch.total is not None
        if not holds_job or name in self.finishing or counts_here:
            return 0
        self._forget(name)
        return 1

    def _forget(self, name: str) -> None:
        self.batches.pop(name, None)
        self.open.discard(name)

    def take_over(self, name: str, lost: str, place: str) -> int:
        batch = self.batches.get(name)
        if batch is None or batch.host != lost or self.hosts.get(lost) == "heard":
            return 0
        batch.host = ""
        self.queues[place].add(batch.job)
        return 1

    def hand_back(self, name: str, host: str, seen: list[str], job: str, place: str) -> int:
        batch = self.batches.get(name)
        if batch is None or name not in self.open or host not in ("*", batch.host):
            return 0
        if any(was not in ("*", count) for was, count in zip(seen, batch.counts(), strict=True)):
            return 0
        batch.host = ""
        self.queues[place].add(job)
        return 1

    def requeue(self, name: str, job: str, place: str) -> int:
        if name in self.finishing or self.batches.get(name, Batch()).host:
            return 0
        self.queues[place].add(job)
        return 1

    # --- what must hold --------------------------------------------------------------------------------

    def content(self) -> dict[str, Any]:
        """The keys that Redis must hold, with their values."""
        keys: dict[str, Any] = {"batches:open": dict.fromkeys(self.open, "heard")}
        keys |= {"batches:finishing": self.finishing, "hosts:seen": self.hosts}
        keys |= {f"worker:{worker}": value for worker, value in self.heartbeats.items()}
        for queue in self.queues.values():
            keys |= queue.content()
        written = {key: value for key, value in keys.items() if value}
        for name, batch in self.batches.items():
            written |= {key: value for key, value in batch.content(name).items() if value or value == ""}
        return written

    def check(self) -> None:
        """What holds in every state."""
        for queue in self.queues.values():
            queue.check()
        for name, batch in self.batches.items():
            assert batch.processed + batch.failed == len(batch.settled) <= (batch.total or 0), batch
            assert batch.completions <= 1, f"{name}: {batch.completions} callers were informed of its end"
            assert (name in self.open) is not (name in self.finishing), name
        for name, host in self.finishing.items():
            assert self.batches[name].is_over(), f"{name} finishes before its last file"
            assert self.batches[name].host in (host, ""), f"{name} of {self.batches[name].host} finishes on {host}"
        assert self.open <= set(self.batches)


_DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key)['ok']
  local value
  if kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  else value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  found[#found + 1] = {key, kind, value}
end
return {redis.call('TIME')[1], found}
"""


class Dump:
    """What Redis holds, in the model's words."""

    def __init__(self, client: Any) -> None:
        self._script = client.register_script(_DUMP)

    def content(self) -> dict[str, Any]:
        """Every key and its value; times as "later", "heard" (now) or "lost", small scores as they are."""
        now, found = self._script()
        return {key: _value(kind, value, int(now)) for key, kind, value in found if not key.endswith(":moved")}


def _value(kind: str, value: Any, now: int) -> Any:
    if kind == "set":
        return set(value)
    if kind not in ("hash", "zset"):
        return value
    pairs = dict(zip(value[::2], value[1::2], strict=True))
    return pairs if kind == "hash" else {member: _time(float(score), now) for member, score in pairs.items()}


def _time(score: float, now: int) -> str:
    if score < 10**6:
        return str(int(score))
    if score > now:
        return "later" if score <= now + LATER else "much later"
    return "heard" if score > now - LOST else "lost"
