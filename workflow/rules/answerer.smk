"""The answerer: its supervised tuning on frames that the frozen selector picks, and its answers.

Inputs:  the filtered training questions, frames, the picks of this cycle's selector, the answerer of the previous cycle.
Outputs: <results>/{run}cycle{c}/answerer/ (an ordinary checkpoint folder); on request <results>/{run}cycle{c}/answers/{set}.csv,
         and <results>/answers.csv, those of the last cycle on your videos.
Usual order: tune_answerer after select_frames on the training set, then evaluate.smk, or answer_questions on your videos.
"""


rule tune_answerer:
    """Tune the answerer on the training questions with the frames that this cycle's selector picks."""
    input:
        **needs(
            "tune_answerer",
            questions=of("kept_questions"),
            frames=of("frames", set=training_set),
            selected=of("selected", set=training_set),
            answerer=previous("answerer"),
        ),
        tuned=made_if(tuned, "answerer.tuning.steps is 0: every cycle has the untouched answerer, nothing to make"),
    output:
        model="<results>/{run}cycle{c}/answerer/model.safetensors",
        hashes="<results>/{run}cycle{c}/answerer/hashes.json",
    log:
        "<results>/logs/tune_answerer/{run}cycle{c}.log",
    benchmark:
        "<results>/benchmarks/tune_answerer/{run}cycle{c}.tsv"
    wildcard_constraints:
        c=r"[1-9]\d*",
    conda:
        "../../envs/viarl.yaml"
    threads: processes
    resources:
        mem_mb=growing(4000),
        runtime=growing(1440),
    params:
        settings=settings("tune_answerer", section("seed"), tuning),
        answerer=model("answerer"),
    shell:
        "python -m viarl.training.launch viarl.stages.tune_answerer --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --selected {input.selected:q} --answerer-model {params.answerer:q}"
        " --output {output.model:q} 2>&1 | tee {log:q}"


rule answer_questions:
    """Answer a set's questions with a cycle's pair: frames, thoughts and answers as CSV, for your own videos above all."""
    input:
        **needs(
            "answer_questions",
            questions=of("questions"),
            videos=of("videos"),
            frames=of("frames"),
            selected=of("selected"),
            answerer=of("answerer"),
        ),
    output:
        answers="<results>/{run}cycle{c}/answers/{set}.csv",
    log:
        "<results>/logs/answer_questions/{run}cycle{c}.{set}.log",
    benchmark:
        "<results>/benchmarks/answer_questions/{run}cycle{c}.{set}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(480),
    params:
        settings=settings("answer_questions", answerer),
        answerer=model("answerer"),
    shell:
        "python -m viarl.stages.answer_questions --settings {params.settings:q} --items {input.questions:q}"
        " --videos {input.videos:q} --manifests {input.frames:q} --selected {input.selected:q}"
        " --answerer-model {params.answerer:q} --output {output.answers:q} 2>&1 | tee {log:q}"


rule copy_answers:
    """The answers of the last cycle's pair to all questions on your own videos."""
    input:
        answers=lambda w: f"<results>/cycle{last_cycle()}/answers/local.csv",
    output:
        answers="<results>/answers.csv",
    log:
        "<results>/logs/copy_answers/all.log",
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(100),
        runtime=growing(5),
    shell:
        "cp {input.answers:q} {output.answers:q} 2>&1 | tee {log:q}"
