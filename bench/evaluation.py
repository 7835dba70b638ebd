"""What the evaluation's answering path gains over asking one question at a time.

Workload: generated needle videos with several questions each, shown with the frames of uniform, five random and oracle
selection; an untrained answerer of the stand-ins' size. Timed in turn on one thread, with the same frame cache: our
`Answerer` (batches, each frame decoded and encoded once, equal requests asked once), and decoding, vision tower and
generation with batch 1, as the authors' scripts do. The gain counts only if the replies of both are the same.
"""

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from viarl.answer.answerer import Answerer, Request
from viarl.answer.asking import answerer_messages
from viarl.answer.letter import extract_letter
from viarl.datasets.needle import make_set
from viarl.datasets.needle_render import encode, render
from viarl.evaluate.selectors import Sources, choose
from viarl.files import sha256_file, write_json
from viarl.items import Item, Video
from viarl.models.vlm import Vlm
from viarl.stand_ins.architecture import Size, build_vlm
from viarl.stand_ins.corpus import TEMPLATE, stand_in_tokenizer
from viarl.video.cache import FrameCache
from viarl.video.settings import CacheSettings
from viarl.video.writer import cache_video, manifest_record

FRAMES = CacheSettings(candidates=32, selector_pixels=28, answerer_pixels=56)
SELECTED = 4
SELECTORS = ("uniform", "random", "oracle")
DRAWS = 5
NEW_TOKENS = 4  # as long as the trained stand-in's replies
BATCH = 64


def _needle(folder: Path, videos: int, questions: int) -> tuple[FrameCache, list[Item]]:
    """Generate and cache needle videos with `questions` questions each."""
    scenes, items = make_set(0, "validation", videos, questions)
    entries = {}
    for scene in scenes:
        path = folder / f"{scene.id}.mp4"
        encode(render(scene), path, scene.quality)
        video = Video(scene.id, str(path), path.stat().st_size, sha256_file(path))
        entries[scene.id] = cache_video(video, folder / "frames", FRAMES, 60.0)
    manifest = folder / "frames" / "0.json"
    write_json(manifest, manifest_record(0, FRAMES, entries, {}))
    return FrameCache([manifest]), items


def _by_itself(vlm: Vlm, cache: FrameCache, request: Request) -> str:
    """Return the reply's text to one request."""
    item = request.item
    pixels, grid = vlm.pixels(cache.answerer_frames(item.video, request.frames))
    prompt = vlm.prompt(answerer_messages(TEMPLATE, item.question, item.options, True), pixels, grid)
    text = vlm.text(vlm.complete([prompt], max_new_tokens=NEW_TOKENS)[0])
    extract_letter(text, item.options)
    return text


def measure(folder: Path, videos: int = 24, questions: int = 4, single: int = 64, rounds: int = 3) -> dict[str, Any]:
    """Measure both ways on `videos` videos written into `folder`; one at a time on `single` of the requests.

    `speedup` is questions per second of our path / one at a time (medians over `rounds`); the rest explains it.
    """
    torch.manual_seed(0)
    cache, items = _needle(folder, videos, questions)
    vlm = build_vlm(stand_in_tokenizer(FRAMES.candidates), Size())
    vlm.model.eval()
    chosen = choose(items, Sources(cache, {}), SELECTORS, SELECTED, DRAWS)
    requests = [Request(choice.item, choice.indices) for choice in chosen]
    sample = requests[:: max(1, len(requests) // single)][:single]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, plain, same, asked = [], [], [], 0
    try:
        for _ in range(rounds):
            answerer = Answerer(vlm, cache, TEMPLATE, NEW_TOKENS, BATCH)  # remembers nothing yet
            start = time.perf_counter()
            replies = dict(zip(requests, answerer.answer(requests), strict=True))
            ours.append(len(requests) / (time.perf_counter() - start))
            asked = answerer.asked
            start = time.perf_counter()
            texts = [_by_itself(vlm, cache, request) for request in sample]
            plain.append(len(sample) / (time.perf_counter() - start))
            same += [replies[request].text == text for request, text in zip(sample, texts, strict=True)]
    finally:
        torch.set_num_threads(threads)
    return {
        "speedup": median(ours) / median(plain),
        "questions_per_second": median(ours),
        "one_at_a_time_per_second": median(plain),
        "requests": len(requests),
        "different_requests": asked,
        "same_replies": sum(same) / len(same),
        **{"videos": videos, "questions_per_video": questions, "selectors": list(SELECTORS), "selected": SELECTED},
        **{"batch_size": BATCH, "new_tokens": NEW_TOKENS, "parameters": vlm.model.num_parameters(), "threads": 1},
    }
