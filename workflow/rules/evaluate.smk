"""Evaluation: every selector side by side at one frame budget, with the answerer of the cycle.

Inputs:  a set's questions, frames, similarities and picks (of this cycle's and of the untouched selector); the answerer.
Outputs: <results>/cycle{c}/evaluate/{set}.parquet (a row for each question and selector), <results>/cycle{c}/eval.json.
Usual order: evaluate on each benchmark, then summarise_evaluation, which also compares with the cycles before.
"""


rule evaluate:
    """Answer every question of a set with the frames of every selector."""
    input:
        questions="<data>/sets/{set}/items.jsonl",
        frames=every_shard("<data>/frames/{set}/{shard}.json"),
        clip=every_shard("<data>/clip/{set}/{shard}.safetensors"),
        base="<results>/cycle0/selected/{set}.parquet",
        learned="<results>/cycle{c}/selected/{set}.parquet",
        answerer=model_file("answerer"),
    output:
        rows="<results>/cycle{c}/evaluate/{set}.parquet",
    log:
        "<results>/logs/evaluate/cycle{c}.{set}.log",
    benchmark:
        "<results>/benchmarks/evaluate/cycle{c}.{set}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=3000,
        runtime=720,
    params:
        settings=settings(
            "evaluate", pick("frames", "selected"), ANSWERER, EVALUATION, cycle, lambda w: {"benchmark": w.set}
        ),
        answerer=model("answerer"),
        code=fingerprint("viarl.stages.evaluate"),
    shell:
        "python -m viarl.stages.evaluate --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --scores {input.clip:q} --base {input.base:q} --learned {input.learned:q}"
        " --answerer-model {params.answerer:q} --output {output.rows:q} 2>&1 | tee {log:q}"


rule summarise_evaluation:
    """Accuracies with intervals, paired differences between selectors and between cycles."""
    input:
        rows=lambda w: expand(
            "<results>/cycle{c}/evaluate/{set}.parquet", c=range(int(w.c) + 1), set=config["benchmarks"]
        ),
    output:
        summary="<results>/cycle{c}/eval.json",
    log:
        "<results>/logs/summarise_evaluation/cycle{c}.log",
    benchmark:
        "<results>/benchmarks/summarise_evaluation/cycle{c}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=1500,
        runtime=30,
    params:
        settings=settings("summarise_evaluation", BENCHMARKS, pick("evaluation", "bootstrap"), cycle),
        code=fingerprint("viarl.stages.summarise_evaluation"),
    shell:
        "python -m viarl.stages.summarise_evaluation --settings {params.settings:q}"
        " --rows {input.rows:q} --output {output.summary:q} 2>&1 | tee {log:q}"
