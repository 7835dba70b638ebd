"""The answerer: its supervised tuning on frames that the frozen selector picks.

Inputs:  the filtered training questions, frames, the picks of this cycle's selector, the answerer of the previous cycle.
Outputs: <results>/cycle{c}/answerer/ (an ordinary checkpoint folder).
Usual order: after select_frames on the training set, before evaluate.smk.
"""


rule tune_answerer:
    """Tune the answerer on the training questions with the frames that this cycle's selector picks."""
    input:
        questions=items_of(TRAINING_SET),
        frames=every_shard("<data>/frames/{set}/{shard}.json", TRAINING_SET),
        selected=f"<results>/cycle{{c}}/selected/{TRAINING_SET}.parquet",
        answerer=previous_model_file("answerer"),
    output:
        model="<results>/cycle{c}/answerer/model.safetensors",
    log:
        "<results>/logs/tune_answerer/cycle{c}.log",
    benchmark:
        "<results>/benchmarks/tune_answerer/cycle{c}.tsv"
    wildcard_constraints:
        c=r"[1-9]\d*",
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=4000,
        runtime=2880,
    params:
        settings=settings("tune_answerer", SEED, TUNING),
        answerer=model("answerer"),
        code=fingerprint("viarl.stages.tune_answerer"),
    shell:
        "python -m viarl.stages.tune_answerer --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --selected {input.selected:q} --answerer-model {params.answerer:q}"
        " --output {output.model:q} 2>&1 | tee {log:q}"
