"""pipeline/transfer/volumes.py: an archive on a volume that is not mounted is not gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.foundation.errors import Outage, Permanent
from pipeline.transfer.ssh import RemoteHost
from pipeline.transfer.volumes import Volumes
from tests.support.disks import small_disk
from tests.support.servers import SshHost


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteHost]:
    with SshHost(tmp_path_factory.mktemp("ssh")) as server:
        yield RemoteHost(server.host, server.port, server.user, str(server.key_file), str(server.known_hosts))


def archive(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(b"recording")
    return str(folder / "a.tar")


def take(volumes: Volumes, path: str) -> None:
    """The work on an archive, as the worker does it."""
    with volumes.mounted(path):
        volumes.note(path, volumes.host.stat(path))


def test_an_archive_waits_while_its_volume_is_not_mounted(redis: Any, host: RemoteHost, tmp_path: Path) -> None:
    volumes = Volumes(redis, "queue:test", host)
    with small_disk(tmp_path / "volume", "1m") as folder:
        take(volumes, archive(folder))
        take(volumes, archive(folder / "monday"))
        assert redis.hkeys("queue:test:volumes") == [str(folder)]
    another = Volumes(redis, "queue:test", host)
    for path in (folder / "a.tar", folder / "monday" / "a.tar", folder / "never" / "seen.tar"):
        with pytest.raises(Outage, match=f"^{folder} on {host.host} is missing or not mounted: ") as caught:
            take(another, str(path))
        assert caught.value.service == "EC2"
    with small_disk(tmp_path / "volume", "1m"), pytest.raises(Permanent):  # it is mounted: the archive is gone
        take(another, str(folder / "a.tar"))
    with pytest.raises(Permanent):
        take(another, str(tmp_path / "elsewhere.tar"))


@pytest.mark.parametrize("below", ["", "/monday"])
def test_an_archive_behind_a_link_waits_for_its_volume(
    redis: Any, host: RemoteHost, tmp_path: Path, below: str
) -> None:
    """The link leads to the empty mount point, or to nothing, while the volume is not mounted."""
    volumes, link = Volumes(redis, "queue:test", host), tmp_path / "recordings"
    link.symlink_to(f"{tmp_path}/volume{below}")
    path = str(link / "a.tar")
    with small_disk(tmp_path / "volume", "1m") as folder:
        archive(Path(f"{folder}{below}"))
        take(volumes, path)
        assert redis.hkeys("queue:test:volumes") == [str(folder)]
    with pytest.raises(Outage, match=f"^{folder} on {host.host} is missing or not mounted: "):
        take(volumes, path)
    assert volumes.missing(path) == str(folder)
    with small_disk(tmp_path / "volume", "1m"), pytest.raises(Permanent):
        take(volumes, path)
    archive(Path(f"{folder}{below}"))  # the volume is gone: the archives lie on the disk below it now
    take(volumes, path)
    Path(path).unlink()
    with pytest.raises(Permanent):
        take(volumes, path)


def test_a_volume_that_was_removed_from_the_list_is_waited_for_no_more(
    redis: Any, host: RemoteHost, tmp_path: Path
) -> None:
    volumes = Volumes(redis, "queue:test", host)
    with small_disk(tmp_path / "volume", "1m") as folder:
        take(volumes, archive(folder))
    path = archive(folder)  # the archives lie on the disk below it now
    take(volumes, path)
    Path(path).unlink()
    with pytest.raises(Permanent):
        take(volumes, path)


def test_an_archive_that_comes_while_it_is_looked_for_is_not_gone(
    redis: Any, host: RemoteHost, tmp_path: Path
) -> None:
    volumes, path = Volumes(redis, "queue:test", host), tmp_path / "a.tar"
    with pytest.raises(Permanent) as absent:
        host.stat(str(path))
    archive(tmp_path)  # its volume is mounted
    with pytest.raises(Outage, match="has come meanwhile"), volumes.mounted(str(path)):
        raise absent.value
    with pytest.raises(Permanent, match="damaged"), volumes.mounted(str(path)):
        raise Permanent("damaged")


def test_an_archive_waits_while_the_watched_folder_is_missing(
    redis: Any, host: RemoteHost, tmp_path: Path
) -> None:
    watched = tmp_path / "recordings"
    volumes = Volumes(redis, "queue:test", host, str(watched))
    with pytest.raises(Outage, match=f"^{watched} on "):
        take(volumes, str(watched / "monday" / "a.tar"))
    watched.mkdir()
    for path in (watched / "a.tar", watched / "monday" / "a.tar", tmp_path / "recordings2" / "a.tar"):
        with pytest.raises(Permanent):
            take(volumes, str(path))
