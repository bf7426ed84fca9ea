"""Looks for known weaknesses: bandit in the code that runs in production, pip-audit in what is installed.

    .venv/bin/python -m tests.audit

Exit status: 0 where nothing was found, 1 where something was. What PyPI could not be asked about is said to be not
checked.
"""

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
# Vulnerabilities that do not touch us: id -> why.
ACCEPTED: dict[str, str] = {}


def code() -> bool:
    """Whether bandit finds nothing; pyproject.toml says which of its rules are left out, and why."""
    command = [sys.executable, "-m", "bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive"]
    files = [*map(str, PROJECT.glob("*.py")), "pipeline"]
    done = subprocess.run([*command, *files], cwd=PROJECT, check=False, capture_output=True, text=True)
    print("code: bandit found nothing" if done.returncode == 0 else done.stdout + done.stderr)
    return done.returncode == 0


def packages() -> bool:
    """Whether no package that is installed here is known to be vulnerable, as far as PyPI could be asked."""
    accepted = [word for vulnerability in ACCEPTED for word in ("--ignore-vuln", vulnerability)]
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *accepted]
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    lines, clean = judge(done.stdout, done.stderr)
    print("\n".join(lines))
    return clean


def judge(answer: str, errors: str) -> tuple[list[str], bool]:
    """What pip-audit's JSON (or its errors, where it gives none) means, in lines, and whether nothing is wrong."""
    try:
        found = json.loads(answer)["dependencies"]
    except ValueError:
        return [f"packages: NOT CHECKED: pip-audit says {errors.strip().rpartition(chr(10))[2]}"], True
    lines = [
        f"packages: {package['name']} {package['version']} has {weakness['id']}; fixed in"
        f" {', '.join(weakness['fix_versions']) or 'no version yet'}"
        for package in found
        for weakness in package.get("vulns", [])
    ]
    clean = not lines
    unknown = sorted(package["name"] for package in found if "skip_reason" in package)
    lines.append(f"packages: {len(found) - len(unknown)} of {len(found)} checked")
    if unknown:
        names = ", ".join(unknown) if len(unknown) <= 5 else f"{len(unknown)} packages"
        lines.append(f"packages: NOT CHECKED: {names}, of which PyPI's JSON API tells nothing here")
    return lines, clean


def main() -> int:
    """Run both."""
    return 0 if all([code(), packages()]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
