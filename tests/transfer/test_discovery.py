"""pipeline/transfer/discovery.py: a remote file is queued once, and only when it is whole."""

import json
import threading
from typing import Any

import pytest
from redis.exceptions import ResponseError

from pipeline.foundation.errors import Permanent, Stopping
from pipeline.transfer.discovery import Watch
from pipeline.transfer.ssh import FileState

QUEUE = "queue:test"
OLD, NEW = FileState(10, 1_700_000_000), FileState(20, 1_700_000_060)
PATHS = ["/in/a.tar", "/in/two words.tar", '/in/ü \n".tar', "/in/caf\udce9.tar", "/in/{x}.tar", "/-"]


@pytest.fixture
def watch(redis: Any) -> Watch:
    return Watch(redis, QUEUE)


def queued(redis: Any) -> list[str]:
    """The paths in the queue, each from a job that holds nothing else."""
    jobs = [json.loads(job) for job in redis.lrange(QUEUE, 0, -1)]
    assert all(set(job) == {"remote_path"} for job in jobs)
    return [job["remote_path"] for job in jobs]


def look_twice(watch: Watch, path: str, state: FileState) -> list[str]:
    files = {path: state}
    return watch.look(dict(files)) + watch.look(dict(files))


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_a_file_is_queued_when_two_looks_agree(redis: Any, watch: Watch, path: str) -> None:
    assert watch.look({path: OLD}) == []
    assert queued(redis) == []
    assert watch.look({path: OLD}) == [path]
    assert queued(redis) == [path]
    assert watch.look({path: OLD}) == []
    assert queued(redis) == [path]


def test_a_file_that_still_grows_is_left_alone(redis: Any, watch: Watch) -> None:
    for state in (FileState(1, 5), FileState(2, 5), FileState(2, 6), FileState(1, 6)):
        assert watch.look({"/a.tar": state}) == []
    assert watch.look({"/a.tar": FileState(1, 6)}) == ["/a.tar"]


def test_a_file_that_was_unavailable_between_two_looks_is_looked_at_again(redis: Any, watch: Watch) -> None:
    for files in ({"/a.tar": OLD}, {}, {"/a.tar": OLD}):
        assert watch.look(files) == []
    assert watch.look({"/a.tar": OLD}) == ["/a.tar"]


def test_several_files_are_queued_each_when_it_is_ready(redis: Any, watch: Watch) -> None:
    watch.look({"/a.tar": OLD, "/b.tar": OLD})
    assert watch.look({"/a.tar": OLD, "/b.tar": NEW, "/c.tar": OLD}) == ["/a.tar"]
    assert sorted(watch.look({"/a.tar": OLD, "/b.tar": NEW, "/c.tar": OLD})) == ["/b.tar", "/c.tar"]
    assert sorted(queued(redis)) == ["/a.tar", "/b.tar", "/c.tar"]


def test_two_watchers_queue_a_file_once(redis: Any) -> None:
    first, second = Watch(redis, QUEUE), Watch(redis, QUEUE)
    for watcher in (first, second, first, second, first, second):
        watcher.look({"/a.tar": OLD})
    assert queued(redis) == ["/a.tar"]


def test_a_watcher_that_starts_anew_queues_nothing_again(redis: Any, watch: Watch) -> None:
    look_twice(watch, "/a.tar", OLD)
    assert look_twice(Watch(redis, QUEUE), "/a.tar", OLD) == []


def test_a_file_that_changed_is_queued_again(redis: Any, watch: Watch) -> None:
    look_twice(watch, "/a.tar", OLD)
    assert watch.look({"/a.tar": NEW}) == []
    assert watch.look({"/a.tar": NEW}) == ["/a.tar"]
    assert look_twice(watch, "/a.tar", FileState(NEW.size, NEW.changed + 1)) == ["/a.tar"]
    assert len(queued(redis)) == 3


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_what_a_person_queued_is_not_queued_by_the_watch(redis: Any, watch: Watch, path: str) -> None:
    watch.enqueue(path)
    assert look_twice(watch, path, OLD) == []
    assert queued(redis) == [path]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_what_was_transferred_is_not_queued_until_it_changes(redis: Any, watch: Watch, path: str) -> None:
    watch.enqueue(path)
    watch.mark(path, FileState(OLD.size, OLD.changed, "ab" * 32))
    assert look_twice(watch, path, OLD) == []
    assert look_twice(watch, path, NEW) == [path]
    assert queued(redis) == [path, path]


