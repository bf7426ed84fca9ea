"""config.py and the start of each worker: everything that is wrong is said at once, in lines for people."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config
from tests.support.disks import small_disk
from tests.support.ffmpegs import PINNED
from tests.support.fleet import MODELS, PROJECT

EXAMPLE = PROJECT / "example.env"
REQUIRED = {
    "transfer": [*config.REDIS, *config.S3, *config.EC2],
    "unpack": [*config.REDIS, *config.DATABASE, *config.S3],
    "gpu": [*config.REDIS, *config.DATABASE, *config.S3],
}
SECRETS = {
    "REDIS_URL": "redis://user:hunter2@127.0.0.1:9/0",
    "DATABASE_URL": "postgresql://user:hunter2@127.0.0.1:9/x",
    "S3_SECRET_KEY": "hunter2",
}
READY = {
    **SECRETS,
    "S3_ENDPOINT": "http://127.0.0.1:9",
    "S3_ACCESS_KEY": "key",
    "S3_BUCKET": "bucket",
    "EC2_HOST": "127.0.0.1",
    "EC2_USER": "user",
    "EC2_KEY_FILE": str(EXAMPLE),
    "EC2_KNOWN_HOSTS": str(EXAMPLE),
    "MODELS_ROOT": str(MODELS),
    "WHISPER_MODEL": "spoken-words",
}
ROLES = pytest.mark.parametrize("role", REQUIRED)
RUNS_FFMPEG = pytest.mark.parametrize("role", ["unpack", "gpu"])


def run(role: str, folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a worker with these settings and no others, where no file of the project can be found by chance."""
    command = [sys.executable, str(PROJECT / f"{role}_worker.py"), *arguments]
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=15
    )


HINT = ": example.env says what each setting is for"


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a worker that refused to start, without the last where it names example.env."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    lines = done.stderr.splitlines()
    script = lines[0].partition(":")[0]
    assert all(re.match(rf"{script}: \S", line) and len(line) < 300 for line in lines), done.stderr
    return [line.removeprefix(f"{script}: ") for line in lines if not line.endswith(HINT)]


# --- what is missing ---------------------------------------------------------------------------------------


@ROLES
def test_an_empty_environment_lists_every_missing_setting(tmp_path: Path, role: str) -> None:
    done = run(role, tmp_path)
    assert complaints(done) == [f"{name} is not set" for name in REQUIRED[role]]
    assert done.stderr.endswith(HINT + "\n")


def test_no_worker_demands_what_it_does_not_use() -> None:
    assert "DATABASE_URL" not in REQUIRED["transfer"]
    assert not [name for role in ("unpack", "gpu") for name in REQUIRED[role] if name.startswith("EC2_")]


@ROLES
def test_an_empty_value_counts_as_missing(tmp_path: Path, role: str) -> None:
    settings = {**READY, "S3_BUCKET": " ", "REDIS_URL": ""}
    assert complaints(run(role, tmp_path, **settings)) == ["REDIS_URL is not set", "S3_BUCKET is not set"]


def test_a_watch_needs_a_folder(tmp_path: Path) -> None:
    done = run("transfer", tmp_path, **READY, EC2_WATCH_SECONDS="5")
    assert complaints(done) == ["EC2_REMOTE_DIR is not set"]


# --- what is wrong -----------------------------------------------------------------------------------------

WRONG = {
    "WHISPER_BEAM_SIZE": "x", "SCRATCH_ROOT": "relative", "LOG_LEVEL": "foo", "MAX_ATTEMPTS": "0",
    "HOST_NAME": "my host", "EC2_PORT": "-1", "RETRY_SECONDS": "1.5", "HEARTBEAT_SECONDS": "1",
    "WHISPER_DEVICE": "gpu", "WHISPER_COMPUTE_TYPE": "float17", "WHISPER_TASK": "summarise",
    "WHISPER_BATCH_SIZE": "all", "WHISPER_LANGUAGE": "English, German",
    "UNPACK_QUEUE": "queue unpack", "MODELS_ROOT": "models",
    "OPUS_BITRATE_KBPS": "257", "STALL_SECONDS": "", "WORKER_ID": "../others", "S3_BUCKET": "my bucket",
    "S3_REGION": "bad region", "CLOCK_SKEW_SECONDS": "0", "REQUIRE_SCRATCH_MOUNT": "yes",
    "CHANNEL_NAMES": "caller,,agent",
}  # fmt: skip


