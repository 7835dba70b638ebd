"""The comparison of ablations and training seeds.

Inputs:  the evaluations of every compared run (configuration: compare), each in the folder where it lies.
Outputs: <results>/comparison.csv, comparison.md, comparison.html; pictures and failures.csv in <results>/comparison/.
Usual order: last. `snakemake results/comparison.csv` trains and evaluates what is missing for it, and nothing twice.
"""


rule compare_runs:
    """Compare ablations and selectors over training seeds, with intervals and paired differences."""
    input:
        rows=compared_rows,
        summaries=compared_summaries,  # for MLflow, and to be read; the tables are made of the rows
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
