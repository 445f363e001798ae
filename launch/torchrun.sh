#!/usr/bin/env bash
# Train a recipe through torchrun: on this machine, or as one of several nodes where ssh between them is not allowed.
# Start the same line on every node; they meet at HOST:PORT, on one of them. The exit code is the run's.
#
#     launch/torchrun.sh RECIPE [--nodes N --meet HOST:PORT] [--processes N] [--dry-run] [key=value ...]
#
# --processes is of each node; default: one a GPU, or one.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
usage() { sed -n 's/^#     /usage: /p' "${BASH_SOURCE[0]}" >&2; }
fail() {
  echo "error: $1" >&2
  exit 2
}

nodes=1 meet="" processes="" rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --nodes | --meet | --processes)
      [ $# -ge 2 ] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift ;;
    --nodes=* | --meet=* | --processes=*) declare "${1#--}" ;;
    *) rest+=("$1") ;;
  esac
  shift
done
[ ${#rest[@]} -gt 0 ] || { usage; fail "no recipe is named"; }
if [ "$nodes" = 1 ]; then
  where="--standalone"
else
  [ -n "$meet" ] || fail "--nodes $nodes needs --meet HOST:PORT, the same on every node"
  where="--nnodes $nodes --rdzv_backend c10d --rdzv_endpoint $meet --rdzv_id xstilts"
fi

. "$root/launch/environment.sh"
[ -n "$processes" ] || processes="$("$python" -c 'from trainer.gpus import gpus_of_node; print(gpus_of_node() or 1)')"
exec "$python" -m trainer launch "${rest[@]}" --launcher "torchrun $where --nproc_per_node $processes"
