"""A web server of a folder that answers ranges, which GDAL asks for: `python tests/range_server.py FOLDER`.

For GDAL and pyarrow it is also an object store like S3, whose buckets are the folders in it.

A process of its own: GDAL opens files without letting go of the GIL. It prints its address first.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO


# S3's answer to the list of a folder: it is empty.
NO_OBJECTS = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></ListBucketResult>'


class Handler(SimpleHTTPRequestHandler):
    def send_head(self):
        if "list-type=2" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", str(len(NO_OBJECTS)))
            self.end_headers()
            return BytesIO(NO_OBJECTS)
        asked = self.headers["Range"]
        if not asked:
            return super().send_head()
        try:
            with open(self.translate_path(self.path), "rb") as file:
                content = file.read()
        except OSError:
            return self.send_error(404)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last or len(content)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return BytesIO(part)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=sys.argv[1])) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
