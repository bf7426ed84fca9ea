"""OpenStack Swift with its S3 interface, all in one folder: configuration, rings and the commands to run.

One replica on one device, accounts by tempauth, no memcached, no special user. Swift 2.38 is needed:
older versions refuse the checksummed uploads of boto3, or want memcached for tempauth.
"""

import os
import pwd
import subprocess
from pathlib import Path

from tests.support.child import free_port

ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
BACKENDS = ("account", "container", "object")

SWIFT_CONF = """[swift-hash]
swift_hash_path_prefix = aio
swift_hash_path_suffix = aio
"""

COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {etc}
log_level = WARNING
"""

BACKEND = """devices = {devices}
mount_check = false
disable_fallocate = true

[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""

FILTERS = (
    "catch_errors gatekeeper healthcheck proxy-logging listing_formats bulk s3api tempauth"
    " copy slo dlo versioned_writes symlink"
)

# The workers' clock may be a fast one (tests/faults/fast_clock.py).
OPTIONS = {"s3api": "allowable_clock_skew = 31536000\n"}  # s

PROXY = f"""
[pipeline:main]
pipeline = {FILTERS} proxy-logging proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {SECRET_KEY} .admin
""" + "".join(
    f"\n[filter:{name}]\nuse = egg:swift#{name.replace('-', '_')}\n{OPTIONS.get(name, '')}"
    for name in FILTERS.split()
    if name != "tempauth"
)

# Run by the Python that has Swift: one replica, one device, 2**4 partitions for each ring.
RINGS = """
import sys
from swift.common.ring import RingBuilder
for argument in sys.argv[1:]:
    path, port = argument.rsplit(":", 1)
    builder = RingBuilder(4, 1, 0)
    builder.add_dev(dict(id=0, region=1, zone=1, weight=1, ip="127.0.0.1", port=int(port), device="d1"))
    builder.rebalance()
    builder.get_ring().save(path)
"""


def configure(bin_dir: Path, folder: Path, proxy_port: int) -> dict[str, int]:
    """Write the configuration and the rings; the port of each server. An existing folder is left as it is."""
    etc, devices = folder / "etc", folder / "devices"
    if (etc / "proxy-server.conf").exists():
        return {kind: read_port(folder, kind) for kind in (*BACKENDS, "proxy")}
    etc.mkdir()
    (devices / "d1").mkdir(parents=True)
    (etc / "swift.conf").write_text(SWIFT_CONF)
    ports = {kind: free_port() for kind in BACKENDS} | {"proxy": proxy_port}
    user = pwd.getpwuid(os.getuid()).pw_name
    for kind, port in ports.items():
        own = PROXY if kind == "proxy" else BACKEND.format(kind=kind, devices=devices)
        (etc / f"{kind}-server.conf").write_text(COMMON.format(port=port, user=user, etc=etc) + own)
    rings = [f"{etc / kind}.ring.gz:{ports[kind]}" for kind in BACKENDS]
    subprocess.run([bin_dir / "python3", "-c", RINGS, *rings], check=True)
    return ports


def read_port(folder: Path, kind: str) -> int:
    """The port of one server, as its configuration says."""
    text = (folder / "etc" / f"{kind}-server.conf").read_text()
    return int(text.partition("bind_port = ")[2].partition("\n")[0])


def command(bin_dir: Path, folder: Path, kind: str) -> list[str]:
    """What runs one of the servers."""
    return [str(bin_dir / f"swift-{kind}-server"), str(folder / "etc" / f"{kind}-server.conf"), "-v"]
