"""Whether the EC2 host can be worked with as the settings have it: asked at a start, by the work's own steps.

What waiting cannot change ends the worker with the host's own words: a key that ssh does not take, a login that
is refused or leads to no shell, tools that are not there, no SFTP. A host that is unavailable is waited for.
"""

import subprocess
from pathlib import Path

from pipeline.foundation.errors import Outage, Permanent
from pipeline.transfer import framing
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import RemoteHost, Unclear, Unfit

SAMPLE = framing.SHELL  # a small file that every host has, for all to read
_TRIES = 3  # copies: a connection that breaks once tells nothing of the host


def refusal(host: RemoteHost, target: Path) -> str | None:
    """Why this host can never be worked with as it is set up, in one line; None where all is well.

    A file is copied to `target` and removed. `Outage` while the host is unavailable.
    """
    if said := _key_refusal(host.key_file):
        return f"EC2_KEY_FILE: ssh-keygen does not read it without a passphrase: {said}"
    try:
        if problem := host.login_refusal():
            return problem
        host.look(SAMPLE)  # a folder of the host's own may hold what cannot be looked at
        state = host.stat(SAMPLE)
    except (Unfit, Permanent, Unclear) as error:
        return f"EC2_HOST: the host lacks what the work needs: {error}"
    copy, said = Copy(host, SAMPLE, state, target), ""
    for _ in range(_TRIES):
        try:
            copy.run(host.stop)
        except (Outage, Permanent, Unclear) as error:
            said = str(error)
            host.stat(SAMPLE)  # an outage where the host has gone: then that is why
        else:
            return None
        finally:
            copy.remove()
    return f"EC2_HOST: the host runs commands, but does not serve files over SFTP: {said}"


def _key_refusal(key_file: str) -> str:
    """What ssh-keygen says of a key that it cannot use; nothing where it can. It is as strict as ssh."""
    command = ["ssh-keygen", "-y", "-P", "", "-f", key_file]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return "" if done.returncode == 0 else framing.words(done.stderr.decode(errors="replace"))
