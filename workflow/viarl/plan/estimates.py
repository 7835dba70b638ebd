"""What each stage will need: GPU memory, time and disk, estimated from the configuration before anything runs.

Memory is that of one process (one GPU) at its fullest moment, without what CUDA and fragmentation take (allow a tenth);
it was 0.7 to 1 of peaks measured on a CPU. Time is that of the longest job, every completion counted at its longest.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from viarl.models.clip_weights import QUICK
from viarl.plan import formulas as cost
from viarl.plan.shapes import Shape
from viarl.plan.sizes import Sizes

GB = 1e9
TEXT_TOKENS = {"paper": 260, "short": 40}  # of a prompt, beside its video
ANSWER_TOKENS = 4  # of a usual reply of the answerer
FOOTAGE, NEEDLE = (1920, 1080), (56, 56)  # form of the videos, needle's or others'
IMAGE_TOWERS = {"ViT-B-32": (88e6, 50), "ViT-L-14": (304e6, 257)}  # CLIP's weights, and tokens of a frame
DECODE_S = {"needle": 0.05}  # CPU seconds to decode a video and keep 128 frames; other footage (1080p, 2 minutes): 12


@dataclass(frozen=True)
class Estimate:
    """Of a stage's jobs: `gpu` bytes by part, of one process; `seconds` and `host` bytes of a job; `disk` of all.

    No `jobs`: they are made on request. `counted`: the sizes of the sets that `seconds` depends on are known.
    """

    stage: str
    jobs: int
    gpu: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    disk: float = 0.0
    host: float = 2 * GB
    processes: int = 1
    counted: bool = True

    @property
    def gpu_bytes(self) -> float:
        """The peak of one process."""
        return sum(self.gpu.values())


class Plan:
    """Estimates of all stages. `sizes` has "local" too where answers on own videos may be asked for."""

    def __init__(
        self, config: Mapping[str, Any], selector: Shape, answerer: Shape, sizes: Sizes, training_set: str
    ) -> None:
        self.config, self.frames, self.gpu = config, config["frames"], cost.Gpu(**config["plan"])
        self.selector, self.answerer, self.training_set = selector, answerer, training_set
        self.sets, self.unknown = sizes.of, sizes.unknown
        self.served = config["answerer"].get("backend") == "endpoint"
        launcher = config.get("launcher") or {}
        self.processes = int(launcher.get("processes") or 1)
        config_file = str(launcher.get("config")).lower()
        self.fsdp = "fsdp" in config_file
        self.shards = self.processes if self.fsdp or "zero" in config_file or "deepspeed" in config_file else 1
        self.cycles = config["max_cycles"] if config["cycles"] == "auto" else config["cycles"]
        self.tunings = self.cycles if config["answerer"]["tuning"]["steps"] else 0
        self.form = NEEDLE if config["dataset"] == "needle" else FOOTAGE
        small, large = (cost.fitted(self.form, self.frames[name]) for name in ("selector_pixels", "answerer_pixels"))
        self.video_tokens, self.patches = selector.grid(self.frames["candidates"], *small)
        self.prompt = self.video_tokens + TEXT_TOKENS[config["selector"]["prompt"]]
        shown, self.shown_patches = answerer.grid(self.frames["selected"], *large)
        self.question = shown + TEXT_TOKENS[config["answerer"]["prompt"]] // 2

    def estimates(self) -> list[Estimate]:
        """Return the estimates in the order in which stages run."""
        found = [self.cache_frames(), self.score_frames()]
        if self.cycles:
            found.append(self.filter_guessable())
            if self.config["selector"]["start"]["labels"] != "none":
                found.append(self.initialise_selector())
            found.append(self.train_selector())
        found.append(self.select_frames())
        if self.tunings:
            found.append(self.tune_answerer())
        return [*found, self.evaluate(), self.answer_questions()]

    def _used(self) -> dict[str, tuple[int, int]]:
        names = [self.training_set] * bool(self.cycles) + list(self.config["benchmarks"])
        return {name: self.sets[name] for name in dict.fromkeys(names)}

    def _asked(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return the sets of these names, and the user's own videos, which `results/answers.csv` asks for."""
        return {name: self.sets[name] for name in dict.fromkeys([*names, *({"local"} & self.sets.keys())])}

    def _shards(self, name: str) -> int:
        return int(self.frames["shards"]["training" if name == self.training_set else "benchmark"])

    def _shard(self) -> int:
        """Return the videos of the largest shard."""
        return max(math.ceil(videos / self._shards(name)) for name, (videos, _) in self._asked(self._used()).items())

    def _counted(self, names: Iterable[str]) -> bool:
        return not set(names) & set(self.unknown)

    def _every_shard(self, stage: str, gpu: Mapping[str, float], seconds: float, disk: float = 0.0) -> Estimate:
        jobs, counted = sum(map(self._shards, self._used())), self._counted(self._asked(self._used()))
        return Estimate(stage, jobs, gpu, seconds, disk, counted=counted)

    def cache_frames(self) -> Estimate:
        """CPU alone: seconds a video as measured on real footage, shared by the shards."""
        videos = sum(count for count, _ in self._used().values())
        each = DECODE_S.get(self.config["dataset"], 12.0) * self.frames["candidates"] / 128
        disk = videos * cost.video_bytes(self.frames, self.form)
        return self._every_shard("cache_frames", {}, each * self._shard(), disk)

    def score_frames(self) -> Estimate:
        """CLIP's image tower on every candidate frame: 2 operations a weight and token."""
        weights, tokens = IMAGE_TOWERS.get(self.config["clip"]["model"].removesuffix(QUICK), (0, 0))
        seconds = self.gpu.compute(2.0 * weights * tokens * self._shard() * self.frames["candidates"])
        return self._every_shard("score_frames", {"weights and batch": 8.0 * weights + GB}, seconds)

    def _answering(self, requests: float) -> float:
        """Seconds of the answerer for that many different requests."""
        shape, batch, dtype = self.answerer, self.config["answerer"]["batch_size"], self.config["answerer"]["dtype"]
        flops = cost.forward_flops(shape, self.question, self.question**2 / 2)
        flops += cost.vision_flops(shape, self.shown_patches)
        decode = cost.decode_seconds(self.gpu, shape, batch, self.question, ANSWER_TOKENS, dtype)
        return self.gpu.compute(requests * flops) + requests / batch * decode

    def _by_answerer(self, stage: str, jobs: int, requests: float, batch: int, sets: Iterable[str]) -> Estimate:
        """Return the estimate of jobs that ask the answerer in batches, the longest one `requests` on these sets."""
        memory = self._answerer_memory(batch)
        seconds, counted = self._answering(requests), self._counted(sets)
        return Estimate(stage, jobs, memory, seconds, host=_host(memory), counted=counted)

    def _answerer_memory(self, batch: int) -> dict[str, float]:
        """Return what asking the answerer takes on the stage's own GPU: nothing where a server has it."""
        if self.served:
            return {}
        return _asking(self.answerer, self.config["answerer"], batch, self.question, self.shown_patches)

    def filter_guessable(self) -> Estimate:
        """The answerer, 3 (contrast), 4 (blind) or `draws` (variance) requests a training question; and the survey."""
        filter_, (_, questions) = self.config["filter"], self.sets[self.training_set]
        each = {"none": 0, "contrast": 3, "blind": 4, "variance": filter_["draws"]}[filter_["rule"]]
        requests = each * questions + min(200, questions) * (7 + filter_["draws"])
        batch = self.config["answerer"]["batch_size"]
        return self._by_answerer("filter_guessable", 1, requests, batch, [self.training_set])

    def evaluate(self) -> Estimate:
        """The answerer, one request a question and selector, random selectors several."""
        evaluation = self.config["evaluation"]
        drawn, sets = evaluation["random_seeds"], self.config["benchmarks"]
        draws = sum(drawn if name in ("random", "qframe") else 1 for name in evaluation["selectors"])
        requests, jobs = draws * max(self.sets[name][1] for name in sets), len(sets) * (self.cycles + 1)
        return self._by_answerer("evaluate", jobs, requests, evaluation["batch_size"], sets)

    def answer_questions(self) -> Estimate:
        """The answerer, one request a question of the user's own or of a benchmark; on request."""
        sets = self._asked(self.config["benchmarks"])
        requests = max(questions for _, questions in sets.values())
        return self._by_answerer("answer_questions", 0, requests, self.config["answerer"]["batch_size"], sets)

    def select_frames(self) -> Estimate:
        """The selector, a greedy and (on benchmarks) a sampled completion a question, each counted at its longest."""
        asked, shape = self.config["selector"], self.selector
        dtype, batch, new = asked["dtype"], asked["batch_size"], asked["max_new_tokens"]
        counts = {name: (self.tunings if name == self.training_set else self.cycles + 1) for name in self._used()}
        sets = self._asked(name for name, count in counts.items() if count)
        completions = max(questions * (1 if name == self.training_set else 2) for name, (_, questions) in sets.items())
        seconds = self.gpu.compute(completions * cost.forward_flops(shape, self.prompt, self.prompt**2 / 2))
        seconds += completions / batch * cost.decode_seconds(self.gpu, shape, batch, self.prompt, new, dtype)
        memory = _asking(shape, asked, batch, self.prompt, self.patches)
        jobs, counted = sum(counts.values()), self._counted(sets)
        return Estimate("select_frames", jobs, memory, seconds, self._features(), _host(memory), counted=counted)

    def _features(self) -> float:
        """Vision features on disk: in the weights' type, and for a full training's float32 weights once more."""
        videos = {name: count for name, (count, _) in self._used().items()}
        asked = self.config["selector"]
        size = sum(videos.values()) * cost.size_of(asked["dtype"])
        if self.cycles and not asked["lora"]["enabled"] and asked["dtype"] == "bfloat16":
            size += 4 * videos[self.training_set]
        return float(size * self.video_tokens * self.selector.hidden)

    def _static(self, shape: Shape, dtype: str, rank: int, vision: bool, accumulating: bool) -> dict[str, float]:
        """Return `static_memory`; with FSDP the gradients of several micro-batches are whole until the last one.

        Trainer runs all but the last under Accelerate's no_sync, where FSDP2 reduces no gradient; ZeRO-3 does.
        """
        memory = cost.static_memory(shape, dtype=dtype, rank=rank, vision=vision, shards=self.shards)
        if self.fsdp and accumulating:
            memory["gradients"] *= self.shards
        return memory

    def train_selector(self) -> Estimate:
        """Reinforcement: rollout, the answerer's verdict, then forward (reference, old) and backward passes."""
        asked, shape, gpu = self.config["selector"], self.selector, self.gpu
        training, dtype, rank = asked["training"], asked["dtype"], _rank(asked)
        size, new, prompt = training["group_size"], asked["max_new_tokens"], self.prompt
        vision = training["train_vision"]
        groups = max(1, training["prompts_per_step"] // self.processes)  # of one process
        together = training["groups_per_microbatch"] or groups
        rolled = training["groups_per_rollout"] or groups
        b, row = cost.size_of(dtype), prompt + size * new

        memory = self._static(shape, dtype, rank, vision, together < groups)
        if training["beta"] and not rank:
            memory["reference"] = b * (shape.weights if vision else shape.text) / self.shards
        how = {"dtype": dtype, "checkpointing": training["gradient_checkpointing"]}
        extra = together * cost.shared_prefix(shape, prompt, new, size, dtype)
        backward = cost.training_activations(shape, together * row, extra, **how)
        if vision:
            backward += cost.tower_activations(shape, together * self.patches, **how)
        logits = together * (size * new + 1) * shape.vocabulary
        wide = b if self.shards > 1 else 4  # Accelerate's autocast returns float32; sharded models cast by themselves
        backward += 2 * wide * logits + 12 * min(logits, cost.CHUNK)
        answered = self._answerer_memory(self.config["answerer"]["batch_size"])
        memory["answerer"] = answered.pop("weights", 0.0)
        moments = {
            "activations and logits": backward,
            "rollout": cost.inference(shape, rolled * size, rolled, prompt, new, dtype),
            "answers": sum(answered.values()),
            "vision pass": cost.vision_pass(shape, rolled * self.patches, dtype if rank else "float32"),
        }
        fullest = max(moments, key=lambda name: moments[name])
        memory[fullest] = moments[fullest]

        pairs = prompt**2 / 2 + size * new * (prompt + new / 2)
        forward = cost.forward_flops(shape, row, pairs)
        passes = 3 + training["gradient_checkpointing"] + bool(training["beta"])
        passes += together < groups or training["updates_per_rollout"] > 1  # the old log-probabilities
        seconds = gpu.compute(groups * (passes * forward + cost.forward_flops(shape, prompt, prompt**2 / 2)))
        if vision:
            seconds += gpu.compute(passes * groups * cost.vision_flops(shape, self.patches))
        rollouts = math.ceil(groups / rolled)
        seconds += rollouts * cost.decode_seconds(gpu, shape, rolled * size, prompt, new, dtype)
        seconds += self._answering(groups * size)
        videos = self.sets[self.training_set][0]
        # the steps decide, whatever the set's size
        total = training["steps"] * seconds + gpu.compute(cost.vision_flops(shape, self.patches * videos))
        disk = cost.checkpoint_bytes(shape, rank, vision, keep=2) + self.cycles * b * shape.weights
        host = _host({"": 4.0 * shape.weights * self.processes}) + 2 * GB
        return Estimate("train_selector", self.cycles, memory, total, disk, host, self.processes)

    def initialise_selector(self) -> Estimate:
        """Supervised tuning on labels, with the frozen tower's features."""
        asked = self.config["selector"]
        return self._supervised("initialise_selector", 1, self.selector, asked, asked["start"], self.prompt, 0)

    def tune_answerer(self) -> Estimate:
        """Supervised tuning: one forward and backward pass a question."""
        asked, prompt, patches = self.config["answerer"], self.question, self.shown_patches
        return self._supervised("tune_answerer", self.tunings, self.answerer, asked, asked["tuning"], prompt, patches)

    def _supervised(
        self, stage: str, jobs: int, shape: Shape, section: Any, tuning: Any, prompt: int, patches: int
    ) -> Estimate:
        dtype, rank, vision = section["dtype"], _rank(section), tuning.get("train_vision", False)
        share = max(1, tuning["batch_size"] // self.processes)
        together = tuning["micro_batch_size"] or share
        tokens = prompt + min(section["max_new_tokens"], 64)
        how = {"dtype": dtype, "checkpointing": tuning["gradient_checkpointing"]}
        memory = self._static(shape, dtype, rank, vision, together < share)
        memory["activations"] = cost.training_activations(shape, together * tokens, 0.0, **how)
        # logits, their float32 copy, its softmax and their gradient: TRL's loss keeps those of the whole sequence
        memory["logits"] = together * tokens * shape.vocabulary * (12.0 + cost.size_of(dtype))
        if vision:
            memory["tower's activations"] = cost.tower_activations(shape, together * patches, **how)
        passes = 3 + tuning["gradient_checkpointing"]
        flops = share * passes * cost.forward_flops(shape, tokens, tokens**2 / 2)
        flops += share * (passes if vision else 1) * cost.vision_flops(shape, patches)
        disk = cost.checkpoint_bytes(shape, rank, vision, keep=1) + jobs * cost.size_of(dtype) * shape.weights
        seconds, host = tuning["steps"] * self.gpu.compute(flops), _host({"": 4.0 * shape.weights * self.processes})
        return Estimate(stage, jobs, memory, seconds, disk, host, self.processes)


def _asking(shape: Shape, section: Mapping[str, Any], batch: int, prompt: int, patches: int) -> dict[str, float]:
    """Return what a model takes that is asked in batches of prompts with as many patches each."""
    dtype = section["dtype"]
    return {
        "weights": float(cost.size_of(dtype) * shape.weights),
        "generation": cost.inference(shape, batch, batch, prompt, section["max_new_tokens"], dtype),
        "vision pass": cost.vision_pass(shape, batch * patches, dtype),
    }


def _rank(section: Mapping[str, Any]) -> int:
    return section["lora"]["rank"] if section["lora"]["enabled"] else 0


def _host(memory: Mapping[str, float]) -> float:
    """Return the host's memory of a job: weights pass through it, beside Python and its libraries (4 GB)."""
    return 4 * GB + max(memory.values(), default=0.0)
