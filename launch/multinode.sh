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

. "$root/launch/environment.sh"
exec "$python" -m trainer launch "$recipe" --launcher deepspeed --hostfile "$hostfile" "$@"
