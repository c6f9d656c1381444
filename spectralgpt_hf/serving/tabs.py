"""The tabs of the page: their components, and which action follows which event."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gradio as gr

from . import page
from .actions import Actions
from .gallery import examples_by_digest
from .tasks import CHANGE, CLASSIFICATION, SEGMENTATION
from .uploads import Upload


# The state of a visitor's page is deleted after so many seconds.
FORGET_AFTER = 1800
AT_ONCE = 2
Event: TypeAlias = Callable[..., Any]
# Options of events that only show results that exist already.
QUIET: dict[str, Any] = {"api_name": False, "show_progress": "hidden"}
# Options of events that run a model. At most `AT_ONCE` run at a time; the others wait in one queue, whose position the
# page shows.
MODEL: dict[str, object] = {"concurrency_id": "model", "concurrency_limit": AT_ONCE, "trigger_mode": "always_last"}


@dataclass(frozen=True)
class Shared:
    """Components that all tabs share: the actions, the file, the chosen pixel, and the display of the file.

    Attributes:
        clickable: The pictures on which a pixel can be chosen.
        after_choice: Functions that add further actions to the event of choosing a pixel.
    """

    act: Actions
    upload: gr.State
    pixel: gr.State
    composite: gr.Dropdown
    image: gr.Image
    row: gr.Number
    column: gr.Number
    clickable: list[gr.Image] = field(default_factory=list)
    after_choice: list[Callable[[Event], object]] = field(default_factory=list)

    def look_after(self, event: Event) -> object:
        """Show the file after an event."""
        inputs, outputs = [self.upload, self.pixel, self.composite], [self.image, self.row, self.column]
        return event(in_page(self.act.look), inputs, outputs, **QUIET)

    def connect(self) -> None:
        """Choose a pixel by a click on a picture, or by its row and column; mark it, and let the tabs follow."""
        inputs = [self.upload, self.row, self.column]
        for chosen in (
            *(picture.select(in_page(self.act.choose), self.upload, self.pixel, **QUIET) for picture in self.clickable),
            *(box.submit(in_page(self.act.choose_at), inputs, self.pixel, **QUIET) for box in (self.row, self.column)),
        ):
            self.look_after(chosen.success)
            for follow in self.after_choice:
                follow(chosen.success)


def reconstruct_tab(shared: Shared, results: list[Any], defaults: tuple[int, str, int]) -> Callable[[Event], Event]:
    """Return what starts a reconstruction after an event, and returns what follows that."""
    act, result = shared.act, state()
    share, kind, first_seed = defaults
    with gr.Row():
        masked = gr.Slider(
            10, 95, share, step=5, label="Share to mask, %", elem_id="masked", buttons=[], scale=2, min_width=180
        )
        masking = gr.Radio(
            list(page.MASKINGS), value=kind, label="What is masked together", elem_id="masking", scale=3, min_width=250
        )
        seed = gr.Number(first_seed, precision=0, minimum=0, label="Seed", min_width=80, scale=0, elem_id="seed")
    with gr.Row():
        seen = shown_picture(
            "Visible to the model (grey: masked)",
            "seen",
            "What of the image the model saw",
            clickable=True,
        )
        made = compared("Original | reconstruction", ("Original", "Reconstruction"), "reconstructed")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300, elem_classes="figure"):
            gr.HTML(page.caption("Reflectance of the chosen pixel; dashed: reconstructed; full dots: visible bands"))
            spectrum = gr.HTML(elem_id="spectrum")
        with gr.Column(scale=2, min_width=240, elem_classes="figure"):
            gr.HTML(page.caption("How well the masked pixels are reconstructed"))
            scores = gr.HTML(elem_id="scores")
    save = _download("Download the reconstructed image, all bands (GeoTIFF)", "save-reconstruction")
    results += [result, seen, made, spectrum, scores, save]

    def look(event: Event) -> Any:
        inputs = [shared.upload, result, shared.composite]
        return event(in_page(act.look_at_reconstruction), inputs, [seen, made], **QUIET)

    def draw(event: Event) -> object:
        return event(in_page(act.spectrum), [shared.upload, result, shared.pixel], spectrum, **QUIET)

    def reconstruct(event: Event) -> Event:
        inputs, progress = [shared.upload, masked, masking, seed], [made, scores]
        done = event(
            in_page(act.reconstruct),
            inputs,
            [result, scores],
            api_name="reconstruct",
            show_progress_on=progress,
            **MODEL,
        )
        draw(done.success)
        look(done.success).then(
            act.save_reconstruction, [shared.upload, result], save, **QUIET | {"api_name": "save_reconstruction"}
        )
        return done.then

    for change in (masked.release, masking.input, seed.submit):
        reconstruct(change)
    shared.clickable.append(seen)
    shared.after_choice.append(draw)
    look(shared.composite.input)
    return reconstruct


def _classify_tab(shared: Shared, results: list[object], tabs: gr.Tabs) -> Callable[[Event], None]:
    with gr.Row(equal_height=False):
        chip = shown_picture(
            "The chip around the chosen pixel, of the model's own size", "chip", "The image with the chip's outline"
        )
        with gr.Column(min_width=240, elem_classes="figure"):
            gr.HTML(page.caption("Scores of the classes"))
            labels = gr.Label(show_label=False, num_top_classes=8, elem_id="labels")
    results += [chip, labels]
    inputs = [shared.upload, shared.pixel, shared.composite]

    def classify(event: Event) -> None:
        event(in_page(shared.act.classify), inputs, [labels, chip], api_name="classify", **MODEL)

    def follow(event: Event) -> None:
        event(_without_message(shared.act.classify, 2), inputs, [labels, chip], **QUIET | MODEL)

    shared.after_choice.append(follow)
    return classify


def _segment_tab(shared: Shared, results: list[object], tabs: gr.Tabs) -> Callable[[Event], None]:
    act, classes, is_open = shared.act, state(), gr.State(False)
    with gr.Row(equal_height=False):
        over = compared("Image | classes", ("Image", "Classes"), "classes", scale=3)
        with gr.Column(scale=2, min_width=240, elem_classes="figure"):
            gr.HTML(page.caption("Classes, with their share and area"))
            legend = gr.HTML(elem_id="legend")
            run = gr.Button("Map classes", variant="primary", size="md", elem_id="segment")
    save = _download("Download the map (GeoTIFF)", "save-classes")
    results += [classes, over, legend, save]
    inputs, outputs = [shared.upload, shared.composite], [classes, over, legend]

    def segment_once(upload: Upload | None, composite: str, known: object, is_open: bool) -> object:
        wanted = upload is not None and known is None and is_open
        return act.segment(upload, composite) if wanted else (gr.skip(),) * len(outputs)

    def segment(event: Event, action: Callable[..., object], more: Sequence[object], api_name: object) -> None:
        done = event(in_page(action), [*inputs, *more], outputs, api_name=api_name, show_progress_on=over, **MODEL)
        done.success(act.save_classes, [shared.upload, classes], save, **QUIET | {"api_name": "save_classes"})

    def segment_if_open(event: Event) -> None:
        segment(event, segment_once, [classes, is_open], False)

    def selected(event: gr.SelectData) -> bool:
        return event.value == TASK_TABS[SEGMENTATION][0]

    segment(run.click, act.segment, [], "segment")
    segment_if_open(tabs.select(selected, None, is_open, **QUIET).then)
    shared.composite.input(in_page(act.look_at_classes), [shared.upload, classes, shared.composite], over, **QUIET)
    return segment_if_open


def _change_tab(shared: Shared, results: list[Any], tabs: gr.Tabs) -> Callable[[Event], None]:
    act, second, changed = shared.act, state(), state()
    with gr.Row(equal_height=False):
        with gr.Column(min_width=240):
            file = gr.File(label="Second date, on the same grid", elem_id="second-file", height=150)
            facts = gr.HTML(elem_id="second-facts")
        with gr.Column(min_width=240):
            threshold = gr.Slider(
                0.05, 0.95, 0.5, step=0.05, label="Changed from a probability of", buttons=[], elem_id="threshold"
            )
            gr.HTML(page.caption("Upload a second date, or take the example “Two dates” above."), elem_id="change-hint")
            summary = gr.HTML(elem_id="change-summary")
    with gr.Row(equal_height=False):
        both = compared("First date | second date", ("First date", "Second date"), "dates")
        picture = shown_picture("Change, over the second date", "change", "Change, over the second date")
    save = _download("Download the map (GeoTIFF)", "save-change")
    results += [second, changed, file, facts, both, summary, save, picture]
    shown = [second, facts, both]

    def load_pair(upload: Upload | None, composite: str) -> tuple[object, ...]:
        """Load the second date of an example."""
        example = upload and examples_by_digest().get(upload.digest)
        if not example or not example.after:
            return (gr.skip(),) * (1 + len(shown))
        return str(example.after), *act.load_second(str(example.after), upload, composite)

    def compare_if_known(*values: Any) -> object:
        return act.compare(*values) if values[1] is not None else (gr.skip(),) * 3

    def compare(event: Event, action: Callable[..., object], api_name: object) -> None:
        inputs = [shared.upload, second, threshold, shared.composite]
        outputs = [changed, picture, summary]
        done = event(in_page(action), inputs, outputs, api_name=api_name, show_progress_on=picture, **MODEL)
        done.success(act.save_change, [shared.upload, changed], save, **QUIET | {"api_name": "save_change"})

    loaded = file.upload(
        in_page(act.load_second), [file, shared.upload, shared.composite], shown, api_name="load_second"
    )
    compare(loaded.success, compare_if_known, False)
    compare(threshold.release, act.compare, "compare")
    shared.composite.input(in_page(act.look_at_both), [shared.upload, second, shared.composite], both, **QUIET)

    def after_load(event: Event) -> None:
        paired = event(in_page(load_pair), [shared.upload, shared.composite], [file, *shown], **QUIET)
        compare(paired.success, compare_if_known, False)

    return after_load


def embeddings_tab(shared: Shared, results: list[Any]) -> Callable[[Event], None]:
    """Return what computes features after an event: when a file is loaded, so that clicks are answered at once."""
    act, features = shared.act, state()
    with gr.Row():
        components = shown_picture(
            "Three main components, as red, green and blue",
            "components",
            "The features' three main components as colours",
            clickable=True,
        )
        similar = shown_picture(
            "Similar to the chosen pixel", "similar", "Similarity of each position to the chosen pixel", clickable=True
        )
    legend = gr.HTML(elem_id="similar-legend")
    save = _download("Download the features, one band each (GeoTIFF)", "save-features")
    results += [features, components, similar, legend, save]

    def look(event: Event) -> Any:
        inputs = [shared.upload, features, shared.pixel]
        return event(in_page(act.look_for_similar), inputs, [similar, legend], **QUIET)

    def embed(event: Event) -> None:
        done = event(
            in_page(act.embed),
            shared.upload,
            [features, components],
            api_name="embed",
            show_progress_on=[components, similar],
            **MODEL,
        )
        look(done.success).then(
            act.save_features, [shared.upload, features], save, **QUIET | {"api_name": "save_features"}
        )

    shared.clickable.extend([components, similar])
    shared.after_choice.append(look)
    return embed


TASK_TABS = {
    CLASSIFICATION: ("Classify", _classify_tab),
    SEGMENTATION: ("Segment", _segment_tab),
    CHANGE: ("Change", _change_tab),
}
"""Title of each tab, and the function that adds its components and returns its actions after a file is loaded."""


def state() -> gr.State:
    """Return a value of one visitor's page, which is deleted after `FORGET_AFTER` seconds."""
    return gr.State(time_to_live=FORGET_AFTER)


