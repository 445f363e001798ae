"""A study as Slurm arrays: the intermediate runs first, then the cells that need each of them.

Before its time limit Slurm signals a job, whose cell saves; the job goes back into the queue, and the cell goes on, as
with launch/slurm.sbatch.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import UserError
from trainer.exits import Exit
from trainer.study.plan import Cell
from trainer.study.spec import Study

FUNCTIONS = rf"""
read -r -d "" options_of_job <<'JOB' || true
#!/usr/bin/env bash
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
JOB
read -r -d "" job <<'JOB' || true
# Ignored until the command listens: the signal would end it while it still starts.
(trap '' USR1 && eval "exec ${{commands[SLURM_ARRAY_TASK_ID]}}") &
run=$!
cancelled=""
trap 'kill -USR1 "$run"' USR1
trap 'cancelled=yes; kill -TERM "$run"' TERM # scancel: nobody wants it back
while kill -0 "$run" 2> /dev/null; do
  wait "$run" # a signal ends this, not the run
done
wait "$run"
code=$?
if [ "$code" -eq {int(Exit.STOPPED)} ] && [ -z "$cancelled" ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" # a task's own number may stand for its whole array
fi
exit "$code"
JOB
"""
SUBMIT = r"""
mkdir -p "$logs"
options=("$@")
jobs=()

submit() {  # NAME DEPENDENCY COMMAND...: an array with one task for each command; its id is then in $id
  local name="$1" dependency="$2" script
  shift 2
  script="$options_of_job"$'\n'"$(printf 'commands=(\n'; printf '  %q\n' "$@"; printf ')\n')"$'\n'"$job"
  id="$(sbatch --parsable --job-name="$study-$name" --array="0-$(($# - 1))" --output="$logs/%x-%A_%a.log" \
    ${dependency:+"--dependency=afterok:$dependency" --kill-on-invalid-dep=yes} \
    ${options[@]+"${options[@]}"} <<< "$script")"
  id="${id%%;*}"  # a cluster's name may follow
  jobs+=("$id")
}
"""
TABLES = r"""
sbatch --job-name="$study-tables" --dependency="afterany:$(IFS=:; echo "${jobs[*]}")" --output="$logs/%x-%j.log" \
  ${options[@]+"${options[@]}"} --wrap "$tables"
"""


def slurm_script(study: Study, cells: Sequence[Cell], command: Sequence[str]) -> str:
    """A bash script that submits one array task for each cell, and at the end a job that writes the tables.

    A cell waits (`afterok`) for the one intermediate run it starts from, so that a failed run holds up no other; it is
    cancelled if that fails, since the tables wait for it.

    Args:
        cells: those still to do.
        command: the words of `xstilts study STUDY ...`, to which `--cell NAME` is added.

    Raises:
        UserError: nothing is left to do.
    """
    if not cells:
        raise UserError(f"every cell of {study.name} is done", fix="run it without --slurm to write the tables")
    runs = [cell for cell in cells if cell.target is None]
    names = [cell.name for cell in runs]
    free = [cell for cell in cells if cell.target is not None and cell.needs not in names]
    lines = [
        "#!/usr/bin/env bash",
        f"# Submits {study.name}: {len(runs)} intermediate runs and {len(cells) - len(runs)} cells.",
        "# Its arguments go to every sbatch, e.g.  bash SCRIPT --gres=gpu:1 --time=4:00:00",
        "set -euo pipefail",
        f"cd {shlex.quote(os.getcwd())}",
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"',
        f"study={shlex.quote(study.name)} logs={shlex.quote(str(Path(study.folder) / 'slurm'))}",
        f"tables={shlex.quote(shlex.join([*command, '--tables']))}",
        FUNCTIONS + SUBMIT,
    ]
    if runs:
        lines += [*_submit("two", "", runs, command), 'two="$id"']
    for number, name in enumerate(names):
        waiting = [cell for cell in cells if cell.needs == name]
        if waiting:
            lines += _submit("three", f"${{two}}_{number}", waiting, command)
    if free:
        lines += _submit("three", "", free, command)
    return "\n".join([*lines, TABLES]).replace("\n\n\n", "\n\n")


def _submit(job: str, dependency: str, cells: Sequence[Cell], command: Sequence[str]) -> list[str]:
    rows = [f"  {shlex.quote(shlex.join([*command, '--cell', cell.name]))}" for cell in cells]
    return [" \\\n".join([f'submit {job} "{dependency}"', *rows])]
