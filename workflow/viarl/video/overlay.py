"""Frame numbers drawn on the selector's frames, pixel for pixel as the authors draw them, but faster.

Each number's coverage mask is rendered once a frame size and blended with Pillow's own rounding.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


@dataclass(frozen=True)
class NumberStyle:
    """How numbers are drawn: font size in pixels (paper: 20 on frames of 112); red, green, blue in 0..255."""

    pixels: int = 20
    colour: tuple[int, int, int] = (255, 0, 0)

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ValueError(f"the font size of frame numbers must be at least 1 pixel, not {self.pixels}")


@lru_cache(maxsize=8)
def load_font(pixels: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans Bold, the authors' font, from the copy that Matplotlib ships."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"), pixels)


@lru_cache(maxsize=4096)
def number_mask(number: int, height: int, width: int, pixels: int) -> tuple[int, int, np.ndarray]:
    """Return (top, left, coverage): what `number` covers in a frame of height x width, at its bottom right.

    coverage is (h, w, 1) uint16 in 0..255, cropped to the text. Place: ViaRL's annotate_frame_with_pil.
    """
    font = load_font(pixels)
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    left, top, right, bottom = draw.textbbox((0, 0), str(number), font=font)
    x, y = width - (right - left), height - (bottom - top) - (bottom - top) / 3
    draw.text((x, y), str(number), font=font, fill=255)
    box = mask.getbbox() or (0, 0, 0, 0)
    return box[1], box[0], np.asarray(mask.crop(box), np.uint16)[:, :, None]


def draw_number(frame: np.ndarray, number: int, style: NumberStyle) -> None:
    """Draw `number` on `frame`, (H, W, 3) uint8, in place."""
    top, left, cover = number_mask(number, frame.shape[0], frame.shape[1], style.pixels)
    region = frame[top : top + cover.shape[0], left : left + cover.shape[1]]
    # Pillow's rounding of a / 255; the sum stays below 2**16.
    mixed = region * (255 - cover) + np.array(style.colour, np.uint16) * cover + 128
    region[...] = ((mixed >> 8) + mixed) >> 8


def with_numbers(frames: np.ndarray, style: NumberStyle) -> np.ndarray:
    """Return a copy of `frames`, (n, H, W, 3) uint8, with 0 .. n - 1 drawn on them."""
    numbered = frames.copy()
    for number, frame in enumerate(numbered):
        draw_number(frame, number, style)
    return numbered


@lru_cache(maxsize=256)
def number_fits(number: int, height: int, width: int, pixels: int) -> bool:
    """Tell whether all of `number` is inside a frame of height x width pixels when drawn at this font size."""
    left, top, right, bottom = load_font(pixels).getbbox(str(number))
    return right - left <= width and math.ceil((bottom - top) * 4 / 3) <= height
