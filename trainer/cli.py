"""The `xstilts` command: one thin function a subcommand.

    xstilts tasks
    xstilts prepare RECIPE [--tasks NAME,...] [key=value ...]
    xstilts plan RECIPE [--gpus N --gpu-memory GB ...] [key=value ...]
    xstilts train RECIPE [--supervise ...] [key=value ...]
    xstilts launch RECIPE [--hostfile FILE --launcher ...] [key=value ...]
    xstilts doctor [RECIPE] [--hostfile FILE ...] [key=value ...]
    xstilts evaluate MODEL [--tasks NAME,...] [key=value ...]
    xstilts score PREDICTIONS LABELS
    xstilts export RUN OUT [key=value ...]
    xstilts study STUDY [--dry-run ...] [key=value ...]

`python -m trainer` is the same command; for several processes start it with
`deepspeed --module trainer ...` or torchrun.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import traceback
from pathlib import Path

from trainer import __version__
from trainer.errors import UserError
from trainer.exits import Exit, explain


def main(argv: list[str] | None = None) -> None:
    """Run a command and leave the process with its exit code: one of `trainer.exits.Exit`."""
    _leave(run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: list[str]) -> int:
    """Run a command; its exit code. An error the user can mend is said on standard error, without a traceback; the last
    line of a failed training is its cause."""
    command = parser()
    arguments, rest = command.parse_known_args(_without_local_rank(argv))
    late = [text for text in rest if "=" in text and not text.startswith("-")]  # overrides behind an option
    if late != rest or (late and not hasattr(arguments, "overrides")):
        command.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        arguments.overrides += late
    try:
        arguments.run(arguments)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        code, cause = explain(error)
        rank = int(os.environ.get("RANK", 0))
        where = f"[rank {rank}] " if rank else ""
        if isinstance(error, UserError):
            _say(f"{where}error: {error.what}" if rank else f"error: {error}", error=True)
        elif code == Exit.INTERRUPTED:
            _say("interrupted", error=True)
        else:
            traceback.print_exc()
        if arguments.run is train or code not in (Exit.USER, Exit.INTERRUPTED):
            _say(f"{where}exit {int(code)}: {cause}", error=True)
        return int(code)


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="xstilts", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    command.add_argument("--version", action="version", version=f"xstilts {__version__}")
    commands = command.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run, help: str, *positionals: tuple[str, str], overrides: bool = True):
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        for positional, text in positionals:
            sub.add_argument(positional, help=text, type=Path)
        if positionals and overrides:
            sub.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of recipe keys")
        sub.set_defaults(run=run)
        return sub

    recipe = ("recipe", "a YAML file, e.g. launch/recipes/demo.yaml")
    add("tasks", tasks, "list the tasks and where their data comes from")
    _prepare_options(
        add("prepare", prepare, "fetch a recipe's encoder and tokenise its data once, into its store", recipe)
    )
    _plan_options(add("plan", plan, "memory, speed and the best way to run a recipe on given devices", recipe))
    _supervise_options(add("train", train, "train a recipe; continues when the run has a checkpoint", recipe))
    _supervise_options(add("launch", launch, "train a recipe on this machine, on hosts or in a Slurm job", recipe))
    model = ("model", "a run, an export, or for retrieval any Hugging Face folder or hub name")
    _doctor_options(add("doctor", doctor, "check machine, hosts, network, data and recipe before a run"))
    _target_options(add("evaluate", evaluate, "score a model on targets, or a run or export on its dev sets", model))
    folders = ("predictions", "TASK/test-LANGUAGE files, as XTREME takes them"), ("labels", "the same, of labels")
    scored = add("score", score, "score predictions in XTREME's submission layout", *folders, overrides=False)
    scored.add_argument("--out", type=Path, metavar="FILE", help="write the scores there, as JSON")
    add(
        "export",
        export,
        "write a run's encoder as a plain Hugging Face folder",
        ("folder", "a run folder"),
        ("out", "the new folder"),
    )
    study_file = ("study", "a YAML file, e.g. launch/recipes/studies/demo.yaml")
    _study_options(add("study", study, "run a grid of encoders, intermediate training, targets and seeds", study_file))
    return command


def tasks(arguments) -> None:
    from trainer.tasks import known_tasks
    from trainer.ui.tables import tasks_table

    _console().print(tasks_table(known_tasks()))


def _prepare_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--tasks", type=_names, metavar="A,B", help="also the test sets of these targets, for evaluate")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def prepare(arguments) -> None:
    from trainer.config import load_recipe
    from trainer.data.prepare import open_prepared, tasks_of
    from trainer.data.prepare import prepare as prepare_data
    from trainer.evaluation.results import alike
    from trainer.model.encoder import load_tokenizer
    from trainer.tasks import load_targets, load_tasks
    from trainer.ui.preparing import PrepareProgress
    from trainer.ui.tables import prepare_table

    config = load_recipe(arguments.recipe, arguments.overrides)
    tasks = load_tasks(config)
    targets = load_targets(config, arguments.tasks) if arguments.tasks else {}
    _fetch(config)
    tokenizer = load_tokenizer(config)
    with PrepareProgress(_console()) as progress:
        rows = prepare_data(config, tasks, tokenizer, progress)
        skipped = {}
        if targets:
            from trainer.evaluation.targets import prepare_targets

            trained, told = tasks_of(open_prepared(config, tasks, tokenizer)), lambda what, n, _: progress(what, n)
            skipped = prepare_targets(config, trained, targets, tokenizer, told)
    _console().print(prepare_table(rows))
    for name, left_out in skipped.items():
        ready = ", ".join(code for code in targets[name].languages if code not in left_out)
        without = "".join(f"; skipped {', '.join(codes)}: {why}" for codes, why in alike(left_out.items()))
        _say(f"{name}: test sets are ready in {ready or 'no language'}{without}")


def _fetch(config) -> None:
    """The encoder into the hub's cache, for machines without a network."""
    import huggingface_hub

    from trainer.model.encoder import fetch_encoder

    try:
        if fetch_encoder(config):
            _say(f"{config.model.encoder} is in the hub's cache, {huggingface_hub.constants.HF_HUB_CACHE}")
    except UserError as error:
        if not (huggingface_hub.constants.HF_HUB_OFFLINE or config.model.tokenizer):  # it may be yet to be trained
            raise
        _say(f"warning: {error.what}, which a run will need: {error.why}")


