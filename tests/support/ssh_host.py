"""An SSH server for the tests: SFTP and commands, for whoever holds the client key.

    python tests/support/ssh_host.py PORT HOST_KEY AUTHORIZED_KEYS

Paths are real paths; relative ones and commands start in the folder where the server was started. The old
SCP protocol (`scp -O`) is the command `scp -f`, run by the shell as sshd does it.
"""

import asyncio
import sys

import asyncssh


class Files(asyncssh.SFTPServer):
    """SFTP that ends with an exit status as sshd does: without one `scp` fails after a good copy."""

    def exit(self) -> None:
        if self.channel.get_subsystem() == "sftp":
            self.channel.exit(0)


async def copy(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()


async def feed(source: asyncssh.SSHReader[bytes], target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()


async def run_command(connection: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the client's command in /bin/sh, its input and output untouched, and hand back its exit status."""
    if connection.command is None:
        connection.stderr.write(b"this host runs commands and has no shell to log in to\n")
        connection.exit(1)
        return
    pipe = asyncio.subprocess.PIPE
    shell = await asyncio.create_subprocess_shell(connection.command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert shell.stdin
    assert shell.stdout
    assert shell.stderr
    feeding = asyncio.create_task(feed(connection.stdin, shell.stdin))
    try:
        await asyncio.gather(copy(shell.stdout, connection.stdout), copy(shell.stderr, connection.stderr))
        connection.exit(await shell.wait())
    finally:
        feeding.cancel()
        if shell.returncode is None:  # the client has gone
            shell.kill()


async def serve(port: int, host_key: str, authorized_keys: str) -> None:
    """Serve until the process is ended."""
    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        process_factory=run_command,
        encoding=None,
        sftp_factory=Files,
    )
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