@ROLES
def test_every_wrong_value_is_named_at_once(tmp_path: Path, role: str) -> None:
    lines = complaints(run(role, tmp_path, **{**READY, **WRONG}))
    wrong = {name: value for name, value in WRONG.items() if value}
    assert len(lines) == len(wrong)
    for name, value in wrong.items():
        (line,) = (line for line in lines if line.startswith(f"{name} is "))
        assert repr(value).lower() in line.lower()


@ROLES
def test_wrong_and_missing_are_named_together(tmp_path: Path, role: str) -> None:
    lines = complaints(run(role, tmp_path, MAX_ATTEMPTS="many"))
    assert len(lines) == len(REQUIRED[role]) + 1
    assert any(line.startswith("MAX_ATTEMPTS is 'many'") for line in lines)


@pytest.mark.parametrize("name", ["EC2_KEY_FILE", "EC2_KNOWN_HOSTS"])
def test_a_key_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    missing = str(tmp_path / "nothing")
    (line,) = complaints(run("transfer", tmp_path, **{**READY, name: missing}))
    assert line.startswith(f"{name} is {missing!r}")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    (line,) = complaints(run("gpu", tmp_path, **{**READY, "WHISPER_MODEL": "large-v9"}))
    assert line.startswith("WHISPER_MODEL: ")
    assert str(MODELS / "large-v9") in line


@RUNS_FFMPEG
@pytest.mark.parametrize("program", ["no-such-ffmpeg", "/no/such/ffmpeg", str(EXAMPLE)])
def test_a_missing_ffmpeg_is_named(tmp_path: Path, role: str, program: str) -> None:
    (line,) = complaints(run(role, tmp_path, **{**READY, "FFMPEG": program}))
    assert line.startswith(f"FFMPEG is {program!r}")


def ffmpeg_of(folder: Path, **settings: str) -> str:
    """The ffmpeg that config finds with these settings, from another folder."""
    command = [sys.executable, "-c", "import config; config.require('FFMPEG'); print(config.FFMPEG)"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), **settings}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


@pytest.mark.parametrize("settings", [{}, {"FFMPEG": " "}, {"IMAGEIO_FFMPEG_EXE": "/bin/false", "PATH": "/none"}])
def test_the_pinned_ffmpeg_is_the_one_unless_another_is_named(tmp_path: Path, settings: dict[str, str]) -> None:
    assert ffmpeg_of(tmp_path, **settings) == str(PINNED)


def test_an_ffmpeg_that_is_named_is_found_as_a_shell_finds_it(tmp_path: Path) -> None:
    (tmp_path / "my ffmpeg").symlink_to("/bin/true")
    for name in ("my ffmpeg", "./my ffmpeg", f"{tmp_path}/my ffmpeg"):
        assert ffmpeg_of(tmp_path, FFMPEG=name, PATH=str(tmp_path)) == f"{tmp_path}/my ffmpeg"


@RUNS_FFMPEG
def test_a_machine_without_a_pinned_ffmpeg_is_refused(tmp_path: Path, role: str) -> None:
    """Where there is no wheel for it, pip installs imageio-ffmpeg without a program."""
    package = PINNED.parent.parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("ffmpeg-*", "__pycache__"))
    (line,) = complaints(run(role, tmp_path, **READY, PYTHONPATH=str(tmp_path)))
    assert line.startswith("FFMPEG is not set, and imageio-ffmpeg has no ffmpeg for linux on ")


def test_who_runs_no_ffmpeg_needs_none(tmp_path: Path) -> None:
    (line,) = complaints(run("transfer", tmp_path, **{**READY, "FFMPEG": "/none", "S3_BUCKET": ""}))
    assert line == "S3_BUCKET is not set"


@RUNS_FFMPEG
@pytest.mark.parametrize("program", ["/bin/false", "/bin/true"])
def test_a_program_that_makes_no_opus_is_named(tmp_path: Path, role: str, program: str) -> None:
    settings = {**READY, "FFMPEG": program, "SCRATCH_ROOT": str(tmp_path)}
    (line,) = complaints(run(role, tmp_path, **settings))
    assert line.startswith(f"FFMPEG is {program!r} and cannot make Opus")


