"""The demo: a Gradio page for pretrained and fine-tuned checkpoints. It serves several visitors, without network."""

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any

from ..assets import CHECKPOINT, GALLERY, SAMPLE, find_task_checkpoints
from ..modeling.untrusted import restrict_gdal


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The demo needs gradio: `pip install spectralgpt-hf[serve]`.") from error
from gradio import processing_utils, route_utils
from gradio.exceptions import InvalidPathError
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware

from . import page
from .actions import Actions
from .composites import find_composites, labelled
from .gallery import EXAMPLES, FIRST, thumbnail_css
from .gate import MAX_WAITING, Gate, visitor_of
from .style import CSS, JS, theme
from .tabs import AT_ONCE, QUIET, TASK_TABS, Shared, embeddings_tab, in_page, reconstruct_tab, shown_picture, state
from .tasks import Models
from .uploads import MAX_BYTES


# Files are deleted after so many seconds.
DELETE_AFTER, DELETE_EVERY = 3600, 600
MAX_PEOPLE = 32
# Of masking, before the visitor changes them: share in percent, what is masked together, and seed.
DEFAULTS = (90, next(iter(page.MASKINGS)), 0)


@contextmanager
def serve(models: Models, host: str | None = None, port: int | None = None, in_browser: bool = False) -> Iterator[str]:
    """Serve the page until the context ends. Its files are removed then.

    Args:
        models: The models of the page.
        host: Address to listen on: 127.0.0.1, or `GRADIO_SERVER_NAME`.
        port: 7860 or the next that is free, or `GRADIO_SERVER_PORT`.
        in_browser: Whether to open it in a browser.

    Yields:
        Its URL.

    Raises:
        OSError: If the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="spectralgpt-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # uvicorn trusts proxies on this machine by default, but not every one of them removes what visitors forge.
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
        _forbid_downloads()
        _hide_folders()
        _take_one_file()
        _wait_for_uploads_in_silence()
        act = Actions(models)
        demo = build(models, act)
        try:
            _, url, _ = demo.launch(
                server_name=host,
                server_port=port,
                inbrowser=in_browser,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=MAX_BYTES,
                state_session_capacity=MAX_PEOPLE,
                share=False,
                ssr_mode=False,
                enable_monitoring=False,
                footer_links=[],
                theme=theme(),
                css=CSS + thumbnail_css(),
                js=JS,
                allowed_paths=[str(SAMPLE), str(GALLERY)],
                app_kwargs={"middleware": [Middleware(Gate, folder=Path(folder), waiting=partial(_waiting, demo))]},
                run_history=False,
                show_error=True,
            )
            if models.has_examples:
                threading.Thread(target=act.warm, args=DEFAULTS, daemon=True).start()
            yield url
        finally:
            demo.close()


def run(
    checkpoint: str | Path = CHECKPOINT,
    *,
    classification: str | Path | None = None,
    segmentation: str | Path | None = None,
    change: str | Path | None = None,
    revisions: Mapping[str, str] | None = None,
    host: str | None = None,
    port: int | None = None,
    in_browser: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> None:
    """Serve the page until interrupted, in a process of its own: GDAL keeps only what the page needs.

    Args:
        checkpoint: Pretrained, for reconstruction and embeddings: folder, or name on the Hub.
        classification, segmentation, change: Fine-tuned to these tasks. By default the embedded ones; a task for which
            there is none has no tab.
        revisions: As in `Models`.
        host, port, in_browser: As in `serve`.
        report: Called with the URL.

    Raises:
        ValueError: If a checkpoint is one of another task.
        OSError: If a checkpoint is not found, or the port is taken.
        RuntimeError: If this process has used GDAL before.
    """
    restrict_gdal()
    chosen = find_task_checkpoints(classification=classification, segmentation=segmentation, change=change)
    models = Models(checkpoint, **chosen, revisions=revisions)
    with serve(models, host, port, in_browser) as url:
        report(url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            report("Stopped.")


def build(models: Models, act: Actions) -> gr.Blocks:
    """Lay out the page, and say what happens on which click."""
    with gr.Blocks(title="SpectralGPT", analytics_enabled=False, delete_cache=(DELETE_EVERY, DELETE_AFTER)) as demo:
        gr.HTML(page.title(models), elem_id="title")
        with gr.Row(elem_id="examples", visible=models.has_examples):
            # Two dates are of use to a model of change.
            offered = EXAMPLES if models.has_examples else ()
            shown = [example for example in offered if not example.after or "change" in models.pipelines]
            buttons = {
                example: gr.Button(example.label, elem_id=f"example-{example.name}", min_width=116) for example in shown
            }
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=330, elem_id="scene"):
                file = gr.File(label=f"GeoTIFF of {models.sensor}, all bands", elem_id="file", height=150)
                match = gr.Checkbox(label="Match bands of other sensors by wavelength", elem_id="match")
                facts = gr.HTML(elem_id="facts")
                with gr.Column(visible=False, elem_id="window") as window:
                    overview = shown_picture(
                        "The whole file: click to move the window", "overview", "The whole file", clickable=True
                    )
                    with gr.Row():
                        corner = [
                            gr.Number(0, precision=0, minimum=0, label=label, min_width=100)
                            for label in ("Window from row", "Window from column")
                        ]
                names = labelled(find_composites(models.real_bands, models.sensor))
                composite = gr.Dropdown(names, value=names[0][1], label="Composite", elem_id="composite")
                image = shown_picture("Click to choose a pixel", "image", "The image in the composite", clickable=True)
                with gr.Row(elem_id="pixel"):
                    row, column = (
                        gr.Number(precision=0, minimum=0, label=label, min_width=100) for label in ("Row", "Column")
                    )
            shared = Shared(act, state(), state(), composite, image, row, column, clickable=[image])
            with gr.Column(scale=8, min_width=560, elem_id="work"), gr.Tabs() as tabs:
                results: list[gr.components.Component] = []
                with gr.Tab("Reconstruct"):
                    reconstruct = reconstruct_tab(shared, results, DEFAULTS)
                task_tabs = []
                for task, (label, add) in TASK_TABS.items():
                    if task in models.pipelines:
                        with gr.Tab(label):
                            task_tabs.append(add(shared, results, tabs))
                with gr.Tab("Embeddings"):
                    embed = embeddings_tab(shared, results)
        gr.HTML(page.about(models), elem_id="about")
        for task, card in models.cards.items():
            with gr.Accordion(f"Model card: {task}", open=False, elem_classes="card"):
                gr.Markdown(card)
        gr.HTML(page.foot(models, MAX_BYTES // 2**20), elem_id="foot")

        known = [shared.upload, shared.pixel, facts, composite, overview, window, *corner, *results]

        def cleared(loaded: Any) -> tuple[Any, ...]:
            """Show a file, and forget what was computed of the one before."""
            part = loaded.overview is not None
            start = loaded.upload.corner if part else (0, 0)
            # A button without a file would still offer the last one.
            empty = [
                gr.DownloadButton(value=None, interactive=False) if isinstance(result, gr.DownloadButton) else None
                for result in results
            ]
            return *loaded, gr.Column(visible=part), *start, *empty

        def load(path: str | None, by_wavelength: bool) -> tuple[Any, ...]:
            return cleared(act.load(path, by_wavelength))

        def move(path: str | None, upload: Any, event: gr.SelectData) -> tuple[Any, ...]:
            return cleared(act.move(path, upload, event))

        def move_to(path: str | None, row: float | None, column: float | None, by_wavelength: bool) -> tuple[Any, ...]:
            return cleared(act.move_to(path, row, column, by_wavelength))

        if models.has_examples:
            demo.load(lambda: str(FIRST.path), outputs=file, **QUIET)
        for example, button in buttons.items():
            named: Any = "sample" if example.path == SAMPLE else False
            button.click(lambda path=str(example.path): path, outputs=file, api_name=named, show_progress="hidden")
        moved = QUIET | {"show_progress_on": image, "show_progress": "full"}
        for event in (
            file.change(in_page(load), [file, match], known, api_name="load", show_progress_on=image),
            match.input(in_page(load), [file, match], known, **moved),
            overview.select(in_page(move), [file, shared.upload], known, **moved),
            *(box.submit(in_page(move_to), [file, *corner, match], known, **moved) for box in corner),
        ):
            shared.look_after(event.success)
            embed(reconstruct(event.success))
            for after_load in task_tabs:
                after_load(event.success)
        shared.connect()
        shared.look_after(composite.input)
    return demo.queue(default_concurrency_limit=AT_ONCE, max_size=2 * MAX_WAITING)


def _forbid_downloads() -> None:
    """Keep Gradio from downloading: it would fetch any URL that a visitor sends instead of an uploaded file."""

    async def refuse(url: str, **options: object) -> str:
        raise ValueError(f"Expected an uploaded file, found the URL {url!r:.100}.")

    processing_utils.async_ssrf_protected_download = refuse  # type: ignore[assignment]


def _hide_folders() -> None:
    """Keep the server's folders out of what Gradio says of a path that a visitor sends instead of an uploaded file."""
    check = getattr(processing_utils._check_allowed, "__wrapped__", processing_utils._check_allowed)

    @wraps(check)
    def run(path: str | Path, check_in_upload_folder: bool) -> None:
        try:
            check(path, check_in_upload_folder)
        except InvalidPathError as error:
            raise InvalidPathError(f"Expected an uploaded file, found the path {str(path)!r:.100}.") from error

    processing_utils._check_allowed = run


