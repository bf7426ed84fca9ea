"""pipeline/audio/sandbox.py: a program that sees the files it is given, and nothing else of this machine."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.audio import sandbox
from pipeline.audio.converter import Converter
from tests.support.child import is_alive, wait_until
from tests.support.ffmpegs import every_ffmpeg
from tests.support.fleet import PROJECT

needs_landlock = pytest.mark.skipif(
    sandbox.missing() is not None, reason=f"this kernel has no {sandbox.missing()}"
)
needs_seccomp = pytest.mark.skipif(
    os.uname().machine not in sandbox._MACHINES, reason=f"no system calls are known for {os.uname().machine}"
)
CALL = PROJECT / "tests" / "samples" / "monday" / "call001.mp3"
LIMITS = {"data": 2**30, "cpu": 20, "fsize": 0}


def confined(
    *command: str, read: Sequence[Path] = (), limits: dict[str, int] = LIMITS
) -> subprocess.CompletedProcess[str]:
    """A program that has run in the sandbox."""
    front = sandbox.command(command[0], [str(path) for path in read], limits)
    return subprocess.run([*front, *command], capture_output=True, text=True, check=False, timeout=60)


def shell(script: str, *words: object, read: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    """A shell script, with its words, in the sandbox."""
    return confined("bash", "-c", script, "script", *map(str, words), read=read)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """The file that may be read, in a folder with others."""
    path = tmp_path / "a folder" / "given"
    path.parent.mkdir()
    path.write_text("given\n")
    (path.parent / "neighbour").write_text("secret\n")
    (tmp_path / "above").write_text("secret\n")
    return path


# --- files -------------------------------------------------------------------------------------------------


@needs_landlock
def test_it_reads_the_file_that_it_is_given(given: Path) -> None:
    assert shell('cat "$1"', given, read=[given]).stdout == "given\n"


@needs_landlock
@pytest.mark.parametrize(
    "other",
    ["neighbour", "../above", "../a folder/neighbour", "/proc/self/../../etc/passwd", "/etc/passwd",
     "/proc/self/environ", "/proc/1/cmdline", "/dev/null", str(PROJECT / "config.py"), sys.executable],
)  # fmt: skip
def test_it_reads_nothing_else(given: Path, other: str) -> None:
    done = shell('cd "$2"; cat "$1"; cat "$3" 2> /dev/stderr', other, given.parent, given, read=[given])
    assert done.stdout == "given\n"
    assert "Permission denied" in done.stderr


@needs_landlock
def test_it_lists_no_folder(given: Path) -> None:
    for folder in (given.parent, "/", "/tmp", "/proc", "/etc", Path.home()):
        done = shell('ls "$1"', folder, read=[given])
        assert (done.stdout, done.returncode) == ("", 2), folder


@needs_landlock
def test_a_link_leads_nowhere_else(given: Path) -> None:
    link = given.parent / "link"
    link.symlink_to("neighbour")
    assert shell('cat "$1"', link, read=[given]).stdout == ""
    link.unlink()
    link.symlink_to(given)
    assert shell('cat "$1"', link, read=[link]).stdout == "given\n"  # what a link stands for may be given


@needs_landlock
@pytest.mark.parametrize(
    "script",
    ['echo x > "$1"', 'echo x >> "$1"', 'echo x > "$2/new"', 'rm "$1"', 'mv "$1" "$2/new"', 'ln "$1" "$2/new"',
     'ln -s "$1" "$2/new"', 'mkdir "$2/new"', 'truncate -s 0 "$1"', 'mkfifo "$2/new"', 'rm -r "$2"',
     'echo x > /tmp/sandbox-test', 'chmod 000 "$2/neighbour"', 'chmod 600 "$1"', 'touch "$1"', 'touch "$2"',
     'chown "$3" "$2/neighbour"', 'setfattr -n user.x -v y "$1"'],
)  # fmt: skip
def test_it_changes_nothing(given: Path, script: str) -> None:
    given.chmod(0o644)
    before = _state_of(given.parent)
    done = shell(script, given, given.parent, 12345, read=[given])
    assert done.returncode != 0
    assert _state_of(given.parent) == before
    assert not Path("/tmp/sandbox-test").exists()


def _state_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """What is to stay as it is."""
    about = {path: path.stat() for path in (folder, *folder.iterdir())}
    return {
        path.name: (
            path.is_file() and path.read_bytes(),
            stat.st_mode,
            stat.st_uid,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )
        for path, stat in about.items()
    }


def test_it_writes_no_file_without_landlock_either(tmp_path: Path) -> None:
    """`fsize`: what it opened by another way stays empty."""
    with (tmp_path / "x").open("wb") as file:
        front = sandbox.command("bash", [], LIMITS)
        done = subprocess.run([*front, "bash", "-c", "printf xyz"], stdout=file, check=False, timeout=60)
    assert done.returncode in (-signal.SIGXFSZ, 1)
    assert (tmp_path / "x").read_bytes() == b""


@needs_landlock
def test_it_may_not_run_what_is_no_program_of_the_system(given: Path) -> None:
    program = given.parent / "program"
    program.write_text("#!/bin/sh\necho run\n")
    program.chmod(0o755)
    assert shell('"$1"', program, read=[given]).returncode == 126
    assert shell("ls --version > /dev/null 2>&1 || ls --version", read=[given]).stdout.startswith("ls ")


# --- the world ---------------------------------------------------------------------------------------------

CONNECT = """
use Socket;
socket(my $s, $ARGV[0] eq 'unix' ? PF_UNIX : PF_INET, SOCK_STREAM, 0) or die "no socket: $!\\n";
connect($s, $ARGV[0] eq 'unix' ? pack_sockaddr_un($ARGV[1]) : pack_sockaddr_in($ARGV[1], inet_aton('127.0.0.1')))
    or die "no connection: $!\\n";
