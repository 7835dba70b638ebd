"""The comparison of runs in print: one set of numbers in every file, pictures, and the stage that writes them."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from small_tables import write_table
from viarl import command
from viarl.evaluate.compare import COLUMNS, FAILURE_COLUMNS, FOUR, Comparison, Run, compare, read_groups
from viarl.report import ablation_figures
from viarl.report.ablations import LEGEND, main_failures, tables
from viarl.report.tables import Table, write_csv, write_markdown, write_page
from viarl.stages import compare_runs

TASKS = ("none", "after", "before")
SHARES = {"uniform": 0.3, "clip_topk": 0.45, "oracle": 0.9, "learned": 0.6}
PICTURES = {"comparison/ablations.png", "comparison/failures.png", "comparison/saturation.png"}
FILES = {"comparison.csv", "comparison/failures.csv", "comparison.md", "comparison.html", *PICTURES}


def made_up(
    folder: Path, runs: list[Run], benchmarks: tuple[str, ...], *, evidence: bool = True, **shares: float
) -> list[Path]:
    """Write random tables of these runs: 60 questions on 20 videos, a seed and cycle different from the next."""
    generator = np.random.default_rng(3)
    videos = {f"q{number:02}": f"v{number // 3}" for number in range(60)}
    tasks = {item: TASKS[number % 3] for number, item in enumerate(videos)}
    paths = []
    for run in runs:
        for benchmark in benchmarks:
            for cycle in range(run.cycle + 1):
                rows = []
                for selector, share in (SHARES | shares).items():
                    right = generator.random(60) < share + 0.1 * cycle * (selector == "learned")
                    recall = generator.integers(0, 2, 60) if evidence else np.full(60, np.nan)
                    rows += [(item, selector, 0, bool(right[i]), float(recall[i])) for i, item in enumerate(videos)]
                path = folder / f"{run.ablation}-{run.seed}-{benchmark}-{cycle}.parquet"
                paths.append(write_table(path, rows, videos, benchmark=benchmark, cycle=cycle, tasks=tasks))
    return paths


RUNS = [Run("", seed, 2) for seed in (0, 1, 2)]
RUNS += [Run("no_index", seed, 2, "Indices | are what <counts>.") for seed in (1, 2, 3)]
RUNS += [Run("cycles_3", seed, 3, "A third cycle adds nothing.") for seed in (0, 1, 2)] + [Run("lone", 9, 1, "Alone.")]
BENCHMARKS = ("needle", "shifted")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Four runs of up to three seeds on two benchmarks."""
    folder = tmp_path_factory.mktemp("tables")
    paths = made_up(folder, RUNS, BENCHMARKS, learned_base_answerer=0.5)
    return compare(read_groups(RUNS, paths, BENCHMARKS), BENCHMARKS, 200)


