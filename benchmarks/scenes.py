"""Rows of scenes: how much longer a map takes than its slowest stage."""

from collections.abc import Callable
from functools import partial
from itertools import count

import torch

from spectralgpt_hf import SpectralGPTForSemanticSegmentation, SpectralGPTImageProcessor
from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.inference.threads import ordered_map, restored_threads
from spectralgpt_hf.modeling.rasters import open_raster
from spectralgpt_hf.modeling.tiling import TileGrid

from .measuring import Part, Setting, Work
from .scene import make_checkpoint, make_scene


OVERLAP = 0.5


def mapping(minimal: bool, setting: Setting) -> Work:
    """`predict_scene`, from opening the scene to the finished COG.

    Its stages alone are the limit: all reads (the decimated one for the statistics, and all pixels once), and a forward
    pass of the model for each tile. By the wall clock the longest counts, because stages overlap; processor time is
    compared with their sum.
    """
    size = 256 if setting.quick else 1024 if minimal else 512
    scene, checkpoint = setting.folder / "scene.tif", setting.folder / "checkpoint"
    make_scene(scene, size)
    make_checkpoint(checkpoint, minimal)
    model = SpectralGPTForSemanticSegmentation.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    grid = TileGrid.cover(size, size, model.config.image_size, OVERLAP, 1, processor.patch_size)
    tiles = len(grid.tops) * len(grid.lefts)
    pixel_values = torch.rand(1, 12, grid.size, grid.size)
    names = (setting.folder / f"map{number}.tif" for number in count())

    def read() -> None:
        processor.measure_statistics(scene)
        with open_raster(scene, processor.bands) as reader:
            for top in range(0, reader.height, 512):
                reader.read((0, top, reader.width, min(512, reader.height - top)))

    @torch.inference_mode()
    def forward(_: int) -> torch.Tensor:
        return model(pixel_values=pixel_values).logits

    def compute() -> None:
        with restored_threads() as cores:
            for _ in ordered_map(forward, range(tiles), cores, 2 * cores):
                pass

    return Work(
        f"map of {size} x {size} px, 12 bands, {tiles} tiles, {'minimal' if minimal else 'embedded'} encoder",
        lambda: predict_scene(model, processor, scene, next(names), overlap=OVERLAP, progress=False),
        [Part(read), Part(compute)],
        amounts={"Mpx": size**2 / 1e6},
        aim=0.85,
        overlaps=True,
    )


ROWS: dict[str, Callable[[Setting], Work]] = {
    "scene-minimal": partial(mapping, True),
    "scene-embedded": partial(mapping, False),
}
