"""LoRA adapters of selector and answerer."""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from viarl.models.settings import Lora

_LANGUAGE = r".*language_model\..*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
# blocks and mergers, Qwen3-VL's for DeepStack too; what cuts a frame into patches is a convolution
_VISION = r".*visual\.(?:blocks|merger|deepstack_merger_list)\..*(?:qkv|proj|linear_fc\d|mlp\.[02])"


def lora_config(lora: Lora, train_vision: bool = False) -> LoraConfig | None:
    """Return adapters, if any, for the linear layers of the language model, but its head, and of a trained tower.

    Without dropout: a resumed training must draw nothing, and the shared-prefix forward must equal the plain one.
    """
    if not lora.enabled:
        return None
    targets = f"(?:{_LANGUAGE}|{_VISION})" if train_vision else _LANGUAGE
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets)


@torch.no_grad()
def merge(model: Any) -> tuple[Any, float]:
    """Add a model's adapters to its weights; return it without them, and the share of their change that is lost.

    That is ||(merged - before) - change|| / ||change|| over all layers. Weights in bfloat16 keep nothing of a change
    below half of their last bit. One layer at a time, to bound memory.
    """
    lost = learnt = 0.0
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            before = layer.get_base_layer().weight.clone()
            change = layer.get_delta_weight("default").float()
            layer.merge()
            kept = layer.get_base_layer().weight.float() - before.float()
            lost += float((kept - change).norm(dtype=torch.float64)) ** 2
            learnt += float(change.norm(dtype=torch.float64)) ** 2
    return model.unload(), (lost / learnt) ** 0.5 if learnt else 0.0
