"""Training questions that teach nothing are dropped.

Inputs:  the training set's questions, frames and similarities; the untouched answerer.
Outputs: <results>/{run}filter/train_items.jsonl; <results>/{run}filter/report.json (how many each rule drops: the data card).
Usual order: after frames.smk, before selector.smk.
"""


rule filter_guessable:
    """Drop training questions that are answered without looking, or never (setting filter.rule)."""
    input:
        **needs(
            "filter_guessable",
            questions=of("questions", set=training_set),
            frames=of("frames", set=training_set),
            clip=of("similarities", set=training_set),
            answerer=of("base_model", role="answerer"),
        ),
    output:
        questions="<results>/{run}filter/train_items.jsonl",
        report="<results>/{run}filter/report.json",
    log:
        "<results>/logs/filter_guessable/{run}all.log",
    benchmark:
        "<results>/benchmarks/filter_guessable/{run}all.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(480),
    params:
        settings=settings("filter_guessable", section("seed", "filter"), pick("frames", "selected"), answerer),
        answerer=model("answerer"),
        code=fingerprint("viarl.stages.filter_guessable"),
    shell:
        "python -m viarl.stages.filter_guessable --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --scores {input.clip:q} --answerer-model {params.answerer:q}"
        " --output {output.questions:q} --report {output.report:q} 2>&1 | tee {log:q}"
