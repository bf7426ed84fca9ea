"""What can be checked of ansible/ without Ansible; `ansible/test` does the rest."""

import os
import re
from pathlib import Path

import jinja2
import yaml

from tests.support.fleet import PROJECT

ANSIBLE = PROJECT / "ansible"
UNITS = {
    "gpu": ANSIBLE / "roles/gpu_worker/templates/gpu-worker.service.j2",
    "unpack": ANSIBLE / "roles/gpu_worker/templates/unpack-worker.service.j2",
    "transfer": ANSIBLE / "roles/transfer/templates/transfer-worker.service.j2",
    "web": ANSIBLE / "roles/web/templates/web.service.j2",
}
OTHERS = {"LD_LIBRARY_PATH"}  # not the project's


def pins(path: Path) -> dict[str, str]:
    """The versions that a requirements file pins, by the packages' normal names."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[\w+\])?==([^\s;\\]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_lock_holds_what_requirements_txt_asks_for() -> None:
    """Write it anew with `ansible/lock`."""
    locked, wanted = pins(ANSIBLE / "workers.lock"), pins(PROJECT / "requirements.txt")
    assert wanted
    assert {name: locked.get(name) for name in wanted} == wanted


def test_every_locked_package_has_a_hash() -> None:
    for path in (ANSIBLE / "workers.lock", ANSIBLE / "cuda.lock"):
        for entry in re.split(r"\n(?=\S)", path.read_text()):
            assert entry.startswith("#") or "--hash=sha256:" in entry


def settings(unit: Path) -> set[str]:
    """The settings that a unit's template gives."""
    return set(re.findall(r"^    '([A-Z0-9_]+)':", unit.read_text(), re.MULTILINE)) - OTHERS


def test_the_units_give_settings_that_exist() -> None:
    known = set(re.findall(r"^([A-Z0-9_]+)=", (PROJECT / "example.env").read_text(), re.MULTILINE))
    known.add("REQUIRE_SCRATCH_MOUNT")
    for role, unit in UNITS.items():
        assert settings(unit), role
        assert settings(unit) <= known, role


def test_the_units_give_every_variable_and_no_secret() -> None:
    for role, unit in UNITS.items():
        wanted = {"S3_ENDPOINT", "S3_BUCKET"}
        wanted |= {"SCRATCH_ROOT", "MODELS_ROOT", "TRANSCRIBE_QUEUE"} if role in ("gpu", "unpack") else set()
        wanted |= {"TRANSFER_ROOT"} if role == "transfer" else set()
        assert wanted <= settings(unit), role
        assert "vault" not in unit.read_text()


def test_the_units_let_ffmpeg_be_started_and_confined() -> None:
    """Refused by the unit, Landlock looks as if the kernel had none, and ffmpeg would run without it."""
    needed = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp", "prlimit64"}
    needed.add("sched_setscheduler")  # pipeline/audio/process_pipes.py
    shared = (ANSIBLE / "roles/deployment/templates/worker.conf.j2").read_text()
    for role in ("gpu", "unpack"):
        unit = shared + UNITS[role].read_text()
        filters = [line.split() for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE)]
        allowed = {call for line in filters if not line[0].startswith("~") for call in line}
        refused = {call.lstrip("~") for line in filters if line[0].startswith("~") for call in line}
        assert needed | {"@system-service"} <= allowed, role  # with @process: clone, execve, prctl, wait4
        assert refused == {"@privileged", "@resources"}, role
        assert not re.search("^(NoExecPaths|ExecPaths|TasksMax|Limit[A-Z]+)=", unit, re.MULTILINE), role


def test_no_role_installs_an_ffmpeg_beside_the_pinned_one() -> None:
    for path in (ANSIBLE / "roles").rglob("*.yml"):
        assert "- ffmpeg" not in path.read_text(), path


