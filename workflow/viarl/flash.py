"""Whether flash-attention 2 can be used; asked by the configuration's check too, so nothing heavy is imported here."""

import importlib.util


def flash_obstacle(dtype: str, device: str) -> str:
    """Return why flash-attention 2 cannot be used with weights of a type on a device, "" where it can."""
    if device != "cuda":
        return f"it needs a GPU, and the device is {device}"
    if dtype != "bfloat16":
        return f"it needs weights in bfloat16, and these are {dtype}"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash_attn is not installed (pip install flash-attn)"
    return ""
