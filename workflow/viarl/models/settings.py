"""How a model is loaded and asked (keys of the configuration that `selector` and `answerer` share)."""

import importlib.util
from dataclasses import dataclass


def flash_obstacle(dtype: str, device: str) -> str:
    """Return why flash-attention 2 cannot be used with weights of a type on a device, "" where it can."""
    if device != "cuda":
        return f"it needs a GPU, and the device is {device}"
    if dtype != "bfloat16":
        return f"it needs weights in bfloat16, and these are {dtype}"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash_attn is not installed (pip install flash-attn)"
    return ""


@dataclass(frozen=True)
class ModelSettings:
    """How a model is asked (keys of the configuration's `selector` and `answerer`).

    `prompt` names its text, `max_new_tokens` is the longest reply, `batch_size` counts questions in a forward pass.
    """

    prompt: str
    max_new_tokens: int
    dtype: str = "float32"
    attention: str = "sdpa"
    batch_size: int = 32


@dataclass(frozen=True)
class Lora:
    """Adapters on the language model's linear layers in place of full training."""

    enabled: bool = False
    rank: int = 16
    alpha: int = 32

    def weights_dtype(self, dtype: str) -> str:
        """Return the type of the weights in a training whose forward runs in `dtype`.

        Full training needs float32: steps of 1e-6 are lost in bfloat16.
        """
        return dtype if self.enabled else "float32"
