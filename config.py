"""Every setting, read once from the environment; `example.env` says what each is for.

Import the module, never a name from it (`config.S3_BUCKET`), so that a test can change a setting.
A value that cannot be read, and a required one that is missing, are reported together by `require`.
"""

import os
import re
import shutil
import socket
import ssl
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2.extensions

from pipeline.audio.ffmpeg_program import pinned_ffmpeg
from pipeline.foundation import logs, scratch
from pipeline.jobs.worker import Limits
from pipeline.speech.whisper_options import Options

if TYPE_CHECKING:
    from pipeline.audio.converter import Converter

# What each part of the pipeline cannot do without: a worker requires the groups that it uses.
REDIS = ("REDIS_URL",)
DATABASE = ("DATABASE_URL",)
S3 = ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_BUCKET")
EC2 = ("EC2_HOST", "EC2_USER", "EC2_KEY_FILE", "EC2_KNOWN_HOSTS")
COMPUTE_TYPES = (
    "default", "auto", "float32", "float16", "bfloat16", "int16",
    "int8", "int8_float32", "int8_float16", "int8_bfloat16",
)  # fmt: skip
FILES = ("EC2_KEY_FILE", "EC2_KNOWN_HOSTS")
FOLDERS = ("SCRATCH_ROOT", "TRANSFER_ROOT")
REDIS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # none that would turn a check off
SECRETS = ("REDIS_URL", "DATABASE_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY", "WEB_TOKEN")

defaults: dict[str, str] = {}  # every variable that the code reads, with its default as text
_wrong: list[str] = []


def _text(name: str, default: str = "") -> str:
    """The variable's value; one that is empty counts as not set."""
    defaults[name] = default
    return os.environ.get(name, "").strip() or default


def _path(name: str, default: str) -> Path:
    """The variable as an absolute path."""
    text = _text(name, default)
    if not text.startswith("/"):
        _wrong.append(f"{name} is {text!r}: give an absolute path")
    return Path(text)


def _url(name: str, *schemes: str, path: str = ".*", login: bool = True) -> str:
    """The variable as a URL of one of the schemes. It may hold a password, so it is not shown."""
    text = _text(name)
    try:
        url = urllib.parse.urlsplit(text)
        sound = url.scheme in schemes and (url.port is None or url.port > 0)
        sound = (
            sound
            and bool(url.hostname)
            and url.netloc.count("@") <= int(login)
            and re.fullmatch(path, url.path) is not None
            and (not url.query or (url.scheme == "rediss" and set(_options(url)) <= set(REDIS_OPTIONS)))
        )
    except ValueError:
        sound = False
    if text and not sound:
        limits = f", with no options but {', '.join(REDIS_OPTIONS)} of rediss://" if "rediss" in schemes else ""
        scheme = " or ".join(f"{scheme}://" for scheme in schemes)
        _wrong.append(f"{name} must be a URL that begins with {scheme}{limits}")
    return text


def _options(url: urllib.parse.SplitResult) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))


def _database_url(name: str) -> str:
    """The variable as an address that PostgreSQL's own client can read."""
    text = _text(name)
    try:
        psycopg2.extensions.parse_dsn(text)
        sound = re.match(r"postgres(ql)?://[^@]*@?[^@]*$", text) is not None
    except psycopg2.ProgrammingError:
        sound = False
    if text and not sound:
        _wrong.append(
            f"{name} must be a URL that begins with postgresql:// and that PostgreSQL understands"
            " (a @ in a password is written %40)"
        )
    return text


def _whole(name: str, default: int, least: int = 0, most: int | None = None) -> int:
    """The variable as a whole number of at least `least`, and at most `most`."""
    text = _text(name, str(default))
    if text.isdecimal() and int(text) >= least and (most is None or int(text) <= most):
        return int(text)
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    _wrong.append(f"{name} is {text!r}: give a whole number {limits}")
    return default


def _name(name: str, default: str, allowed: str = "._:@-") -> str:
    """The variable as a name that can be part of a Redis key and of a path; it may be empty by default only."""
    text = _text(name, default)
    if text and not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(allowed)}]*", text):
        _wrong.append(f"{name} is {text!r}: use letters, digits and {' '.join(allowed)} only")
    return text


def _choice(name: str, default: str, *values: str) -> str:
    """The variable as one of the values."""
    text = _text(name, default)
    for value in values:
        if text.lower() == value.lower():
            return value
    _wrong.append(f"{name} is {text!r}: give {', '.join(values[:-1])} or {values[-1]}")
    return default


def _ffmpeg(name: str) -> str:
    """The variable as the path of a program, or as it is where there is no such; empty: the pinned ffmpeg."""
    if not (text := _text(name)):
        return pinned_ffmpeg()
    found = shutil.which(text)
    return str(Path(found).absolute()) if found else text


