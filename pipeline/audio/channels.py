"""What the channels of a recording have to do with each other: which are one sound, which are several.

Two people on a call, each on a channel of its own, are kept apart: mixed, their words would interleave. A stereo
recording of one scene is mixed. A channel whose wires were crossed is turned before it is mixed, or the sum would
be silence.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MODES = ("auto", "mix", "split")
# Loudness in dB below full scale of a channel's loudest second; under it nobody can be understood: a connector
# without a cable has -70 to -90 dB, a far whisper -55 dB.
_SILENT_DB = -66.0
# Correlation (Pearson's) of two channels. The same signal over different lines and codecs keeps more than 0.9.
_SAME = 0.9
_OPPOSITE = 0.5  # of two channels of one scene: mixed as they are, they would weaken each other
# One scene, heard by two microphones some way apart: the waves are shifted, but the channels are loud and quiet
# together. The level, in dB, over 0.1 s is compared; two people who take turns have less than 0, two who speak at
# the same time about 0.
_ONE_SCENE = 0.8
_BLOCK_SECONDS = 0.1
# Mixed, channels that belong together lose at most this (dB) of the louder one: two of the same loudness that have
# nothing to do with each other 3, a whole group of them as much as it has channels.
_LOST_DB = 9.0
_LOST_SHARE = 0.02  # of the seconds with sound: where more is lost, the channels are kept apart
_FULL_SCALE = 32768.0
_BLOCKS_OF_A_SECOND = round(1 / _BLOCK_SECONDS)
_FLOOR_DB = -80.0  # levels under it are alike


@dataclass(frozen=True)
class Plan:
    """How to make the channels that are kept: for each, what to take of every channel of the source.

    `inverted`, `silent`: numbers (from 1) of channels that were turned, or left out.
    """

    weights: list[dict[int, float]]
    inverted: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()

    def is_copy(self, channels: int) -> bool:
        """Whether the source's channels stay as they are."""
        return self.weights == [{number: 1.0} for number in range(channels)]

    def pan(self) -> str:
        """The plan as ffmpeg's filter; more than two channels get no loudspeakers (`C`): most counts have none by
        default (`c`)."""
        outputs = (
            f"c{number}=" + "".join(f"{weight:+.6f}*c{source}" for source, weight in weights.items())
            for number, weights in enumerate(self.weights)
        )
        count = len(self.weights)
        return f"pan={count}{'C' if count > 2 else 'c'}|{'|'.join(outputs)}"


class Measures:
    """The levels of channels and how alike they are, of all the sound that `add` was given."""

    def __init__(self, channels: int, rate: int) -> None:
        """`rate`: frames in a second."""
        self._channels = channels
        self._block, self._rest = int(rate * _BLOCK_SECONDS), np.empty((0, channels), np.int16)
        self._seconds: list[np.ndarray] = []  # the channels' products, of about a second each
        self._levels: list[np.ndarray] = []

    def add(self, sound: np.ndarray) -> None:
        """Take in some sound: frames by channels, 16 bits."""
        sound = np.concatenate([self._rest, sound])
        whole = len(sound) // self._block * self._block
        self._rest = sound[whole:]
        self._look(sound[:whole].reshape(-1, self._block, sound.shape[1]))

    def plan(self, mode: str) -> Plan:
        """What to keep, by the setting: `auto`, `mix` (one channel) or `split` (each by itself)."""
        if len(self._rest):
            self._look(self._rest[np.newaxis])
            self._rest = self._rest[:0]
        channels = self._channels
        if channels == 1:
            return Plan([{0: 1.0}])
        levels = np.concatenate(self._levels) if self._levels else np.full((1, channels), _FLOOR_DB)
        loudest = _loudest_second(levels)
        heard = [number for number in range(channels) if loudest[number] >= _SILENT_DB]
        heard = heard or [int(np.argmax(loudest))]
        silent = tuple(number for number in range(channels) if number not in heard)
        if mode == "split":
            return Plan([{number: 1.0} for number in heard], silent=_from_one(silent))
        products = np.array(self._seconds, np.float64).reshape(-1, channels, channels)
        groups = self._groups(heard, levels, products.sum(axis=0), everything=mode == "mix")
        if mode == "auto":
            groups = [part for group in groups for part in _safe(group, products)]
        weights = [{number: sign / len(group) for number, sign in group.items()} for group in groups]
        inverted = tuple(number for group in groups for number, sign in group.items() if sign < 0)
        return Plan(weights, _from_one(inverted), _from_one(silent))

    def _look(self, blocks: np.ndarray) -> None:
        if not len(blocks):
            return
        sound = blocks.astype(np.float64) / _FULL_SCALE
        sound -= sound.mean(axis=1, keepdims=True)  # an offset is no sound
        for first in range(0, len(sound), _BLOCKS_OF_A_SECOND):
            flat = sound[first : first + _BLOCKS_OF_A_SECOND].reshape(-1, self._channels)
            self._seconds.append((flat.T @ flat).astype(np.float32))
        energy = np.square(sound).mean(axis=1)
        self._levels.append(10 * np.log10(np.maximum(energy, 10 ** (_FLOOR_DB / 10))))

    def _groups(
        self, heard: list[int], levels: np.ndarray, products: np.ndarray, everything: bool
    ) -> list[dict[int, float]]:
        """The channels by what they hold: each group is one sound; a member's sign is that of its first one, or
        the opposite where it is inverted."""
        groups: list[dict[int, float]] = []
        for number in heard:
            for group in groups:
                first = next(iter(group))
                alike = _correlation(products, first, number)
                if everything or abs(alike) >= _SAME or _together(levels[:, first], levels[:, number]):
                    group[number] = -1.0 if alike <= -_OPPOSITE else 1.0
                    break
            else:
                groups.append({number: 1.0})
        return groups


def _correlation(products: np.ndarray, one: int, other: int) -> float:
    own = products[one, one] * products[other, other]
    return float(products[one, other] / np.sqrt(own)) if own > 0 else 0.0


def _safe(group: dict[int, float], products: np.ndarray) -> list[dict[int, float]]:
    """The group, or each of its channels by itself where mixing them would lose what one of them holds: channels
    that are equal for a time and inverted for another cancel each other out."""
    if len(group) == 1:
        return [group]
    numbers, weights = list(group), np.array(list(group.values())) / len(group)
    own = products[:, numbers, numbers].max(axis=1)
    mixed = np.einsum("i,tij,j->t", weights, products[:, numbers][:, :, numbers], weights)
    loud = own > own.max() * 1e-4
    lost = mixed < own * 10 ** (-(_LOST_DB + 10 * np.log10(len(group) / 2)) / 10)
    if (lost & loud).sum() <= _LOST_SHARE * loud.sum():
        return [group]
    return [{number: 1.0} for number in numbers]


def _loudest_second(levels: np.ndarray) -> np.ndarray:
    """The level of each channel's loudest second (dB), of levels over 0.1 s."""
    energy = 10 ** (levels / 10)
    count = min(len(energy), round(1 / _BLOCK_SECONDS))
    sums = np.cumsum(np.concatenate([np.zeros((1, energy.shape[1])), energy]), axis=0)
    return 10 * np.log10((sums[count:] - sums[:-count]).max(axis=0) / count)


def _together(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two channels are loud and quiet at the same time."""
    if len(one) < 20 or one.std() < 1 or other.std() < 1:  # too short, or too steady, to tell
        return False
    return float(np.corrcoef(one, other)[0, 1]) >= _ONE_SCENE


def _from_one(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(number + 1 for number in numbers)
