"""Lines of work that stand still before every step outside their process, until the test lets them go on.

A line is a thread that runs the pipeline's own code on a `Client`, a real Redis client that stops before each of
its commands. The test chooses which line takes the next step and what becomes of it, so that any interleaving of
any number of lines can happen, and happens again the same way.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.exceptions import ConnectionError as Away
from redis.exceptions import ResponseError

T = TypeVar("T")
Command = tuple[Any, ...]
Floating = list[tuple[Any, Callable[[], Any]]]  # commands that are late, and the process of each

DONE = "done"
UNSENT = "unsent"  # the connection breaks before the server has it
UNHEARD = "unheard"  # the server does it, and the answer is lost
LATE = "late"  # the connection breaks, and the server does it some time after that
COMMAND = (DONE, UNSENT, UNHEARD)


class Gone(BaseException):
    """The process of this line has died: raised in it where it stands."""


class Line(threading.Thread):
    """One thread of `process`, which runs `work`; it stands before its first step when it is made."""

    def __init__(self, process: Any, name: str, work: Callable[[], Any]) -> None:
        super().__init__(name=name, daemon=True)
        self.process, self.work = process, work
        self.about_to, self.fates = "", tuple(COMMAND)  # the next step, and what may become of it
        self.answer: Any = None  # the last that the server gave
        self.error: BaseException | None = None
        self.ended = False
        self._fate = DONE
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self._stands.acquire()

    def __str__(self) -> str:
        return f"{self.name}: {self.about_to}"

    def run(self) -> None:
        """The thread itself."""
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.ended = True
        self._stands.release()

    def step(self, fate: str = DONE) -> None:
        """Take the next step, and stand before the one after it or at the end."""
        self._fate = fate
        self._go.release()
        self._stands.acquire()

    def die(self) -> None:
        """End where it stands, as a killed process does: nothing more is done outside."""
        while not self.ended:
            self.step("gone")

    def stand(self, about_to: str, fates: tuple[str, ...]) -> str:
        """In the thread: stand until the test says what becomes of the next step."""
        self.about_to, self.fates = about_to, fates
        self._stands.release()
        self._go.acquire()
        if self._fate == "gone":
            raise Gone
        return self._fate

    def reach(self, about_to: str, step: Callable[[], T], floating: Floating | None = None) -> T:
        """In the thread: a step on a server, that may be lost on its way there or back.

        Where `floating` is given it may also arrive there later: then it is put there.
        """
        fate = self.stand(about_to, COMMAND if floating is None else (*COMMAND, LATE))
        if fate in (UNSENT, LATE):
            if floating is not None and fate == LATE:
                floating.append((self.process, step))
            raise Away(f"{about_to}: {fate}")
        answer = step()
        if fate == UNHEARD:
            raise Away(f"{about_to}: {fate}")
        return answer


def answer() -> Any:
    """In a line: the last answer that the server gave it."""
    line = threading.current_thread()
    assert isinstance(line, Line)
    return line.answer


class Client(redis.Redis):
    """A real client whose every command is a step of the line that sends it.

    `observe(process, command, answer)` is called for each command that the server has executed. BLMOVE does not
    wait: while it does, nothing else could happen here.
    """

    def __init__(self, observe: Callable[[Any, Command, Any], None], **options: Any) -> None:
        super().__init__(**options)
        self.observe = observe
        self.floating: Floating = []  # BLMOVEs that the server gets after their client has timed out

    def execute_command(self, *command: Any, **options: Any) -> Any:
        line = threading.current_thread()
        if not isinstance(line, Line):
            return super().execute_command(*command, **options)
        moves = command[0] == "BLMOVE"

        def step() -> Any:
            sent = ("LMOVE", *command[1:5]) if moves else command
            answer = super(Client, self).execute_command(*sent, **options)
            self.observe(line.process, command, answer)
            line.answer = answer
            return answer

        return line.reach(" ".join(map(str, command[:3])), step, self.floating if moves else None)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Commands sent together, between which the server may serve others."""
        assert not transaction
        return _Steps(self)


class _Steps:
    """A pipeline that is no transaction: each command is a step of its own."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._commands: list[Callable[[], Any]] = []

    def __getattr__(self, name: str) -> Callable[..., "_Steps"]:
        def add(*args: Any, **options: Any) -> "_Steps":
            self._commands.append(lambda: getattr(self._client, name)(*args, **options))
            return self

        return add

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The answers; an error is one of them, unless it is to be raised."""
        found = []
        for command in self._commands:
            try:
                found.append(command())
            except ResponseError as error:
                if raise_on_error:
                    raise
                found.append(error)
        return found
