"""Find the scenes of an archive, from files, folders, patterns, lists, STAC items and item collections."""

import json
import os
import posixpath
import re
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from ..modeling.products import read_folder
from ..modeling.raster_files import Source, is_remote
from ..modeling.stac_assets import is_stac_item
from ..modeling.stac_links import link_assets
from .stac_items import MODEL_LINK


SCENE_SUFFIXES = (".tif", ".tiff", ".jp2", ".zip", ".vrt")
TIMEOUT_SECONDS = 60
ITEM_MEMBERS = ("type", "id", "properties", "stac_version", "links", "assets")


@dataclass(frozen=True)
class ArchiveSource:
    """A scene as text, from which every worker of a cluster can open it.

    Attributes:
        name: Name in messages: the path, the URL without its query (which may hold a signature), or the id of a STAC
            item.
        text: The path or URL, or a STAC item as JSON.
    """

    name: str
    text: str

    @property
    def stem(self) -> str:
        """Name of its result, without a suffix."""
        last = posixpath.basename(self.name.rstrip("/")) or self.name
        return re.sub(r"\.(tiff?|jp2|zip|vrt|json|geojson|SAFE)$", "", last)

    def open(self) -> Source:
        """Return the source for `open_raster`."""
        return json.loads(self.text) if self.text.startswith("{") else self.text


def find_sources(
    sources: str | os.PathLike[str] | Source | Sequence[object], output: Path | None = None
) -> list[ArchiveSource]:
    """Return the scenes of sources, each once.

    Args:
        sources: One or several of: a file, a SAFE product or a folder of bands; a folder that contains them at any
            depth; a pattern (`archive/**/*.tif`); a list (.txt, one source per line, relative to the current folder); a
            URL (`s3://`, `https://`, ...) or a path of GDAL (`/vsis3/`, ...) of a scene; a STAC item or an item
            collection as a file, a URL (which ends with .json or .geojson before its query), parsed JSON, or an object
            of pystac.
        output: Folder of results, absolute. If a source contains this folder, its files are not scenes. The STAC items
            of results are never scenes where a folder is searched.

    Raises:
        FileNotFoundError: If one of them has no scene.
        ValueError: If a STAC file or URL cannot be read.
    """
    listed: Sequence[object] = (
        sources if isinstance(sources, Sequence) and not isinstance(sources, str | bytes) else [sources]
    )
    found: list[ArchiveSource] = []
    for source in listed:
        scenes = list(_expand(source))
        if output is not None and not _lies_in(source, output):
            scenes = [scene for scene in scenes if not _lies_in(scene.text, output)]
        if not scenes:
            raise FileNotFoundError(f"{source}: expected a scene, a folder, pattern or list of scenes, found none.")
        found += scenes
    return list(dict.fromkeys(found))


def check_stems(sources: Iterable[ArchiveSource]) -> None:
    """Refuse scenes whose results would have the same name.

    Raises:
        ValueError: If there are such scenes.
    """
    stems = Counter(source.stem for source in sources)
    twice = [stem for stem, count in stems.items() if count > 1]
    if twice:
        raise ValueError(f"Several scenes are called {twice[0]}, so their results would be one file. Run them apart.")


def _expand(source: Any) -> Iterator[ArchiveSource]:
    if is_stac_item(source) or hasattr(source, "to_dict"):
        yield from _expand_stac(dict(source) if isinstance(source, Mapping) else source.to_dict(), "STAC", "")
        return
    path = os.fspath(source)
    plain = path.split("?")[0]
    if re.match(r"https?://.*\.(geo)?json$", plain):
        yield from _expand_stac(_fetch(path), plain, posixpath.dirname(plain))
    elif is_remote(path):
        yield ArchiveSource(plain, path)
    elif path.endswith(".txt"):
        for line in filter(None, map(str.strip, Path(path).read_text(encoding="utf-8").splitlines())):
            yield from _expand(line)
    else:
        for match in [path] if os.path.exists(path) else sorted(glob(path, recursive=True)):
            yield from _expand_path(Path(os.path.abspath(match)))


def _expand_path(path: Path, inside: bool = False) -> Iterator[ArchiveSource]:
    """Yield the scenes of a file or folder. Files `inside` a folder that are no scenes are skipped."""
    if path.is_dir():
        if _is_scene(path):
            yield ArchiveSource(str(path), str(path))
            return
        for child in sorted(path.iterdir()):
            yield from _expand_path(child, inside=True)
    elif path.suffix.lower() in (".json", ".geojson"):
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            if not inside:
                raise ValueError(f"{path}: expected a STAC item or item collection: {error}.") from error
            return
        if not inside or _is_stac(content):
            yield from _expand_stac(content, str(path), str(path.parent))
    elif not inside or path.suffix.lower() in SCENE_SUFFIXES:
        yield ArchiveSource(str(path), str(path))


def _is_scene(folder: Path) -> bool:
    try:
        read_folder(str(folder))
    except ValueError:  # the folder holds several dates, or no bands
        return folder.suffix == ".SAFE"
    return True


def _is_stac(content: object) -> bool:
    """Return whether parsed JSON holds STAC items of scenes."""
    if not isinstance(content, Mapping):
        return False
    members = content.get("features") or [content]
    if not all(isinstance(item, Mapping) and "stac_version" in item and "assets" in item for item in members):
        return False
    links = [link for item in members for link in item.get("links", ())]
    return all(link.get("rel") != MODEL_LINK for link in links)  # which items of results have


def _expand_stac(content: Any, name: str, folder: str) -> Iterator[ArchiveSource]:
    """Yield the items of an item collection, or a single item. Relative links are relative to `folder`."""
    if not isinstance(content, Mapping) or content.get("type") not in ("Feature", "FeatureCollection"):
        raise ValueError(f"{name}: expected a STAC item or item collection.")
    for item in content["features"] if content["type"] == "FeatureCollection" else [content]:
        used = {
            key: item[key] for key in ("type", "id", "properties", "stac_version", "links", "assets") if key in item
        }
        yield ArchiveSource(str(item.get("id") or name), json.dumps(link_assets(used, folder)))


def _lies_in(path: object, folder: Path) -> bool:
    return isinstance(path, str | os.PathLike) and folder in Path(os.path.abspath(path), "inside").parents


def _fetch(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise ValueError(f"{url.split('?')[0]}: expected a STAC item or item collection: {error}.") from error
