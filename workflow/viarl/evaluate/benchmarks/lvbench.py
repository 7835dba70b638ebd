"""LVBench: its time references are evidence, so that recall is reported too."""

from viarl.evaluate.benchmarks import DIRECTLY, MICRO, Benchmark, Headline, Task

BENCHMARK = Benchmark(
    wording={
        "viarl": Task(f"{{question}}\nOptions:\n{{options}}.\n{DIRECTLY}"),
        "lmms-eval": Task("{question}\n{options}\nAnswer the question with the option letter", "({letter}) {text}"),
    },
    headlines={"micro": MICRO, "evidence recall": Headline(column="evidence_recall")},
)
