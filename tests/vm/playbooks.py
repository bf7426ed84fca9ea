"""The folder ansible/ as an operator has it: a copy with an inventory, a vault and group_vars of its own."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.child import Child
from tests.support.fleet import PROJECT
from tests.vm.machine import Machine

ENVIRONMENT = Path(os.environ.get("ANSIBLE_ENVIRONMENT", PROJECT / "ansible" / ".venv"))
Variables = dict[str, Any]


class Result:
    """What a playbook run printed, and its recap."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status, self.text = done.returncode, done.stdout + done.stderr
        recap = self.text.rpartition("PLAY RECAP")[2]
        self.counts = {
            host: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}
            for host, line in re.findall(r"^(\S+)\s+: (ok=.*)$", recap, re.MULTILINE)
        }

    def changed(self, host: str) -> list[str]:
        """The tasks that changed something."""
        return re.findall(rf"TASK \[([^\]]*)\][^\n]*\n(?:(?!TASK \[).*\n)*?changed: \[{host}\]", self.text)


def is_shown(secret: str, text: str) -> bool:
    """Whether a line of the secret stands in the text: its longest part without a slash, which may be escaped."""
    return any(max(line.split("/"), key=len) in text for line in secret.splitlines())


class Playbooks:
    """Runs playbooks against machines; every output is searched for the secrets."""

    def __init__(self, folder: Path, secrets: dict[str, str]) -> None:
        self.folder, self.secrets = folder, secrets
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(PROJECT / "ansible", folder, ignore=shutil.ignore_patterns(".venv", ".ansible"))
        self.log = folder.with_suffix(".log")

    def write_inventory(self, groups: dict[str, dict[str, Variables]]) -> None:
        """The inventory: groups of hosts with their variables."""
        self._write("inventory.yml", {"all": {"children": {name: {"hosts": groups[name]} for name in groups}}})

    @staticmethod
    def host(machine: Machine, **variables: Any) -> Variables:
        """The variables of a host that is this machine."""
        return variables | {
            "ansible_host": "127.0.0.1",
            "ansible_port": machine.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(machine.image.key),
            "ansible_ssh_common_args": " ".join(machine.ssh_options()[2:]),
        }

    def change_group_vars(self, group: str, **changes: Any) -> None:
        """Set variables in a file of group_vars, as an operator edits it."""
        path = f"group_vars/{group}.yml"
        self._write(path, yaml.safe_load((self.folder / path).read_text()) | changes)

    def make_vault(self) -> None:
        """A vault with the secrets, as README.md says it."""
        (self.folder / ".vault-password").write_text("the operator's own\n")
        self._write("group_vars/vault.yml", self.secrets)
        self._run("ansible-vault", "encrypt", "group_vars/vault.yml")

    def _write(self, path: str, content: Variables) -> None:
        (self.folder / path).write_text(yaml.safe_dump(content, sort_keys=False))

    def play(self, playbook: str, *arguments: str, timeout: float = 7200) -> Result:
        """Run a playbook; AssertionError where its output holds a secret."""
        result = Result(self._run("ansible-playbook", f"playbooks/{playbook}.yml", *arguments, timeout=timeout))
        for name, secret in self.secrets.items():
            assert not is_shown(secret, result.text), f"{playbook} {arguments} shows {name}"
        return result

    def start(self, playbook: str, *arguments: str) -> Child:
        """Start a playbook run, to be cut off."""
        command = ["ansible-playbook", f"playbooks/{playbook}.yml", *arguments]
        child = Child(
            command, self.log.with_suffix(".cut.log"), folder=self.folder, environment=self._environment()
        )
        child.start()
        return child

    @staticmethod
    def _environment() -> dict[str, str]:
        path = f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}

    def _run(self, program: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program, *arguments], cwd=self.folder, env=self._environment(), timeout=timeout, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        with self.log.open("a") as log:
            log.write(f"\n$ {program} {' '.join(arguments)}\n{done.stdout}\n-- status {done.returncode}\n")
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, "")
