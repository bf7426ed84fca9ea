"""pipelinectl web: the read-only page."""

import argparse
import urllib.parse
from typing import Any

import config
import s3_utils
from pipeline.commands import common
from pipeline.foundation import logs, systemd

LISTEN = "127.0.0.1:8080"
ADDRESS_SECONDS = 3600  # that the address of a recording is good for
LEAST_TOKEN = 16  # characters; nobody guesses as many over a network
DESCRIPTION = f"""Serve a page that shows the fleet, batches, failures and transcripts, and plays recordings.
It changes nothing. Who reads it has to know WEB_TOKEN, {LEAST_TOKEN} characters at least (openssl rand -hex 16).
It listens on this machine alone unless --listen says otherwise, and speaks no TLS: from elsewhere go through ssh
(ssh -L 8080:127.0.0.1:8080 orchestrator), or put a proxy with a certificate before it. Recordings come from S3
itself, at addresses that are good for an hour; S3_PUBLIC_ENDPOINT is where browsers find it."""


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until the process is ended."""
    from pipeline.web import pages, server  # here: the other commands do not wait for Flask and waitress

    config.require(*config.REDIS, *config.DATABASE, *config.S3, "WEB_TOKEN")
    if len(config.WEB_TOKEN) < LEAST_TOKEN:
        config.refuse(f"WEB_TOKEN is too short: {LEAST_TOKEN} characters at least, as openssl rand -hex 16 makes")
    logs.set_up(config.LOG_LEVEL, config.LOG_FORMAT)
    redis = common.connect()
    endpoint = urllib.parse.urlsplit(config.S3_PUBLIC_ENDPOINT or config.S3_ENDPOINT)
    with common.connect_database() as database:
        app = pages.make_app(
            pages.Sources(
                redis=redis,
                database=database,
                queues=common.QUEUES,
                token=config.WEB_TOKEN,
                opus_address=lambda key: s3_utils.opus_url(key, ADDRESS_SECONDS),
                media_origin=f"{endpoint.scheme}://{endpoint.netloc}",
                channel_names=config.CHANNEL_NAMES,
            )
        )
        host, port = arguments.listen
        try:
            serving = server.make_server(app, host, port)
        except OSError as error:
            common.reject(f"--listen {host}:{port}: {error.strerror or error}")
        common.say(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        systemd.notify("READY=1")
        serving.run()


def add(commands: Any) -> None:
    """Its arguments."""
    serving = commands.add_parser(
        "web", help="serve the read-only page", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    serving.add_argument(
        "--listen", type=common.address, default=LISTEN, metavar="ADDRESS", help=f"default: {LISTEN}"
    )
    serving.set_defaults(run=run)
