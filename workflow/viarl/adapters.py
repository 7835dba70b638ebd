"""LoRA adapters of selector and answerer."""

from peft import LoraConfig

from viarl.rl.config import Lora

_LANGUAGE = r".*language_model\..*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
_VISION = r".*visual\.blocks\..*\.(?:qkv|proj|gate_proj|up_proj|down_proj|linear_fc\d)"


def lora_config(lora: Lora, train_vision: bool = False) -> LoraConfig:
    """Return adapters for all linear layers of the language model and, if it is trained, of the vision tower.

    Without dropout: a resumed training must draw nothing, and the shared-prefix forward must equal the plain one.
    """
    targets = f"(?:{_LANGUAGE}|{_VISION})" if train_vision else _LANGUAGE
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets)
