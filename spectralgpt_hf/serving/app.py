"""The demo: a Gradio page around pretrained and fine-tuned checkpoints, for several people at once, without network."""

import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..assets import CHECKPOINT, SAMPLE
from ..modeling.untrusted import restrict_gdal


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The demo needs gradio: `pip install spectralgpt-hf[serve]`.") from error
from gradio import processing_utils, route_utils
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware

from . import page
from .actions import Actions
from .gate import Gate
from .tasks import CHANGE, CLASSIFICATION, SEGMENTATION, Models
from .uploads import MAX_BYTES


# What a person's page knows is forgotten, and files are deleted, after so many seconds.
FORGET_AFTER, DELETE_AFTER, DELETE_EVERY = 1800, 3600, 600
MAX_PEOPLE, AT_ONCE, MAX_WAITING = 32, 2, 64
Event: TypeAlias = Callable[..., Any]
# Of events that only show what is known already.
QUIET: dict[str, Any] = {"api_name": False, "show_progress": "hidden"}


@contextmanager
def serve(models: Models, host: str | None = None, port: int | None = None, in_browser: bool = False) -> Iterator[str]:
    """Serve the page as long as the context lasts; no file of it remains.

    Args:
        models: What it shows.
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
        _take_one_file()
        demo = build(models)
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
                theme=_theme(),
                css=page.CSS,
                allowed_paths=[str(SAMPLE)],
                app_kwargs={"middleware": [Middleware(Gate, folder=Path(folder))]},
                run_history=False,
                show_error=True,
            )
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
        classification, segmentation, change: Fine-tuned to these tasks; without one its tab does not appear.
        revisions: As in `Models`.
        host, port, in_browser: As in `serve`.
        report: Called with the URL.

    Raises:
        ValueError: If a checkpoint is one of another task.
        OSError: If a checkpoint is not found, or the port is taken.
        RuntimeError: If this process has used GDAL before.
    """
    restrict_gdal()
    models = Models(checkpoint, classification, segmentation, change, revisions=revisions)
    with serve(models, host, port, in_browser) as url:
        report(url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            report("Stopped.")


def build(models: Models) -> gr.Blocks:
    """Lay out the page, and say what happens on which click."""
    act = Actions(models)
    with gr.Blocks(title="SpectralGPT", analytics_enabled=False, delete_cache=(DELETE_EVERY, DELETE_AFTER)) as demo:
        gr.HTML(page.TITLE, elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=330, elem_id="scene"):
                file = gr.File(label="Sentinel-2 image: a GeoTIFF with all its bands", elem_id="file", height=150)
                sample = gr.Button("Take the sample", size="sm", elem_id="sample")
                names = list(page.COMPOSITES)
                composite = gr.Dropdown(names, value=names[0], label="Composite", elem_id="composite")
                image = _picture("Click to choose a pixel", "image")
                facts = gr.HTML(elem_id="facts")
            shared = _Shared(act, _state(), _state(), composite, image)
            with gr.Column(scale=8, min_width=560, elem_id="work"), gr.Tabs():
                results: list[gr.components.Component] = []
                with gr.Tab("Reconstruct"):
                    reconstruct = _reconstruct_tab(shared, results)
                for task, (label, tab) in TASK_TABS.items():
                    if task in models.pipelines:
                        with gr.Tab(label):
                            tab(shared, results)
                with gr.Tab("Embeddings"):
                    embed = _embeddings_tab(shared, results)
        gr.HTML(page.about(models), elem_id="about")
        gr.HTML(page.foot(models, MAX_BYTES // 2**20), elem_id="foot")

        def load(path: str | None) -> tuple[Any, ...]:
            return *act.load(path), *[None] * len(results)

        demo.load(lambda: str(SAMPLE), outputs=file, **QUIET)
        sample.click(lambda: str(SAMPLE), outputs=file, api_name="sample", show_progress="hidden")
        loaded = file.change(
            _in_page(load), file, [shared.upload, shared.pixel, facts, composite, *results], api_name="load"
        )
        shared.look_after(loaded.success)
        reconstruct(loaded.success)
        embed(loaded.success)
        shared.look_after(composite.input)
    return demo.queue(default_concurrency_limit=AT_ONCE, max_size=MAX_WAITING)


@dataclass(frozen=True)
class _Shared:
    """What all tabs work with: the actions, the file, the chosen pixel, and how the file is shown."""

    act: Actions
    upload: gr.State
    pixel: gr.State
    composite: gr.Dropdown
    image: gr.Image

    def look_after(self, event: Event) -> Any:
        """Show the file after an event."""
        return event(_in_page(self.act.look), [self.upload, self.pixel, self.composite], self.image, **QUIET)

    def on_click(self, picture: gr.Image) -> Any:
        """Choose a pixel by a click on a picture, and mark it; return what follows that."""
        chosen = picture.select(_in_page(self.act.choose), self.upload, self.pixel, **QUIET)
        return self.look_after(chosen.then).then


def _reconstruct_tab(shared: _Shared, results: list[Any]) -> Callable[[Event], None]:
    """Return what starts a reconstruction after an event."""
    act, result = shared.act, _state()
    with gr.Row():
        masked = gr.Slider(10, 95, 90, step=5, label="Share to mask, %", elem_id="masked", buttons=[])
        masking = gr.Radio(
            list(page.MASKINGS), value=next(iter(page.MASKINGS)), label="What is masked together", scale=1
        )
        seed = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=80, scale=0, elem_id="seed")
    with gr.Row():
        seen, made = _picture("Visible to the model", "seen"), _picture("Reconstruction", "reconstructed")
    with gr.Row(equal_height=False):
        spectra = _picture("Spectrum of the chosen pixel; dots: visible", "spectra", buttons=[], scale=3)
        with gr.Column(scale=2, min_width=240, elem_classes="figure"):
            gr.HTML(page.caption("How well the masked pixels are reconstructed"))
            scores = gr.HTML(elem_id="scores")
    save = _download("Download the reconstructed image, all bands (GeoTIFF)", "save-reconstruction")
    results += [result, seen, made, spectra, scores, save]

    def look(event: Event) -> Any:
        inputs = [shared.upload, result, shared.pixel, shared.composite]
        return event(_in_page(act.look_at_reconstruction), inputs, [seen, made, spectra], **QUIET)

    def reconstruct(event: Event) -> None:
        inputs = [shared.upload, masked, masking, seed]
        done = event(
            _in_page(act.reconstruct),
            inputs,
            [result, scores],
            api_name="reconstruct",
            show_progress_on=[made, scores],
            trigger_mode="always_last",
        )
        look(done.success).then(
            act.save_reconstruction, [shared.upload, result], save, **QUIET | {"api_name": "save_reconstruction"}
        )

    for change in (masked.release, masking.input, seed.submit):
        reconstruct(change)
    for picture in (shared.image, seen, made):
        look(shared.on_click(picture))
    look(shared.composite.input)
    return reconstruct


def _classify_tab(shared: _Shared, results: list[Any]) -> None:
    run = _run("Classify", "classify")
    with gr.Row(equal_height=False):
        chip = _picture("The chip around the chosen pixel, of the model's own size", "chip")
        with gr.Column(min_width=240, elem_classes="figure"):
            gr.HTML(page.caption("Scores"))
            labels = gr.Label(show_label=False, num_top_classes=8, elem_id="labels")
    results += [chip, labels]
    inputs = [shared.upload, shared.pixel, shared.composite]
    run.click(_in_page(shared.act.classify), inputs, [labels, chip], api_name="classify")


def _segment_tab(shared: _Shared, results: list[Any]) -> None:
    run, classes = _run("Map classes", "segment"), _state()
    with gr.Row():
        laid_over, alone = _picture("Over the image", "over"), _picture("Classes", "classes")
    legend = gr.HTML(elem_id="legend")
    save = _download("Download the map (GeoTIFF)", "save-classes")
    results += [classes, laid_over, alone, legend, save]
    inputs, outputs = [shared.upload, shared.composite], [classes, alone, laid_over, legend]
    progress = [laid_over, alone]
    done = run.click(_in_page(shared.act.segment), inputs, outputs, api_name="segment", show_progress_on=progress)
    done.success(shared.act.save_classes, [shared.upload, classes], save, **QUIET | {"api_name": "save_classes"})


def _change_tab(shared: _Shared, results: list[Any]) -> None:
    second, changed = _state(), _state()
    with gr.Row(equal_height=False):
        with gr.Column(min_width=240):
            file = gr.File(label="Second date: a GeoTIFF on the same grid", elem_id="second-file", height=150)
            facts = gr.HTML()
            threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label="Changed from a probability of", buttons=[])
            run = _run("Compare", "compare")
            summary = gr.HTML(elem_id="change-summary")
            save = _download("Download the map (GeoTIFF)", "save-change")
        picture = _picture("Change, over the second date", "change")
    results += [second, changed, file, facts, summary, save, picture]
    shown = [second, facts, picture]
    file.upload(_in_page(shared.act.load_second), [file, shared.composite], shown, api_name="load_second")
    inputs = [shared.upload, second, threshold, shared.composite]
    outputs = [changed, picture, summary]
    done = run.click(_in_page(shared.act.compare), inputs, outputs, api_name="compare", show_progress_on=picture)
    done.success(shared.act.save_change, [shared.upload, changed], save, **QUIET | {"api_name": "save_change"})


def _embeddings_tab(shared: _Shared, results: list[Any]) -> Callable[[Event], None]:
    """Return what computes features after an event: when a file is loaded, so that clicks are answered at once."""
    features = _state()
    with gr.Row():
        components = _picture("Three main components, as red, green and blue", "components")
        similar = _picture("Similar to the chosen pixel", "similar")
    legend = gr.HTML()
    save = _download("Download the features, one band each (GeoTIFF)", "save-features")
    results += [features, components, similar, legend, save]

    def look(event: Event) -> Any:
        inputs = [shared.upload, features, shared.pixel]
        return event(_in_page(shared.act.look_for_similar), inputs, [similar, legend], **QUIET)

    def embed(event: Event) -> None:
        done = event(
            _in_page(shared.act.embed),
            shared.upload,
            [features, components],
            api_name="embed",
            show_progress_on=[components, similar],
            trigger_mode="always_last",
        )
        look(done.success).then(
            shared.act.save_features, [shared.upload, features], save, **QUIET | {"api_name": "save_features"}
        )

    for picture in (shared.image, components, similar):
        look(shared.on_click(picture))
    return embed


TASK_TABS = {
    CLASSIFICATION: ("Classify", _classify_tab),
    SEGMENTATION: ("Segment", _segment_tab),
    CHANGE: ("Change", _change_tab),
}


def _state() -> gr.State:
    return gr.State(time_to_live=FORGET_AFTER)


def _picture(label: str, name: str, buttons: Sequence[Any] = ("fullscreen",), scale: int = 1) -> gr.Image:
    """Add a picture with its caption above, where it hides nothing."""
    with gr.Column(scale=scale, min_width=240, elem_classes="figure"):
        gr.HTML(page.caption(label))
        return gr.Image(
            show_label=False,
            elem_id=name,
            elem_classes="picture",
            format="png",
            interactive=False,
            buttons=list(buttons),
        )


def _run(label: str, name: str) -> gr.Button:
    with gr.Row():
        return gr.Button(label, variant="primary", size="md", scale=0, min_width=200, elem_id=name)


def _download(label: str, name: str) -> gr.DownloadButton:
    return gr.DownloadButton(label, size="sm", elem_id=name, interactive=False)


def _in_page(action: Callable[..., Any]) -> Callable[..., Any]:
    """Let an action show what was wrong with its input as a message in the page."""

    @functools.wraps(action)
    def run(*inputs: Any) -> Any:
        try:
            return action(*inputs)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(str(error), duration=15, title="This does not work", print_exception=False) from error

    return run


def _forbid_downloads() -> None:
    """Let Gradio fetch nothing: it downloads what a visitor names by URL in place of an uploaded file."""

    async def refuse(url: str, **options: object) -> str:
        raise ValueError(f"Expected an uploaded file, found the URL {url!r:.100}.")

    processing_utils.async_ssrf_protected_download = refuse  # type: ignore[assignment]


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


def _theme() -> gr.Theme:
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"]
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"], radius_size="md"
    ).set(
        body_background_fill="#f4f7f7",
        body_background_fill_dark="#10181d",
        body_text_color_subdued="#51636d",
        body_text_color_subdued_dark="#a9b8c0",
        block_border_width="0px",
        block_label_text_size="13px",
        block_padding="0px",
        block_shadow="none",
        block_title_text_color="#51636d",
        block_title_text_size="13px",
        button_secondary_background_fill="#edf2f2",
        button_secondary_background_fill_hover="#e1e9e9",
        button_secondary_text_color="#0f1e26",
        button_secondary_background_fill_dark="#24323a",
        button_secondary_background_fill_hover_dark="#2d3d46",
        button_secondary_text_color_dark="#e6edf0",
        block_background_fill_dark="transparent",
        block_title_text_color_dark="#a9b8c0",
        input_background_fill_dark="#1d2930",
        input_background_fill="#f5f8f8",
        layout_gap="14px",
    )
