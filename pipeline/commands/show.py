"""pipelinectl show: everything about one file."""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

import config
import s3_utils
from pipeline.commands import choosing, common
from pipeline.commands.files import Unwritable, whole_file
from pipeline.foundation import s3_client
from pipeline.foundation.errors import Permanent, unavailable_service
from pipeline.foundation.file_metadata import SOURCES, in_words
from pipeline.foundation.file_names import safe_name
from pipeline.foundation.formatting import clock, printable
from pipeline.store.subtitles import Reading, legend, readings
from pipeline.store.transcripts import AudioFile, read_history

DESCRIPTION = """Show everything about one file: its row, labels, history and what was said, when. `search` shows
audio ids. A failed file has its reason here, and no Opus to fetch or play. A warning says what of a recording is
damaged or missing. A ? behind a time means that the text is uncertain; --json has the confidence of each segment
and word. Several channels are distinguished by the names in CHANNEL_NAMES."""

PLAYERS = (["ffplay", "-nodisp", "-autoexit", "-loglevel", "error"], ["mpv", "--no-video", "--really-quiet"])


def run(arguments: argparse.Namespace) -> int:
    """Show a file, or fetch or play its Opus."""
    with common.connect_database() as database:
        file = choosing.file_of(database, arguments.file)
        if arguments.download is not None:
            return download(file, arguments.download, arguments.force)
        if arguments.play:
            return play(file)
        history = read_history(database, file.audio_id)
    if arguments.json:
        shown = {**file.as_dict(config.CHANNEL_NAMES), "history": history}
        print(json.dumps(shown, indent=2, default=lambda time: time.isoformat()))
    else:
        show(file, history, common.console())
    return 0


def show(file: AudioFile, history: dict[str, Any], console: Console) -> None:
    """Print the row, its history, the labels and the segments."""
    seconds = "" if file.duration_seconds is None else f"{file.duration_seconds:.1f} s"
    rows = {
        "file": file.original_filename,
        "batch": file.batch_id,
        "archive": file.archive,
        "audio id": file.audio_id,
        "status": f"{file.status}: {file.error}" if file.error else file.status,
        "recorded": _recorded(file),
        "length": seconds,
        "channels": file.channels if file.model else "",
        "languages" if len(file.languages) > 1 else "language": ", ".join(file.languages),
        "model": file.model,
        "labels": ", ".join(f"{label['label']} {label['score']:.0%}" for label in file.labels),
        "in S3": file.s3_opus_path and f"{config.S3_BUCKET}/{file.s3_opus_path}".lstrip("/"),
        **{what: f"{when:%Y-%m-%d %H:%M:%S} UTC" for what, when in history.items() if when is not None},
    }
    for name, value in rows.items():
        if value not in (None, ""):
            common.say(f"{name:<20} {value}")
    for warning in file.warnings:
        common.say(f"{'warning':<20} {warning}")
    if file.metadata:
        common.say("metadata")
    for name, value in file.metadata.items():
        common.say(f"  {name:<18} {in_words(value)}")
    shown = list(readings(file, config.CHANNEL_NAMES))
    if shown:
        print()
    widths = [max((len(text) for text in texts), default=0) for texts in zip(*map(columns, shown), strict=True)]
    for found in shown:
        line = Text(said_at(found, widths), style="dim" if found.is_uncertain else "")
        console.print(line, soft_wrap=True)
    if explained := legend(shown, "? means"):
        print()
        common.say(explained)


def _recorded(file: AudioFile) -> str:
    """When the recording was made, and where that was found."""
    if file.recorded_at is None:
        return ""
    source = SOURCES.get(file.recorded_from or "", "")
    return f"{file.recorded_at:%Y-%m-%d %H:%M:%S} UTC{source and f' (from {source})'}"


def columns(found: Reading) -> tuple[str, str]:
    """The prefix of a text: its language where there are several, and its speaker where there are."""
    return found.language or "", found.speaker


def said_at(found: Reading, widths: list[int]) -> str:
    """A line of a transcript: when, `columns` in these widths, what, and the reason of its mark."""
    sign = "?" if found.is_uncertain else " "
    before = "".join(f"{text:<{width}}  " for text, width in zip(columns(found), widths, strict=True) if width)
    reason = f" ({found.reason})" if found.reason else ""
    return printable(f"{clock(found.start):>8}{sign} {before}{found.text}{found.mark_sign}{reason}")


def download(file: AudioFile, given: str, force: bool) -> int:
    """Fetch the Opus to a path, into a folder, or here; gives the exit status."""
    path = Path(given or ".")
    if path.is_dir():
        path /= safe_name(file.original_filename, file.audio_id, "opus")
    try:
        with whole_file(path, force) as part:
            fetch(file, part)
    except Unwritable as problem:
        common.complain(str(problem))
        return problem.exit_status
    except Permanent as problem:
        common.complain(str(problem))
        return 1
    common.say(str(path))
    return 0


def play(file: AudioFile) -> int:
    """Play the Opus; gives the exit status."""
    player = next((command for command in PLAYERS if shutil.which(command[0])), None)
    if player is None:
        names = " or ".join(command[0] for command in PLAYERS)
        common.complain(f"there is no {names} here to play it with; --download fetches it")
        return 1
    with tempfile.TemporaryDirectory(prefix="pipelinectl-") as folder:
        path = Path(folder, "recording.opus")
        try:
            fetch(file, path)
        except Permanent as problem:
            common.complain(str(problem))
            return 1
        return int(not has_played(player, path))


def has_played(player: list[str], path: Path) -> bool:
    """Have the player play it; one line where it could not, in place of its own, which may be pages."""
    played = subprocess.run([*player, str(path)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    # ffplay ends with 0 in any case; without a sound card it names the file that it could not open or play
    if played.returncode == 0 and path.name.encode() not in played.stderr:
        return True
    common.complain(f"{player[0]} cannot play it: is there a sound card? --download fetches the recording")
    return False


def fetch(file: AudioFile, path: Path) -> None:
    """Download the file's Opus; ends with status 2 where S3 does not accept a setting, `Permanent` where there is
    no Opus."""
    key = key_of(file)
    try:
        s3_utils.download_opus(key, path)
    except Exception as error:
        if unavailable_service(error) == "S3" and (problem := s3_utils.check_bucket()):
            config.refuse(problem)
        raise


def key_of(file: AudioFile) -> str:
    """The S3 key of the file's Opus, for which somebody waits; `Permanent` where it has none yet."""
    config.require(*config.S3)
    s3_utils.patience = s3_client.OF_A_PERSON
    if not file.s3_opus_path:
        why = "it is no longer kept" if file.status == "done" else f"it is {file.status}"
        raise Permanent(f"{file.original_filename} has no Opus in S3: {why}")
    return file.s3_opus_path


def add(commands: Any) -> None:
    """Its arguments."""
    showing = commands.add_parser(
        "show", help="show a file: row, labels, history, segments; fetch or play it", description=DESCRIPTION
    )
    showing.add_argument("file", nargs="+", type=common.text, metavar="AUDIO_ID | BATCH NAME", help="the file")
    showing.add_argument("--json", action="store_true", help="for scripts")
    showing.add_argument(
        "--download", nargs="?", const="", metavar="PATH", help="fetch the Opus to this file or folder (here)"
    )
    showing.add_argument("--force", action="store_true", help="write over a file that is there")
    showing.add_argument("--play", action="store_true", help="play the Opus with ffplay or mpv")
    showing.set_defaults(run=run)
