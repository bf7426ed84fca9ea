"""pipelinectl web: the page and the HTTP API."""

import argparse
import signal
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import config
import s3_utils
from pipeline.commands import common
from pipeline.foundation import logs, s3_client, systemd
from pipeline.store.database import Database
from pipeline.store.tokens import is_any_valid

LISTEN = "127.0.0.1:8080"
ADDRESS_SECONDS = 3600  # that the address of a recording is good for
READER_CONNECTIONS = 2  # to PostgreSQL, besides those of the pages
LEAST_TOKEN = 16  # characters; nobody guesses as many over a network
DESCRIPTION = f"""Serve a page that shows the fleet, batches, failures and transcripts, and plays recordings.
The page changes nothing; the interface for programs, /api/v1, lets operators queue and retry. Readers have a
named token (`tokens create`), know WEB_TOKEN ({LEAST_TOKEN} characters at least: openssl rand -hex 16), or are
named by a proxy (WEB_PROXY_HEADER). The audit log says who has read what, unless WEB_AUDIT is off: docs/access.md.
It listens on this machine alone unless --listen says otherwise, and speaks no TLS: from elsewhere go through ssh
(ssh -L 8080:127.0.0.1:8080 orchestrator), or put a proxy with a certificate before it. Recordings come from S3
itself, at addresses that are good for an hour; S3_PUBLIC_ENDPOINT is where browsers find it."""


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until the process is ended."""
    from pipeline.web import pages, server  # here: the other commands do not wait for Flask and waitress

    config.require(*config.REDIS, *config.DATABASE, *config.S3)
    if 0 < len(config.WEB_TOKEN) < LEAST_TOKEN:
        config.refuse(f"WEB_TOKEN is too short: {LEAST_TOKEN} characters at least, as openssl rand -hex 16 makes")
    logs.set_up(config.LOG_LEVEL, config.LOG_FORMAT)
    s3_utils.patience = s3_client.OF_A_PERSON
    redis = common.connect()
    endpoint = urllib.parse.urlsplit(config.S3_PUBLIC_ENDPOINT or config.S3_ENDPOINT)
    with common.connect_database() as database, _access(database) as access:
        app = pages.make_app(
            pages.Sources(
                redis=redis,
                database=database,
                queues=common.QUEUES,
                token=config.WEB_TOKEN,
                opus_address=lambda key: s3_utils.opus_url(key, ADDRESS_SECONDS),
                media_origin=f"{endpoint.scheme}://{endpoint.netloc}",
                check_archive=s3_utils.archive_bytes,
                archive_key=s3_utils.archive_key,
                channel_names=config.CHANNEL_NAMES,
                access=access,
            )
        )
        host, port = arguments.listen
        try:
            serving = server.make_server(app, host, port, proxy=config.WEB_PROXY_ADDRESS)
        except OSError as error:
            common.reject(f"--listen {host}:{port}: {error.strerror or error}")
        common.say(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        systemd.notify("READY=1")
        signal.signal(signal.SIGTERM, _end)
        serving.run()


@contextmanager
def _access(database: Database) -> Iterator[Any]:
    """How readers are known, until the page ends; the process ends with status 2 where nobody could read it. What
    is looked up and noted of readers has connections of its own: no slow page keeps others from being admitted."""
    from pipeline.web import login, readers, reading_log

    if not (config.WEB_TOKEN or config.WEB_PROXY_HEADER or is_any_valid(database)):
        config.refuse(
            "WEB_TOKEN is not set, and there is no other way in: run `pipelinectl.py tokens create NAME`"
        )
    proxy = readers.Proxy(
        config.WEB_PROXY_ADDRESS, config.WEB_PROXY_HEADER, config.WEB_PROXY_ROLE,
        config.WEB_PROXY_GROUPS_HEADER, config.WEB_PROXY_OPERATOR_GROUP,
    )  # fmt: skip
    of_readers = Database(config.DATABASE_URL, READER_CONNECTIONS)
    noting = reading_log.ReadingLog(of_readers) if config.WEB_AUDIT else None
    yield login.Access(of_readers, proxy if proxy.header else None, noting)
    if noting:
        noting.close()
    of_readers.close()


def _end(*_: object) -> None:
    raise SystemExit(0)


def add(commands: Any) -> None:
    """Its arguments."""
    serving = commands.add_parser(
        "web", help="serve the page and the HTTP API", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    serving.add_argument(
        "--listen", type=common.address, default=LISTEN, metavar="ADDRESS", help=f"default: {LISTEN}"
    )
    serving.set_defaults(run=run)