def test_a_person_may_queue_a_file_again(redis: Any, watch: Watch) -> None:
    look_twice(watch, "/a.tar", OLD)
    watch.enqueue("/a.tar")
    watch.enqueue("/a.tar")
    assert queued(redis) == ["/a.tar"] * 3
    assert look_twice(watch, "/a.tar", OLD) == []


def test_a_file_that_is_replaced_while_a_person_has_it_transferred_is_queued(redis: Any, watch: Watch) -> None:
    look_twice(watch, "/a.tar", OLD)
    watch.enqueue("/a.tar")
    assert look_twice(watch, "/a.tar", NEW) == []  # while the old one is copied
    watch.mark("/a.tar", OLD)
    assert watch.look({"/a.tar": NEW}) == ["/a.tar"]
    assert watch.look({"/a.tar": NEW}) == []


def test_a_look_that_failed_does_not_count_as_one(redis: Any, watch: Watch) -> None:
    """The next one comes at once, when a file that is being written may look the same."""
    watch.look({"/a.tar": OLD, "/b.tar": OLD})
    redis.set(watch.looks, "of another type")
    with pytest.raises(ResponseError):
        watch.look({"/a.tar": NEW})
    redis.delete(watch.looks)
    assert watch.look({"/a.tar": NEW}) == []
    assert watch.look({"/a.tar": NEW}) == ["/a.tar"]


def commands(redis: Any) -> int:
    return int(redis.info("stats")["total_commands_processed"])


def test_a_look_asks_for_what_is_new_alone(redis: Any, watch: Watch) -> None:
    files = {f"/in/{number}.tar": OLD for number in range(3000)}
    for count in (0, 3000, 0, 0):
        assert len(watch.look(dict(files))) == count
    before = commands(redis)
    assert watch.look(dict(files)) == []
    assert commands(redis) - before < 8


def test_what_redis_has_lost_is_queued_again(redis: Any, watch: Watch) -> None:
    """A failover loses the last writes: of a file that was new, and of one that had changed."""
    look_twice(watch, "/changed.tar", OLD)
    kept = {key: redis.dump(key) for key in redis.scan_iter()}
    files = {"/changed.tar": NEW, "/new.tar": OLD}
    watch.look(dict(files))
    assert sorted(watch.look(dict(files))) == sorted(files)
    redis.flushdb()
    for key, value in kept.items():
        redis.restore(key, 0, value)
    assert watch.look(dict(files)) == []  # which finds the loss
    assert sorted(watch.look(dict(files))) == sorted(files)
    assert queued(redis) == ["/changed.tar", *files]
    assert watch.look(dict(files)) == []


def test_what_another_worker_forgets_is_new_for_all(redis: Any) -> None:
    first, second = Watch(redis, QUEUE, "first"), Watch(redis, QUEUE, "second")
    look_twice(first, "/a.tar", OLD)
    assert look_twice(second, "/a.tar", OLD) == []
    first.forget("/a.tar")
    assert second.look({"/a.tar": OLD}) == []
    assert second.look({"/a.tar": OLD}) == ["/a.tar"]


def test_a_look_ends_when_the_worker_stops(redis: Any) -> None:
    stop = threading.Event()
    watch = Watch(redis, QUEUE, stop=stop)
    files = {f"/in/{number}.tar": OLD for number in range(3000)}
    watch.look(dict(files))
    stop.set()
    with pytest.raises(Stopping):
        watch.look(dict(files))
    assert look_twice(Watch(redis, QUEUE), "/in/0.tar", OLD) == ["/in/0.tar"]


@pytest.mark.parametrize("path", ["a.tar", "./a.tar", "", "~/a.tar", "/in/../a.tar", "/in/\0.tar"])
def test_a_path_that_is_not_absolute_is_refused(redis: Any, watch: Watch, path: str) -> None:
    with pytest.raises(Permanent, match="remote path"):
        watch.enqueue(path)
    assert redis.keys() == []


def test_a_path_is_spelled_in_one_way(redis: Any, watch: Watch) -> None:
    for path in ("/in/a.tar", "//in//a.tar", "/in/./a.tar", "/./in/a.tar/"):
        watch.enqueue(path)
    assert set(queued(redis)) == {"/in/a.tar"}


def test_the_watch_of_another_queue_is_its_own(redis: Any, watch: Watch) -> None:
    look_twice(watch, "/a.tar", OLD)
    assert look_twice(Watch(redis, "queue:other"), "/a.tar", OLD) == ["/a.tar"]
