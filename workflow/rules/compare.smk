"""The comparison of ablations and training seeds.

Inputs:  the evaluations of every compared run (configuration: compare), each in the folder where it lies.
Outputs: <results>/comparison.csv, comparison.md, comparison.html; pictures and failures.csv in <results>/comparison/.
Usual order: last. `snakemake results/comparison.csv` trains and evaluates what is missing for it, and nothing twice.
"""

COMPARED = compared_runs(config)


def compared_rows(w):
    """The tables of all compared runs: of each run, of each benchmark, those of its cycles."""
    return [
        GRAPH.path(run, "rows", {"c": str(c), "set": name})
        for run in COMPARED
        for name in config["benchmarks"]
        for c in range(last_cycle(run) + 1)
    ]


def compared(config, w):
    """What the comparison is told of each run."""
    runs = []
    for run in COMPARED:
        ablation, _ = split_run(run)
        hypothesis = config["ablations"][ablation]["hypothesis"] if ablation else ""
        known = {"seed": GRAPH.config(run)["seed"], "cycle": last_cycle(run)}
        runs.append(known | {"ablation": ablation, "hypothesis": hypothesis})
    return {"runs": runs}


rule compare_runs:
    """Compare ablations and selectors over training seeds, with intervals and paired differences."""
    input:
        rows=compared_rows,
    output:
        csv="<results>/comparison.csv",
        text="<results>/comparison.md",
        page=report(
            "<results>/comparison.html",
            caption="../report/runs_table.rst",
            category="Comparison",
            labels={"picture": "table"},
        ),
        ablations=report(
            "<results>/comparison/ablations.png",
            caption="../report/ablations.rst",
            category="Comparison",
            labels={"picture": "ablations"},
        ),
        failures=report(
            "<results>/comparison/failures.png",
            caption="../report/failures.rst",
            category="Comparison",
            labels={"picture": "failures"},
        ),
        saturation=report(
            "<results>/comparison/saturation.png",
            caption="../report/saturation.rst",
            category="Comparison",
            labels={"picture": "gain by cycle"},
        ),
        failure_shares="<results>/comparison/failures.csv",
    log:
        "<results>/logs/compare_runs/all.log",
    benchmark:
        "<results>/benchmarks/compare_runs/all.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(30),
    params:
        settings=settings("compare_runs", compared, section("benchmarks"), pick("evaluation", "bootstrap")),
        folder=lambda w, output: os.path.dirname(output.csv),
        code=fingerprint("viarl.stages.compare_runs"),
    shell:
        "python -m viarl.stages.compare_runs --settings {params.settings:q} --rows {input.rows:q}"
        " --folder {params.folder:q} 2>&1 | tee {log:q}"
