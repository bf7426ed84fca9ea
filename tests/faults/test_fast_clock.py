"""tests/faults/fast_clock.py: every kind of wait that the programs have is as long as their clock says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.faults.fast_clock import FastClock, compiler
from tests.faults.rig import FastValkey
from tests.support.child import wait_until
from tests.support.steps import now

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (Debian: apt install gcc libc6-dev)")

SPEED = 20.0
# Prints how long each wait of 2 s took by the program's own clock.
WAITS = """
import json, select, socket, subprocess, sys, threading, time
def receive():
    here, there = socket.socketpair()
    here.settimeout(2)
    try:
        here.recv(1)
    except TimeoutError:
        pass
def run():
    try:
        subprocess.run(["sleep", "60"], timeout=2)
    except subprocess.TimeoutExpired:
        pass
waits = {
    "sleep": lambda: time.sleep(2),
    "select": lambda: select.select([], [], [], 2),
    "poll": lambda: select.poll().poll(2000),
    "epoll": lambda: select.epoll().poll(2),
    "socket": receive,
    "lock": lambda: threading.Event().wait(2),
    "program": run,
    "sleep(1)": lambda: subprocess.run(["sleep", "2"]),
}
took = {}
for name, wait in waits.items():
    began = time.monotonic()
    wait()
    took[name] = time.monotonic() - began
print(json.dumps(took))
"""


@pytest.fixture
def clock(tmp_path: Path) -> FastClock:
    return FastClock(tmp_path, SPEED)


def run(clock: FastClock, program: str) -> str:
    environment = {**os.environ, **clock.environment}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def test_waits_are_as_long_as_the_clock_says_and_shorter_in_truth(clock: FastClock) -> None:
    began = time.monotonic()
    took = json.loads(run(clock, WAITS))
    true = time.monotonic() - began
    assert {name: seconds for name, seconds in took.items() if not 2 <= seconds < 12} == {}
    assert true < 2 * len(took) / 2


def test_the_wall_clock_is_set_while_the_program_runs(clock: FastClock) -> None:
    clock.set_forward(86400)
    ahead = float(run(clock, "import time; print(time.time())")) - time.time()
    assert 86400 <= ahead < 86400 + SPEED * 30
    clock.set_forward(-86400)
    assert float(run(clock, "import time; print(time.time())")) - time.time() < -86000


def test_what_expires_in_valkey_expires_as_much_sooner(clock: FastClock, tmp_path: Path) -> None:
    with FastValkey(tmp_path / "valkey", clock.environment) as server, redis.Redis.from_url(server.url) as client:
        client.set("heartbeat", "x", ex=30)
        began = now()
        wait_until(lambda: not client.exists("heartbeat"), "the end of 30 s", 20)
        assert 1 < now() - began < 15
        assert client.blmove("none", "other", 10) is None  # 0.5 s in truth, and less than the client's patience
        server.kill()
        server.start()
        assert abs(client.time()[0] - clock.wall()) < 10