@pytest.mark.parametrize("worker_id", [".", "..", "/tmp/x", "a/b", "a b"])
def test_a_worker_id_that_could_be_a_path_is_refused(tmp_path: Path, worker_id: str) -> None:
    (line,) = complaints(run("transfer", tmp_path, **{**READY, "WORKER_ID": worker_id}))
    assert line.startswith(f"WORKER_ID is {worker_id!r}")


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1.5", "٣", "1e9"])
def test_a_number_that_is_none_is_named(tmp_path: Path, number: str) -> None:
    (line,) = complaints(run("transfer", tmp_path, **{**READY, "MAX_ATTEMPTS": number}))
    assert line.startswith(f"MAX_ATTEMPTS is {number[:40]!r}: give a whole number")


@ROLES
def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path, role: str) -> None:
    name = "TRANSFER_ROOT" if role == "transfer" else "SCRATCH_ROOT"
    (tmp_path / "file").touch()
    (line,) = complaints(run(role, tmp_path, **{**READY, name: str(tmp_path / "file" / "below")}))
    assert line.startswith(f"{name} is ")
    assert str(tmp_path / "file") in line


@ROLES
@pytest.mark.parametrize("root", ["/proc", "/sys"])
def test_a_folder_where_nothing_can_be_made_is_named_although_root_may_write(
    tmp_path: Path, role: str, root: str
) -> None:
    name = "TRANSFER_ROOT" if role == "transfer" else "SCRATCH_ROOT"
    (line,) = complaints(run(role, tmp_path, **{**READY, name: f"{root}/x"}))
    assert line == f"{name} is '{root}/x': {root} is not a folder that this user may write to"


def test_an_s3_at_an_ipv6_address_is_taken(tmp_path: Path) -> None:
    settings = {**READY, "S3_ENDPOINT": "http://[::1]:9", "S3_PUBLIC_ENDPOINT": "https://[2001:db8::7]:8443"}
    assert complaints(run("unpack", tmp_path, **{**settings, "S3_BUCKET": ""})) == ["S3_BUCKET is not set"]


@ROLES
def test_a_full_disk_is_waited_for_and_not_refused(tmp_path: Path, role: str) -> None:
    name = "TRANSFER_ROOT" if role == "transfer" else "SCRATCH_ROOT"
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(OSError, match="No space left"):
            (disk / "full").write_bytes(bytes(2**20))
        settings = {**READY, name: str(disk), "S3_BUCKET": ""}
        assert complaints(run(role, tmp_path, **settings)) == ["S3_BUCKET is not set"]
        assert [path.name for path in disk.iterdir()] == ["full"]


@ROLES
def test_a_folder_of_another_user_is_refused(tmp_path: Path, role: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    name = "TRANSFER_ROOT" if role == "transfer" else "SCRATCH_ROOT"
    root = tmp_path / "theirs"
    root.mkdir(mode=0o777)
    os.chown(root, 65534, 65534)
    (line,) = complaints(run(role, tmp_path, **{**READY, name: str(root)}))
    assert line.startswith(f"{name} is {str(root)!r}: it belongs to another user")


def test_two_queues_of_one_name_are_refused(tmp_path: Path) -> None:
    (line,) = complaints(run("unpack", tmp_path, **{**READY, "UNPACK_QUEUE": "queue:transfer"}))
    assert "must differ" in line


def test_a_model_that_is_cut_short_is_named_in_one_line(tmp_path: Path) -> None:
    model = shutil.copytree(MODELS / "spoken-words", tmp_path / "cut")
    (model / "model.bin").write_bytes((model / "model.bin").read_bytes()[:1000])
    (line,) = complaints(run("gpu", tmp_path, **{**READY, "MODELS_ROOT": str(tmp_path), "WHISPER_MODEL": "cut"}))
    assert line.startswith("WHISPER_MODEL cut cannot be used")


def test_each_gpu_has_a_worker_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HOST_NAME", "gpu-04")
    monkeypatch.setattr(config, "WORKER_ID", "")
    ids = []
    for index in (0, 1, 7):
        monkeypatch.setattr(config, "WHISPER_DEVICE_INDEX", index)
        ids.append(config.worker_id("gpu"))
    assert ids == ["gpu-04-gpu", "gpu-04-gpu1", "gpu-04-gpu7"]
    assert config.worker_id("unpack") == "gpu-04-unpack"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("caller,agent", "('caller', 'agent')"),
        (" caller , the agent,ü ", "('caller', 'the agent', 'ü')"),
        ("", "()"),
        ("caller,caller", None),
        ("caller,", None),
        ("a\x1b[2J,b", None),
    ],
)
def test_names_of_channels_are_read(tmp_path: Path, given: str, names: str | None) -> None:
    code = "import config; config.require(); print(config.CHANNEL_NAMES)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "CHANNEL_NAMES": given},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ("" if names is None else f"{names}\n")
    assert ("CHANNEL_NAMES is " in done.stderr) == (names is None)


