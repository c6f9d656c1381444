"""The common tests of image processors of transformers. What is left out or changed has its reason beside it."""

import unittest

import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from tests.common.fetch import common_tests


pytestmark = pytest.mark.slow

common = common_tests("test_image_processing_common")


class SpectralGPTImageProcessingTester(common.ImageProcessingTester):
    bands = ("B2", "B3", "B4")  # as many as the common images have channels
    patch_size = 4
    num_labels = 5

    def __init__(self, parent, **kwargs):
        sizes = {"min_resolution": 8, "max_resolution": 40, "size": {"height": 16, "width": 16}}
        super().__init__(parent, **sizes, bands=list(self.bands), patch_size=self.patch_size, **kwargs)

    def _get_image_processing_classes(self):
        """Changed: the common tester looks them up by the name of the test's folder."""
        return {"pil": SpectralGPTImageProcessor}

    def prepare_image_inputs(self, *arguments, numpify=False, torchify=False, **kwargs):
        """Changed: our arrays are (bands, height, width), the common ones have their channels last."""
        images = super().prepare_image_inputs(*arguments, numpify=numpify, torchify=torchify, **kwargs)
        return [image.transpose(2, 0, 1) for image in images] if numpify else images


class SpectralGPTImageProcessingTest(
    common.ImageProcessingTestMixin, common.PostProcessSemanticSegmentationTestMixin, unittest.TestCase
):
    image_processor_tester_class = SpectralGPTImageProcessingTester
    test_cast_dtype = True

    def test_call_pil(self):
        """Changed: pictures hold colours for a display, not digital numbers, and are refused."""
        (picture, *_) = self.image_processor_tester.prepare_image_inputs()
        with pytest.raises(ValueError, match="holds colours for a display"):
            SpectralGPTImageProcessor(**self.image_processor_dict)(picture, return_tensors="pt")

    def test_image_processor_from_dict_with_kwargs_has_attributes(self):
        """Changed: there is no `do_convert_rgb`, so another attribute is overridden."""
        for do_pad in (False, True):
            processor = SpectralGPTImageProcessor.from_dict(self.image_processor_dict, do_pad=do_pad)
            assert processor.do_pad == do_pad

    @unittest.skip(
        "passes means by position for a fourth channel; our bands go by name, tested in test_image_processing"
    )
    def test_call_numpy_4_channels(self):
        pass

    @unittest.skip("torchvision is no dependency, and our processor computes with torch alone")
    def test_new_models_require_torchvision_backend(self):
        pass
