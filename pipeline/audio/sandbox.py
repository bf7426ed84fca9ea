"""Runs a program where it can read the files it is given, and nothing else: no other file, no network.

    python -I -S -c THIS data=1073741824 cpu=7201 read=/a/file -- ffmpeg ...

A program of its own, so that the worker's threads are not copied: it limits itself and becomes the other program.
Landlock (Linux 5.13, docs.kernel.org/userspace-api/landlock.html) decides which files it may open, seccomp refuses
system calls that reach beyond it, and the limits are the kernel's, so that they hold when the worker is gone. What
it writes goes to the pipes that it inherits.

Where the kernel has no Landlock (`missing` says so), the limits and seccomp remain, and what callers do by
themselves: ffmpeg gets the demuxer to use as an option.
"""

import ctypes
import os
import resource
import struct
import sys

NOT_RUN = (126, 127)  # the exit status where the program cannot be run, as of shells
LIMITS = {"data": resource.RLIMIT_DATA, "cpu": resource.RLIMIT_CPU, "fsize": resource.RLIMIT_FSIZE}

# linux/landlock.h, linux/prctl.h, linux/seccomp.h, linux/filter.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights on files each version knows
_SCOPES = 3  # from version 6 on: no signals and no abstract sockets to the outside
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUALS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32 = 0x40000000  # the other numbering of x86-64
_EPERM = 1
_FIRST_ARGUMENT = 16  # where the lower half of it is (both machines are little-endian)
# By machine: its number in linux/audit.h, and the system calls that are refused: sockets, other processes' memory,
# what leads around Landlock or to more rights, and what Landlock does not know: whose a file is, its mode, times
# and attributes. The order is that of the names.
# socket, socketpair, connect, bind, listen, sendto, sendmsg; ptrace, process_vm_readv, process_vm_writev,
# pidfd_getfd; io_uring_setup, open_by_handle_at, mount, unshare, setns, bpf, perf_event_open, keyctl, userfaultfd;
# truncate, fchmod, fchmodat, fchmodat2, fchown, fchownat, setxattr, lsetxattr, fsetxattr, removexattr,
# lremovexattr, fremovexattr, utimensat, pidfd_send_signal; of x86-64 alone chmod, chown, lchown, utime, utimes,
# futimesat
_MACHINES = {
    "x86_64": (0xC000003E, (41, 53, 42, 49, 50, 44, 46, 101, 310, 311, 438,
                            425, 304, 165, 272, 308, 321, 298, 250, 323,
                            76, 91, 268, 452, 93, 260, 188, 189, 190, 197, 198, 199, 280, 424,
                            90, 92, 94, 132, 235, 261)),
    "aarch64": (0xC00000B7, (198, 199, 203, 200, 201, 206, 211, 117, 270, 271, 438,
                             425, 265, 40, 97, 268, 280, 241, 219, 282,
                             45, 52, 53, 452, 55, 54, 5, 6, 7, 14, 15, 16, 88, 424)),
}  # fmt: skip
_SIGNALS = {"x86_64": (62, 200, 234, 129), "aarch64": (129, 130, 131, 138)}  # kill, tkill, tgkill, rt_sigqueueinfo
# This program, as it was when the worker started: a deploy may replace the file or take it away.
if __name__ != "__main__":
    with open(__file__, encoding="utf-8") as _file:
        _PROGRAM = _file.read()
# What a program that is linked dynamically needs.
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/ld.so.preload")


def command(program: str, read: list[str], limits: dict[str, int]) -> list[str]:
    """What to put in front of a program and its arguments. `read`: the files that it may read, beside itself and
    the system's libraries; `limits`: the names of `LIMITS` with bytes, and seconds for `cpu`."""
    given = [f"{name}={limit}" for name, limit in limits.items()] + [f"read={path}" for path in read]
    itself = os.path.realpath(_found(program))  # and not its folder: that may be anybody's home
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, *given, f"read={itself}", "--"]


def _found(program: str) -> str:
    """Where a shell finds a program (`shutil` would make every start slower)."""
    if os.sep in program:
        return program
    places = (os.path.join(folder, program) for folder in os.get_exec_path())
    return next((place for place in places if os.access(place, os.X_OK)), program)


def missing() -> str | None:
    """What this kernel lacks for a sandbox, None where it lacks nothing."""
    return None if _landlock_version() > 0 else "Landlock (Linux 5.13 and later, where it is switched on)"


def _landlock_version() -> int:
    return int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _limit(name: str, most: int) -> None:
    """Lower a limit of this process, never raise it."""
    hard = resource.getrlimit(LIMITS[name])[1]
    lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
    # SIGXCPU at the first limit says why; at the second one the kernel kills, as it does without memory.
    last = lowest + (name == "cpu" and lowest != hard)
    resource.setrlimit(LIMITS[name], (lowest, last))


def _confine(read: list[str]) -> None:
    """Let this process, and what it becomes, open nothing but these files and the system's libraries."""
    libc, version = _libc(), _landlock_version()
    if version < 1:
        return
    handled = (1 << _RIGHTS.get(version, 16)) - 1
    ruleset = struct.pack("=QQQ", handled, 3 if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = ruleset[: 8 if version < 4 else 16 if version < 6 else 24]  # what the kernel knows, and no more
    rules = _checked(libc.syscall(_CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), 0))
    for path in (*read, *_SYSTEM):
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = _READ_FILE | _EXECUTE | (_READ_DIR if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, handle)
        _checked(libc.syscall(_ADD_RULE, rules, 1, rule, 0))
        os.close(handle)
    _checked(libc.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)


def _refuse_calls() -> None:
    """Have the kernel refuse this process, and what it becomes, the system calls of `_MACHINES`."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return
    architecture, calls = machine

    def step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, value)

    steps = [
        step(_LOAD, 4), step(_EQUALS, architecture, 1, 0), step(_RETURN, _KILL),
        step(_LOAD, 0), step(_AT_LEAST, _X32, 0, 1), step(_RETURN, _REFUSE | _EPERM),
    ]  # fmt: skip
    for number in calls:
        steps += [step(_EQUALS, number, 0, 1), step(_RETURN, _REFUSE | _EPERM)]
    for number in _SIGNALS[os.uname().machine]:  # to itself alone: Landlock's scopes are younger
        steps += [
            step(_EQUALS, number, 0, 4), step(_LOAD, _FIRST_ARGUMENT), step(_EQUALS, os.getpid(), 0, 1),
            step(_RETURN, _ALLOW), step(_RETURN, _REFUSE | _EPERM),
        ]  # fmt: skip
    steps.append(step(_RETURN, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    _checked(_libc().prctl(_SET_SECCOMP, _FILTER, program, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main(arguments: list[str]) -> None:
    """Become the program behind `--`, confined as the arguments before it say."""
    end = arguments.index("--")
    read: list[str] = []
    program = arguments[end + 1 :]
    try:
        for argument in arguments[:end]:
            name, _, value = argument.partition("=")
            if name == "read":
                read.append(value)
            else:
                _limit(name, int(value))
        found = _found(program[0])  # now: Python may have to import something for it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _checked(_libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _confine(read)
        _refuse_calls()
        os.execv(found, program)  # nosec B606 - what this program is for
    except OSError as error:
        print(f"{program[0]} cannot be run: {error.strerror}", file=sys.stderr)
        os._exit(NOT_RUN[1] if isinstance(error, FileNotFoundError) else NOT_RUN[0])


if __name__ == "__main__":
    main(sys.argv[1:])