@pytest.mark.parametrize("given", ["ec2:22", "me@ec2", "[ec2]:22", "ec2/recordings", "-oProxyCommand=x y"])
def test_a_host_that_is_more_than_a_host_is_named(tmp_path: Path, given: str) -> None:
    done = run("transfer", tmp_path, **{**READY, "EC2_HOST": given})
    assert complaints(done) == [
        f"EC2_HOST is {given!r}: give a name or an address alone, without a user or a port"
    ]


@pytest.mark.parametrize("given", ["recordings", "~/recordings", "/recordings/../x"])
def test_a_remote_folder_that_is_not_absolute_is_named(tmp_path: Path, given: str) -> None:
    done = run("transfer", tmp_path, **READY, EC2_WATCH_SECONDS="5", EC2_REMOTE_DIR=given)
    (line,) = complaints(done)
    assert line.startswith(f"EC2_REMOTE_DIR is {given!r}, which cannot be watched: ")


def test_a_missing_scp_is_named(tmp_path: Path) -> None:
    (line,) = complaints(run("transfer", tmp_path, **{**READY, "PATH": str(tmp_path)}))
    assert "scp" in line


ADDRESSES = [
    ("REDIS_URL", "user:hunter2@127.0.0.1:6379"),
    ("REDIS_URL", "redis://user:hunter2@127.0.0.1:port/0"),
    ("REDIS_URL", "redis://127.0.0.1:6379/name"),
    ("S3_ENDPOINT", "s3.example.org"),
    ("S3_ENDPOINT", "http://"),
    ("S3_ENDPOINT", "https://user:hunter2@127.0.0.1"),  # it stands in errors
    ("REDIS_URL", "rediss://user:hunter2@127.0.0.1:6379/0?ssl_cert_reqs=none"),  # no check may be turned off
    ("REDIS_URL", "rediss://user:hunter2@127.0.0.1:6379/0?ssl_check_hostname=false"),
    ("REDIS_URL", "redis://user:hunter2@127.0.0.1:6379/0?ssl_ca_certs=/etc/ssl/certs/ca-certificates.crt"),
    ("REDIS_URL", "redis://user:6379/hunter2@127.0.0.1:6379/0"),  # as openssl rand -base64 makes them
    ("REDIS_URL", "redis://user:6379#hunter2@127.0.0.1:6379/0"),
    ("REDIS_URL", "redis://user:6379?hunter2@127.0.0.1:6379/0"),
    ("REDIS_URL", "redis://user:6379@hunter2@127.0.0.1:6379/0"),
    ("REDIS_URL", "rediss://user:6379?ssl_ca_certs=hunter2@127.0.0.1:6379/0"),
    ("REDIS_URL", "redis+sentinel://user:6379/hunter2@127.0.0.1:26379/calls/0"),
    ("REDIS_URL", "redis+sentinel://user:6379#hunter2,127.0.0.1:26379/calls/0"),
    ("REDIS_URL", "redis+sentinel://user:hunter2@127.0.0.1:26379"),  # of which service?
    ("REDIS_URL", "redis+sentinel://127.0.0.1:26379,/calls"),
    ("REDIS_URL", "redis://user:hunter2@::1:6379/0"),  # an address of IPv6 has brackets
    ("REDIS_URL", "redis://user:hunter2@127.0.0.1:65536/0"),
    ("S3_ENDPOINT", "https://user/hunter2@127.0.0.1#@"),
    ("DATABASE_URL", "postgresql://127.0.0.1/x?frob=hunter2"),
    ("DATABASE_URL", "user:hunter2@127.0.0.1/x"),
    ("DATABASE_URL", "postgresql://user:12/hunter2@127.0.0.1:5432/x"),
]


