"""The report: figures and pages that `snakemake --report` collects.

Inputs:  every cycle's eval.json and per-question tables.
Outputs: <results>/report/report.html.
Usual order: last.
"""


rule make_report:
    """Draw accuracy by cycle, reward curves and filmstrips of test questions."""
    input:
        summaries=expand("<results>/cycle{c}/eval.json", c=range(config["cycles"] + 1)),
    output:
        page="<results>/report/report.html",
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
        settings=lambda w: settings("make_report", w, cycles=config["cycles"]),
        code=fingerprint("viarl.stages.make_report"),
    shell:
        "python -m viarl.stages.make_report --settings {params.settings:q}"
        " --summaries {input.summaries:q} --page {output.page:q} 2>&1 | tee {log:q}"


rule sync_mlflow:
    """Push to MLflow what it lacks: after a server was away, or to a new one (no output: it runs whenever asked)."""
    log:
        "<results>/logs/sync_mlflow/all.log",
    conda:
        "../../envs/viarl.yaml"
    shell:
        "python -m viarl.stages.sync_mlflow 2>&1 | tee {log:q}"