def _plan_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--gpus", type=int, metavar="N", help="GPUs on all nodes together; default: what is seen here")
    sub.add_argument("--gpu-memory", type=float, metavar="GB", help="of one GPU, in GB (10^9 bytes)")
    sub.add_argument("--gpu-name", metavar="NAME", help="e.g. H100: its speed; default: an A100's")
    sub.add_argument("--nodes", type=int, default=1, metavar="M", help="machines; default: 1")
    sub.add_argument("--bandwidth", type=float, metavar="GB/S", help="of one GPU in a collective, in GB/s")


def plan(arguments) -> None:
    from trainer.config import load_recipe
    from trainer.plan import given_gpus, make_plan, seen_devices
    from trainer.ui.plan import plan_view

    config = load_recipe(arguments.recipe, arguments.overrides)
    bandwidth = arguments.bandwidth and arguments.bandwidth * 1e9
    if (arguments.gpus is None) != (arguments.gpu_memory is None):
        raise UserError("--gpus and --gpu-memory belong together", fix="e.g. --gpus 8 --gpu-memory 80")
    if arguments.gpus is None:
        devices = seen_devices(nodes=arguments.nodes, bandwidth=bandwidth)
    else:
        memory = arguments.gpu_memory * 1e9
        devices = given_gpus(arguments.gpus, memory, arguments.nodes, bandwidth, arguments.gpu_name)
    _console().print(plan_view(make_plan(config, devices)))


def train(arguments) -> None:
    from trainer.config import load_recipe
    from trainer.joining import joined
    from trainer.loop import train as run_loop
    from trainer.session import open_session
    from trainer.ui.preparing import PrepareProgress
    from trainer.ui.terminal import Terminal
    from trainer.watch.ranks import ends_recorded

    if arguments.supervise:
        return launch(arguments)
    for option in ("hostfile", "launcher", "processes", "dry_run"):
        if getattr(arguments, option):
            fix = f"add --supervise, or: xstilts launch {arguments.recipe} --{option} {getattr(arguments, option)}"
            raise UserError(f"--{option} says how to start other processes, but train is one process of a run", fix=fix)
    config = load_recipe(arguments.recipe, arguments.overrides)
    with ends_recorded(config.run_folder), joined(config, _say):
        with PrepareProgress(_console()) as progress:
            sinks = lambda total: [Terminal(total, config.log.every_steps, _console())]  # noqa: E731
            session = open_session(config, sinks, progress)
        with session.events:
            scores = run_loop(session)
            out = session.export(config.run_folder / "export", scores)
            run, events = str(config.run_folder), str(config.run_folder / "events.jsonl")
            session.events.emit("finish", step=session.total_steps, run=run, export=str(out), events=events)
            session.watch.end()


