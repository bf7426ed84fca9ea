"""What is damaged or missing in a recording, found by comparing what its container says with what was decoded."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.audio.channels import Plan
from pipeline.audio.pcm import SAMPLE_RATE, Sound
from pipeline.audio.sound_pieces import Piece
from pipeline.foundation.file_warnings import (
    DECODE_ERRORS,
    GAP,
    IGNORED_TRACK,
    INVERTED_CHANNEL,
    MISSING_END,
    SILENT_CHANNEL,
    FileWarning,
)
from pipeline.foundation.formatting import count

# What an encoder adds in front and behind is up to 0.1 s; containers round to their frames.
_LEAST_SECONDS, _LEAST_SHARE = 0.25, 0.002
_LEAST_GAP_SECONDS = 0.1  # ffmpeg fills no shorter ones
_COUNTED = frozenset(("wav",))  # their header is compared with the file itself (`pipeline.audio.pcm_headers`)
_SILENT = frozenset(("amr",))  # ffmpeg calls pauses that were not recorded an error
Join = Callable[[list[Sound], Sound], None]


def found(sounds: Sequence[Sound], parts: Sequence[Piece], share: float = 1.0) -> list[FileWarning]:
    """What is wrong with the pieces of a file, of which this is the sound; `share` of its bytes are there."""
    warnings = []
    declared = sum(sound.declared or 0 for sound in sounds)
    lost = sum(_lost(sound, piece) for sound, piece in zip(sounds, parts, strict=True))
    decoded = sum(sound.seconds for sound in sounds)
    if share < 1:
        lost = max(lost, decoded / share - decoded)
        message = f"The file is cut: {share:.0%} of its bytes are there."
        warnings.append(FileWarning(MISSING_END, round(lost, 2), message))
    elif lost:
        message = f"It declares {declared:.1f} s of sound, {decoded:.1f} s could be decoded."
        warnings.append(FileWarning(MISSING_END, round(lost, 2), message))
    errors = [] if all(piece.format in _SILENT for piece in parts) else sounds[0].errors
    if errors or not all(sound.frames for sound in sounds):
        said = "; ".join(dict.fromkeys(errors))[:300] or "a piece of it holds no sound"
        warnings.append(FileWarning(DECODE_ERRORS, None, f"Parts of it could not be decoded: {said}"))
    gap = sum(map(_gap, sounds))
    if gap >= _LEAST_GAP_SECONDS and any(piece.format != "amr" for piece in parts):
        message = f"Its timestamps leave out {gap:.1f} s, which are silence now."
        warnings.append(FileWarning(GAP, round(gap, 2), message))
    return warnings


def broken_timestamps(reason: str) -> FileWarning:
    """For a file whose times cannot be right."""
    return FileWarning(GAP, None, f"Its timestamps cannot be right ({reason}): the sound was taken without them.")


def ignored_tracks(tracks: int, read: int) -> list[FileWarning]:
    """For a file with so many tracks, of which so many were read."""
    if read >= tracks:
        return []
    message = f"It has {count(tracks, 'track')}, of which {read} could be read."
    return [FileWarning(IGNORED_TRACK, None, message)]


def of_channels(plan: Plan) -> list[FileWarning]:
    """What is wrong with its channels."""
    warnings = []
    for numbers, code, what in (
        (plan.inverted, INVERTED_CHANNEL, "inverted, and was turned"),
        (plan.silent, SILENT_CHANNEL, "silent, and was left out"),
    ):
        if numbers:
            named = "channel " + ", ".join(map(str, numbers)) + " is"
            warnings.append(FileWarning(code, None, f"Its {named} {what}."))
    return warnings


def complete(sound: Sound, piece: Piece) -> None:
    """Append the silence at the end that the container counts and does not hold."""
    if piece.seconds and sound.channels:
        missing = round(piece.seconds * SAMPLE_RATE) - sound.frames
        while missing > 0:
            block = np.zeros((min(missing, 60 * SAMPLE_RATE), sound.channels), np.int16)
            sound.file.seek(sound.frames * sound.channels * 2)
            sound.add(block)
            missing -= len(block)


def in_turn(sounds: list[Sound], whole: Sound) -> None:
    """Join sounds one after the other; one with a single channel is heard on all."""
    whole.channels = max(sound.channels for sound in sounds)
    for sound in sounds:
        for block in sound.blocks():
            if sound.channels == 1:
                block = np.repeat(block, whole.channels, axis=1)
            whole.add(np.pad(block, ((0, 0), (0, whole.channels - block.shape[1]))))


def side_by_side(sounds: list[Sound], whole: Sound) -> None:
    """Join sounds as channels of one."""
    whole.channels = sum(sound.channels for sound in sounds)
    iterators = [sound.blocks() for sound in sounds]
    while True:
        blocks = [
            next(iterator, np.empty((0, sound.channels), np.int16))
            for iterator, sound in zip(iterators, sounds, strict=True)
        ]
        longest = max(map(len, blocks))
        if not longest:
            return
        whole.add(np.concatenate([np.pad(block, ((0, longest - len(block)), (0, 0))) for block in blocks], axis=1))


def _lost(sound: Sound, piece: Piece) -> float:
    """How many seconds less there are than declared; 0 where the difference is not to be trusted: pictures may go
    on when the sound has ended."""
    if sound.declared is None or piece.format in _COUNTED or (sound.pictures and not sound.errors):
        return 0.0
    lost = sound.declared - sound.seconds
    return lost if lost > max(_LEAST_SECONDS, _LEAST_SHARE * sound.declared) else 0.0


def _gap(sound: Sound) -> float:
    """How many seconds of silence stand in gaps, but for those in front, where another track began earlier."""
    if sound.plain_frames is None:
        return 0.0
    filled = sound.frames - sound.plain_frames
    if filled < _LEAST_GAP_SECONDS * SAMPLE_RATE:
        return 0.0
    first = next(sound.blocks())
    loud = np.flatnonzero(first.any(axis=1))
    return max(0, filled - (int(loud[0]) if len(loud) else 0)) / SAMPLE_RATE
