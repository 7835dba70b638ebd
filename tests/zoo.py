"""A benchmark as somebody would add it: a parser, a module that words and reports, a line in `SETS`."""

PARSER = """
from functools import partial

from viarl.datasets.parsed import Collector, records
from viarl.items import Item

ANNOTATIONS = ("questions.jsonl",)
ARCHIVES = ("videos/*.mp4",)


def item(record, notes):
    options = tuple(record["options"])
    made = Item(record["id"], record["film"], record["asked"], options, record["right"], record["kind"], source="zoo")
    return made, f"videos/{record['film']}.mp4"


def parse(files):
    found = Collector("zoo")
    for name, number, record in records(files):
        found.add(f"{name}:{number}", partial(item, record))
    return found.parsed()
"""
BENCHMARK = """
from viarl.evaluate.benchmarks import Benchmark, Headline, Task

WORDING = {"viarl": Task("In the zoo: {question} {options}", "<{letter}> {text}")}
BENCHMARK = Benchmark(WORDING, {"zoo mean": Headline("task")})
"""
LINE = 'HubSet("zoo", ("keeper/zoo",), (2, 3), benchmark="zoo")'