def shown_picture(label: str, name: str, alt_text: str, clickable: bool = False) -> gr.Image:
    """Add a picture with a caption above it, where the caption covers no pixels."""
    with gr.Column(min_width=240, elem_classes="figure"):
        gr.HTML(page.caption(label))
        return gr.Image(
            show_label=False,
            elem_id=name,
            elem_classes=["picture", "clickable"] if clickable else "picture",
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            alt_text=alt_text,
        )


def compared(label: str, names: tuple[str, str], elem_id: str, scale: int = 1) -> gr.ImageSlider:
    """Add two pictures with a slider between them, and the caption above."""
    with gr.Column(scale=scale, min_width=240, elem_classes="figure"):
        gr.HTML(page.caption(label, names))
        return gr.ImageSlider(
            show_label=False,
            elem_id=elem_id,
            elem_classes=["picture", "compare"],
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            max_height=1024,
        )


def in_page(action: Callable[..., object]) -> Callable[..., object]:
    """Let an action show what was wrong with its input as a message in the page."""

    @functools.wraps(action)
    def run(*inputs: object) -> object:
        try:
            return action(*inputs)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(str(error), duration=15, title="This does not work", print_exception=False) from error

    return run


def _without_message(action: Callable[..., object], outputs: int) -> Callable[..., object]:
    """Let an action that follows every click leave the page as it is where its input does not fit."""

    @functools.wraps(action)
    def run(*inputs: object) -> object:
        try:
            return action(*inputs)
        except ValueError:
            return (None,) * outputs

    return run


def _download(label: str, name: str) -> gr.DownloadButton:
    return gr.DownloadButton(label, size="sm", elem_id=name, interactive=False)
