import pytest
import torch
from torch import nn

from spectralgpt_hf.training.crops import random_crop_weights, random_resized_crop, resample


@pytest.mark.parametrize("size", [1, 3, 24, 25, 64])
def test_a_crop_equals_slicing_and_antialiased_bicubic_resizing(size):
    images = torch.rand(2, 3, 50, 40)
    uniform = torch.tensor([[0.3, 0.4, 0.9, 0.2, 0.9], [0.99, 0.5, 0.1, 0.7, 0.1]])
    crops = random_resized_crop(images, uniform, size)
    for image, numbers, crop in zip(images, uniform, crops):
        area, shape = 2000 * (0.2 + 0.8 * numbers[0]), (3 / 4) * (16 / 9) ** numbers[1]
        height, width = min(50, round(float((area / shape).sqrt()))), min(40, round(float((area * shape).sqrt())))
        top, left = int(numbers[2] * (51 - height)), int(numbers[3] * (41 - width))
        box = image[None, :, top : top + height, left : left + width]
        expected = nn.functional.interpolate(box, (size, size), mode="bicubic", antialias=True)[0]
        expected = expected.flip(-1) if numbers[4] < 0.5 else expected
        torch.testing.assert_close(crop, expected, rtol=0, atol=1e-5)


def test_padding_never_enters_a_crop():
    images = torch.rand(1, 2, 30, 30)
    padded = nn.functional.pad(images, (0, 20, 0, 10), value=1e6)
    uniform = torch.tensor([[0.9, 0.5, 0.99, 0.99, 0.7]])
    crop = random_resized_crop(padded, uniform, 16, extent=torch.tensor([[30, 30]]))
    torch.testing.assert_close(crop, random_resized_crop(images, uniform, 16))


def test_blocks_leave_out_nothing_that_counts():
    images = torch.randint(0, 10_000, (6, 3, 70, 50)).to(torch.uint16)
    extent = torch.tensor([[70, 50], [70, 50], [8, 8], [1, 1], [70, 3], [33, 50]])
    uniform = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    rows, columns = random_crop_weights(uniform, extent, (70, 50), 32)
    whole = rows.matrix[:, None] @ images.float() @ columns.matrix.transpose(1, 2)[:, None]
    torch.testing.assert_close(resample(images, rows, columns), whole, rtol=1e-5, atol=1e-2)
