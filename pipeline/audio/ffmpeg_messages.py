"""What ffmpeg says while it works: what it knows of its inputs, and its errors.

All of it is data about the file at hand: it becomes the reason or the warning that its row has, and decides
nothing else. Whether a failure is the file's, the disk's or the machine's is decided by what the system says.
"""

import re
from dataclasses import dataclass, field

LEVEL = "repeat+level+info"  # what `Messages` has to be given: a level in front of each line
_MOST_LINE = 4096  # bytes of a line that are read; a tag may have megabytes
_MOST_ERRORS = 20  # lines that are kept: a damaged file can make it say gigabytes

_INPUT = re.compile(r"\[info\] Input #(\d+), ")
_DURATION = re.compile(r"\[info\] +Duration: (\d+):(\d\d):(\d\d\.\d+)")
_STREAM = re.compile(r"\[info\] +Stream #(\d+):\d+.*?: (Audio|Video): (.*)")
_RATE = re.compile(r", (\d+) Hz, ")
_OUTPUTS = re.compile(r"\[info\] (?:Stream mapping:|Output #)")
_ESTIMATED = re.compile(r"\[warning\] Estimating duration from bitrate")
_ERROR = re.compile(r"\[(?:error|fatal|panic)\] (.*)")
_SOURCE = re.compile(r"^(?:\[[^]]*\] )+")  # `[mp3 @ 0x55d0]`, of which the address is another each time


@dataclass
class Input:
    """What ffmpeg says of an input: its length in seconds as the container declares it (None: not, or estimated),
    its tracks of sound and of pictures, the lowest and highest sample rate (Hz)."""

    declared: float | None = None
    tracks: int = 0
    pictures: int = 0
    rates: list[int] = field(default_factory=list)


class Messages:
    """Takes in what ffmpeg writes to standard error, piece by piece."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.errors: list[str] = []
        self.other: list[str] = []  # what has no level: of a program that is not ffmpeg
        self._line = bytearray()
        self._over = False  # a line that is too long is skipped to its end
        self._reads_inputs = True
        self._is_estimated = False

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        for part in data.splitlines(keepends=True):
            self._line += part[: _MOST_LINE - len(self._line)]
            if part.endswith((b"\n", b"\r")):
                self._take(self._line.decode(errors="replace").rstrip())
                self._line.clear()

    def close(self) -> None:
        """There are no more."""
        if self._line:
            self._take(self._line.decode(errors="replace"))
            self._line.clear()

    def reason(self, hidden: dict[str, str]) -> str:
        """What ffmpeg says is wrong, in one line. `hidden`: what to say in place of which text, as of paths."""
        lines = [line for line in (self.errors or self.other) if not line.startswith("Error opening input file")]
        text = "; ".join(dict.fromkeys(lines))
        for name, instead in hidden.items():
            text = text.replace(name, instead)
        return " ".join(text.split())[:400]

    def _take(self, line: str) -> None:
        text = _SOURCE.sub(lambda found: found.group()[found.group().rstrip().rfind("[") :], line)
        if error := _ERROR.match(text):
            self._keep(self.errors, error.group(1))
        elif self._reads_inputs and text.startswith("["):
            self._take_input(text)
        elif line and not text.startswith("["):
            self._keep(self.other, line)

    def _keep(self, lines: list[str], line: str) -> None:
        if len(lines) < _MOST_ERRORS and line:
            lines.append(line)

    def _take_input(self, text: str) -> None:
        """A line of the list of inputs, which ends where that of the outputs begins."""
        if _OUTPUTS.match(text):
            self._reads_inputs = False
        elif _ESTIMATED.match(text):
            self._is_estimated = True
        elif _INPUT.match(text):
            self.inputs.append(Input())
        elif self.inputs and (found := _DURATION.match(text)):
            hours, minutes, seconds = found.groups()
            declared = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            self.inputs[-1].declared, self._is_estimated = None if self._is_estimated else declared, False
        elif self.inputs and (found := _STREAM.match(text)):
            self._take_stream(self.inputs[-1], found.group(2), found.group(3))

    def _take_stream(self, one: Input, kind: str, about: str) -> None:
        if kind == "Video":
            one.pictures += "(attached pic)" not in about
            return
        one.tracks += 1
        if rate := _RATE.search(about):
            one.rates.append(int(rate.group(1)))
