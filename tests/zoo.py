"""A benchmark as somebody would add it: a parser, a module that words and reports, a line in `SETS`."""

PARSER = """
from viarl.datasets.parsed import Parsed
from viarl.items import Item

ANNOTATIONS = ("questions.jsonl",)
ARCHIVES = ("videos/*.mp4",)


def item(record, notes):
    options = tuple(record["options"])
    made = Item(record["id"], record["film"], record["asked"], options, record["right"], record["kind"])
    return made, f"videos/{record['film']}.mp4"


def parse(files):
    found = Parsed("zoo")
    for where, _, _, record in found.read(files):
        found.add(where, item, record)
    return found
"""
BENCHMARK = """
from viarl.evaluate.benchmarks import Benchmark, Headline, Task

WORDING = {"viarl": Task("In the zoo: {question} {options}", "<{letter}> {text}")}
BENCHMARK = Benchmark(WORDING, {"zoo mean": Headline("task")})
"""
LINE = 'HubSet("zoo", ("keeper/zoo",), (2, 3), benchmark="zoo")'