def _doctor_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", nargs="?", type=Path, help="a YAML file; default: the machine is checked alone")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of recipe keys")
    sub.add_argument("--hostfile", type=Path, metavar="FILE", help="the hosts of a run, as deepspeed takes them")
    port = "of the run; default: MASTER_PORT, else a free one, as launch takes"
    sub.add_argument("--master-port", type=int, metavar="PORT", help=port)
    sub.add_argument("--processes", type=int, metavar="N", help="of a run on this machine; default: one a GPU")
    sub.add_argument("--only", type=_names, default=[], metavar="A,B", help="of the checks, e.g. ports,clocks")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, with all figures")


def doctor(arguments) -> None:
    from trainer.doctor import examine
    from trainer.doctor.cluster import handed_over, master_port, nodes_of, this_machine
    from trainer.ui.doctor import doctor_view

    console = _console()
    processes = arguments.processes
    if arguments.hostfile and processes:
        raise UserError("--processes and --hostfile contradict each other", fix="slots=N in the hostfile")
    if processes is not None and processes < 1:
        raise UserError(f"--processes must be above 0, not {processes}")
    nodes = nodes_of(arguments.hostfile) if arguments.hostfile else [this_machine(processes)]
    port = master_port(len(nodes))
    what = (arguments.recipe, arguments.overrides, nodes, handed_over(), arguments.only, arguments.master_port or port)
    with console.status("") as status:
        report = examine(*what, progress=lambda about: status.update(f"checking: {about}"))
    console.print(doctor_view(report))
    if arguments.json:
        report.write(arguments.json)
    if report.failed:
        raise UserError(f"failed: {', '.join(report.failed)}", fix="the commands above")


def _launch_options(sub: argparse.ArgumentParser) -> None:
    named = "deepspeed, srun, torchrun, python, or a command line of one; default: what fits, and it says why"
    sub.add_argument("--hostfile", type=Path, metavar="FILE", help="hosts to run on, each line NAME slots=N")
    sub.add_argument("--launcher", metavar="NAME", help=named)
    sub.add_argument("--processes", type=int, metavar="N", help="on each machine; default: one a GPU, else one")
    sub.add_argument("--dry-run", action="store_true", help="show what would be run, and stop")


def _supervise_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--supervise", action="store_true", help="start the run, and again when it was ended by what may pass"
    )
    _launch_options(sub)
    sub.add_argument("--retries", type=int, default=10, metavar="N", help="attempts in a row without a step more")
    sub.add_argument("--pause", type=float, default=1.0, metavar="S", help="before an attempt; doubled by each in vain")
    seconds = "that a host may be away before the run goes on without it; default: 300"
    sub.add_argument("--wait-for-hosts", type=float, default=300.0, metavar="S", help=seconds)


def launch(arguments) -> None:
    from trainer.launching import Options
    from trainer.launching import launch as run_launcher

    names = {field.name for field in dataclasses.fields(Options)}
    options = Options(**{name: value for name, value in vars(arguments).items() if name in names})
    run_launcher(arguments.recipe, arguments.overrides, options, _say)


def _target_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--tasks", type=_names, metavar="A,B", help="targets; default: the dev sets of the model's tasks")
    sub.add_argument("--languages", type=_names, metavar="DE,FR", help="of the targets' languages; default: all")
    sub.add_argument("--layer", metavar="N", help="of sentence vectors: 0 to the last, last, or all for a sweep")
    sub.add_argument("--pooling", choices=("mean", "cls"), help="of sentence vectors; default: mean")
    sub.add_argument("--out", type=Path, metavar="FOLDER", help="for scores and predictions; default: MODEL/evaluation")