print "connected\\n";
"""


@pytest.fixture
def perl() -> str:
    found = shutil.which("perl")
    if not found or not found.startswith("/usr/"):
        pytest.skip("there is no perl in /usr")
    return found


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.pl"
    path.write_text(CONNECT)
    return path


@needs_seccomp
def test_it_reaches_no_network(perl: str, script: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = str(listener.getsockname()[1])
        free = subprocess.run([perl, str(script), "inet", port], capture_output=True, text=True, check=False)
        assert free.stdout == "connected\n", free.stderr
        listener.accept()[0].close()
        done = confined(perl, str(script), "inet", port, read=[script])
        assert (done.stdout, done.stderr) == ("", "no socket: Operation not permitted\n")
        with pytest.raises(BlockingIOError):
            listener.accept()


@needs_seccomp
@pytest.mark.parametrize("abstract", [True, False])
def test_it_reaches_no_socket_of_this_machine(perl: str, script: Path, tmp_path: Path, abstract: bool) -> None:
    name = f"{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}" if abstract else name)
        listener.listen()
        done = confined(perl, str(script), "unix", name, read=[script, tmp_path])
        assert (done.stdout, done.stderr) == ("", "no socket: Operation not permitted\n")


@needs_seccomp
@pytest.mark.parametrize(
    "tool",
    ["unshare -r true", "unshare -n true", "nsenter -t 1 -n true", "bash -c 'exec 3<>/dev/tcp/127.0.0.1/9'"],
)
def test_it_gets_no_more_rights(tool: str) -> None:
    if not shutil.which(tool.split()[0]):
        pytest.skip(f"there is no {tool.split()[0]}")
    assert shell(f"{tool} 2>&1").returncode != 0


@needs_seccomp
def test_it_sends_no_signal_to_anybody_else() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        try:
            for name in ("TERM", "KILL", "STOP", "0"):
                for target in (other.pid, -other.pid):
                    done = shell("kill -$1 -- $2", name, target)
                    assert done.returncode == 1
                    assert "Operation not permitted" in done.stderr
            assert is_alive(other.pid)
        finally:
            other.kill()


@pytest.mark.parametrize("name", ["TERM", "KILL", "ABRT"])
def test_it_may_end_itself(name: str) -> None:
    assert shell(f"kill -{name} $$").returncode == -signal.Signals[f"SIG{name}"]


def test_a_program_with_more_rights_gets_none_of_them() -> None:
    """setuid: no_new_privs."""
    with subprocess.Popen([*sandbox.command("sleep", [], LIMITS), "sleep", "60"]) as program:
        try:
            name = Path(f"/proc/{program.pid}/comm")
            wait_until(lambda: name.read_text() == "sleep\n", "the program")
            status = Path(f"/proc/{program.pid}/status").read_text()
        finally:
            program.kill()
    found = dict(line.split(":\t", 1) for line in status.splitlines())
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == ("2" if os.uname().machine in sandbox._MACHINES else "0")


# --- limits ------------------------------------------------------------------------------------------------


def test_the_limits_hold() -> None:
    limits = {"data": 500 * 2**20, "cpu": 33, "fsize": 0}
    done = confined("bash", "-c", "ulimit -Hd; ulimit -Ht; ulimit -Hf; ulimit -Hc", limits=limits)
    assert done.stdout.split() == [str(500 * 1024), "34", "0", "0"]
    done = confined("bash", "-c", "ulimit -Sd; ulimit -St; ulimit -Sf; ulimit -Sc", limits=limits)
    assert done.stdout.split() == [str(500 * 1024), "33", "0", "0"]


def test_a_lower_limit_of_the_service_stays() -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (7, 7))

    front = sandbox.command("bash", [], LIMITS)
    done = subprocess.run(
        [*front, "bash", "-c", "ulimit -Ht"], capture_output=True, text=True, check=True, preexec_fn=lower
    )
    assert done.stdout == "7\n"


def test_a_busy_program_is_ended_by_the_kernel() -> None:
    """And it says so: SIGKILL is what a host without memory sends."""
    assert confined("bash", "-c", "while :; do :; done", limits={"cpu": 1}).returncode == -signal.SIGXCPU


def test_a_hungry_program_gets_no_more_memory() -> None:
    eat = "x=$(printf '%*s' 1048576 ''); for ((i = 0; i < 400; i++)); do a+=(\"$x\"); done; echo all"
    assert confined("bash", "-c", eat, limits={"data": 2**30}).stdout == "all\n"
    done = confined("bash", "-c", eat, limits={"data": 200 * 2**20})
    assert (done.returncode, done.stdout) == (2, "")


# --- the program -------------------------------------------------------------------------------------------


def test_a_program_that_is_not_there_has_the_status_of_shells() -> None:
    for name in ("no-such-program", "/no/such/program"):
        done = confined(name)
        assert (done.returncode, done.stderr) == (127, f"{name} cannot be run: No such file or directory\n")


def test_a_program_that_cannot_be_run_has_the_other_one(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    assert confined(str(tmp_path / "text")).returncode == 126
    (tmp_path / "text").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "text").chmod(0o755)
    assert confined(str(tmp_path / "text")).returncode == 126


def test_its_own_status_and_output_come_through() -> None:
    done = shell("echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert shell("kill -9 $$").returncode == -signal.SIGKILL


def test_its_words_are_its_own() -> None:
    """Also those that look like ours."""
    words = ("--", "read=/etc", "data=1", "", "a b", "é")
    assert shell('printf "%s|" "$@"', *words).stdout == "--|read=/etc|data=1||a b|é|"


@pytest.fixture(params=["a folder with spaces", "read=x", "--", "é"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where somebody keeps a program."""
    path = tmp_path / request.param
    path.mkdir()
    yield path
    shutil.rmtree(path)


