"""pipeline/transfer/ssh.py: OpenSSH's own ssh and scp, against asyncssh and against OpenSSH's sshd."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from pipeline.foundation.errors import Outage, Permanent, Stopping, unavailable_service
from pipeline.transfer import sftp, ssh, trial
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import MALFORMED, FileState, RemoteHost, Unclear, Unfit
from tests.support.child import descendants, free_port, is_alive, wait_until
from tests.support.disks import small_disk
from tests.support.fake_ssh import FAILURE, FILE, FOLDER, FakeSsh
from tests.support.servers import Sshd, SshHost, sshd_path

NEVER = threading.Event()
GONE = ["gone.tar", "lost connection.tar", "x\nConnection closed\n.tar"]
SERVERS: dict[str, type[SshHost] | type[Sshd]] = {"asyncssh": SshHost, "OpenSSH": Sshd}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost | Sshd]:
    if request.param == "OpenSSH" and sshd_path() is None:
        pytest.skip("OpenSSH's sshd is not installed (Debian: apt install openssh-server)")
    with SERVERS[request.param](tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def host(server: SshHost | Sshd) -> RemoteHost:
    key, known = str(server.key_file), str(server.known_hosts)
    return RemoteHost(server.host, server.port, server.user, key, known)


@pytest.fixture
def there(server: SshHost | Sshd, tmp_path: Path) -> Path:
    """The folder on the host."""
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that is fetched into."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def put(path: Path, data: bytes = b"recording", changed: int = 1_700_000_000) -> str:
    path.write_bytes(data)
    os.utime(path, (changed, changed))
    return str(path)


def fetch(
    host: RemoteHost,
    path: str,
    target: Path,
    stop: threading.Event = NEVER,
    moved: Callable[[int], object] = int,
    state: FileState | None = None,
) -> None:
    """Copy a file as it is on the host, or as it was seen in `state`."""
    Copy(host, path, state or host.stat(path), target).run(stop, moved)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 1 MB."""
    with small_disk(tmp_path / "full", "1m") as folder:
        yield folder


# --- stat --------------------------------------------------------------------------------------------------


def test_stat_gives_size_and_time(host: RemoteHost, there: Path) -> None:
    assert host.stat(put(there / "a.tar", b"12345")) == FileState(5, 1_700_000_000, "")
    assert host.stat(put(there / "empty.tar", b"", 0)) == FileState(0, 0, "")


def test_stat_follows_a_link_to_a_file(host: RemoteHost, there: Path) -> None:
    put(there / "a.tar", b"12345")
    (there / "link.tar").symlink_to("a.tar")
    assert host.stat(str(there / "link.tar")).size == 5


@pytest.mark.parametrize("name", ["two words.tar", "odd\\na\\me.tar"])
def test_stat_reads_the_checksum_as_sha256sum_wrote_it(host: RemoteHost, there: Path, name: str) -> None:
    path = put(there / name)
    for options in ([], ["--binary"]):
        command = ["sha256sum", *options, name]
        written = subprocess.run(command, cwd=there, capture_output=True, check=True).stdout
        Path(f"{path}.sha256").write_bytes(written)
        assert host.stat(path).sha256 == hashlib.sha256(b"recording").hexdigest()


def test_stat_reads_a_bare_checksum_of_either_case(host: RemoteHost, there: Path) -> None:
    path = put(there / "a.tar")
    Path(f"{path}.sha256").write_text("  " + "AB" * 32)
    assert host.stat(path).sha256 == "ab" * 32


def test_a_checksum_file_of_any_size_takes_no_memory(host: RemoteHost, there: Path) -> None:
    path = put(there / "a.tar")
    with Path(f"{path}.sha256").open("wb") as file:
        file.write(b"ab" * 32 + b"\n")
        file.truncate(2**25)
    tracemalloc.start()
    try:
        assert host.stat(path).sha256 == "ab" * 32
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["nonsense", "ab" * 33, "x" + "ab" * 32, "ab" * 20 + "  a.tar\n"])
def test_a_malformed_checksum_is_that_of_no_file(host: RemoteHost, there: Path, text: str) -> None:
    path = put(there / "a.tar")
    Path(f"{path}.sha256").write_text(text)
    assert host.stat(path).sha256 == MALFORMED


