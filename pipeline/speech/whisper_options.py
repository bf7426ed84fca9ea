"""How to listen: what the worker reads from its settings and the benchmarks take as it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How Whisper listens; the defaults are the worker's.

    `languages`: those that occur (ISO 639-1); one: nothing is detected; none: any. `task`: transcribe, or
    translate into English. `guards`: whether text that looks invented is decoded again, and marked where that does
    not help. `max_new_tokens` None: as many as Whisper can (224).
    """

    beam_size: int = 5
    languages: tuple[str, ...] = ()
    task: str = "transcribe"
    initial_prompt: str = ""
    guards: bool = True
    max_new_tokens: int | None = None
