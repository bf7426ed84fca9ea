"""Every setting, read once from the environment; `example.env` says what each is for.

Import the module, never a name from it (`config.S3_BUCKET`), so that a test can change a setting.
A value that cannot be read, and a required one that is missing, are reported together by `require`.
"""

import datetime
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audio.ffmpeg_program import pinned_ffmpeg
from pipeline.foundation import filename_times, logs, scratch, setting_files
from pipeline.foundation.environment import Environment
from pipeline.foundation.errors import Misconfigured, Permanent
from pipeline.foundation.recording_times import MOST_AHEAD, Clock
from pipeline.foundation.webhook_request import Receiver
from pipeline.jobs import worker
from pipeline.jobs.worker import Limits, Worker
from pipeline.speech.whisper_options import Options
from pipeline.transfer.remote_paths import canonical

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
HINT = "example.env says what each setting is for"
LEAST_SECRET = 16  # characters
MOST_DAYS = 36525
SECRETS = (
    "REDIS_URL", "DATABASE_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY", "WEB_TOKEN", "WEBHOOK_URL", "WEBHOOK_SECRET",
)  # fmt: skip

_env = Environment()
defaults = _env.defaults  # every variable that the code reads, with its default as text


def _ffmpeg(name: str) -> str:
    """The variable as the path of a program, or as it is where there is no such; empty: the pinned ffmpeg."""
    if not (text := _env.text(name)):
        return pinned_ffmpeg()
    found = shutil.which(text)
    return str(Path(found).absolute()) if found else text


def _remote_folder(name: str) -> str:
    """The variable as an absolute path on another host; it may be empty."""
    text = _env.text(name)
    try:
        return canonical(text) if text else ""
    except Permanent as problem:
        _env.problems.append(f"{name} is {text!r}, which cannot be watched: {problem}")
        return text


REDIS_URL = _env.redis_url("REDIS_URL")
DATABASE_URL = _env.database_url("DATABASE_URL")

S3_ENDPOINT = _env.url("S3_ENDPOINT", "http", "https")
S3_PUBLIC_ENDPOINT = _env.url("S3_PUBLIC_ENDPOINT", "http", "https")
S3_ACCESS_KEY = _env.text("S3_ACCESS_KEY")
S3_SECRET_KEY = _env.text("S3_SECRET_KEY")
S3_BUCKET = _env.name("S3_BUCKET", "", "._-")
S3_REGION = _env.name("S3_REGION", "us-east-1", "_-")
S3_CA_BUNDLE = _env.text("S3_CA_BUNDLE")

SCRATCH_ROOT = _env.path("SCRATCH_ROOT", "/data/scratch")
REQUIRE_SCRATCH_MOUNT = _env.choice("REQUIRE_SCRATCH_MOUNT", "0", "0", "1") == "1"
MODELS_ROOT = _env.path("MODELS_ROOT", "/data/models")
TRANSFER_ROOT = _env.path("TRANSFER_ROOT", "/var/tmp/audio-pipeline")  # nosec B108

EC2_HOST = _env.host("EC2_HOST")
EC2_PORT = _env.whole("EC2_PORT", 22, least=1, most=65535)
EC2_USER = _env.text("EC2_USER")
EC2_KEY_FILE = _env.text("EC2_KEY_FILE")
EC2_KNOWN_HOSTS = _env.text("EC2_KNOWN_HOSTS")
EC2_REMOTE_DIR = _remote_folder("EC2_REMOTE_DIR")
EC2_WATCH_SECONDS = _env.whole("EC2_WATCH_SECONDS", 0)
EC2_AFTER_UPLOAD = _env.choice("EC2_AFTER_UPLOAD", "keep", "keep", "delete", "rename")
TRANSFER_AHEAD = _env.whole("TRANSFER_AHEAD", 1, most=16)
MULTIPART_STALE_HOURS = _env.whole("MULTIPART_STALE_HOURS", 24, least=1)