def _device(name: str, default: str) -> tuple[str, int]:
    """The variable as a device and its number: auto, cpu, cuda, or cuda:1 for the second GPU."""
    text = _text(name, default)
    if match := re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d+)", text):
        return match[1] or "cuda", int(match[2] or 0)
    _wrong.append(f"{name} is {text!r}: give auto, cpu, cuda, or cuda:1 for the second GPU")
    return default, 0


def _languages(name: str) -> tuple[str, ...]:
    """The variable as language codes with commas between them; none where it is empty."""
    text = _text(name)
    codes = tuple(dict.fromkeys(code.strip().lower() for code in text.split(","))) if text else ()
    if all(re.fullmatch(r"[a-z]{2,3}", code) for code in codes):
        return codes
    _wrong.append(f"{name} is {text!r}: give codes of languages with commas between them, as en or en,es,de")
    return ()


def _names(name: str) -> tuple[str, ...]:
    """The variable as names with commas between them; none where it is empty."""
    text = _text(name)
    names = tuple(part.strip() for part in text.split(",")) if text else ()
    if all(part and part.isprintable() for part in names) and len(set(names)) == len(names):
        return names
    _wrong.append(f"{name} is {text!r}: give names with commas between them, each of its own, as caller,agent")
    return ()


def address(text: str) -> tuple[str, int] | None:
    """The address and the port of 127.0.0.1:9101 or [::1]:9101; None where the text is no such."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", text)
    return (match[1] or match[2], int(match[3])) if match and 1 <= int(match[3]) <= 65535 else None


def _listen(name: str) -> tuple[str, int] | None:
    """The variable as an address of this host and a port, 127.0.0.1:9101 or [::1]:9101; None where it is empty."""
    text = _text(name)
    if not text:
        return None
    if (found := address(text)) is not None:
        return found
    _wrong.append(f"{name} is {text!r}: give an address of this host and a port, as 127.0.0.1:9101")
    return None


REDIS_URL = _url("REDIS_URL", "redis", "rediss", path=r"|/\d*")
DATABASE_URL = _database_url("DATABASE_URL")

S3_ENDPOINT = _url("S3_ENDPOINT", "http", "https", login=False)
S3_PUBLIC_ENDPOINT = _url("S3_PUBLIC_ENDPOINT", "http", "https", login=False)
S3_ACCESS_KEY = _text("S3_ACCESS_KEY")
S3_SECRET_KEY = _text("S3_SECRET_KEY")
S3_BUCKET = _name("S3_BUCKET", "", "._-")
S3_REGION = _name("S3_REGION", "us-east-1", "_-")
S3_CA_BUNDLE = _text("S3_CA_BUNDLE")

SCRATCH_ROOT = _path("SCRATCH_ROOT", "/data/scratch")
REQUIRE_SCRATCH_MOUNT = _choice("REQUIRE_SCRATCH_MOUNT", "0", "0", "1") == "1"
MODELS_ROOT = _path("MODELS_ROOT", "/data/models")
TRANSFER_ROOT = _path("TRANSFER_ROOT", "/var/tmp/audio-pipeline")  # nosec B108

EC2_HOST = _text("EC2_HOST")
EC2_PORT = _whole("EC2_PORT", 22, least=1, most=65535)
EC2_USER = _text("EC2_USER")
EC2_KEY_FILE = _text("EC2_KEY_FILE")
EC2_KNOWN_HOSTS = _text("EC2_KNOWN_HOSTS")
EC2_REMOTE_DIR = _text("EC2_REMOTE_DIR")
EC2_WATCH_SECONDS = _whole("EC2_WATCH_SECONDS", 0)
EC2_AFTER_UPLOAD = _choice("EC2_AFTER_UPLOAD", "keep", "keep", "delete", "rename")
TRANSFER_AHEAD = _whole("TRANSFER_AHEAD", 1, most=16)
MULTIPART_STALE_HOURS = _whole("MULTIPART_STALE_HOURS", 24, least=1)

TRANSFER_QUEUE = _name("TRANSFER_QUEUE", "queue:transfer")
UNPACK_QUEUE = _name("UNPACK_QUEUE", "queue:unpack")
TRANSCRIBE_QUEUE = _name("TRANSCRIBE_QUEUE", "queue:transcribe")
if len({TRANSFER_QUEUE, UNPACK_QUEUE, TRANSCRIBE_QUEUE}) < 3:
    _wrong.append("TRANSFER_QUEUE, UNPACK_QUEUE and TRANSCRIBE_QUEUE have to differ")

HOST_NAME = _name("HOST_NAME", socket.gethostname())
defaults["HOST_NAME"] = ""  # the machine's own name, which differs from host to host
WORKER_ID = _name("WORKER_ID", "")

LIMITS = Limits(
    attempts=_whole("MAX_ATTEMPTS", 3, least=1),
    retry=_whole("RETRY_SECONDS", 30),
    heartbeat=_whole("HEARTBEAT_SECONDS", 30, least=2),
    stall=_whole("STALL_SECONDS", 7200, least=60),
    clock_skew=_whole("CLOCK_SKEW_SECONDS", 60, least=1),
)
HOST_LOST_SECONDS = _whole("HOST_LOST_SECONDS", 900, least=4)

UNPACK_BACKLOG_FILES = _whole("UNPACK_BACKLOG_FILES", 2000, least=1)
SCRATCH_MIN_FREE_MB = _whole("SCRATCH_MIN_FREE_MB", 10240)
ARCHIVE_MAX_MEMBERS = _whole("ARCHIVE_MAX_MEMBERS", 200_000, least=1)
ARCHIVE_MAX_MB = _whole("ARCHIVE_MAX_MB", 204_800, least=1)
ARCHIVE_MAX_FILE_MB = _whole("ARCHIVE_MAX_FILE_MB", 8192, least=1)
CONVERT_JOBS = _whole("CONVERT_JOBS", 0) or len(os.sched_getaffinity(0))
OPUS_BITRATE_KBPS = _whole("OPUS_BITRATE_KBPS", 48, least=6, most=256)  # what libopus takes for one channel
FFMPEG = _ffmpeg("FFMPEG")
FFMPEG_TIMEOUT_SECONDS = _whole("FFMPEG_TIMEOUT_SECONDS", 3600, least=1)
FFMPEG_MAX_MEMORY_MB = _whole("FFMPEG_MAX_MEMORY_MB", 1024, least=128)
OPUS_MAX_MB = _whole("OPUS_MAX_MB", 1024, least=1)
CHANNELS = _choice("CHANNELS", "auto", "auto", "mix", "split")

WHISPER_MODEL = _text("WHISPER_MODEL", "large-v3-turbo")
WHISPER_DEVICE, WHISPER_DEVICE_INDEX = _device("WHISPER_DEVICE", "auto")
WHISPER_COMPUTE_TYPE = _choice("WHISPER_COMPUTE_TYPE", "default", *COMPUTE_TYPES)
WHISPER_THREADS = _whole("WHISPER_THREADS", 0)
WHISPER_BEAM_SIZE = _whole("WHISPER_BEAM_SIZE", Options.beam_size, least=1)
WHISPER_BATCH_SIZE = (
    0 if _text("WHISPER_BATCH_SIZE", "auto") == "auto" else _whole("WHISPER_BATCH_SIZE", 0, least=1)
)
defaults["WHISPER_BATCH_SIZE"] = "auto"
WHISPER_LANGUAGE = _languages("WHISPER_LANGUAGE")
WHISPER_TASK = _choice("WHISPER_TASK", Options.task, "transcribe", "translate")
WHISPER_INITIAL_PROMPT = _text("WHISPER_INITIAL_PROMPT")
AUDIO_TAGS_TOP = _whole("AUDIO_TAGS_TOP", 5, least=1)
TOPICS_TOP = _whole("TOPICS_TOP", 3, least=1)
PREPARE_THREADS = _whole("PREPARE_THREADS", 0) or max(1, min(8, len(os.sched_getaffinity(0)) // 2))
BATCH_WAIT_MS = _whole("BATCH_WAIT_MS", 100)
KEEP_BACKLOG_FILES = _whole("KEEP_BACKLOG_FILES", 64, least=1)

LOG_LEVEL = _choice("LOG_LEVEL", "INFO", "DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMAT = _choice("LOG_FORMAT", "text", *logs.FORMATS)
METRICS_LISTEN = _listen("METRICS_LISTEN")
WEB_TOKEN = _text("WEB_TOKEN")
CHANNEL_NAMES = _names("CHANNEL_NAMES")

for _secret in SECRETS:  # ffmpeg and ssh, which inherit the rest, have no use for them
    os.environ.pop(_secret, None)


def whisper_options() -> Options:
    """How Whisper listens, for the GPU worker and the benchmarks."""
    return Options(
        beam_size=WHISPER_BEAM_SIZE,
        languages=WHISPER_LANGUAGE,
        task=WHISPER_TASK,
        initial_prompt=WHISPER_INITIAL_PROMPT,
    )


def converter() -> "Converter":
    """ffmpeg as it is set, for the unpack worker and the GPU worker."""
    from pipeline.audio.converter import Converter  # takes a while to load, and pipelinectl has no need of it

    return Converter(
        FFMPEG, OPUS_BITRATE_KBPS, FFMPEG_TIMEOUT_SECONDS, FFMPEG_MAX_MEMORY_MB, OPUS_MAX_MB, CHANNELS
    )


def try_ffmpeg() -> None:
    """End the process with status 2 and one line where ffmpeg does not do what the workers need of it."""
    if problem := converter().problem():
        refuse(f"FFMPEG is {FFMPEG!r} and makes no Opus: {problem}")


def worker_id(role: str) -> str:
    """The name of this process in Redis: WORKER_ID, or host and role (gpu1: on the second GPU)."""
    return WORKER_ID or f"{HOST_NAME}-{role}{WHISPER_DEVICE_INDEX or '' if role == 'gpu' else ''}"


def require(*names: str) -> None:
    """End the process with status 2 and one line for each setting that is missing or cannot be read."""
    missing = [f"{name} is not set" for name in names if name != "FFMPEG" and not globals()[name]]
    foreign = [
        f"{name} is {str(globals()[name])!r}: it belongs to another user, who could read and change what is in it"
        for name in FOLDERS
        if name in names and _is_foreign(globals()[name])
    ]
    unreadable = [
        f"{name} is {globals()[name]!r}: there is no such file that can be read"
        for name in FILES
        if name in names and globals()[name] and not os.access(globals()[name], os.R_OK)
    ]
    unwritable = [
        f"{name} is {str(globals()[name])!r}: {there} is no folder that this user may write to"
        for name in FOLDERS
        if name in names and not _is_writable(there := _nearest(globals()[name]))
    ]
    unusable = [
        f"{name} is {path!r}, which cannot be used: {problem}"
        for user, name, path in _certificates()
        if user in names and (problem := _unusable(path, is_key="key" in name))
    ]
    unmounted = []
    if "SCRATCH_ROOT" in names and REQUIRE_SCRATCH_MOUNT and scratch.mount_point(SCRATCH_ROOT) == Path("/"):
        unmounted = [
            f"SCRATCH_ROOT is {str(SCRATCH_ROOT)!r}, on the file system of /: no folder on the way to it is a"
            " mount point, and REQUIRE_SCRATCH_MOUNT asks for one"
        ]
    absent = [lack] if "FFMPEG" in names and (lack := _lack_of_ffmpeg()) else []
    if problems := [*missing, *unreadable, *unwritable, *foreign, *unusable, *unmounted, *absent, *_wrong]:
        refuse(*problems)


def _lack_of_ffmpeg() -> str | None:
    """Why there is no ffmpeg to run; None where there is one."""
    if not FFMPEG:
        machine = f"{sys.platform} on {os.uname().machine}"
        return f"FFMPEG is not set, and imageio-ffmpeg has none for {machine}: install one and name it"
    if shutil.which(FFMPEG) is None:
        return f"FFMPEG is {FFMPEG!r}: there is no such program; leave it empty for that of imageio-ffmpeg"
    return None


def _certificates() -> list[tuple[str, str, str]]:
    """The files of certificates and keys: the setting that needs each, what names it, and its path."""
    options = re.findall(rf"[?&]({'|'.join(REDIS_OPTIONS)})=([^&]*)", REDIS_URL)
    files = [("REDIS_URL", f"{option} of REDIS_URL", urllib.parse.unquote(path)) for option, path in options]
    return files + [("S3_ENDPOINT", "S3_CA_BUNDLE", S3_CA_BUNDLE)] * bool(S3_CA_BUNDLE)


def _unusable(path: str, is_key: bool) -> str:
    """What is wrong with a file of certificates, or with a key file that is there; nothing where all is well."""
    try:
        if is_key:
            Path(path).open("rb").close()
        else:
            ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return "there is no certificate in it"
    except OSError as error:
        return str(error.strerror)
    return ""


def _nearest(path: Path) -> Path:
    """The path, or the nearest one above it that exists: below it the rest can be made."""
    return next(there for there in (path, *path.parents) if os.path.lexists(there))


def _is_writable(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _is_foreign(path: Path) -> bool:
    """Whether a folder is another user's, as one that was put into /var/tmp before ours."""
    return path.exists() and path.stat().st_uid not in (0, os.geteuid())


def refuse(*problems: str) -> None:
    """End the process with status 2: it cannot work as it is set up, and a restart will not change that."""
    program = Path(sys.argv[0]).name
    for problem in problems:
        print(f"{program}: {problem}", file=sys.stderr)
    print(f"{program}: example.env says what each setting is for", file=sys.stderr)
    raise SystemExit(2)
