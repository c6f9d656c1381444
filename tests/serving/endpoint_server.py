"""A minimal server around the `handler.py` of checkpoints, as Inference Endpoints run it; the package is not there.

python endpoint_server.py FOLDER: serves POST /NAME with the checkpoint FOLDER/NAME, and prints its port. As there, any
exception is an answer of status 400 with its message; a body that is too long is refused.
"""

import importlib.util
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


LONGEST_BODY = 50 * 2**20


def load(folder: Path):
    spec = importlib.util.spec_from_file_location(f"handler_{folder.name}", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


class Handler(BaseHTTPRequestHandler):
    endpoints: dict = {}

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if length > LONGEST_BODY:
            while length > 0:  # a client that is still sending would not see the answer
                length -= len(self.rfile.read(min(2**20, length)))
            return self.send(413, {"error": "the body is too long"})
        body = self.rfile.read(length)
        try:
            is_json = self.headers["Content-Type"] == "application/json"
            self.send(200, self.endpoints[self.path[1:]](json.loads(body) if is_json else {"inputs": body}))
        except Exception as error:
            self.send(400, {"error": str(error), "kind": type(error).__name__})

    def send(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    sys.modules["spectralgpt_hf"] = None
    Handler.endpoints = {folder.name: load(folder) for folder in Path(sys.argv[1]).iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
