"""A hub on 127.0.0.1: as much of its interface as the client library uses to fetch files of one commit."""

import hashlib
import importlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class StandInHub:
    """Files by "repository/path", and the faults to commit.

    Attributes:
        files: bytes.
        cut: the next so many answers with bytes of a file end half way.
        busy: the next so many answers are 503.
        etags: says another hash than the file's.
        requests: (method, path, range) of each request.
    """

    files: dict[str, bytes]
    cut: int = 0
    busy: int = 0
    etags: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def used_by(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let the client library of this process ask here, without pauses, into a cache of its own."""
        constants = importlib.import_module("huggingface_hub.constants")
        patch.setattr(constants, "ENDPOINT", self.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
        patch.setattr("varestorer_cli.core.install.hub_backend._PAUSE", 0.0)
        patch.setattr("time.sleep", lambda seconds: None)

    def kills(self, patch: pytest.MonkeyPatch, path: str, count: int) -> None:
        """Let the client be stopped once so many bytes of a file are written; other files come whole."""
        client = importlib.import_module("huggingface_hub.file_download")
        whole = next(data for key, data in self.files.items() if key.endswith(path))
        http_get = client.http_get

        def killed(url: str, stream: BinaryIO, **settings: object) -> None:
            if not url.endswith(path):
                http_get(url, stream, **settings)
                return
            stream.write(whole[:count])
            stream.flush()
            raise KeyboardInterrupt

        patch.setattr(client, "http_get", killed)

    def ranges(self, path: str) -> list[str]:
        """The Range of every request for a file's bytes, "" for all of it."""
        return [wanted for method, asked, wanted in self.requests if method == "GET" and asked.endswith(path)]


@contextmanager
def running(hub: StandInHub) -> Iterator[StandInHub]:
    """Serve until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            wanted = self.headers.get("Range", "")
            hub.requests.append((self.command, self.path, wanted))
            repository, found, rest = self.path.strip("/").partition("/resolve/")
            revision, _, path = rest.partition("/")
            data = hub.files.get(f"{repository}/{path}")
            if hub.busy:
                hub.busy -= 1
                return self.refuse(503)
            if not found or data is None or not re.fullmatch("main|[0-9a-f]{40}", revision):
                return self.refuse(404, "EntryNotFound")
            start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
            self.send_response(206 if wanted else 200)
            small = path.endswith((".json", ".txt"))  # only large files are named by their SHA-256
            digest = (hashlib.sha1 if small else hashlib.sha256)(data).hexdigest()
            digest = hub.etags.get(f"{repository}/{path}", digest)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Repo-Commit", COMMIT if revision == "main" else revision)
            self.send_header("Content-Length", str(len(data) - start))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return None
            if hub.cut:
                hub.cut -= 1
                self.wfile.write(data[start : start + (len(data) - start) // 2])
                self.close_connection = True
                return None
            self.wfile.write(data[start:])
            return None

        def refuse(self, status: int, code: str = "") -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
