"""Qwen2.5-VL, or Qwen3-VL, as this project uses it: one object that encodes, sees, completes and scores."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoProcessor, DynamicCache

from viarl.models.encode import Encoder, Prompt, forward_arguments
from viarl.models.families import attention_for, joined_features, model_class
from viarl.models.files import damage_named, find, settle_template
from viarl.progress import say

PATCHES_A_PASS = 32768  # of one pass through the vision tower; bounds its memory


def resolve_device(device: str) -> torch.device:
    """Return the device; "auto" is CUDA where there is one, else the CPU. Each of several processes has its own GPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(device, int(os.environ["LOCAL_RANK"]))
    return torch.device(device)


class Vlm(Encoder):
    """A model, with adapters or without, and otherwise not wrapped, and its processor; cheap to build."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self._base = model.get_base_model() if hasattr(model, "get_base_model") else model
        super().__init__(self._base, processor)
        known = self.tokenizer.get_vocab()
        marks = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", processor.image_token, processor.video_token)
        # placeholders and marks of images and videos, which a completion must never contain
        self.suppressed = sorted({known[name] for name in marks if name in known})

    @classmethod
    def load(cls, source: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "auto") -> Self:
        """Load a checkpoint (folder, or hub id with or without @revision) in evaluation mode.

        Errors: FileNotFoundError for a folder without weights, ValueError for a damaged one, an unknown dtype, a family
        that does not fit (viarl.models.families), an attention that cannot be, or no chat template.
        """
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype {dtype!r} must be float32, bfloat16 or float16")
        place = resolve_device(device)
        attention = attention_for(attention, dtype, place)
        found = find(source)
        say(f"loading {source} ({dtype}, {attention})")
        with damage_named(found.name):
            kind, processor = model_class(found), AutoProcessor.from_pretrained(found.name, **found.arguments())
        settle_template(processor, found.name)
        with damage_named(found.name):
            # no pickle is loaded, from a hub neither
            how = {"attn_implementation": attention, "use_safetensors": True, **found.arguments()}
            model = kind.from_pretrained(found.name, dtype=getattr(torch, dtype), **how)
        if commit := found.commit():
            say(f"{found.name} is at commit {commit}")
        return cls(model.to(place).eval(), processor)

    @property
    def closing(self) -> list[int]:
        """The ids that end a completion: the tokenizer's, then others of the model's generation_config.

        Qwen2.5-VL names two, <|im_end|> and <|endoftext|>; its tokenizer knows only the first.
        """
        named = self._base.generation_config.eos_token_id
        others = named if isinstance(named, list) else [] if named is None else [named]
        return list(dict.fromkeys([self.tokenizer.eos_token_id, *others]))

    def text(self, completion: torch.Tensor) -> str:
        """Return the text of a completion (T,), without its closing token."""
        tokens = completion.tolist()
        if tokens and tokens[-1] in self.closing:
            tokens = tokens[:-1]
        return str(self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    @torch.no_grad()
    def features(self, videos: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        """Run the vision tower on [(pixels, grid)]; return each video's features on the CPU (viarl.models.families)."""
        pixels = torch.cat([pixels for pixels, _ in videos]).to(self._base.device)
        grids = torch.stack([grid for _, grid in videos]).to(self._base.device)
        output = self._base.model.get_video_features(pixels, grids, return_dict=True)
        return [features.cpu() for features in joined_features(output)]

    def with_features(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Replace pixels by vision features; prompts that share a pixel tensor share its features."""
        unique = {id(p.pixels): (p.pixels, p.grid) for p in prompts if p.features is None and p.pixels is not None}
        if not unique:
            return list(prompts)
        computed = dict(zip(unique, self.features(list(unique.values())), strict=True))
        return [
            replace(p, pixels=None, features=computed[id(p.pixels)]) if id(p.pixels) in computed else p for p in prompts
        ]

    def log_probs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probability of each token of a text behind each prompt, and which are no padding, both (B, T).

        With gradients, in one forward pass; prompts come with features. No closing token is added to a text.
        """
        rows = [torch.tensor(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
        end, device = self.tokenizer.eos_token_id, self._base.device
        ids = pad_sequence(rows, batch_first=True, padding_value=end).to(device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
        positions = torch.tensor([prompt.next_position for prompt in prompts])[:, None] + torch.arange(ids.shape[1])
        arguments = forward_arguments(prompts, device, end)
        logits = self.model(
            input_ids=torch.cat([arguments["input_ids"], ids], 1),
            attention_mask=torch.cat([arguments["attention_mask"], mask], 1),
            position_ids=torch.cat([arguments["position_ids"], positions.expand(3, -1, -1).to(device)], 2),
            mm_encoder_outputs=arguments["mm_encoder_outputs"],
            logits_to_keep=ids.shape[1] + 1,
            use_cache=False,
        ).logits[:, :-1]
        return -cross_entropy(logits.transpose(1, 2), ids, reduction="none"), mask

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        completions: int = 1,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        draws: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Generate `completions` per prompt: prefill each prompt once, expand the cache, decode together.

        `temperature` 0 is greedy. Rows that have ended leave the batch, so the cost follows the live rows. Sampling
        draws one CPU number a row and step, live or not, so a completion depends on its row's place and the generator,
        not on when others end. Where it must not depend on its place either, `draws`, (prompts x completions,
        max_new_tokens) float64 in [0, 1), takes the generator's place.
        Returns: prompts x completions tensors of token ids on the CPU, in order, each with its closing token.
        """
        model, closing = self.model, self.closing
        device = next(model.parameters()).device
        arguments = forward_arguments(self.with_features(prompts), device, closing[0])
        cache = DynamicCache(config=model.config.get_text_config())
        logits = model(**arguments, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        if completions > 1:
            cache.batch_repeat_interleave(completions)
            logits = logits.repeat_interleave(completions, 0)
        total = logits.shape[0]
        live = torch.arange(total, device=device)
        start = torch.tensor([prompt.next_position for prompt in prompts], device=device).repeat_interleave(completions)
        mask = arguments["attention_mask"].repeat_interleave(completions, 0)
        written = torch.zeros((total, max_new_tokens), dtype=torch.long, device=device)
        length = torch.full((total,), max_new_tokens, device=device)
        ends = torch.tensor(closing, device=device)
        for step in range(max_new_tokens):
            scores = logits.float()
            scores[:, self.suppressed] = -torch.inf
            if temperature > 0:
                # inverse transform sampling with double precision, so that a draw is the same on every batch layout
                drawn = torch.rand(total, generator=generator, dtype=torch.float64) if draws is None else draws[:, step]
                uniform = drawn.to(device)[live]
                cumulative = torch.softmax(scores.double() / temperature, -1).cumsum(-1)
                token = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
                token = token.clamp(max=scores.shape[-1] - 1)
            else:
                token = scores.argmax(-1)
            written[live, step] = token
            ended = torch.isin(token, ends)
            length[live[ended]] = step + 1
            if bool(ended.all()) or step + 1 == max_new_tokens:
                break
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
            if bool(ended.any()):
                keep = (~ended).nonzero()[:, 0]
                live, token, mask = live[keep], token[keep], mask[keep]
                cache.batch_select_indices(keep)
            positions = (start[live] + step)[None, :, None].expand(3, -1, 1)
            kept = {"past_key_values": cache, "use_cache": True}
            logits = model(input_ids=token[:, None], attention_mask=mask, position_ids=positions, **kept).logits[:, -1]
        return [row[:count].cpu() for row, count in zip(written, length.tolist(), strict=True)]