@pytest.mark.parametrize("name", GONE)
def test_a_missing_file_is_permanent_whatever_it_is_called(host: RemoteHost, there: Path, name: str) -> None:
    with pytest.raises(Permanent, match=re.escape(str(there / name))):
        host.stat(str(there / name))


@pytest.mark.parametrize("name", GONE)
def test_a_file_that_went_before_it_was_fetched_is_permanent(
    host: RemoteHost, there: Path, here: Path, name: str
) -> None:
    with pytest.raises(Permanent, match=re.escape(name)):
        fetch(host, str(there / name), here / "a.tar", state=FileState(1, 1))
    assert list(here.iterdir()) == []


def test_what_is_no_file_is_permanent(host: RemoteHost, there: Path) -> None:
    os.mkfifo(there / "fifo.tar")
    (there / "dangling.tar").symlink_to("nothing")
    for path in (there, there / "fifo.tar", there / "dangling.tar", there / "no folder" / "a.tar"):
        with pytest.raises(Permanent, match=re.escape(str(path))):
            host.stat(str(path))


def test_a_folder_is_never_fetched(host: RemoteHost, there: Path, here: Path) -> None:
    with pytest.raises(Permanent, match=re.escape(str(there))):
        fetch(host, str(there), here / "a.tar", state=FileState(1, 1))
    assert list(here.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_permanent(host: RemoteHost, there: Path, here: Path) -> None:
    path = put(there / "a.tar")
    os.chmod(path, 0)
    with pytest.raises(Permanent, match=re.escape(path)):
        fetch(host, path, here / "a.tar", state=FileState(9, 1))


# --- odd names ---------------------------------------------------------------------------------------------

ODD = (
    "two words.tar", "it's.tar", 'say "hi".tar', "$(touch x).tar", "a;touch x.tar", "a*.tar", "[a].tar", "a?.tar",
    "{a,b}.tar", "back\\slash.tar", "a\\*.tar", "$HOME.tar", "-rf.tar", "ümläut 日本.tar", "a:b.tar",
    "new\nline.tar",
)  # fmt: skip


def test_an_odd_name_names_that_file_alone(
    host: RemoteHost, server: SshHost | Sshd, there: Path, here: Path
) -> None:
    names = [*ODD, "\udce9.tar"] if isinstance(server, Sshd) else ODD  # asyncssh takes UTF-8 only
    for name in (*names, "a.tar", "aa.tar", "b.tar", "backslash.tar", "\\*.tar", "HOME.tar"):
        put(there / name, ascii(name).encode())
    listed = sorted(os.listdir(there))

    def bring(name: str) -> None:
        fetch(host, str(there / name), here / name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring, names))
    assert {name: (here / name).read_bytes().decode() for name in names} == {name: ascii(name) for name in names}
    assert sorted(os.listdir(here)) == sorted(names)
    assert sorted(os.listdir(there)) == listed


def test_look_gives_paths_that_stat_knows(host: RemoteHost, there: Path) -> None:
    expected = {put(there / name, b"data") for name in ODD}
    assert set(host.look(str(there))) == expected


def test_a_pattern_that_names_no_file_fetches_no_neighbour(host: RemoteHost, there: Path, here: Path) -> None:
    put(there / "a.tar", b"neighbour")
    for name in ("*.tar", "[a].tar", "\\a.tar"):
        with pytest.raises(Permanent):
            fetch(host, str(there / name), here / "a.tar", state=FileState(9, 1))
    assert list(here.iterdir()) == []


# --- fetch -------------------------------------------------------------------------------------------------


def test_a_file_arrives_whole_and_replaces_what_an_earlier_try_left(
    host: RemoteHost, there: Path, here: Path
) -> None:
    data = os.urandom(3 * 2**20 + 7)
    (here / "a.tar.part").write_bytes(bytes(2**23))
    fetch(host, put(there / "a.tar", data), here / "a.tar")
    assert (here / "a.tar").read_bytes() == data
    assert os.listdir(here) == ["a.tar"]


@pytest.mark.parametrize("size", [0, 8, 10, 2**40])
def test_a_file_that_changed_since_it_was_seen_is_copied_as_it_is(
    host: RemoteHost, there: Path, here: Path, size: int
) -> None:
    fetch(host, put(there / "a.tar"), here / "a.tar", state=FileState(size, 1))
    assert (here / "a.tar").read_bytes() == b"recording"


