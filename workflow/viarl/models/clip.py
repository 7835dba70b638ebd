"""open_clip models: from the hub by name, or from a folder, such as the CLIP stand-in's."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.nn.functional import normalize

from viarl.models.clip_weights import clip_problem
from viarl.models.files import damage_named
from viarl.models.vlm import resolve_device

CONFIG_FILE = "open_clip_config.json"


class Clip:
    """Embeds frames and texts into one space; unit length, float32, on the CPU."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any, device: torch.device) -> None:
        self.model, self.preprocess, self.tokenizer, self.device = model, preprocess, tokenizer, device

    @torch.no_grad()
    def encode_images(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Embed images, each (h, w, 3) uint8, with the model's own preprocessing: (B, D)."""
        pixels = torch.stack([self.preprocess(Image.fromarray(image)) for image in images]).to(self.device)
        return normalize(self.model.encode_image(pixels).float(), dim=-1).cpu()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts: (B, D). What exceeds the model's context is cut off at its end."""
        # a mark such as <end_of_text> in a text would end it there
        tokens = self.tokenizer([re.sub(r"<(?=/?\w+>)", "< ", text) for text in texts]).to(self.device)
        return normalize(self.model.encode_text(tokens).float(), dim=-1).cpu()


def load_clip(model: str | Path, pretrained: str | None = None, device: str = "auto") -> Clip:
    """Load an open_clip model in evaluation mode: a folder with its open_clip_config.json, or a name and weights tag.

    Errors: FileNotFoundError for a folder without a model; ValueError for names that do not fit (clip_weights).
    """
    if isinstance(model, Path):
        if not (model / CONFIG_FILE).exists():
            raise FileNotFoundError(f"{model} holds no open_clip model (no {CONFIG_FILE}); run the rule that makes it")
        name = f"local-dir:{model.resolve()}"
    else:
        name = model
        if problem := clip_problem(name, pretrained):
            raise ValueError(problem)
    target = resolve_device(device)
    with damage_named(model):
        loaded, preprocess = open_clip.create_model_from_pretrained(name, pretrained=pretrained, device=target)
    return Clip(loaded.eval(), preprocess, open_clip.get_tokenizer(name), target)
