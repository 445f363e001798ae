#!/usr/bin/env bash
# A few small, deterministic steps of a recipe in one process, on one GPU or the CPU, with anomaly checks: no launcher
# is between you and a debugger (`python -m pdb -m trainer ...` takes the same arguments).
#
#     launch/debug.sh RECIPE [--steps N] [key=value ...]
#
# The run, runs/debug/<recipe>, starts afresh each time; data must be prepared, as for any run. Your own key=value
# come last and win.
set -euo pipefail

usage() { sed -n 's/^#     /usage: /p' "${BASH_SOURCE[0]}" >&2; }

fail() {
  echo "error: $1" >&2
  [ -z "${2:-}" ] || echo "  next: $2" >&2
  exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
steps=10 recipe="" overrides=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --steps) [ $# -ge 2 ] || fail "--steps needs a number"; steps="$2"; shift ;;
    --steps=*) steps="${1#--steps=}" ;;
    -*) usage; fail "unknown option $1" ;;
    *) if [ -z "$recipe" ]; then recipe="$1"; else overrides+=("$1"); fi ;;
  esac
  shift
done
[ -n "$recipe" ] || { usage; fail "no recipe is named" "launch/debug.sh launch/recipes/demo.yaml"; }
[[ "$steps" =~ ^[1-9][0-9]*$ ]] || fail "--steps must be a whole number above 0, not '$steps'"
if [ ! -f "$recipe" ] && [ -f "$root/$recipe" ]; then recipe="$root/$recipe"; fi
[ -f "$recipe" ] || fail "recipe $recipe does not exist" "ls $root/launch/recipes/"

. "$root/launch/environment.sh"

name="$(basename "$recipe")"
name="${name%.*}"
rm -rf "runs/debug/$name"
visible="${CUDA_VISIBLE_DEVICES-0}"
export CUDA_VISIBLE_DEVICES="${visible%%,*}" PYTHONFAULTHANDLER=1
# 2,048 tokens hold the largest example of the nine tasks: five options of 256.
exec "$python" -m trainer train "$recipe" run.folder=runs/debug "run.name=$name" "train.steps=$steps" \
  train.packs_per_step=2 train.pack_tokens=2048 train.deterministic=true train.detect_anomaly=true \
  log.every_steps=1 evaluation.end_limit=20 ${overrides[@]+"${overrides[@]}"}