@every_ffmpeg
def test_ffmpeg_may_lie_anywhere(folder: Path, ffmpeg: Path) -> None:
    """A hard link, or a copy, of the program itself; a link to it elsewhere."""
    program = folder / "ffmpeg"
    try:
        os.link(ffmpeg, program)
    except OSError:
        shutil.copy2(ffmpeg, program)
    link = folder / "link to it"
    link.symlink_to(program)
    for path in (program, link):
        Converter(str(path)).to_opus(CALL, folder / "out.opus", threading.Event())
        assert (folder / "out.opus").stat().st_size > 1000


def test_a_program_is_found_by_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "my-program"
    program.write_text("#!/bin/sh\necho run\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert confined("my-program").stdout == "run\n"


@needs_landlock
def test_the_folder_of_the_program_is_not_given_with_it(folder: Path) -> None:
    """It may be somebody's home."""
    program = folder / "my-program"
    program.write_text('#!/bin/sh\necho run; cat "${0%/*}/secret"\n')
    program.chmod(0o755)
    (folder / "secret").write_text("secret\n")
    done = confined(str(program))
    assert done.stdout == "run\n"
    assert "Permission denied" in done.stderr


def test_python_takes_nothing_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit('not this one')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert shell("echo run").stdout == "run\n"


def test_what_a_kernel_lacks_is_said() -> None:
    version = sandbox._landlock_version()
    assert (sandbox.missing() is None) == (version > 0)
