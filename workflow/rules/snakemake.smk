"""Where Snakemake 9.27 and its executor for SLURM 2.8 do otherwise than the README says. No rule stands here."""

import argparse
import re
import shutil
import subprocess
import time
from functools import cache

import snakemake_executor_plugin_slurm as slurm
from snakemake.cli import get_profile_dir, parse_set_resources
from snakemake.dag import DAG
from snakemake.jobs import Job
from snakemake.persistence.file import FilePersistence
from snakemake.profiles import ProfileConfigFileParser
from snakemake.resources import Resources


def keep_locks_of_others():
    """A command that ends removes its own locks alone; Snakemake removes those of every command in the folder."""

    def remove_own(persistence):
        for lock in persistence._lockfile.values():
            if os.path.exists(lock):
                os.remove(lock)
        persistence._lockfile.clear()

    FilePersistence._delete_locks = remove_own
    FilePersistence.cleanup_locks = lambda persistence: shutil.rmtree(persistence._lockdir)  # --unlock


def forget_no_change_that_failed():
    """A job that failed stays stale: what is known of its outputs is what made them last.

    Snakemake records it as done, or forgets what made them; where older files that follow from them are there, the next
    command would say that nothing is to be done.
    """
    postprocess, finished, failed = Job.postprocess, FilePersistence.finished, set()

    async def note_failure(job, *given, error=False, **options):
        (failed.add if error else failed.discard)(job)
        await postprocess(job, *given, error=error, **options)

    def keep_record(persistence, job):
        for file in job.output:
            persistence._unmark_incomplete(persistence._get_key(file))

    async def record(persistence, job):
        if job in failed:
            keep_record(persistence, job)
        else:
            await finished(persistence, job)

    Job.postprocess, FilePersistence.finished, FilePersistence.cleanup = note_failure, record, keep_record


def judge_anew_after_checkpoints():
    """What a checkpoint made as it was before makes nothing stale; Snakemake lets all but its next jobs run.

    It looks at the whole plan again then, but a job keeps the reason that it had before. Of jobs that have not begun,
    what a command that started now would find is right.
    """
    update = DAG.update_needrun

    async def update_anew(dag, create_inventory=False):
        for job in dag.jobs:
            if not dag.finished(job) and job not in dag._running:
                dag.reason(job).clear()
        await update(dag, create_inventory)

    DAG.update_needrun = update_anew


def keep_resources_of_profiles():
    """The command line changes the resources that it names; Snakemake lets them take the place of all that a profile has.

    So `--profile profiles/workstation --resources mem_mb=…` would let jobs share a GPU, and `--profile slurm
    --set-resources …` would ask for none.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", action="append", default=[])
    named = parser.parse_known_args(sys.argv[1:])[0].profile or [os.environ.get("SNAKEMAKE_PROFILE", "none")]
    profile = {}
    for place in filter(None, map(get_profile_dir, named)):
        with open(place[1]) as stream:
            profile |= ProfileConfigFileParser().parse(stream)

    def entries(key):
        value = profile.get(key, [])
        return [value] if isinstance(value, str) else value

    settings = workflow.resource_settings
    defaults = Resources.parse(entries("default-resources"), allow_expressions=True)
    kept = [
        (workflow.global_resources, Resources.parse(entries("resources"), allow_expressions=False)),
        (settings._parsed_default_resources, defaults),
    ]
    for rule_name, resources in parse_set_resources(entries("set-resources")).items():
        kept.append((settings._parsed_overwrite_resources.setdefault(rule_name, Resources()), resources))
    for given, resources in kept:
        for name in set(resources) - set(given):
            given[name] = resources[name]


def judge_jobs_that_slurm_forgot():
    """A job that squeue lists no more is over; its files say how it ended. The executor would wait for it for ever.

    SLURM forgets jobs MinJobAge after their end, and squeue is asked as seldom as every three minutes; nor does it tell
    of jobs that ended while Snakemake was stopped. Without accounting sacct hangs, and is not asked.
    """
    ask, check = slurm.query_job_status, slurm.Executor.check_active_jobs
    submitted, available = slurm.Executor.report_job_submission, slurm.is_query_tool_available
    listed, before, missed = {}, {}, {}  # squeue's answer; of jobs, their files as they were submitted, and since when

    def stamps(info):
        return [os.stat(file).st_mtime_ns if os.path.exists(file) else None for file in info.job.output]

    async def ask_and_note(command, logger):
        states, seconds = await ask(command, logger)
        listed["jobs"] = states if command.startswith("squeue") else None
        return states, seconds

    def note_files(executor, info, **options):
        before[info.external_jobid] = stamps(info)
        submitted(executor, info, **options)

    async def check_and_judge(executor, active):
        async for info in check(executor, active):
            known, number, now = listed.get("jobs"), info.external_jobid, time.monotonic()
            if known is None or number in known:
                missed.pop(number, None)
                yield info
            elif all(new not in (None, old) for new, old in zip(stamps(info), before[number])):
                executor.report_job_success(info)
            elif now - missed.setdefault(number, now) <= workflow.execution_settings.latency_wait:
                yield info
            else:
                message = f"SLURM no longer knows job {number}, and not all of its files are there: it failed."
                executor.report_job_error(info, msg=message, aux_logs=[str(info.aux.get("slurm_logfile"))])

    slurm.query_job_status = ask_and_note
    slurm.Executor.check_active_jobs = check_and_judge
    slurm.Executor.report_job_submission = note_files
    slurm.is_query_tool_available = lambda tool: available(tool) and (tool != "sacct" or has_accounting())


@cache
def has_accounting():
    """Whether the cluster has a database of jobs that sacct can ask."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    return bool(re.search(r"^AccountingStorageType\s*=\s*accounting_storage/slurmdbd", shown, re.MULTILINE))


def say_what_slurm_forgets():
    """Name a MinJobAge that is shorter than the pauses in which SLURM is not asked."""
    age = slurm.get_min_job_age() if isinstance(workflow.executor_settings, slurm.ExecutorSettings) else None
    if age and age <= 180:
        what = f"SLURM forgets jobs {age} s after their end (MinJobAge), but is asked only every 10 to 180 s"
        print(f"{what}: one that it forgot is judged by its files, and submitted anew without them", file=sys.stderr)


keep_locks_of_others()
forget_no_change_that_failed()
judge_anew_after_checkpoints()
judge_jobs_that_slurm_forgot()
if workflow.is_main_process:
    keep_resources_of_profiles()
