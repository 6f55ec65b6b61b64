#!/usr/bin/env bash
# N processes on this machine train one recipe together: bash launch/local.sh N [--dry_run] --config=... --workdir=...
# All flags but --dry_run go to launch/train.py; what follows "--" goes there as it is (also its own --dry_run).
# The first process speaks; the others are heard when they fail. Where there are GPUs, each process gets its share of
# them. If one fails, all end; the exit code is the largest. Ctrl-C, SIGTERM or a closed terminal saves; started again,
# the run resumes.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
refuse() { echo "error: $1" >&2; exit 2; }

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || refuse "launch/local.sh: the first argument is the number of processes, not '${1:-}'"
count=$1 dry=false flags=()
shift
while (($#)); do
  case $1 in
    --dry_run) dry=true ;;
    --) flags+=("${@:2}"); break ;;
    --coordinator* | --num_processes* | --process_id*) refuse "launch/local.sh: ${1%%=*} is for it to say, leave it out" ;;
    *) flags+=("$1") ;;
  esac
  shift
done
((${#flags[@]})) || refuse "launch/local.sh: --config and --workdir are missing; give the flags of launch/train.py"

python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || python=python3
free='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=$("$python" -c "$free") || refuse "launch/local.sh: no free port of this machine found with $python"
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd,)}"
if ((${#gpus[@]} % count)); then
  refuse "launch/local.sh: $count processes cannot share ${#gpus[@]} GPUs evenly; CUDA_VISIBLE_DEVICES= hides them"
fi

command=() share=$((${#gpus[@]} / count))
line() { # the command of one process
  command=("$python" "$root/launch/train.py" ${flags[@]+"${flags[@]}"})
  ((count == 1)) || command+=("--coordinator=127.0.0.1:$port" "--num_processes=$count" "--process_id=$1")
  ((share == 0)) || command=(env "CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:$1*share:share}")" "${command[@]}")
}
if $dry; then
  for ((i = 0; i < count; i++)); do line $i && printf '%q ' "${command[@]}" && echo; done
  exit 0
fi

logs=$(mktemp -d) pids=()
for ((i = 0; i < count; i++)); do
  line $i
  # background jobs of a script ignore SIGINT; ours shall hear it
  if ((i == 0)); then (trap - INT; exec "${command[@]}") & else (trap - INT; exec "${command[@]}") >"$logs/$i" 2>&1 & fi
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM
trap 'kill -INT "${pids[@]}" 2>/dev/null' INT
trap 'kill -HUP "${pids[@]}" 2>/dev/null' HUP

worst=0 failed=0 left=("${!pids[@]}")
while ((${#left[@]})); do
  still=()
  for i in "${left[@]}"; do
    if kill -0 "${pids[i]}" 2>/dev/null; then still+=("$i") && continue; fi
    wait "${pids[i]}"
    code=$?
    ((code <= worst)) || worst=$code
    ((code == 0 || failed)) || failed=$SECONDS
    if ((code && i)); then sed "s/^/[process $i] /" "$logs/$i" | tail -n 20 >&2; fi
  done
  left=(${still[@]+"${still[@]}"})
  # the others end by themselves, within a minute; whatever does not is ended
  if ((${#left[@]} && failed && SECONDS - failed > 90)); then
    for i in "${left[@]}"; do kill -KILL "${pids[i]}" 2>/dev/null; done
  fi
  ((${#left[@]} == 0)) || sleep 0.2
done
rm -rf "$logs"
exit "$worst"
