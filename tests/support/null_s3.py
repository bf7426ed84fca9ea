"""An S3 that keeps no bytes: sizes and metadata only, so that very large archives can be uploaded to it. What it
gives back is zeros.

`hold` holds back what is put while it is cleared; `slow` is a pause before each answer to a put; `refusing` is the
status that what is asked for is refused with. The notes of which batch a remote file is (`sources/`) are kept, at
once and apart from the rest.
"""

import threading
import time
import uuid
import xml.sax.saxutils
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


class Handler(BaseHTTPRequestHandler):
    """One request of the few that the pipeline sends."""

    protocol_version = "HTTP/1.1"
    server: "NullS3"

    def log_message(self, *_: Any) -> None:
        pass

    def target(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).lstrip("/").partition("/")[2], parse_qs(parts.query, keep_blank_values=True)

    def discard_body(self) -> int:
        left = size = int(self.headers.get("Content-Length") or 0)
        while left:
            left -= len(self.rfile.read(min(left, 2**20))) or left
        return size

    def answer(self, status: int = 200, body: str = "", headers: dict[str, str] | None = None) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def metadata(self) -> dict[str, str]:
        return {
            name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")
        }

    def do_HEAD(self) -> None:
        key, _ = self.target()
        stored = self.server.objects.get(key)
        if key and stored is None:
            self.answer(404)
        elif stored is None:
            self.answer()
        else:
            size, metadata = stored
            self.answer(headers={"Content-Length": str(size), "ETag": '"x"', **metadata})

    def do_GET(self) -> None:
        key, query = self.target()
        if "uploads" in query:
            self.answer(
                body="<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
            )
        elif self.server.refusing:
            self.answer(self.server.refusing)
        elif not key:
            self.answer(body="<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        elif note := self.server.notes.get(key):
            self.answer(body=note, headers={"ETag": '"x"'})
        elif key in self.server.objects:
            self.send_zeros(self.server.objects[key][0])
        else:
            self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")

    def send_zeros(self, size: int) -> None:
        start, end = self.headers["Range"].removeprefix("bytes=").split("-")
        first = int(start)
        left = min(int(end or size) + 1, size) - first
        self.send_response(206)
        self.send_header("Content-Length", str(left))
        self.send_header("Content-Range", f"bytes {first}-{first + left - 1}/{size}")
        self.send_header("ETag", '"x"')
        self.end_headers()
        while left:
            left -= self.wfile.write(bytes(min(left, 2**20)))

    def do_PUT(self) -> None:
        key, query = self.target()
        if key.startswith("sources/"):
            self.server.notes[key] = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.answer(headers={"ETag": '"x"'})
            return
        self.server.putting.append(key)
        size = self.discard_body()
        self.server.hold.wait()
        time.sleep(self.server.slow)
        if "uploadId" in query:
            self.server.uploads[query["uploadId"][0]][1].append(size)
        else:
            self.server.objects[key] = (size, self.metadata())
        self.answer(headers={"ETag": '"x"'})

    def do_POST(self) -> None:
        key, query = self.target()
        self.discard_body()
        if "uploads" in query:
            upload_id = uuid.uuid4().hex
            self.server.uploads[upload_id] = (self.metadata(), [])
            tag, text = "InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>"
        else:
            metadata, sizes = self.server.uploads.pop(query["uploadId"][0])
            self.server.objects[key] = (sum(sizes), metadata)
            tag, text = "CompleteMultipartUploadResult", "<ETag>x</ETag>"
        self.answer(body=f"<{tag}><Key>{xml.sax.saxutils.escape(key)}</Key>{text}</{tag}>")

    def do_DELETE(self) -> None:
        _, query = self.target()
        self.server.uploads.pop(query.get("uploadId", [""])[0], None)
        self.answer(204)


class NullS3(ThreadingHTTPServer):
    """The server, in threads of this process."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[int, dict[str, str]]] = {}
        self.uploads: dict[str, tuple[dict[str, str], list[int]]] = {}
        self.notes: dict[str, str] = {}
        self.putting: list[str] = []  # the keys of every put that began
        self.hold, self.slow = threading.Event(), 0.0
        self.refusing = 0
        self.hold.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.shutdown()
        self.server_close()