@pytest.mark.parametrize(("name", "value"), ADDRESSES)
def test_an_address_that_is_none_is_named_without_its_password(tmp_path: Path, name: str, value: str) -> None:
    (line,) = complaints(run("unpack", tmp_path, **{**READY, name: value, "SCRATCH_ROOT": str(tmp_path)}))
    assert name in line
    assert "6379" not in line


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "No such file or directory"), ("empty", "there is no certificate in it")]
)
def test_a_file_of_certificates_that_cannot_be_used_is_named(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "empty").touch()
    path = str(tmp_path / name)
    url = f"rediss://user:hunter2@127.0.0.1:9/0?ssl_ca_certs={path}&ssl_certfile={path}&ssl_keyfile={path}"
    lines = complaints(run("transfer", tmp_path, **{**READY, "REDIS_URL": url, "S3_CA_BUNDLE": path}))
    options = ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"][: 3 if name == "missing" else 2]
    names = [f"{option} of REDIS_URL" for option in options]
    assert lines == [f"{given} is {path!r}, which cannot be used: {reason}" for given in [*names, "S3_CA_BUNDLE"]]


# --- help --------------------------------------------------------------------------------------------------


@ROLES
def test_help_needs_no_settings_and_teaches(tmp_path: Path, role: str) -> None:
    done = run(role, tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("usage:", f"{role}_worker.py", "environment", "example.env", "SIGTERM", "Exit status 2"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@ROLES
def test_an_argument_is_refused_in_two_lines(tmp_path: Path, role: str) -> None:
    done = run(role, tmp_path, "now", **READY)
    assert done.returncode == 2
    assert "now" in done.stderr
    assert len(done.stderr.splitlines()) == 2


# --- example.env -------------------------------------------------------------------------------------------


def example() -> dict[str, str]:
    """The settings of example.env; each line is a comment, a setting, or empty."""
    settings = {}
    for line in EXAMPLE.read_text().splitlines():
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals
            assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name)
            assert name not in settings, f"{name} twice"
            settings[name] = value
    return settings


def code_settings() -> set[str]:
    """Every environment variable that a file of the product names as one."""
    readers = "text|path|url|whole|name|names|ffmpeg|choice|device|languages|listen|host|ip|remote_folder|zone"
    readers += "|filename_forms"
    read = rf"""_(?:env\.)?(?:{readers})\("([A-Z0-9_]+)\"|environ(?:\.get\(|\[)"([A-Z0-9_]+)\""""
    sources = [*PROJECT.glob("*.py"), *PROJECT.glob("pipeline/**/*.py")]
    found = {name for path in sources for pair in re.findall(read, path.read_text()) for name in pair if name}
    return found - {"NOTIFY_SOCKET", "COLUMNS", "SUDO_USER", "REMOTE_ADDR"}  # of systemd, the terminal, sudo, WSGI


def test_example_env_and_the_code_name_the_same_settings() -> None:
    assert set(example()) == set(config.defaults) == code_settings()


def test_example_env_holds_the_defaults() -> None:
    assert example() == config.defaults


def test_every_required_setting_is_empty_in_example_env() -> None:
    settings = example()
    assert [name for names in REQUIRED.values() for name in names if settings[name]] == []


def test_every_setting_of_example_env_has_a_comment_above_it_or_its_group() -> None:
    group_explained = False
    for line in EXAMPLE.read_text().splitlines():
        if not line:
            group_explained = False
        elif line.startswith("#"):
            group_explained = group_explained or len(line.strip("#- ")) > 3
        else:
            assert group_explained, line


def test_a_shell_can_source_example_env(tmp_path: Path) -> None:
    command = ["sh", "-euc", f"set -a; . '{EXAMPLE}'; set +a; env -0"]
    done = subprocess.run(command, env={}, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    sourced = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
    assert {name: sourced.get(name) for name in config.defaults} == config.defaults


def test_example_env_with_what_it_lacks_is_accepted(tmp_path: Path) -> None:
    """Its own values are right: only what has no default is missed."""
    assert complaints(run("gpu", tmp_path, **example())) == [f"{name} is not set" for name in REQUIRED["gpu"]]