TRANSFER_QUEUE = _env.name("TRANSFER_QUEUE", "queue:transfer")
UNPACK_QUEUE = _env.name("UNPACK_QUEUE", "queue:unpack")
TRANSCRIBE_QUEUE = _env.name("TRANSCRIBE_QUEUE", "queue:transcribe")
if len({TRANSFER_QUEUE, UNPACK_QUEUE, TRANSCRIBE_QUEUE}) < 3:
    _env.problems.append("TRANSFER_QUEUE, UNPACK_QUEUE and TRANSCRIBE_QUEUE must differ")

HOST_NAME = _env.name("HOST_NAME", socket.gethostname())
defaults["HOST_NAME"] = ""  # the machine's own name, which differs from host to host
WORKER_ID = _env.name("WORKER_ID", "")

LIMITS = Limits(
    attempts=_env.whole("MAX_ATTEMPTS", 3, least=1),
    retry=_env.whole("RETRY_SECONDS", 30),
    heartbeat=_env.whole("HEARTBEAT_SECONDS", 30, least=2),
    stall=_env.whole("STALL_SECONDS", 7200, least=60),
    clock_skew=_env.whole("CLOCK_SKEW_SECONDS", 60, least=1),
)
HOST_LOST_SECONDS = _env.whole("HOST_LOST_SECONDS", 900, least=4)
RECONCILE_SECONDS = _env.whole("RECONCILE_SECONDS", 60)

UNPACK_BACKLOG_FILES = _env.whole("UNPACK_BACKLOG_FILES", 2000, least=1)
SCRATCH_MIN_FREE_MB = _env.whole("SCRATCH_MIN_FREE_MB", 10240)
ARCHIVE_MAX_MEMBERS = _env.whole("ARCHIVE_MAX_MEMBERS", 200_000, least=1)
ARCHIVE_MAX_MB = _env.whole("ARCHIVE_MAX_MB", 204_800, least=1)
ARCHIVE_MAX_FILE_MB = _env.whole("ARCHIVE_MAX_FILE_MB", 8192, least=1)
CONVERT_JOBS = _env.whole("CONVERT_JOBS", 0) or len(os.sched_getaffinity(0))
OPUS_BITRATE_KBPS = _env.whole("OPUS_BITRATE_KBPS", 48, least=6, most=256)  # what libopus takes for one channel
FFMPEG = _ffmpeg("FFMPEG")
FFMPEG_TIMEOUT_SECONDS = _env.whole("FFMPEG_TIMEOUT_SECONDS", 3600, least=1)
FFMPEG_MAX_MEMORY_MB = _env.whole("FFMPEG_MAX_MEMORY_MB", 1024, least=128)
OPUS_MAX_MB = _env.whole("OPUS_MAX_MB", 1024, least=1)
ARCHIVE_KEEP_DAYS = _env.whole("ARCHIVE_KEEP_DAYS", 0, most=MOST_DAYS)
OPUS_KEEP_DAYS = _env.whole("OPUS_KEEP_DAYS", 0, most=MOST_DAYS)
TRANSCRIPT_KEEP_DAYS = _env.whole("TRANSCRIPT_KEEP_DAYS", 0, most=MOST_DAYS)
CHANNELS = _env.choice("CHANNELS", "auto", "auto", "mix", "split")
SOURCE_TIMEZONE = _env.zone("SOURCE_TIMEZONE", "UTC")
FILENAME_TIMES = (*_env.filename_forms("FILENAME_TIMES"), *filename_times.COMMON)

