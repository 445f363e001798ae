# For the scripts beside it, to be sourced: $python, which has deepspeed, and PYTHONPATH; $root is the clone.
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3
"$python" -c 'from importlib.util import find_spec; assert find_spec("deepspeed")' > /dev/null 2>&1 || {
  printf 'error: %s has no deepspeed\n  next: make -C %s setup, or activate the environment that has it\n' "$python" "$root" >&2
  exit 2
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
