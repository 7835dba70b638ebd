"""How a model is loaded and asked (keys that the configuration's `selector` and `answerer` share)."""

import importlib.util
from typing import Literal

from viarl.sections import Count, key, section

SHOWN_AT = "<{:.1f} seconds>"  # the words in which Qwen3-VL reads when the next frames are shown
Dtype = Literal["float32", "bfloat16"]


@section
class ModelSettings:
    """How a model is asked."""

    prompt: Literal["short", "paper"] = key("the named prompt text")
    max_new_tokens: Count = key(
        "longest completion or reply", unit="tokens", source="paper: selector 512, answerer 128"
    )
    dtype: Dtype = key("type of the weights as they are asked", default="float32")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = key(
        "auto is flash_attention_2 where installed, on CUDA, for bfloat16 weights", default="sdpa"
    )
    batch_size: Count = key("questions in a forward pass", default=32, counts=False)


@section
class Lora:
    """Adapters on the language model's linear layers in place of full training."""

    enabled: bool = key("adapters in place of full training", default=False, source="ours")
    rank: Count = key("rank of the adapters", default=16)
    alpha: Count = key("scale of the adapters, over their rank", default=32)

    def weights_dtype(self, dtype: Dtype) -> Dtype:
        """Return the type of the weights in a training whose forward runs in `dtype`.

        Full training needs float32: steps of 1e-6 are lost in bfloat16.
        """
        return dtype if self.enabled else "float32"


def flash_obstacle(dtype: str, device: str) -> str:
    """Return why flash-attention 2 cannot be used with weights of a type on a device, "" where it can."""
    if device != "cuda":
        return f"it needs a GPU, and the device is {device}"
    if dtype != "bfloat16":
        return f"it needs weights in bfloat16, and these are {dtype}"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash_attn is not installed (pip install flash-attn)"
    return ""
