"""MLVU in both packings: M-Avg is the mean over its multiple-choice tasks."""

from viarl.evaluate.benchmarks import DIRECTLY, MICRO, Benchmark, Headline, Task

BENCHMARK = Benchmark(
    wording={
        "viarl": Task(f"{{question}}\nOptions:\n{{options}}\n{DIRECTLY}", "{letter}. {text}."),
        "lmms-eval": Task("{question}\n{options}\nOnly give the best option.\nBest option: (", "({letter}) {text}"),
    },
    headlines={"M-Avg": Headline(over="task"), "micro": MICRO, "Needle QA": Headline(only=("task=findNeedle",))},
)
