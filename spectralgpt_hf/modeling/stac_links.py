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
"""Links of STAC items, which may be relative to the file or the URL of their item."""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin


def join_href(folder: str, href: str) -> str:
    """Return a link as a path or URL.

    Args:
        folder: Folder, as a path or URL, that relative links are relative to; empty if they stay as they are.
        href: The link.
    """
    is_absolute = re.match(r"/|[a-z][a-z0-9+.\-]+:", href, re.IGNORECASE) is not None
    if is_absolute or not folder:
        return href
    return urljoin(f"{folder}/", href) if "://" in folder else os.path.normpath(os.path.join(folder, href))


def link_assets(item: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return an item whose assets have links that lead from anywhere to their files.

    Args:
        item: The item as parsed JSON. Assets without a link are left out.
        folder: As in `join_href`.
    """
    assets = {
        key: {**asset, "href": join_href(folder, str(asset["href"]))}
        for key, asset in (item.get("assets") or {}).items()
        if isinstance(asset, Mapping) and "href" in asset
    }
    return {**item, "assets": assets}