def test_an_scp_that_brings_too_little_is_an_error(
    host: RemoteHost, there: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(there / "a.tar")
    (here / "scp").write_text('#!/bin/sh\nfor target; do :; done\nprintf record >"$target"\n')
    (here / "scp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    with pytest.raises(OSError, match="6 bytes arrived of 9") as caught:
        fetch(host, path, here / "a.tar")
    assert unavailable_service(caught.value) is None
    assert os.listdir(here) == ["scp"]


def in_background(
    host: RemoteHost, there: Path, here: Path, stop: threading.Event
) -> tuple[threading.Thread, list[BaseException]]:
    """Start to fetch a very large file; the list receives how that ended."""
    path, size, ends = there / "big.tar", 2**36, []
    path.touch()
    os.truncate(path, size)

    def bring() -> None:
        try:
            fetch(host, str(path), here / "big.tar", stop)
        except BaseException as error:  # noqa: BLE001
            ends.append(error)

    thread = threading.Thread(target=bring)
    thread.start()
    part = here / "big.tar.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 0, "the first bytes")
    return thread, ends


def test_a_full_disk_is_the_disks_fault_and_leaves_its_room_free(
    host: RemoteHost, there: Path, full: Path
) -> None:
    path = put(there / "a.tar", bytes(3_000_000))
    with pytest.raises(OSError, match="No space") as caught:
        fetch(host, path, full / "a.tar")
    assert unavailable_service(caught.value) == "the disk"
    assert list(full.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_the_disks_fault(host: RemoteHost, there: Path, here: Path) -> None:
    path = put(there / "a.tar")
    with pytest.raises(OSError, match=re.escape(str(here / "nowhere"))) as caught:
        fetch(host, path, here / "nowhere" / "a.tar")
    assert unavailable_service(caught.value) == "the disk"


@pytest.mark.parametrize(("body", "stopping"), [("kill -TERM $$", False), ("exit 1", False), ("exit 1", True)])
def test_an_scp_that_somebody_else_ends_blames_no_file(
    host: RemoteHost, there: Path, here: Path, monkeypatch: pytest.MonkeyPatch, body: str, stopping: bool
) -> None:
    path = put(there / "a.tar")
    state = host.stat(path)
    (here / "scp").write_text(f"#!/bin/sh\n{body}\n")
    (here / "scp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    stop = threading.Event()
    if stopping:
        stop.set()
    with pytest.raises(Stopping if stopping else Outage):
        fetch(host, path, here / "a.tar", stop, state=state)


def test_progress_is_reported_as_the_file_grows(host: RemoteHost, there: Path, here: Path) -> None:
    path = put(there / "a.tar", os.urandom(300_000_000))
    moved: list[int] = []
    fetch(host, path, here / "a.tar", NEVER, moved.append)
    assert moved
    assert 0 < sum(moved) <= 300_000_000


def test_stopping_ends_a_large_transfer(host: RemoteHost, there: Path, here: Path) -> None:
    stop, before = threading.Event(), set(descendants(os.getpid()))
    thread, ends = in_background(host, there, here, stop)
    assert os.listdir(here) == ["big.tar.part"]
    stop.set()
    thread.join(20)
    assert [type(end) for end in ends] == [Stopping]
    assert os.listdir(here) == []
    new = set(descendants(os.getpid())) - before
    wait_until(lambda: not any(map(is_alive, new & set(descendants(os.getpid())))), "the end of scp")


def test_stopping_does_not_wait_for_a_host_that_hangs(
    host: RemoteHost, server: SshHost | Sshd, there: Path, here: Path
) -> None:
    stop = threading.Event()
    thread, ends = in_background(host, there, here, stop)
    main = server.children[0].process
    assert main is not None
    hung = [main.pid, *descendants(main.pid)]
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    try:
        stop.set()
        thread.join(10)
        assert [type(end) for end in ends] == [Stopping]
    finally:
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
        thread.join(60)


def test_a_server_that_dies_during_a_transfer_is_unavailable(there: Path, here: Path, tmp_path: Path) -> None:
    with SshHost(tmp_path / "ssh") as server:
        key, known = str(server.key_file), str(server.known_hosts)
        host = RemoteHost(server.host, server.port, server.user, key, known)
        thread, ends = in_background(host, there, here, NEVER)
        server.kill()
        thread.join(60)
    assert [unavailable_service(end) for end in ends] == ["EC2"]
    assert not (here / "big.tar").exists()


# --- outages -----------------------------------------------------------------------------------------------


def assert_away(host: RemoteHost, there: Path, here: Path) -> None:
    """Whatever is asked of the host says that EC2 is unavailable, soon and without asking back."""
    path = put(there / "a.tar")
    started = time.monotonic()
    for ask in (
        lambda: host.stat(path),
        lambda: host.look(str(there)),
        lambda: fetch(host, path, here / "a.tar", state=FileState(9, 1)),
    ):
        with pytest.raises(Outage) as caught:
            ask()
        assert unavailable_service(caught.value) == "EC2"
        assert host.host in str(caught.value)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 15
    assert not (here / "a.tar").exists()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    """ssh and scp that end as they are configured to."""
    return FakeSsh(tmp_path / "bin", monkeypatch)


ANYWHERE = RemoteHost("h", 22, "u", "key", "known")


@pytest.mark.parametrize(
    ("status", "answers"),
    [
        (1, [(FAILURE, 0), (FAILURE, FOLDER)]),  # of the folder too: its file system is lost
        (1, [(FAILURE, FILE), (FAILURE, 0)]),
        (1, []),  # no further connection
        (254, [(sftp.OK, FILE)]),  # bash: fork
        (127, [(sftp.OK, FILE)]),  # no such program
        (137, [(FAILURE, FILE), (sftp.OK, FOLDER)]),  # killed for memory
        (255, [(sftp.NO_SUCH_FILE, 0)]),  # ssh's own status
    ],
)
def test_a_host_in_need_is_an_outage(fake: FakeSsh, status: int, answers: list[tuple[int, int]]) -> None:
    fake.will(status, b"stat: cannot statx '/data/a.tar': No such file or directory", *answers)
    with pytest.raises(Outage) as caught:
        ANYWHERE.stat("/data/a.tar")
    assert unavailable_service(caught.value) == "EC2"


@pytest.mark.parametrize("answer", [sftp.NO_SUCH_FILE, sftp.PERMISSION_DENIED, sftp.BAD_MESSAGE])
@pytest.mark.parametrize("mode", [0, FILE])
def test_a_path_that_sftp_refuses_is_permanent_whatever_is_said(fake: FakeSsh, answer: int, mode: int) -> None:
    for status in (1, 126):
        fake.will(status, b"Cannot allocate memory", (answer, mode))
        with pytest.raises(Permanent, match=r"/data/a.tar: the EC2 host says: Cannot allocate memory$"):
            ANYWHERE.stat("/data/a.tar")


@pytest.mark.parametrize("answers", [[(sftp.OK, FILE)], [(FAILURE, FILE), (sftp.OK, FOLDER)]])
def test_a_command_that_fails_for_no_known_reason_is_an_attempt(
    fake: FakeSsh, answers: list[tuple[int, int]]
) -> None:
    fake.will(1, b"No such file or directory", *answers, *answers)  # it is asked once more
    with pytest.raises(Unclear) as caught:
        ANYWHERE.stat("/data/a.tar")
    assert unavailable_service(caught.value) is None


def test_a_server_that_speaks_no_sftp_is_an_outage(fake: FakeSsh) -> None:
    for spoken in (
        b"",
        b"Welcome to this host!\n",
        b"\0\0",
        b"\0\0\0\1\1",
        b"\0\0\0\5\2\0\0\0\3\0\0\0\5e\0\0\0\7",
    ):
        fake.will(1, b"", (sftp.OK, FILE))
        (fake.folder / "answers.1").write_bytes(spoken)
        script = (fake.folder / "ssh").read_text()
        (fake.folder / "ssh").write_text(script.replace("exec cat >/dev/null", "exit 1"))
        with pytest.raises(Outage, match="SFTP"):
            ANYWHERE.stat("/data/a.tar")


def test_a_server_that_hangs_in_sftp_is_an_outage(fake: FakeSsh, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.will(1, b"", (sftp.OK, FILE))
    (fake.folder / "answers.1").write_bytes(b"")
    monkeypatch.setattr(ssh, "_SFTP_SECONDS", 0.2)
    with pytest.raises(Outage, match="does not answer by SFTP"):
        ANYWHERE.stat("/data/a.tar")


def test_an_scp_that_fails_for_no_known_reason_has_one_more_try(fake: FakeSsh, here: Path) -> None:
    copy = Copy(ANYWHERE, "/data/a.tar", FileState(9, 1), here / "a.tar")
    for expected in (Outage, Unclear, Unclear):
        fake.will(1, b"", (sftp.OK, FILE))
        with pytest.raises(expected):
            copy.run(NEVER)


def test_an_scp_that_fails_where_the_disk_has_no_room_for_the_rest_is_the_disks_fault(
    fake: FakeSsh, here: Path
) -> None:
    fake.will(1, b"", (sftp.OK, FILE))
    copy = Copy(ANYWHERE, "/data/a.tar", FileState(2**60, 1), here / "a.tar")
    with pytest.raises(OSError, match="no room for the rest") as caught:
        copy.run(NEVER)
    assert unavailable_service(caught.value) == "the disk"


def test_what_sftp_finds_is_what_is_there(host: RemoteHost, there: Path) -> None:
    command = ["ssh", "-s", *host.shell()[2:-1], "sftp"]
    (there / "dangling.tar").symlink_to("nothing")
    os.mkfifo(there / "fifo.tar")
    assert sftp.find(command, put(there / "a.tar"), 20).is_file
    assert sftp.find(command, str(there), 20).is_folder
    fifo = sftp.find(command, str(there / "fifo.tar"), 20)
    assert (fifo.status, fifo.is_file, fifo.is_folder) == (sftp.OK, False, False)
    for missing in (there / "gone.tar", there / "dangling.tar", there / "no folder" / "a.tar"):
        assert sftp.find(command, str(missing), 20).is_refused


def test_a_refused_connection_is_an_outage(host: RemoteHost, there: Path, here: Path) -> None:
    assert_away(replace(host, port=free_port()), there, here)


def test_an_unknown_name_is_an_outage(host: RemoteHost, there: Path, here: Path) -> None:
    assert_away(replace(host, host="no-such-host.invalid"), there, here)


def test_a_wrong_key_is_an_outage(host: RemoteHost, there: Path, here: Path, tmp_path: Path) -> None:
    key = tmp_path / "other key"
    key.touch(mode=0o600)
    key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh"))
    assert_away(replace(host, key_file=str(key)), there, here)


def test_a_key_with_a_passphrase_is_an_outage_and_no_question(
    host: RemoteHost, there: Path, here: Path, tmp_path: Path
) -> None:
    key = Path(shutil.copy(host.key_file, tmp_path / "locked"))
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)], check=True)
    assert_away(replace(host, key_file=str(key)), there, here)


def test_another_user_is_an_outage(host: RemoteHost, server: SshHost | Sshd, there: Path, here: Path) -> None:
    if isinstance(server, SshHost):
        pytest.skip("the asyncssh host takes the key for every user")
    assert_away(replace(host, user="nosuchuser"), there, here)


@pytest.mark.parametrize("known", ["", "changed", "other port"])
def test_a_host_key_that_is_not_the_known_one_is_an_outage(
    host: RemoteHost, there: Path, here: Path, tmp_path: Path, known: str
) -> None:
    public = asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode()
    real = Path(host.known_hosts).read_text().partition(" ")[2]
    lines = {
        "": "",
        "changed": f"[{host.host}]:{host.port} {public}",
        "other port": f"[{host.host}]:{host.port + 1} {real}",
    }
    changed = tmp_path / "known hosts"
    changed.write_text(lines[known])
    assert_away(replace(host, known_hosts=str(changed)), there, here)
    assert changed.read_text() == lines[known]


def test_a_start_names_what_refuses_us_and_waits_for_what_is_unavailable(
    host: RemoteHost, server: SshHost | Sshd, tmp_path: Path
) -> None:
    if isinstance(server, Sshd):
        server.banner.write_text("h: Permission denied (publickey).\nHost key verification failed.\n")
    key = tmp_path / "other key"
    key.touch(mode=0o600)
    key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh"))
    (tmp_path / "nobody").touch()

    def refusal(host: RemoteHost) -> str | None:
        return trial.refusal(host, tmp_path / "trial")

    at = f"EC2_HOST: ssh to {host.user}@{host.host}: "
    see = ": see EC2_USER, EC2_KEY_FILE and EC2_KNOWN_HOSTS"
    try:
        assert refusal(host) is None
        wrong_key = str(refusal(replace(host, key_file=str(key))))
        assert wrong_key.startswith(f"{at}{host.user}@{host.host}: Permission denied (")
        assert wrong_key.endswith(see)
        unknown = str(refusal(replace(host, known_hosts=str(tmp_path / "nobody"))))
        assert unknown.startswith(at)
        assert unknown.endswith(f"Host key verification failed.{see}")
        with pytest.raises(Outage, match="refused"):
            refusal(replace(host, port=free_port()))
    finally:
        if isinstance(server, Sshd):
            server.banner.unlink()


def test_a_shell_that_ends_within_a_command_is_in_need(fake: FakeSsh) -> None:
    fake.will(1, b"fork: Resource temporarily unavailable")
    script = (fake.folder / "ssh").read_text()
    (fake.folder / "ssh").write_text(script.replace("cat output", "exit 254"))
    with pytest.raises(Outage, match="u@h cannot work now: fork: Resource temporarily unavailable") as caught:
        ANYWHERE.stat("/data/a.tar")
    assert not isinstance(caught.value, Unfit)


def test_a_stop_does_not_wait_for_an_answer(fake: FakeSsh) -> None:
    fake.will(0)
    (fake.folder / "ssh").write_text("#!/bin/sh\nexec sleep 30\n")
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    for ask in (lambda host: host.look("/data"), lambda host: host.stat("/data/a.tar")):
        with pytest.raises(Stopping):
            ask(replace(ANYWHERE, stop=stop))
    assert time.monotonic() - began < 5


def test_files_of_the_settings_may_have_spaces_in_their_names(
    host: RemoteHost, there: Path, here: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my keys"
    folder.mkdir()
    key, known = shutil.copy(host.key_file, folder / "a key"), shutil.copy(host.known_hosts, folder / "known")
    spaced = replace(host, key_file=str(key), known_hosts=str(known))
    path = put(there / "a.tar")
    fetch(spaced, path, here / "a.tar")


def test_a_host_that_never_says_who_it_is_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        host = RemoteHost("127.0.0.1", port, "u", str(tmp_path / "empty"), str(tmp_path / "empty"))
        started = time.monotonic()
        with pytest.raises(Outage):
            host.stat("/a.tar")
        assert time.monotonic() - started < 20


# --- look --------------------------------------------------------------------------------------------------


def test_look_lists_archives_only(host: RemoteHost, there: Path) -> None:
    compressed = ("a.tgz", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.zst")
    archives = ("a.tar", "b b.tar", "new\nline.tar", "1 2 3.tar", "\udcff.tar", *compressed)
    for name in archives:
        put(there / name, b"1234")
    others = (".hidden.tar", "a.tar.part", "a.tar.sha256", "a.tgz.sha256", "a.zip", "tar", "x.TAR.gz", ".tar")
    for name in others:
        put(there / name)
    (there / "folder.tar").mkdir()
    put(there / "folder.tar" / "inner.tar")
    os.mkfifo(there / "fifo.tar")
    (there / "dangling.tar").symlink_to("nothing")
    (there / "link.tar").symlink_to("a.tar")
    expected = {str(there / name) for name in archives}
    files = host.look(str(there))
    assert set(files) == expected | {str(there / "link.tar")}
    assert set(files.values()) == {FileState(4, 1_700_000_000)}


def test_look_and_stat_agree(host: RemoteHost, there: Path) -> None:
    path = put(there / "a.tar")
    os.utime(path, ns=(0, 1_700_000_000_999_999_999))
    assert str(host.look(str(there))[path]) == str(host.stat(path))


def test_an_entry_that_cannot_be_read_hides_no_other(host: RemoteHost, there: Path) -> None:
    put(there / "a.tar")
    (there / "loop.tar").symlink_to("loop.tar")
    assert list(host.look(str(there))) == [str(there / "a.tar")]


def test_an_empty_folder_has_no_files(host: RemoteHost, there: Path) -> None:
    assert host.look(str(there)) == {}


def test_a_folder_with_an_odd_name_is_looked_at(host: RemoteHost, there: Path) -> None:
    for name in ("two words", "$(touch x)", "new\nline"):
        (there / name).mkdir()
        path = put(there / name / "a.tar")
        assert list(host.look(str(there / name))) == [path]


def test_a_missing_folder_is_an_error_that_names_it(host: RemoteHost, there: Path) -> None:
    with pytest.raises(Permanent, match="nowhere"):
        host.look(str(there / "nowhere"))


# --- tidy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["delete", "rename"])
def test_a_file_is_tidied_with_its_checksum_and_no_other(
    host: RemoteHost, server: SshHost | Sshd, there: Path, action: str
) -> None:
    names = [*ODD, "\udce9.tar"] if isinstance(server, Sshd) else ODD  # asyncssh takes UTF-8 only
    for name in names:
        path = put(there / name, ascii(name).encode())
        put(there / f"{name}.sha256", hashlib.sha256(ascii(name).encode()).hexdigest().encode())
        put(there / "a.tar")
        before = set(os.listdir(there))
        assert host.tidy(path, host.stat(path), action) == "done"
        gone = {name, f"{name}.sha256"}
        assert before - set(os.listdir(there)) == gone
        new = set(os.listdir(there)) - before
        assert new == ({f"{name}.done", f"{name}.done.sha256"} if action == "rename" else set())
        if action == "rename":
            assert (there / f"{name}.done").read_bytes() == ascii(name).encode()
            for left in new:
                (there / left).unlink()


@pytest.mark.parametrize("action", ["delete", "rename"])
@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changed_is_not_tidied(host: RemoteHost, there: Path, action: str, change: str) -> None:
    path = put(there / "a.tar")
    state = host.stat(path)
    put(there / "a.tar", b"longer recording") if change == "size" else put(there / "a.tar", changed=5)
    assert host.tidy(path, state, action) == "changed"
    assert os.listdir(there) == ["a.tar"]


def test_a_file_that_is_gone_is_tidied(host: RemoteHost, there: Path) -> None:
    assert host.tidy(str(there / "a.tar"), FileState(1, 1), "delete") == "gone"


def test_the_checksum_of_the_next_file_is_not_tidied(host: RemoteHost, there: Path) -> None:
    path = put(there / "a.tar")
    put(there / "a.tar.sha256", b"ab" * 32)
    state = host.stat(path)
    put(there / "a.tar.sha256", b"cd" * 32)
    assert host.tidy(path, state, "delete") == "done"
    assert os.listdir(there) == ["a.tar.sha256"]


def test_a_rename_keeps_what_has_the_new_name(host: RemoteHost, there: Path) -> None:
    for data in (b"first", b"second"):
        path = put(there / "a.tar", data)
        assert host.tidy(path, host.stat(path), "rename") == "done"
    assert sorted(path.read_bytes() for path in there.iterdir()) == [b"first", b"second"]
    assert (there / "a.tar.done").read_bytes() == b"second"


def test_a_file_that_cannot_be_tidied_is_an_error(host: RemoteHost, there: Path) -> None:
    path = put(there / f"{'a' * 250}.t")  # no room for the new name
    with pytest.raises(Permanent, match="File name too long"):
        host.tidy(path, host.stat(path), "rename")
    assert os.path.exists(path)


@pytest.mark.parametrize("action", ["delete", "rename"])
def test_two_that_tidy_at_once_are_no_error(host: RemoteHost, there: Path, action: str) -> None:
    for _ in range(4):
        path = put(there / "a.tar")
        state = host.stat(path)
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(lambda _, path=path, state=state: host.tidy(path, state, action), range(4)))
        assert set(outcomes) <= {"done", "gone", "changed"}
        assert not os.path.exists(path)


def test_a_host_that_is_unavailable_tidies_nothing(host: RemoteHost, there: Path) -> None:
    path = put(there / "a.tar")
    with pytest.raises(Outage):
        replace(host, port=free_port()).tidy(path, FileState(9, 1_700_000_000), "delete")
    assert (there / "a.tar").exists()
