"""Training questions that teach nothing are dropped.

Inputs:  the training set's questions, frames and similarities; the untouched answerer.
Outputs: <results>/filter/train_items.jsonl; <results>/filter/report.json (how many each rule drops: the data card).
Usual order: after frames.smk, before selector.smk.
"""


rule filter_guessable:
    """Drop training questions that are answered without looking, or never (setting filter.rule)."""
    input:
        questions=f"<data>/sets/{TRAINING_SET}/items.jsonl",
        frames=every_shard("<data>/frames/{set}/{shard}.json", TRAINING_SET),
        clip=every_shard("<data>/clip/{set}/{shard}.safetensors", TRAINING_SET),
        answerer=lambda w: weights("answerer", 0),
    output:
        questions="<results>/filter/train_items.jsonl",
        report="<results>/filter/report.json",
    log:
        "<results>/logs/filter_guessable/all.log",
    benchmark:
        "<results>/benchmarks/filter_guessable/all.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=3000,
        runtime=480,
    params:
        settings=settings("filter_guessable", SEED, pick("frames", "selected"), {"filter": config["filter"]}, ANSWERER),
        answerer=model("answerer"),
        code=fingerprint("viarl.stages.filter_guessable"),
    shell:
        "python -m viarl.stages.filter_guessable --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --scores {input.clip:q} --answerer-model {params.answerer:q}"
        " --output {output.questions:q} --report {output.report:q} 2>&1 | tee {log:q}"
