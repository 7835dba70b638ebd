"""The sizes of a Qwen2.5-VL, and how many weights follow from them: exact, without the model and without a network.

For the published models the sizes stand here (facts of their config.json); for a folder they come from its config.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viarl.files import read_json


@dataclass(frozen=True)
class Shape:
    """Widths and depths of language model and vision tower."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    tied: bool
    vision_mlp: int = 3420
    vision_hidden: int = 1280
    vision_layers: int = 32
    patch: int = 14
    merge: int = 2
    temporal: int = 2

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    @property
    def kv(self) -> int:
        """Width of the keys of one token in one layer (all key heads)."""
        return self.kv_heads * self.head

    @property
    def text(self) -> int:
        """Weights of the language model: embeddings, layers, head."""
        h, kv = self.hidden, self.kv
        attention = (h * h + h) + 2 * (h * kv + kv) + h * h  # queries, keys and values with biases; output without
        layer = attention + 3 * h * self.mlp + 2 * h
        return self.vocabulary * h * (1 if self.tied else 2) + self.layers * layer + h

    @property
    def vision(self) -> int:
        """Weights of the vision tower with its merger."""
        v, m = self.vision_hidden, self.vision_mlp
        layer = (v * 3 * v + 3 * v) + (v * v + v) + 3 * v * m + 2 * m + v + 2 * v
        wide = v * self.merge**2
        merger = v + (wide * wide + wide) + (wide * self.hidden + self.hidden)
        return 3 * self.temporal * self.patch**2 * v + self.vision_layers * layer + merger

    @property
    def weights(self) -> int:
        """All weights."""
        return self.text + self.vision

    def adapters(self, rank: int, vision: bool = False) -> int:
        """Weights of LoRA adapters of a rank (viarl.models.adapters), on the tower too if `vision`."""
        h, v = self.hidden, self.vision_hidden
        layer = 2 * (h + h) + 2 * (h + self.kv) + 3 * (h + self.mlp)
        block, wide = (v + 3 * v) + (v + v) + 3 * (v + self.vision_mlp), v * self.merge**2
        tower = self.vision_layers * block + (wide + wide) + (wide + h)
        return rank * (self.layers * layer + vision * tower)

    def grid(self, frames: int, width: int, height: int) -> tuple[int, int]:
        """Return (tokens, patches) of a video: sides are rounded to the merged patches, frames to temporal patches."""
        factor = self.patch * self.merge
        rows, columns = (max(1, round(side / factor)) for side in (height, width))
        tokens = -(-frames // self.temporal) * rows * columns
        return tokens, tokens * self.merge**2


PUBLISHED = {  # Qwen/Qwen2.5-VL-…-Instruct
    "3B": Shape(2048, 36, 16, 2, 11008, 151936, True),
    "7B": Shape(3584, 28, 28, 4, 18944, 152064, False),
    "32B": Shape(5120, 64, 40, 8, 27648, 152064, False, vision_mlp=3456),
    "72B": Shape(8192, 80, 64, 8, 29568, 152064, False, vision_mlp=3456),
}
STAND_INS = {  # before they are built (viarl.stand_ins); all but their vocabulary is exact
    role: Shape(128, layers, 4, 2, 384, 500, True, 192, 96, tower, temporal=1)
    for role, layers, tower in (("selector", 3, 1), ("answerer", 4, 2))
}


def from_config(config: dict[str, Any]) -> Shape | None:
    """Return the shape that a config.json says, nested or (as first published) flat; None for another family."""
    if config.get("model_type") != "qwen2_5_vl":
        return None
    text, vision = config.get("text_config") or config, config["vision_config"]
    language = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    tower = (vision[name] for name in ("intermediate_size", "hidden_size", "depth"))
    patches = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    cut = (vision.get(name, usual) for name, usual in patches.items())
    sizes: list[Any] = [*(text[name] for name in language), text["vocab_size"], tied, *tower, *cut]
    return Shape(*sizes)


def shape_of(model: str, role: str = "") -> Shape | None:
    """Return the shape of a folder or hub id (@revision), or None; a folder still to come is the role's stand-in."""
    config = Path(model) / "config.json"
    if config.is_file():
        return from_config(read_json(config))
    if Path(model).name == role:
        return STAND_INS[role]
    for size, shape in PUBLISHED.items():
        if model.partition("@")[0].endswith(f"Qwen2.5-VL-{size}-Instruct"):
            return shape
    return None
