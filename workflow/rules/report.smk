"""The report: pictures and tables that `snakemake --report` collects into one page.

Inputs:  every cycle's eval.json; the last cycle's per-question tables with questions and frames of the benchmarks;
         the training's records in <results>/tracking/ (undeclared: what they say is in the models' identity).
Outputs: <results>/report/.
Usual order: last.
"""


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
        code=fingerprint("viarl.stages.make_report"),
    shell:
        "python -m viarl.stages.make_report --settings {params.settings:q}"
        " --summaries {input.summaries:q} --rows {input.rows:q} --questions {input.questions:q}"
        " --frames {input.frames:q} --folder {params.folder:q} 2>&1 | tee {log:q}"


rule sync_mlflow:
    """Push to MLflow what it lacks: after a server was away, or to a new one (no output: it runs whenever asked)."""
    log:
        "<results>/logs/sync_mlflow/all.log",
    conda:
        "../../envs/viarl.yaml"
    shell:
        "python -m viarl.stages.sync_mlflow 2>&1 | tee {log:q}"
