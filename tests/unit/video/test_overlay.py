"""Numbers are drawn as the authors draw them, on a copy, and fast enough for every training step."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from viarl.video.overlay import NumberStyle, load_font, number_fits, with_numbers


def by_pillow(frame: np.ndarray, number: int, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """The authors' drawing: bottom right without margin, raised by a third of the text's height."""
    image = Image.fromarray(frame.copy())
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), str(number), font=font)
    y = image.height - (bottom - top) - (bottom - top) / 3
    draw.text((image.width - (right - left), y), str(number), font=font, fill="red")
    return np.asarray(image)


@pytest.mark.parametrize(("height", "width", "pixels"), [(62, 112, 20), (112, 63, 20), (28, 28, 13), (9, 16, 13)])
def test_the_same_pixels_as_pillow(height: int, width: int, pixels: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (128, height, width, 3)).astype(np.uint8)
    before = frames.copy()
    numbered = with_numbers(frames, NumberStyle(pixels))
    expected = [by_pillow(frame, number, load_font(pixels)) for number, frame in enumerate(frames)]
    np.testing.assert_array_equal(numbered, np.stack(expected))
    np.testing.assert_array_equal(frames, before)


def test_numbers_differ_and_are_red_at_the_bottom_right() -> None:
    numbered = with_numbers(np.zeros((32, 28, 28, 3), np.uint8), NumberStyle(13))
    assert len({frame.tobytes() for frame in numbered}) == 32
    assert numbered[..., 1:].max() == 0 and numbered[..., 0].max() == 255
    assert numbered[:, :10].max() == 0 and numbered[8, :, :12].max() == 0


def test_whether_a_number_fits() -> None:
    assert number_fits(127, 62, 112, 20)
    assert number_fits(31, 28, 28, 13)
    assert not number_fits(127, 28, 28, 20)


def test_a_font_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        NumberStyle(0)
