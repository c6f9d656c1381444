# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The state of a file, which changes with its content: size and time, without reading it, wherever it is stored."""

import os
import re
import urllib.request
from collections.abc import Mapping


try:
    from pyarrow import fs
except ImportError:
    fs = None

# Paths of GDAL and rasterio for a URL or an object in S3, also inside of a zip archive (`zip+s3://bucket/key.zip!/...`,
# `/vsizip/{/vsis3/bucket/key.zip}/...`). The signature of a URL follows "?".
_REMOTE = re.compile(
    r"(?P<scheme>https?://|s3://|/vsis3/)(?P<rest>[^}!?]+?)(?P<query>\?[^}!]*)?(?:(?<=\.zip)/.*|[}!].*)?$"
)


def name_of_file(path: str) -> str:
    """Return the file that a path of GDAL leads to: the archive of a zip, a URL without its query, `s3://bucket/key`.

    The query of a URL is left out because it may be a signature, which differs each time.
    """
    if remote := _REMOTE.search(path):
        return ("s3://" if "s3" in remote["scheme"] else remote["scheme"]) + remote["rest"]
    return zipped[1] if (zipped := re.match(r"/vsizip/\{(.*)\}/", path)) else path


def state_of_file(path: str, settings: Mapping[str, str], timeout: float) -> str:
    """Return a text that changes with the content of a file.

    Args:
        path: As GDAL opens it.
        settings: Settings of GDAL, of which those for S3 are used: `AWS_S3_ENDPOINT`, `AWS_NO_SIGN_REQUEST` and so on.
        timeout: Seconds to wait for a server.

    Returns:
        Size and time of a local file or an object in S3; the ETag of a URL, else its time and size. Empty if it is not
        known: for other object stores, for buckets whose requester pays, and without pyarrow.

    Raises:
        OSError: If there is no such URL or object, or its server does not answer.
    """
    name, remote = name_of_file(path), _REMOTE.search(path)
    if remote is None:
        state = os.stat(name) if os.path.exists(name) else None
        return "" if state is None else f"{state.st_size} bytes, {state.st_mtime_ns} ns"
    if name.startswith("s3://"):
        return _state_of_object(remote["rest"], settings, timeout)
    return _state_of_url(name + (remote["query"] or ""), timeout)


def _state_of_url(url: str, timeout: float) -> str:
    # One byte, because links that are signed for GET refuse HEAD.
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        size = answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.headers.get("Content-Length", "")
        return answer.headers.get("ETag") or f"{answer.headers.get('Last-Modified', '')} {size}".strip()


def _state_of_object(key: str, settings: Mapping[str, str], timeout: float) -> str:
    """Return size and time of `bucket/key`, with the server and the credentials that GDAL uses."""
    if fs is None or settings.get("AWS_REQUEST_PAYER"):  # pyarrow cannot state who pays
        return ""
    endpoint = settings.get("AWS_S3_ENDPOINT")
    region = settings.get("AWS_REGION") or settings.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else None)
    store = fs.S3FileSystem(
        access_key=settings.get("AWS_ACCESS_KEY_ID"),
        secret_key=settings.get("AWS_SECRET_ACCESS_KEY"),
        session_token=settings.get("AWS_SESSION_TOKEN"),
        anonymous=_is_set(settings, "AWS_NO_SIGN_REQUEST"),
        region=region or fs.resolve_s3_region(key.partition("/")[0]),
        endpoint_override=endpoint,
        force_virtual_addressing=_is_set(settings, "AWS_VIRTUAL_HOSTING", "YES"),
        scheme="https" if _is_set(settings, "AWS_HTTPS", "YES") else "http",
        connect_timeout=timeout,
        request_timeout=timeout,
    )
    found = store.get_file_info(key)
    if found.type != fs.FileType.File:
        raise FileNotFoundError(f"s3://{key}: no such object.")
    return f"{found.size} bytes, {found.mtime_ns} ns"


def _is_set(settings: Mapping[str, str], name: str, default: str = "NO") -> bool:
    return str(settings.get(name, default)).upper() in ("YES", "TRUE", "ON", "1")
