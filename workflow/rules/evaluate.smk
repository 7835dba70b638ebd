"""Evaluation: every selector side by side at one frame budget, with the answerer of the cycle.

Inputs:  a set's questions, frames, similarities and picks (of this cycle's and of the untouched selector); the answerer.
Outputs: <results>/{run}cycle{c}/evaluate/{set}.parquet (a row for each question and selector), <results>/{run}cycle{c}/eval.json;
         with `cycles: auto` <results>/{run}cycle{c}/verdict.json, whether to stop there.
Usual order: evaluate on each benchmark, then summarise_evaluation, which also compares with the cycles before.
"""


rule evaluate:
    """Answer every question of a set with the frames of every selector."""
    input:
        **needs(
            "evaluate",
            questions=of("questions"),
            frames=of("frames"),
            clip=of("similarities"),
            base=of("selected", c=0),
            learned=of("selected"),
            answerer=of("answerer"),
            base_answerer=of("base_model", role="answerer"),
        ),
    output:
        rows="<results>/{run}cycle{c}/evaluate/{set}.parquet",
    log:
        "<results>/logs/evaluate/{run}cycle{c}.{set}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{run}cycle{c}.{set}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(720),
    params:
        settings=settings(
            "evaluate",
            pick("frames", "selected"),
            answerer,
            lambda config, w: {"evaluation": counted(EvaluationSettings, config["evaluation"])},
            cycle,
            lambda config, w: {"benchmark": w["set"], "subtitles": w["set"] in SETS and SETS[w["set"]].subtitles},
            lambda config, w: known_as([w["set"]]),
            named=benchmark_modules,
        ),
        answerer=model("answerer"),
        base_answerer=model("answerer", "base_answerer"),
    shell:
        "python -m viarl.stages.evaluate --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --scores {input.clip:q} --base {input.base:q} --learned {input.learned:q}"
        " --answerer-model {params.answerer:q} --base-answerer-model {params.base_answerer:q}"
        " --output {output.rows:q} 2>&1 | tee {log:q}"


rule summarise_evaluation:
    """Accuracies with intervals, paired differences between selectors and between cycles."""
    input:
        **needs("summarise_evaluation", rows=every_evaluation),
    output:
        summary="<results>/{run}cycle{c}/eval.json",
    log:
        "<results>/logs/summarise_evaluation/{run}cycle{c}.log",
    benchmark:
        "<results>/benchmarks/summarise_evaluation/{run}cycle{c}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(30),
    params:
        settings=settings(
            "summarise_evaluation",
            section("benchmarks"),
            pick("evaluation", "bootstrap"),
            cycle,
            lambda config, w: known_as(config["benchmarks"]),
            named=benchmark_modules,
        ),
    shell:
        "python -m viarl.stages.summarise_evaluation --settings {params.settings:q}"
        " --rows {input.rows:q} --output {output.summary:q} 2>&1 | tee {log:q}"


checkpoint judge_gain:
    """Judge from the gain of a cycle on the first benchmark whether another one pays (for `cycles: auto`)."""
    input:
        summary="<results>/{run}cycle{c}/eval.json",
    output:
        verdict="<results>/{run}cycle{c}/verdict.json",
    log:
        "<results>/logs/judge_gain/{run}cycle{c}.log",
    benchmark:
        "<results>/benchmarks/judge_gain/{run}cycle{c}.tsv"
    wildcard_constraints:
        c=r"[1-9]\d*",
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(30),
    params:
        settings=settings("judge_gain", lambda config, w: {"benchmark": config["benchmarks"][0]}, cycle),
    shell:
        "python -m viarl.stages.judge_gain --settings {params.settings:q}"
        " --summary {input.summary:q} --output {output.verdict:q} 2>&1 | tee {log:q}"