WHISPER_MODEL = _env.text("WHISPER_MODEL", "large-v3-turbo")
WHISPER_DEVICE, WHISPER_DEVICE_INDEX = _env.device("WHISPER_DEVICE", "auto")
WHISPER_COMPUTE_TYPE = _env.choice("WHISPER_COMPUTE_TYPE", "default", *COMPUTE_TYPES)
WHISPER_THREADS = _env.whole("WHISPER_THREADS", 0)
WHISPER_BEAM_SIZE = _env.whole("WHISPER_BEAM_SIZE", Options.beam_size, least=1)
WHISPER_BATCH_SIZE = (
    0 if _env.text("WHISPER_BATCH_SIZE", "auto") == "auto" else _env.whole("WHISPER_BATCH_SIZE", 0, least=1)
)
defaults["WHISPER_BATCH_SIZE"] = "auto"
WHISPER_LANGUAGE = _env.languages("WHISPER_LANGUAGE")
WHISPER_TASK = _env.choice("WHISPER_TASK", Options.task, "transcribe", "translate")
WHISPER_INITIAL_PROMPT = _env.text("WHISPER_INITIAL_PROMPT")
AUDIO_TAGS_TOP = _env.whole("AUDIO_TAGS_TOP", 5, least=1)
TOPICS_TOP = _env.whole("TOPICS_TOP", 3, least=1)
PREPARE_THREADS = _env.whole("PREPARE_THREADS", 0) or max(1, min(8, len(os.sched_getaffinity(0)) // 2))
BATCH_WAIT_MS = _env.whole("BATCH_WAIT_MS", 100)
KEEP_BACKLOG_FILES = _env.whole("KEEP_BACKLOG_FILES", 64, least=1)

LOG_LEVEL = _env.choice("LOG_LEVEL", "INFO", "DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMAT = _env.choice("LOG_FORMAT", "text", *logs.FORMATS)
METRICS_LISTEN = _env.listen("METRICS_LISTEN")
WEB_TOKEN = _env.text("WEB_TOKEN")
WEB_PROXY_ADDRESS = _env.ip("WEB_PROXY_ADDRESS")
WEB_PROXY_HEADER = _env.name("WEB_PROXY_HEADER", "", "-")
WEB_PROXY_ROLE = _env.choice("WEB_PROXY_ROLE", "reader", "reader", "operator")
WEB_PROXY_GROUPS_HEADER = _env.name("WEB_PROXY_GROUPS_HEADER", "", "-")
WEB_PROXY_OPERATOR_GROUP = _env.text("WEB_PROXY_OPERATOR_GROUP")
if WEB_PROXY_HEADER and not WEB_PROXY_ADDRESS:
    _env.problems.append("WEB_PROXY_HEADER needs WEB_PROXY_ADDRESS: who may say who reads")
if bool(WEB_PROXY_GROUPS_HEADER) != bool(WEB_PROXY_OPERATOR_GROUP):
    _env.problems.append("WEB_PROXY_GROUPS_HEADER and WEB_PROXY_OPERATOR_GROUP belong together: set both or none")
WEB_AUDIT = _env.choice("WEB_AUDIT", "on", "on", "off") == "on"
CHANNEL_NAMES = _env.names("CHANNEL_NAMES")
WEBHOOK_URL = _env.url("WEBHOOK_URL", "http", "https")
WEBHOOK_SECRET = _env.text("WEBHOOK_SECRET")
if WEBHOOK_URL and len(WEBHOOK_SECRET) < LEAST_SECRET:
    _env.problems.append(f"WEBHOOK_SECRET must have {LEAST_SECRET} characters at least, since WEBHOOK_URL is set")

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


def webhook_receiver() -> Receiver | None:
    """Where webhooks go; None where they go nowhere."""
    return Receiver(WEBHOOK_URL, WEBHOOK_SECRET) if WEBHOOK_URL else None


def clock(arrived: datetime.datetime) -> Clock:
    """How the times of recordings are read that arrived then."""
    return Clock(SOURCE_TIMEZONE, arrived + MOST_AHEAD)


def try_ffmpeg() -> None:
    """End the process with status 2 and one line where ffmpeg does not do what the workers need of it."""
    if problem := converter().problem():
        refuse(f"FFMPEG is {FFMPEG!r} and cannot make Opus: {problem}")


def worker_id(role: str) -> str:
    """The name of this process in Redis: WORKER_ID, or host and role (gpu1: on the second GPU)."""
    return WORKER_ID or f"{HOST_NAME}-{role}{WHISPER_DEVICE_INDEX or '' if role == 'gpu' else ''}"


def run_worker(
    role: str, queue: str, doc: str | None, check: Callable[[], object], work: Callable[[Worker], object]
) -> int:
    """What the three scripts share: read the command line, check the settings, log, and work on one queue.

    `check()` and `work(process)` are the script's own. Gives the exit status; 2 where the settings are wrong.
    """
    given = worker.arguments(doc)
    os.umask(0o077)  # recordings are nobody else's
    check()
    logs.set_up(LOG_LEVEL, given.log_format or LOG_FORMAT, worker_id(role), role)
    try:
        process = Worker(REDIS_URL, queue, role, worker_id(role), HOST_NAME, LIMITS)
        process.serve_metrics(METRICS_LISTEN)
        work(process)
    except Misconfigured as problem:
        refuse(str(problem))
    return 0


def require(*names: str) -> None:
    """End the process with status 2 and one line for each setting that is missing or cannot be read."""
    missing = [f"{name} is not set" for name in names if name != "FFMPEG" and not globals()[name]]
    foreign = [
        f"{name} is {str(globals()[name])!r}: it belongs to another user, who could read and change what is in it"
        for name in FOLDERS
        if name in names and setting_files.is_foreign(globals()[name])
    ]
    unreadable = [
        f"{name} is {globals()[name]!r}: there is no file that can be read"
        for name in FILES
        if name in names and globals()[name] and not os.access(globals()[name], os.R_OK)
    ]
    unwritable = [
        f"{name} is {str(globals()[name])!r}: {there} is not a folder that this user may write to"
        for name in FOLDERS
        if name in names and not setting_files.is_writable(there := setting_files.nearest(globals()[name]))
    ]
    unusable = [
        f"{name} is {path!r}, which cannot be used: {problem}"
        for user, name, path in _certificates()
        if user in names and (problem := setting_files.certificate_file_problem(path, is_key="key" in name))
    ]
    unmounted = []
    if "SCRATCH_ROOT" in names and REQUIRE_SCRATCH_MOUNT and scratch.mount_point(SCRATCH_ROOT) == Path("/"):
        unmounted = [
            f"SCRATCH_ROOT is {str(SCRATCH_ROOT)!r}, on the file system of /: none of its parent folders is"
            " a mount point, and REQUIRE_SCRATCH_MOUNT asks for one"
        ]
    absent = [lack] if "FFMPEG" in names and (lack := _lack_of_ffmpeg()) else []
    if problems := [*missing, *unreadable, *unwritable, *foreign, *unusable, *unmounted, *absent, *_env.problems]:
        refuse(*problems, HINT)


def _lack_of_ffmpeg() -> str | None:
    """Why there is no ffmpeg to run; None where there is one."""
    if not FFMPEG:
        machine = f"{sys.platform} on {os.uname().machine}"
        return f"FFMPEG is not set, and imageio-ffmpeg has no ffmpeg for {machine}: install one and name it"
    if shutil.which(FFMPEG) is None:
        return f"FFMPEG is {FFMPEG!r}: there is no such program; leave it empty for that of imageio-ffmpeg"
    return None


def _certificates() -> list[tuple[str, str, str]]:
    """The files of certificates and keys: the setting that needs each, what names it, and its path."""
    files = [("REDIS_URL", f"{option} of REDIS_URL", path) for option, path in _env.redis_files.items()]
    return files + [("S3_ENDPOINT", "S3_CA_BUNDLE", S3_CA_BUNDLE)] * bool(S3_CA_BUNDLE)


def refuse(*problems: str) -> None:
    """End the process with status 2: it cannot work as it is set up, and a restart will not change that."""
    program = Path(sys.argv[0]).name
    for problem in problems:
        print(f"{program}: {problem}", file=sys.stderr)
    raise SystemExit(2)
