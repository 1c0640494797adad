#!/usr/bin/env bash
# Meta-training: learn a masking policy.
#
#   ./run_train.sh                                          the testbed, minutes on a laptop
#   ./run_train.sh RUN TASK DATASET MODEL [GPU] [--any-nmg-train-flag ...]
#   ./run_train.sh 20201120 qa squad bert 0 --preset paper
#   ./run_train.sh real qa squadshifts-new_wiki minilm cpu --episodes 20
#   ./run_train.sh mass generation multi30k models/multi30k cpu --episodes 20
#
# TASK is qa, classification (glue is another word for it) or generation; GPU is a number, or empty
# or cpu for none. The run goes to output/DATASET/MODEL/RUN_neural. Pre-training objectives of
# generation are compared by nmg generation.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
fi

positional=()
while (($#)) && [[ $1 != --* ]]; do
    positional+=("$1")
    shift
done
if ((${#positional[@]} != 0 && ${#positional[@]} != 4 && ${#positional[@]} != 5)); then
    echo "run_train.sh: got ${#positional[@]} arguments; expected none, or RUN TASK DATASET MODEL [GPU]." >&2
    exit 2
fi

python=$("$root/scripts/python.sh")
flags=()
if ((${#positional[@]})); then
    task=${positional[1]}
    [[ $task == glue ]] && task=classification
    gpu=${positional[4]:-cpu}
    [[ $gpu == cpu ]] || gpu=cuda:$gpu
    flags=(--name "${positional[0]}" --task "$task" --dataset "${positional[2]}"
        --model "${positional[3]}" --device "$gpu")
fi
exec "$python" -m nmg train "${flags[@]}" "$@"
