#!/usr/bin/env bash
# Train a recipe on all hosts of a hostfile, through the deepspeed launcher, pdsh and ssh. Start it on any machine that
# reaches them; the exit code is the run's.
#
#     launch/multinode.sh RECIPE HOSTFILE [--supervise] [--dry-run] [key=value ...]
#
# --supervise starts the run again, from its newest checkpoint, when it was ended by what may pass.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ $# -lt 2 ]; then
  sed -n 's/^#     /usage: /p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
recipe="$1" hostfile="$2"
shift 2

python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3
"$python" -c 'from importlib.util import find_spec; assert find_spec("deepspeed")' > /dev/null 2>&1 || {
  printf 'error: %s has no deepspeed\n  next: make -C %s setup, or activate the environment that has it\n' "$python" "$root" >&2
  exit 2
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m trainer launch "$recipe" --launcher deepspeed --hostfile "$hostfile" "$@"
