"""The plan before a run, the report behind it, and the comparison of ablations and training seeds.

Inputs:  plan: the configuration, sizes of imported data sets and config.json of model folders where they are there. Report:
         every cycle's eval.json; the last cycle's per-question tables with questions and frames of the benchmarks; the
         training's records in <results>/tracking/ (undeclared: what they say is in the models' identity). Comparison: the
         evaluations of every compared run (configuration: compare), each in the folder where it lies.
Outputs: the plan is printed, and kept in <results>/logs/plan/all.log; <results>/report/; <results>/comparison.csv,
         comparison.md, comparison.html, with pictures and failures.csv in <results>/comparison/.
Usual order: plan first; make_report and compare_runs last. `snakemake results/comparison.csv` trains and evaluates what is
missing for it, and nothing twice.
"""


rule plan:
    """Print an estimate of GPU memory, time and disk of every stage, with formulas (it runs whenever asked)."""
    log:
        "<results>/logs/plan/all.log",
    conda:
        "../../envs/viarl.yaml"
    params:
        settings=planned,
    shell:
        "python -m viarl.stages.plan --settings {params.settings:q} 2>&1 | tee {log:q}"


rule make_report:
    """Draw accuracy by cycle, reward curves and filmstrips of test questions; write the comparison table."""
    input:
        summaries=summaries,
        rows=lambda w: expand("<results>/cycle{c}/evaluate/{set}.parquet", c=last_cycle(), set=config["benchmarks"]),
        questions=expand("<data>/sets/{set}/items.jsonl", set=config["benchmarks"]),
        frames=[
            f"<data>/frames/{name}/{shard}.json"
            for name in config["benchmarks"]
            for shard in range(shards(config, {"set": name}))
        ],
    output:
        accuracy=report(
            "<results>/report/accuracy.png",
            caption="../report/accuracy.rst",
            category="Accuracy",
            labels={"picture": "by cycle"},
        ),
        tasks=report(
            "<results>/report/tasks.png",
            caption="../report/tasks.rst",
            category="Accuracy",
            labels={"picture": "by task"},
        ),
        failures=report(
            "<results>/report/failures.png",
            caption="../report/failures.rst",
            category="Accuracy",
            labels={"picture": "failures"},
        ),
        table=report(
            "<results>/report/comparison.html",
            caption="../report/comparison.rst",
            category="Accuracy",
            labels={"picture": "table"},
        ),
        csv="<results>/report/comparison.csv",
        text="<results>/report/comparison.md",
        rewards=report(
            "<results>/report/rewards.png",
            caption="../report/rewards.rst",
            category="Training",
            labels={"picture": "rewards"},
        ),
        timing=report(
            "<results>/report/timing.png",
            caption="../report/timing.rst",
            category="Training",
            labels={"picture": "seconds"},
        ),
        filmstrips=report(
            directory("<results>/report/filmstrips"),
            patterns=["{question}.png"],
            caption="../report/filmstrip.rst",
            category="Filmstrips",
            labels={"picture": "{question}"},
        ),
    log:
        "<results>/logs/make_report/all.log",
    benchmark:
        "<results>/benchmarks/make_report/all.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=1500,
        runtime=30,
    params:
        settings=settings("make_report", pick("report", "filmstrips"), section("benchmarks")),
        folder=lambda w, output: os.path.dirname(output.accuracy),
    shell:
        "python -m viarl.stages.make_report --settings {params.settings:q}"
        " --summaries {input.summaries:q} --rows {input.rows:q} --questions {input.questions:q}"
        " --frames {input.frames:q} --folder {params.folder:q} 2>&1 | tee {log:q}"


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
    shell:
        "python -m viarl.stages.compare_runs --settings {params.settings:q} --rows {input.rows:q}"
        " --folder {params.folder:q} 2>&1 | tee {log:q}"


rule sync_mlflow:
    """Push to MLflow what it lacks: after a server was away, or to a new one (no output: it runs whenever asked)."""
    log:
        "<results>/logs/sync_mlflow/all.log",
    conda:
        "../../envs/viarl.yaml"
    shell:
        "python -m viarl.stages.sync_mlflow 2>&1 | tee {log:q}"