def test_every_secret_that_a_worker_reads_is_written() -> None:
    """Which file gets which: roles/deployment/tasks/secrets.yml."""
    roles = ANSIBLE / "roles"
    known = re.findall(r"^  '(\w+)': '(\w+)',$", (roles / "deployment/templates/secrets.env.j2").read_text(), re.M)
    shared = (ANSIBLE / "group_vars/all.yml").read_text() + (ANSIBLE / "group_vars/vault.yml.example").read_text()
    assert {variable for _, variable in known} <= set(re.findall(r"^(\w+):", shared, re.MULTILINE))
    for path in ("deployment/defaults/main.yml", "transfer/tasks/main.yml", "web/tasks/main.yml"):
        lines = re.findall(r"deployment_secrets: (.*)", (roles / path).read_text())
        given = [set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", line)) for line in lines]
        assert {"REDIS_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY"} <= given[0], path
        assert set().union(*given) <= {name for name, _ in known}, path


def test_a_setting_that_is_wrong_stops_one_host() -> None:
    for playbook in ("setup-new-worker", "setup-transfer"):
        (play,) = yaml.safe_load((ANSIBLE / f"playbooks/{playbook}.yml").read_text())
        assert play["serial"] == [1, "100%"], playbook
    for playbook in ("deploy", "sync-models"):
        _, *switches = yaml.safe_load((ANSIBLE / f"playbooks/{playbook}.yml").read_text())
        assert [play["serial"] for play in switches] == [1] * len(switches), playbook


def test_a_deploy_waits_for_the_schema_and_not_for_old_transcripts() -> None:
    """It has to work with an earlier release too, which cannot apply the schema alone."""
    look, apply = yaml.safe_load((ANSIBLE / "roles/deployment/tasks/migrate.yml").read_text())
    asked = look["ansible.builtin.command"]["argv"]
    assert asked[-2] in (PROJECT / asked[-1].removeprefix("{{ deployment_release }}/")).read_text()
    for status, arguments in ((0, ["migrate", "--schema-only"]), (1, ["migrate"]), (2, ["migrate"])):
        argv = jinja2.Environment().from_string(apply["ansible.builtin.command"]["argv"])
        given = yaml.safe_load(argv.render(deployment_schema_only={"rc": status}, **apply["vars"]))
        assert given[given.index("pipelinectl.py") + 1 :] == arguments
    changed = jinja2.Environment().compile_expression(apply["changed_when"])
    for said, is_change in (("an index\napplied 012.sql\n", True), ("the schema is up to date\n", False)):
        assert changed(deployment_migrated={"stdout": said}) is is_change


def driver_file(name: str) -> str:
    """What the role nvidia writes into the file of this name, on a host of two GPUs."""
    tasks = yaml.safe_load((ANSIBLE / "roles/nvidia/tasks/driver.yml").read_text())
    (given,) = (
        task["ansible.builtin.copy"]["content"]
        for task in tasks
        if task.get("ansible.builtin.copy", {}).get("dest", "").endswith(name)
    )
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(given).render(nvidia_gpu_count="2")


def test_unattended_upgrades_part_no_kernel_from_its_driver() -> None:
    kept = re.findall(r'"([^"]+)";', driver_file("52audio-pipeline-nvidia"))
    for package in (
        "linux-generic", "linux-image-6.8.0-60-generic", "linux-modules-nvidia-535-server-generic",
        "linux-image-cloud-amd64", "nvidia-utils-535-server", "libnvidia-compute-535-server", "libcuda1",
    ):  # fmt: skip
        assert any(re.match(pattern, package) for pattern in kept), package


def test_every_device_file_is_made() -> None:
    """nvidia-modprobe(1): -c N makes /dev/nvidiaN, 255 is nvidiactl; with -u it makes /dev/nvidia-uvm."""
    program = "/usr/bin/nvidia-modprobe"
    made = re.findall(r"^ExecStart=(.*)$", driver_file("nvidia-devices.service"), re.MULTILINE)
    assert made == [f"{program} -c 0 -c 1 -c 255", f"{program} -u -c 0"]


def test_the_driver_is_that_of_the_kernel_that_runs() -> None:
    defaults = yaml.safe_load((ANSIBLE / "roles/nvidia/defaults/main.yml").read_text())
    environment = jinja2.Environment()
    environment.filters["regex_replace"] = lambda text, pattern, other: re.sub(pattern, other, text)
    flavour = environment.from_string(defaults["nvidia_kernel_flavour"])

    def package(distribution: str, version: str, kernel: str) -> str:
        facts = {"distribution": distribution, "distribution_version": version, "kernel": kernel}
        return flavour.render(ansible_facts=facts, nvidia_own_kernels=defaults["nvidia_own_kernels"]).strip()

    assert package("Debian", "12.7", "6.1.0-30-cloud-amd64") == "cloud-amd64"
    assert package("Ubuntu", "22.04", "5.15.0-130-generic") == "generic"
    assert package("Ubuntu", "22.04", "6.8.0-50-generic") == "generic-hwe-22.04"
    assert package("Ubuntu", "24.04", "6.8.0-50-generic") == "generic"
    assert package("Ubuntu", "24.04", "6.14.0-1-generic") == "generic-hwe-24.04"


def test_a_host_without_its_model_takes_no_archives() -> None:
    tasks = yaml.safe_load((ANSIBLE / "roles/gpu_worker/tasks/restart.yml").read_text())
    environment = jinja2.Environment()
    environment.filters |= {"basename": os.path.basename, "splitext": os.path.splitext}
    (name,) = (task["ansible.builtin.set_fact"] for task in tasks if "ansible.builtin.set_fact" in task)
    paths = [f"/etc/systemd/system/{unit}.service" for unit in ("unpack-worker", "gpu-worker-1", "gpu-worker")]
    found = {"files": [{"path": path} for path in paths]}
    names = environment.from_string(name["gpu_worker_installed"])
    installed = names.render(gpu_worker_installed_units=found).strip()
    assert installed == "['gpu-worker', 'gpu-worker-1', 'unpack-worker']"  # in this order
    units = environment.from_string(tasks[-1]["vars"]["deployment_units"])

    def started(has_model: bool) -> str:
        file = {"stat": {"exists": has_model}}
        return units.render(gpu_worker_installed=installed, gpu_worker_model_file=file).strip()

    assert started(has_model=False) == "[]"
    assert started(has_model=True) == installed


def test_the_shipped_vault_is_encrypted() -> None:
    assert (ANSIBLE / "group_vars/vault.yml").read_text().startswith("$ANSIBLE_VAULT;1.1;AES256")
