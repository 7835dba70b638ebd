"""Video-MME, with subtitles and without: overall is the mean over short, medium and long videos."""

from viarl.evaluate.benchmarks import DIRECTLY, MICRO, Benchmark, Headline, Task

_SELECT = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
BENCHMARK = Benchmark(
    wording={
        "lmms-eval": Task(
            f"{_SELECT}\n{{question}}\n{{options}}\n\n{DIRECTLY}",
            subtitled=f"This video's subtitles are listed below: \n{{spoken}}\n{_SELECT}\n"
            "{question}\n{options}\nThe best answer is:",
        )
    },
    headlines={"overall": Headline(over="duration"), "micro": MICRO},
)
