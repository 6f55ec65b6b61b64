#!/usr/bin/env bash
# Train on GKE by launch/gke_jobset.yaml:
#   bash launch/gke_jobset.sh --name=RUN --image=IMAGE --hosts=4 --accelerator=tpu-v5-lite-podslice --topology=4x4
#     [--chips=4] [--account=default] [--dry_run] --config=... --workdir=gs://BUCKET/RUN
# --dry_run prints the JobSet. An earlier JobSet of the name is stopped first (it saves); the new one resumes.
# shellcheck disable=SC2034 # some variables are read by their names
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
refuse() { echo "error: $1" >&2; exit 2; }

name='' image='' hosts='' accelerator='' topology='' chips=4 account=default config='' workdir='' dry=false flags=''
for flag in "$@"; do
  case $flag in
    --dry_run) dry=true ;;
    --name=* | --image=* | --hosts=* | --accelerator=* | --topology=* | --chips=* | --account=*)
      key=${flag%%=*}
      printf -v "${key#--}" %s "${flag#*=}"
      ;;
    --*)
      [[ $flag != --config=* ]] || config=${flag#*=}
      [[ $flag != --workdir=* ]] || workdir=${flag#*=}
      [[ $flag != *[\'\"\`\$\\]* ]] || refuse "launch/gke_jobset.sh: $flag: no quotes, \$ or \\ in flags"
      flags+="'$flag' "
      ;;
    *) refuse "launch/gke_jobset.sh: $flag: unexpected argument; flags look like --name=value" ;;
  esac
done
for needed in name image hosts accelerator topology config workdir; do
  [[ -n ${!needed} ]] || refuse "launch/gke_jobset.sh: --$needed=... is missing"
done
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || refuse "launch/gke_jobset.sh: --name=$name: must be lower-case letters, digits and -"
[[ $hosts =~ ^[1-9][0-9]*$ ]] || refuse "launch/gke_jobset.sh: --hosts=$hosts: must be a number"
[[ $chips =~ ^[1-9][0-9]*$ ]] || refuse "launch/gke_jobset.sh: --chips=$chips: must be a number"
[[ $workdir == *://* || $workdir == /* ]] ||
  refuse "launch/gke_jobset.sh: --workdir=$workdir: must be seen by all pods: gs://BUCKET/RUN, or the path of a shared volume"

filled=$(<"$root/launch/gke_jobset.yaml")
filled=$(grep -v '^#' <<<"$filled")
for pair in "NAME=$name" "IMAGE=$image" "HOSTS=$hosts" "ACCELERATOR=$accelerator" "TOPOLOGY=$topology" "CHIPS=$chips" \
  "ACCOUNT=$account" "FLAGS=${flags% }"; do
  place="\${${pair%%=*}}"
  filled=${filled//"$place"/"${pair#*=}"}
done
if $dry; then
  printf '%s\n' "$filled"
  exit 0
fi
command -v kubectl >/dev/null || refuse "launch/gke_jobset.sh: kubectl is not installed"
kubectl delete jobset "$name" --ignore-not-found --wait=true && kubectl apply -f - <<<"$filled"
