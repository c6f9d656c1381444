"""Rows of scenes: how much longer a map takes than its slowest stage."""

from collections.abc import Callable
from functools import partial
from itertools import count

from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.modeling.rasters import open_raster
from spectralgpt_hf.modeling.tiling import TileGrid

from .measuring import Part, Setting, Work
from .scene import load, make_checkpoint, make_scene, model_alone


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
    model, processor = load(checkpoint)
    grid = TileGrid.cover(size, size, model.config.image_size, OVERLAP, 1, processor.patch_size)
    tiles = len(grid.tops) * len(grid.lefts)
    names = (setting.folder / f"map{number}.tif" for number in count())

    def read() -> None:
        processor.measure_statistics(scene)
        with open_raster(scene, processor.bands) as reader:
            for top in range(0, reader.height, 512):
                reader.read((0, top, reader.width, min(512, reader.height - top)))

    return Work(
        f"map of {size} x {size} px, 12 bands, {tiles} tiles, {'minimal' if minimal else 'embedded'} encoder",
        lambda: predict_scene(model, processor, scene, next(names), overlap=OVERLAP, progress=False),
        [Part(read), Part(model_alone(model, grid.size, tiles))],
        amounts={"Mpx": size**2 / 1e6},
        aim="85 %",
        overlaps=True,
    )


ROWS: dict[str, Callable[[Setting], Work]] = {
    "scene-minimal": partial(mapping, True),
    "scene-embedded": partial(mapping, False),
}