class Page(HTMLParser):
    """The tables of a page as lists of rows of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a table, a row or a cell; nothing may point outside the page."""
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.open = tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        """Add to the open cell, without what only aligns it."""
        if self.open:
            self.tables[-1][-1][-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        """Close the cell."""
        self.open = False


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, without the rule below the header."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        cells = [[cell.strip().replace("\\|", "|") for cell in row] for row in rows]
        assert all(set(cell) <= set("-:") for cell in cells[1])
        found.append([cells[0], *cells[2:]])
    return found


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open() as handle:
        return list(csv.DictReader(handle))


def points(row: dict[str, str], name: str, sign: str = "") -> str:
    """A share of a CSV row as the tables print it."""
    value, low, high = (100 * float(row[name + end]) for end in ("", "_low", "_high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def test_csv_markdown_and_page_hold_the_same_numbers(comparison, tmp_path):
    assert {str(path.relative_to(tmp_path)) for path in compare_runs.write(comparison, tmp_path)} == FILES
    printed = markdown_tables((tmp_path / "comparison.md").read_text())
    page = Page()
    page.feed((tmp_path / "comparison.html").read_text())
    assert printed == page.tables
    assert len(printed) == 6 * len(BENCHMARKS)
    rows = {
        (row["benchmark"], row["ablation"], int(row["cycle"]), row["selector"]): row
        for row in read_csv(tmp_path / "comparison.csv")
    }
    ablations, leads, selectors, grid, failures, saturation = printed[6:]  # of the second benchmark
    main = rows["shifted", "main", 2, "learned"]
    assert [row[0] for row in ablations[1:]] == ["main", "no_index", "cycles_3", "lone"]
    assert ablations[1][3:7] == [
        "0, 1, 2",
        "2",
        f"{points(main, 'accuracy')} ± {100 * float(main['accuracy_sd']):.1f}",
        "",
    ]
    ablated = rows["shifted", "no_index", 2, "learned"]
    assert ablated["hypothesis"] == ablations[2][1] == "Indices | are what <counts>."
    assert (ablated["seeds"], ablated["main_seeds"]) == ("1 2 3", "1 2")
    assert ablations[2][6] == (
        f"{points(ablated, 'minus_main', '+')} ± {100 * float(ablated['minus_main_sd']):.1f} (seeds 1, 2)"
    )
    assert ablations[4][5:7] == [points(rows["shifted", "lone", 1, "learned"], "accuracy"), "no seed in common"]
    assert leads[2][1:5] == [
        points(ablated, "minus_uniform", "+"),
        points(ablated, "minus_best_free", "+"),
        "CLIP top-K",
        points(ablated, "gain", "+"),
    ]
    uniform = next(row for row in selectors if row[0] == "uniform")
    assert uniform[1:4] == [points(rows["shifted", "main", cycle, "uniform"], "accuracy") for cycle in range(3)]
    assert uniform[4] == points(rows["shifted", "main", 2, "uniform"], "learned_minus", "+")
    assert "learned_base_answerer" not in [row[0] for row in selectors]
    with_base = rows["shifted", "main", 2, "learned_base_answerer"]
    assert grid[2] == [
        "learned", points(with_base, "accuracy"), points(main, "accuracy"), points(with_base, "learned_minus", "+"),
    ]  # fmt: skip
    assert grid[1][3] == points(rows["shifted", "main", 2, "uniform"], "minus_cycle0", "+")
    longest = [points(rows["shifted", "cycles_3", cycle, "learned"], "gain", "+") for cycle in (1, 2, 3)]
    assert saturation[3][:4] == ["cycles_3", *longest]
    assert (saturation[3][4] == "go on") == (float(rows["shifted", "cycles_3", 3, "learned"]["gain_low"]) > 0)
    known = {
        (row["cycle"], row["task"] or "all"): row
        for row in read_csv(tmp_path / "comparison" / "failures.csv")
        if (row["benchmark"], row["ablation"]) == ("shifted", "main")
    }
    assert len(failures) - 1 == len(known) == 3 * (1 + len(TASKS))
    for cycle, task, n, *shares in failures[1:]:
        row = known[cycle, task]
        assert (n, shares) == (row["n"], [f"{100 * float(row[name]):.0f}" for name in FOUR])


def test_csv_has_a_row_for_each_run_cycle_and_selector(comparison, tmp_path):
    write_csv(tmp_path / "comparison.csv", COLUMNS, comparison.rows)
    rows = read_csv(tmp_path / "comparison.csv")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * (3 + 3 + 4 + 2) * 5
    assert all(set(row) == set(FAILURE_COLUMNS) for row in comparison.failures)
    first = next(row for row in rows if row["cycle"] == "0" and row["selector"] == "learned")
    assert first["gain"] == first["minus_main"] == first["main_seeds"] == ""
    assert len(first["accuracy_by_seed"].split()) == 3


def test_pictures_are_drawn(comparison, tmp_path):
    compare_runs.write(comparison, tmp_path)
    for name in PICTURES:
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


@pytest.mark.parametrize("benchmarks", [BENCHMARKS, BENCHMARKS[:1]])
def test_the_legend_fits_the_picture(tmp_path, monkeypatch, benchmarks):
    drawn: list = []
    monkeypatch.setattr(ablation_figures, "save", lambda made, path: drawn.append(made))
    comparison = compare(read_groups(RUNS, made_up(tmp_path, RUNS, benchmarks), benchmarks), benchmarks, 20)
    ablation_figures.draw_ablations(comparison, tmp_path / "x.png")
    ablation_figures.draw_failures(main_failures(comparison), tmp_path / "x.png")
    for made in drawn:
        made.draw_without_rendering()
        box = made.legends[0].get_window_extent()
        assert 0 <= box.x0 < box.x1 <= made.bbox.width and box.y0 >= 0


def test_one_untouched_run_without_evidence(tmp_path):
    runs = [Run("", 0, 0)]
    paths = made_up(tmp_path, runs, ("local",), evidence=False)
    comparison = compare(read_groups(runs, paths, ["local"]), ["local"], 50)
    compare_runs.write(comparison, tmp_path / "out")
    titles = [table.title for table in tables(comparison)]
    assert not any("failures" in title for title in titles)
    text = (tmp_path / "out/comparison.md").read_text()
    assert "was not evaluated with the base answerer" in text
    assert "no cycle was run" in text


def test_cells_are_escaped(tmp_path):
    table = Table("<t>", ["run", "why"], [["a|b", "x < y"]], ["<note>"], prose=("why",))
    write_markdown(tmp_path / "t.md", [table], LEGEND)
    assert "| a\\|b  | x < y |" in (tmp_path / "t.md").read_text()
    write_page(tmp_path / "t.html", "T & T", [table], LEGEND)
    text = (tmp_path / "t.html").read_text()
    assert "<td>x &lt; y</td>" in text
    assert "<title>T &amp; T</title>" in text
    assert "<p>&lt;note&gt;</p>" in text


def test_the_stage_takes_its_runs_as_settings(tmp_path, capsys):
    runs = RUNS[1:2] + RUNS[3:4]
    paths = made_up(tmp_path, runs, ("needle",))
    settings = {"runs": [vars(run) for run in runs], "benchmarks": ["needle"], "bootstrap": 50}
    arguments = ["--settings", json.dumps(settings), "--rows", *map(str, paths), "--folder", str(tmp_path / "out")]
    compare_runs.main(command.parse(compare_runs.Settings, arguments))
    assert all((tmp_path / "out" / name).is_file() for name in FILES)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["needle main", "needle no_index"]
