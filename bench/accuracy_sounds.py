"""Sound in which nobody speaks, computed: mono float32 at 16 kHz, the same for the same seed.

`level` is that of the root mean square in dB below full scale.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator, default_rng

from bench.accuracy_speech import RATE

_DTMF_LOW, _DTMF_HIGH = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz, of the keypad's rows and columns
_KEYS = "123456789*0#"
_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # semitones above C: C, Am, F, G
_LOUD, _FAINT = -20.0, -45.0  # dB: as loud as speech, and as a line on which nobody speaks


def at_level(samples: np.ndarray, level: float) -> np.ndarray:
    """The sound with its root mean square at a level (dB below full scale)."""
    return (samples * (10 ** (level / 20) / max(1e-9, rms(samples)))).astype(np.float32)


def rms(samples: np.ndarray) -> float:
    """The root mean square."""
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


def silence(seconds: float) -> np.ndarray:
    """Nothing at all."""
    return np.zeros(int(seconds * RATE), np.float32)


def white(seconds: float, draw: Generator) -> np.ndarray:
    """Noise with all frequencies alike."""
    return draw.standard_normal(int(seconds * RATE)).astype(np.float32)


def pink(seconds: float, draw: Generator) -> np.ndarray:
    """Noise whose power falls with the frequency, as that of rooms and machines does."""
    spectrum = np.fft.rfft(draw.standard_normal(int(seconds * RATE)))
    spectrum /= np.sqrt(np.maximum(1, np.arange(len(spectrum))))
    return np.fft.irfft(spectrum, int(seconds * RATE)).astype(np.float32)


def rumble(seconds: float, draw: Generator) -> np.ndarray:
    """An engine: low noise that throbs, above the harmonics of its turning."""
    times = _times(seconds)
    turning = sum(np.sin(2 * np.pi * 27 * number * times) / number for number in range(1, 8))
    spectrum = np.fft.rfft(draw.standard_normal(len(times)))
    spectrum[int(300 * seconds) :] = 0
    low = np.fft.irfft(spectrum, len(times))
    throb = 1 + 0.5 * np.sin(2 * np.pi * 13.5 * times)
    return (turning + throb * low / rms(low)).astype(np.float32)


def tone(seconds: float, *hertz: float) -> np.ndarray:
    """Pure tones together."""
    return np.sum([np.sin(2 * np.pi * one * _times(seconds)) for one in hertz], axis=0).astype(np.float32)


def hum(seconds: float, hertz: float) -> np.ndarray:
    """The mains: their frequency and its odd harmonics."""
    parts = [np.sin(2 * np.pi * hertz * number * _times(seconds)) / number for number in (1, 3, 5, 7)]
    return np.sum(parts, axis=0).astype(np.float32)


def ringing(seconds: float) -> np.ndarray:
    """What a caller hears of the telephone that rings: 440 and 480 Hz, 2 s on and 4 s off."""
    on = (_times(seconds) % 6) < 2
    return tone(seconds, 440, 480) * on.astype(np.float32)


def keys(pressed: str) -> np.ndarray:
    """Keys of a telephone (DTMF), 0.1 s each and 0.1 s apart."""
    pieces = []
    for key in pressed:
        row, column = divmod(_KEYS.index(key), 3)
        pieces += [tone(0.1, _DTMF_LOW[row], _DTMF_HIGH[column]), silence(0.1)]
    return np.concatenate(pieces)


def clicks(seconds: float, draw: Generator) -> np.ndarray:
    """Short cracks, about two a second."""
    sound = silence(seconds)
    crack = (draw.standard_normal(80) * np.exp(-np.arange(80) / 15)).astype(np.float32)
    for at in draw.integers(0, len(sound) - 80, int(2 * seconds)):
        sound[at : at + 80] += crack
    return sound


def music(seconds: float, draw: Generator) -> np.ndarray:
    """Chords of 2 s with a melody of quarters above them, plucked."""
    sound = silence(seconds + 2)
    for number in range(int(seconds / 0.5)):
        at, chord = number * 0.5, _CHORDS[number // 4 % len(_CHORDS)]
        if number % 4 == 0:
            for step in chord:
                _add(sound, at, _pluck(2.0, 130.8 * 2 ** (step / 12)))
        _add(sound, at, _pluck(0.5, 523.2 * 2 ** (int(draw.choice(chord)) / 12)))
    return sound[: int(seconds * RATE)]


def _pluck(seconds: float, hertz: float) -> np.ndarray:
    times = _times(seconds)
    parts = [np.sin(2 * np.pi * hertz * number * times) / number**1.5 for number in range(1, 6)]
    return (np.sum(parts, axis=0) * np.exp(-3 * times) * np.minimum(1, times / 0.01)).astype(np.float32)


def _add(sound: np.ndarray, at: float, piece: np.ndarray) -> None:
    first = int(at * RATE)
    room = sound[first : first + len(piece)]
    room += piece[: len(room)]


def _times(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def without_speech(seconds: float) -> dict[str, np.ndarray]:
    """Every kind of sound in which nobody speaks, by what it is."""
    draw = default_rng(1)
    makers: dict[str, Callable[[], np.ndarray]] = {
        "white noise": lambda: white(seconds, draw),
        "pink noise": lambda: pink(seconds, draw),
        "engine": lambda: rumble(seconds, draw),
        "music": lambda: music(seconds, draw),
        "hum, 50 Hz": lambda: hum(seconds, 50),
        "hum, 60 Hz": lambda: hum(seconds, 60),
        "ringing": lambda: ringing(seconds),
        "tone, 1 kHz": lambda: tone(seconds, 1000),
        "DTMF": lambda: keys("".join(draw.choice(list(_KEYS), int(seconds / 0.2)))),
        "clicks": lambda: clicks(seconds, draw),
    }
    found = {"silence": silence(seconds)}
    for name, make in makers.items():
        sound = make()
        found[name], found[f"{name}, faint"] = at_level(sound, _LOUD), at_level(sound, _FAINT)
    return found
