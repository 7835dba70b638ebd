"""What the configuration will need, before anything runs.

Inputs:  the configuration alone; sizes of imported data sets and config.json of model folders where they are there.
Outputs: none: the plan is printed, and kept in <results>/logs/plan/all.log.
Usual order: first; `snakemake plan --configfile …` after each change of models, frames or batches.
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
