"""The CLIP stand-in: a tiny open_clip model, trained from scratch on frames of pretraining videos and their captions.

Like its large relatives it sees one frame at a time, so it knows no time, and reads a text mostly as a bag of words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from viarl.datasets.needle import Scene, draw_question, generator
from viarl.files import atomic_path, write_json, write_text
from viarl.models.clip import CONFIG_FILE, Clip
from viarl.models.files import WEIGHTS
from viarl.models.save import write_hashes
from viarl.stand_ins.films import HELD_OUT_STREAM, Films, film
from viarl.stand_ins.optimise import Optimiser, cosine
from viarl.stand_ins.settings import StandInSettings
from viarl.video.encode import shrink
from viarl.video.format import sample_indices

MEASURED_AT = 4  # most similar frames in which the model card looks for the card in question


@dataclass(frozen=True)
class ClipRecipe:
    """How the CLIP stand-in is trained. `card_share`: share of frames with a card in a batch."""

    videos: int = 300
    held_out: int = 60
    steps: int = 300
    batch: int = 128
    rate: float = 1e-3
    card_share: float = 0.6


def model_config(pixels: int) -> dict[str, object]:
    """Return the open_clip configuration of the stand-in (architecture and preprocessing)."""
    text = {"context_length": 28, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
    vision = {"image_size": pixels, "patch_size": 7, "width": 96, "layers": 3, "head_width": 24}
    mean_std = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    return {
        "model_cfg": {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"size": [pixels, pixels], "interpolation": "bicubic", **mean_std},
    }


def caption(scene: Scene, frame: int, rng: np.random.Generator) -> str:
    """Describe a frame: its card, if one is in view, and the distractors, in a random order."""
    card = scene.visible(frame)
    seen = [f"a {card.colour} card with a {card.shape}"] if card else []
    seen += [f"a {thing.colour} {thing.shape}" for thing in scene.distractors if thing.first <= frame <= thing.last]
    order = rng.permutation(len(seen))
    return " and ".join(seen[place] for place in order) or "nothing"


class Pairs:
    """Frames of films at the model's size, normalised, with captions drawn on demand."""

    def __init__(self, films: Films, pixels: int) -> None:
        self.films = films
        self.indices = [sample_indices(scene.frames, films.cards.shape[1]) for scene in films.scenes]
        frames = films.frames.reshape(-1, *films.frames.shape[2:])
        small = np.stack([shrink(frame, pixels) for frame in frames])
        self.pixels = torch.from_numpy(small).permute(0, 3, 1, 2)  # (V * N, 3, h, w) uint8
        shown = films.cards.reshape(-1) >= 0
        self.with_card, self.without = np.flatnonzero(shown), np.flatnonzero(~shown)

    def draw(self, recipe: ClipRecipe, rng: np.random.Generator) -> tuple[torch.Tensor, list[str]]:
        """Return (B, 3, h, w) float32 pixels and B captions."""
        cards = round(recipe.batch * recipe.card_share)
        chosen = np.concatenate([rng.choice(self.with_card, cards), rng.choice(self.without, recipe.batch - cards)])
        count = self.films.frames.shape[1]
        places = [divmod(row, count) for row in chosen]
        captions = [caption(self.films.scenes[video], int(self.indices[video][place]), rng) for video, place in places]
        return (self.pixels[chosen].float() / 255 - 0.5) / 0.25, captions


def train(
    model: torch.nn.Module, tokenizer: Callable[[list[str]], torch.Tensor], pairs: Pairs, recipe: ClipRecipe, seed: int
) -> None:
    """Train with the symmetric contrastive loss."""
    rng = generator(seed, "clip batches")
    optimiser = Optimiser("CLIP steps", model.parameters(), recipe.rate, recipe.steps, cosine, weight_decay=0.05)
    contrastive = open_clip.ClipLoss()
    for _ in range(recipe.steps):
        pixels, captions = pairs.draw(recipe, rng)
        images, texts, scale = model(pixels, tokenizer(captions))
        optimiser.step(contrastive(images, texts, scale))


def topk_recall(clip: Clip, films: Films, pixels: int, selected: int, seed: int) -> dict[str, float]:
    """Share of questions whose evidence is among the `selected` most similar frames, plain and temporal, and chance."""
    rng = generator(seed, "clip questions")
    hits: dict[str, list[bool]] = {"plain": [], "temporal": []}
    for video, scene in enumerate(films.scenes):
        images = clip.encode_images([shrink(frame, pixels) for frame in films.frames[video]])
        for task in ("none", "before", "after"):
            asked = draw_question(scene, task, rng)
            if asked is not None:
                best = (images @ clip.encode_texts([asked.text])[0]).argsort(descending=True)[:selected]
                hit = bool(np.isin(best.numpy(), films.evidence(video, asked.card)).any())
                hits["plain" if task == "none" else "temporal"].append(hit)
    count = films.frames.shape[1]
    chance = 1 - math.comb(count - 2, selected) / math.comb(count, selected) if count - 2 >= selected else 1.0
    return {**{name: float(np.mean(values)) for name, values in hits.items()}, "chance": chance}


def build(settings: StandInSettings, folder: Path) -> dict[str, float]:
    """Train the stand-in, write its folder (the weights last), and return its measured recall on held-out scenes."""
    recipe = settings.shrunk(ClipRecipe(), "videos", "held_out", "steps")
    pixels, seed = settings.selector_pixels, settings.seed
    write_json(folder / CONFIG_FILE, model_config(pixels))
    torch.manual_seed(seed)
    name = f"local-dir:{folder.resolve()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, load_weights=False)
    tokenizer = open_clip.get_tokenizer(name)
    train(model, tokenizer, Pairs(film(seed, recipe.videos, settings.candidates), pixels), recipe, seed)
    held_out = film(seed, recipe.held_out, settings.candidates, HELD_OUT_STREAM)
    clip = Clip(model.eval(), preprocess, tokenizer, torch.device("cpu"))
    measured = topk_recall(clip, held_out, pixels, MEASURED_AT, seed)
    write_text(folder / "card.md", model_card(settings, recipe, measured))
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)
    write_hashes(folder)
    return measured


def model_card(settings: StandInSettings, recipe: ClipRecipe, measured: dict[str, float]) -> str:
    """Return the model card, Markdown."""
    return f"""# CLIP stand-in

A tiny open_clip model (ViT, {settings.selector_pixels} px; open_clip's own classes and tokenizer), trained from scratch
so that the default run needs no download. It stands where a pretrained CLIP stands in a real run; of no other use.

**Taught:** contrastively, {recipe.steps} steps of {recipe.batch} frames and captions such as "a red ball and a blue
card with a star", from {recipe.videos} generated videos (seed {settings.seed}, stream "pretraining") that are in no
other set. **Not taught:** questions, numbers, time; it sees one frame at a time.

Measured on {recipe.held_out} held-out pretraining scenes: a frame of the card in question is among the
{MEASURED_AT} most similar of {settings.candidates} frames for {measured["plain"]:.1%} of the plain questions and
for {measured["temporal"]:.1%} of those with words of time; by chance for {measured["chance"]:.1%}.
"""