def evaluate(arguments) -> None:
    from trainer import restore
    from trainer.ui.tables import score_table

    if arguments.tasks is not None:
        return _evaluate_on_targets(arguments)
    for option in ("languages", "layer", "pooling", "out"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} belongs to --tasks", fix="e.g. --tasks xnli,panx,tatoeba")
    model = restore.open_model(arguments.model, arguments.overrides, say=_say)
    scores = restore.evaluate(model)
    if model.world.first:
        headline = {name: item.task.metric for name, item in model.prepared.items()}
        sizes = {name: item.dev.manifest["examples"] for name, item in model.prepared.items()}
        _console().print(score_table(scores, headline, f"dev scores of {arguments.model}", sizes))


def _evaluate_on_targets(arguments) -> None:
    from trainer.evaluation.layer_sweep import write_sweep
    from trainer.evaluation.results import summarise, write_results
    from trainer.evaluation.targets import default_out, open_for_targets
    from trainer.ui.evaluating import EvaluationProgress
    from trainer.ui.tables import group_table, layer_table, target_table

    out = arguments.out or default_out(arguments.model)
    run = open_for_targets(arguments.model, arguments.tasks, arguments.overrides, arguments.languages, out, _say)
    with EvaluationProgress(_console()) as progress:
        sweep = run.sweep(arguments.pooling, progress) if arguments.layer == "all" else None
        results = run.evaluate(arguments.layer, arguments.pooling, progress) if sweep is None else {}
    if not run.world.first:
        return
    title = f"scores of {arguments.model}"
    if sweep is not None:
        written = write_sweep(out, sweep)
        _console().print(layer_table(sweep, f"{title} by layer"))
    else:
        written = (write_results(out, results, run.about(arguments.layer, arguments.pooling)),)
        summary = summarise(results)
        _console().print(target_table(summary, title), "", group_table(summary))
    _say("written: " + ", ".join(map(str, written)))


def score(arguments) -> None:
    from trainer.evaluation.results import summarise, write_summary
    from trainer.evaluation.scorer import score_folders
    from trainer.ui.tables import group_table, target_table

    results, others = score_folders(arguments.predictions, arguments.labels)
    summary = summarise(results)
    _console().print(target_table(summary, f"scores of {arguments.predictions}"), "", group_table(summary))
    if others:
        _say(f"not scored, for want of predictions: {', '.join(others)}")
    if arguments.out:
        write_summary(arguments.out, {**summary, "unscored": others})


def export(arguments) -> None:
    from trainer import restore

    out, difference = restore.export_run(arguments.folder, arguments.out, arguments.overrides, _say)
    near = f"its hidden states are the live model's to {difference:.1e} of their norm"
    _say(f"exported {arguments.folder} to {out}: {near}")


def _study_options(sub: argparse.ArgumentParser) -> None:
    mode = sub.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="show the plan and its cost, and stop")
    mode.add_argument("--slurm", action="store_true", help="print a script that submits the cells as Slurm arrays")
    mode.add_argument("--tables", action="store_true", help="write the tables of what is done, and run nothing")
    mode.add_argument("--cell", metavar="NAME", help="run this one cell")
    again = "run the cells of these names again, e.g. 'xlmr-mnli-*'; without a name, those whose settings changed"
    sub.add_argument("--redo", nargs="*", metavar="CELL", help=again)
    launcher = 'of the runs, e.g. "deepspeed --num_gpus 2"; default: deepspeed on GPUs, else one process'
    sub.add_argument("--launcher", metavar="COMMAND", help=launcher)


def study(arguments) -> None:
    from trainer.study.command import Options, run_study

    modes = (arguments.dry_run, arguments.slurm, arguments.tables, arguments.cell)
    redo, overrides = arguments.redo, list(arguments.overrides)
    if redo is not None:  # it takes the overrides behind it for names
        overrides += [text for text in redo if "=" in text]
        redo = tuple(text for text in redo if "=" not in text)
    options = Options(*modes, redo, arguments.launcher)
    run_study(arguments.study, overrides, options, _console(), _say)


def _console():
    from rich.console import Console

    return Console(quiet=int(os.environ.get("RANK", 0)) > 0)


def _say(text: str, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _without_local_rank(argv: list[str]) -> list[str]:
    """The deepspeed launcher adds --local_rank=N; the environment says the same."""
    return [argument for argument in argv if not argument.startswith("--local_rank")]


def _leave(code: int) -> None:
    """End the process, also when other ranks wait in a collective for it: the launcher then stops them."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0 and "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
    os._exit(code)