def _waiting(demo: gr.Blocks) -> list[str]:
    """Return who sent each request that waits in the queue."""
    queues = demo._queue.event_queue_per_concurrency_id.values()
    return [visitor_of(event.request.scope) for queue in queues for event in queue.queue]


class _OneFile(route_utils.GradioMultiPartParser):
    """Parser of uploads that takes one file: Gradio holds other fields in memory, and forgets files of other names."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.max_files, self.max_fields = 1, 0

    def on_headers_finished(self) -> None:
        """Refuse a part that is not the file."""
        super().on_headers_finished()
        if self._current_part.field_name != "files":
            raise MultiPartException(
                f"Expected a file in the field 'files', found {self._current_part.field_name!r:.100}."
            )


def _take_one_file() -> None:
    """Let Gradio take one file per upload, and nothing else."""
    route_utils.GradioMultiPartParser = _OneFile  # type: ignore[misc]


def _wait_for_uploads_in_silence() -> None:
    """Answer who asks for the progress of an upload that has not begun: the stream is empty then.

    The page asks at the start of each upload. Gradio answers 404, an error in the browser's console, if the upload does
    not begin within 3 seconds, because the machine is busy or because the upload was refused.
    """
    wait = getattr(route_utils.FileUploadProgress.is_tracked, "__wrapped__", route_utils.FileUploadProgress.is_tracked)

    @wraps(wait)
    async def is_tracked(self: route_utils.FileUploadProgress, upload_id: str) -> bool:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wait(self, upload_id), timeout=1)
        return True

    route_utils.FileUploadProgress.is_tracked = is_tracked  # type: ignore[method-assign]
