"""pipeline/transfer/scp.py: connections that break, sources that change; the bytes are right or there are none."""

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.foundation.errors import Outage, Permanent, Stopping, unavailable_service
from pipeline.transfer import scp
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import RemoteHost
from tests.faults.proxy import Proxy
from tests.support.servers import Sshd, SshHost, sshd_path

SIZE = 24 * 2**20 + 7
CUT = 12 * 2**20
NEVER = threading.Event()
SERVERS: dict[str, type[SshHost] | type[Sshd]] = {"asyncssh": SshHost, "OpenSSH": Sshd}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost | Sshd]:
    if request.param == "OpenSSH" and sshd_path() is None:
        pytest.skip("OpenSSH's sshd is not installed (Debian: apt install openssh-server)")
    with SERVERS[request.param](tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(autouse=True)
def small_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scp, "OVERLAP", 4 * 2**20)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file on the host whose every block differs from the others."""
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "it's a new\nfile; $(x) [a]*.tar"
    path.write_bytes(os.urandom(SIZE))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "a.tar"


def through(proxy: Proxy, server: SshHost | Sshd, tmp_path: Path) -> RemoteHost:
    """The host as it is seen through the proxy."""
    known = tmp_path / "known_hosts"
    known.write_text(server.known_hosts.read_text().replace(f":{server.port} ", f":{proxy.port} "))
    return RemoteHost(server.host, proxy.port, server.user, str(server.key_file), str(known))


def break_off(proxy: Proxy, host: RemoteHost, source: Path, target: Path, *cuts: int) -> Copy:
    """A copy whose connection was cut so many times, each after so many bytes."""
    copy = Copy(host, str(source), host.stat(str(source)), target)
    for cut in cuts:
        proxy.cut_at = [cut]
        with pytest.raises(Outage) as caught:
            copy.run(NEVER)
        assert unavailable_service(caught.value) == "EC2"
    proxy.cut_at = []
    assert not target.exists()
    return copy


def test_a_copy_goes_on_where_the_connection_broke(server: SshHost | Sshd, source: Path, target: Path) -> None:
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        kept = copy.part.stat().st_size
        assert kept > scp.OVERLAP
        before = len(proxy.brought)
        copy.run(NEVER)
        assert sum(proxy.brought[before:]) < SIZE - kept + scp.OVERLAP + 2**20
    assert target.read_bytes() == source.read_bytes()
    assert os.listdir(target.parent) == ["a.tar"]


def test_a_copy_goes_on_as_often_as_the_connection_breaks(
    server: SshHost | Sshd, source: Path, target: Path
) -> None:
    with Proxy(server.port) as proxy:
        host = through(proxy, server, source.parent.parent)
        break_off(proxy, host, source, target, CUT, 6 * 2**20, 6 * 2**20).run(NEVER)
    assert target.read_bytes() == source.read_bytes()


def test_what_came_just_before_the_break_is_fetched_again(
    server: SshHost | Sshd, source: Path, target: Path
) -> None:
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        size = copy.part.stat().st_size
        with copy.part.open("r+b") as part:  # a hole, as scp leaves it where blocks came out of their order
            part.seek(size - 3 * 2**20)
            part.write(bytes(2**20))
        copy.run(NEVER)
    assert target.read_bytes() == source.read_bytes()


def test_a_source_that_changed_while_it_was_unavailable_is_copied_anew(
    server: SshHost | Sshd, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        source.write_bytes(os.urandom(SIZE))
        monkeypatch.setattr(Copy, "_append", None)  # not even begun
        copy.run(NEVER)
    assert target.read_bytes() == source.read_bytes()
    assert copy.state.changed == int(source.stat().st_mtime)


def test_pieces_that_do_not_fit_are_copied_anew(server: SshHost | Sshd, source: Path, target: Path) -> None:
    Path(f"{source}.sha256").write_text(hashlib.sha256(source.read_bytes()).hexdigest())
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        with copy.part.open("r+b") as part:
            part.write(b"damage")
        copy.run(NEVER)
    assert target.read_bytes() == source.read_bytes()


def test_a_source_that_changes_while_it_is_copied_is_copied_anew(
    server: SshHost | Sshd, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = direct(server)
    change(monkeypatch, source, times=1)
    Copy(host, str(source), host.stat(str(source)), target).run(NEVER)
    assert target.read_bytes() == source.read_bytes()


def test_a_source_that_never_stops_to_change_is_an_error(
    server: SshHost | Sshd, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = direct(server)
    left = change(monkeypatch, source, times=100)
    with pytest.raises(OSError, match="was changed each of the 3 times") as caught:
        Copy(host, str(source), host.stat(str(source)), target).run(NEVER)
    assert unavailable_service(caught.value) is None
    assert left == [97]
    assert os.listdir(target.parent) == []


def direct(server: SshHost | Sshd) -> RemoteHost:
    return RemoteHost(server.host, server.port, server.user, str(server.key_file), str(server.known_hosts))


def change(monkeypatch: pytest.MonkeyPatch, source: Path, times: int) -> list[int]:
    """Have the source change, its size the same, right after scp has read it, so many times."""
    scp, left = Copy._scp, [times]

    def scp_and_change(copy: Copy, *args: Any) -> None:
        scp(copy, *args)
        if left[0]:
            left[0] -= 1
            source.write_bytes(os.urandom(SIZE))
            os.utime(source, (1_800_000_000 + left[0], 1_800_000_000 + left[0]))

    monkeypatch.setattr(Copy, "_scp", scp_and_change)
    return left


def test_a_file_that_goes_when_it_has_been_read_is_kept(
    server: SshHost | Sshd, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, data, scp = direct(server), source.read_bytes(), Copy._scp

    def scp_and_remove(copy: Copy, *args: Any) -> None:
        scp(copy, *args)
        source.unlink()

    monkeypatch.setattr(Copy, "_scp", scp_and_remove)
    Copy(host, str(source), host.stat(str(source)), target).run(NEVER)
    assert target.read_bytes() == data


def test_a_file_that_went_while_it_was_unavailable_is_permanent(
    server: SshHost | Sshd, source: Path, target: Path
) -> None:
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        source.unlink()
        with pytest.raises(Permanent, match="No such file"):
            copy.run(NEVER)
    assert os.listdir(target.parent) == []


def test_pieces_that_cannot_be_compared_with_the_file_are_no_copy(
    server: SshHost | Sshd, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Copy._append

    def append_and_remove(copy: Copy, *args: Any) -> None:
        append(copy, *args)
        source.unlink()

    monkeypatch.setattr(Copy, "_append", append_and_remove)
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        with pytest.raises(Permanent, match="No such file"):
            copy.run(NEVER)
    assert os.listdir(target.parent) == []


def test_a_stop_ends_the_rest_of_a_copy_too(server: SshHost | Sshd, source: Path, target: Path) -> None:
    stop = threading.Event()
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        with pytest.raises(Stopping):
            copy.run(stop, lambda _: stop.set())
    assert os.listdir(target.parent) == []


def test_a_full_disk_during_the_rest_is_the_disks_fault(
    server: SshHost | Sshd, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        full = os.open("/dev/full", os.O_WRONLY)
        write = scp._write
        monkeypatch.setattr(scp, "_write", lambda _, data: write(full, data))
        with pytest.raises(OSError, match="No space") as caught:
            copy.run(NEVER)
        os.close(full)
    assert unavailable_service(caught.value) == "the disk"
    assert os.listdir(target.parent) == []


def test_progress_ends_at_the_files_size(server: SshHost | Sshd, source: Path, target: Path) -> None:
    moved: list[int] = []
    with Proxy(server.port) as proxy:
        host = through(proxy, server, source.parent.parent)
        copy = Copy(host, str(source), host.stat(str(source)), target)
        proxy.cut_at = [CUT]
        with pytest.raises(Outage):
            copy.run(NEVER, moved.append)
        copy.run(NEVER, moved.append)
    assert sum(moved) == SIZE


def test_a_host_that_stays_away_keeps_the_part_for_later(
    server: SshHost | Sshd, source: Path, target: Path
) -> None:
    with Proxy(server.port) as proxy:
        copy = break_off(proxy, through(proxy, server, source.parent.parent), source, target, CUT)
        kept, host = copy.part.stat().st_size, copy.host
        copy.host = replace(host, port=1)
        with pytest.raises(Outage):
            copy.run(NEVER)
        assert copy.part.stat().st_size == kept
        copy.host = host
        copy.run(NEVER)
    assert target.read_bytes() == source.read_bytes()
