#!/usr/bin/env bash
# Train on all workers of a TPU pod slice:
#   bash launch/tpu_pod.sh --name=TPU --zone=ZONE [--project=P] [--dry_run] --config=... --workdir=gs://BUCKET/RUN
# Copies this checkout (what git tracks) to every worker, installs it where setup.cfg has changed since the last time,
# and runs launch/train.py there; the workers find each other. Started again, it resumes. A connection that breaks may
# end the run: start it from a machine that stays, and start it again.
# shellcheck disable=SC2034 # some variables are read by their names
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
refuse() { echo "error: $1" >&2; exit 2; }

name='' zone='' workdir='' config='' dry=false where=() flags=()
for flag in "$@"; do
  case $flag in
    --name=*) name=${flag#*=} ;;
    --zone=*) zone=${flag#*=} ;;
    --project=*) where+=("$flag") ;;
    --dry_run) dry=true ;;
    --*)
      flags+=("$flag")
      [[ $flag != --workdir=* ]] || workdir=${flag#*=}
      [[ $flag != --config=* ]] || config=${flag#*=}
      ;;
    *) refuse "launch/tpu_pod.sh: $flag: unexpected argument; flags look like --name=value" ;;
  esac
done
for needed in name zone config workdir; do
  [[ -n ${!needed} ]] || refuse "launch/tpu_pod.sh: --$needed=... is missing"
done
[[ $workdir == *://* || $workdir == /* ]] ||
  refuse "launch/tpu_pod.sh: --workdir=$workdir: must be seen by all workers: gs://BUCKET/RUN, or the path of a shared mount"

remote='mkdir -p kd_jax && tar -xzf kd_jax.tar.gz -C kd_jax && cd kd_jax'
remote+=' && { cmp -s setup.cfg .venv/installed || { python3 -m venv .venv'
remote+=' && .venv/bin/python -m pip install --quiet --editable ".[tpu]" && cp setup.cfg .venv/installed; }; }'
# KD_JAX_SEVERAL: this is one process of several, and JAX asks the TPU's own records which
remote+=" && exec env KD_JAX_SEVERAL=1 .venv/bin/python launch/train.py$(printf ' %q' "${flags[@]}")"
tpu=(gcloud compute tpus tpu-vm) where+=("--zone=$zone" --worker=all)
archive=${TMPDIR:-/tmp}/kd_jax.tar.gz
pack=(git -C "$root" archive --format=tar.gz --output="$archive" HEAD)
copy=("${tpu[@]}" scp "$archive" "$name:kd_jax.tar.gz" "${where[@]}")
start=("${tpu[@]}" ssh "$name" "${where[@]}" "--command=$remote")
if $dry; then
  printf '%q ' "${pack[@]}" && echo
  printf '%q ' "${copy[@]}" && echo
  printf '%q ' "${start[@]}" && echo
  exit 0
fi
command -v gcloud >/dev/null || refuse "launch/tpu_pod.sh: gcloud is not installed; see https://cloud.google.com/sdk"
[[ -z $(git -C "$root" status --porcelain --untracked-files=no) ]] ||
  echo "note: changes that are not committed stay here: the workers get the last commit" >&2
"${pack[@]}" && "${copy[@]}" && exec "${start[@]}"
