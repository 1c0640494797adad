#!/usr/bin/env bash
# Meta-testing: compare a learned policy with random and fixed maskings on the test split.
#
#   ./run_test.sh                                          the last testbed run
#   ./run_test.sh RUN CHECKPOINT TASK DATASET MODEL GPU GPUNUM START EPOCHS MASK_PROB [--flags]
#   ./run_test.sh 20201120 output/squad/bert/20201120_neural qa squad bert 0 1 50 3 0.05
#
# CHECKPOINT is a run folder; START the first of its checkpoints that may be used. Which one is
# used is chosen by held-out training data, never by the test set. EPOCHS are of further
# pre-training, MASK_PROB is the mask budget. With GPUNUM > 1 the score jobs run side by side on
# GPUs GPU, GPU+1, ... The results go to output/DATASET/MODEL/RUN_test. Any nmg test flag may follow,
# e.g. --strategy idf --seeds 5 --test-dataset squad --contexts 500 --examples 1000.
#
# TASK is qa, classification (glue is another word for it) or generation. For generation, fragments
# that the policy in CHECKPOINT places (- for no policy) are compared with uniform ones; GPUNUM and
# START are not looked at, MASK_PROB is the fragment's share of a sentence (MASS's k), and flags of
# nmg generation may follow.
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
if ((${#positional[@]} != 0 && ${#positional[@]} != 10)); then
    echo "run_test.sh: got ${#positional[@]} arguments; expected none, or RUN CHECKPOINT TASK DATASET MODEL GPU GPUNUM START EPOCHS MASK_PROB." >&2
    exit 2
fi

python=$("$root/scripts/python.sh")
if ((${#positional[@]} == 0)); then
    last=$(ls -td output/testbed/tiny/*_neural 2>/dev/null | head -n 1 || true)
    if [[ -z $last ]]; then
        echo "run_test.sh: there is no testbed run in output/testbed/tiny; run ./run_train.sh first." >&2
        exit 2
    fi
    exec "$python" -m nmg test --task testbed --policy "$last" "$@"
fi

run=${positional[0]} task=${positional[2]} dataset=${positional[3]} model=${positional[4]}
[[ $task == glue ]] && task=classification
gpu=${positional[5]:-cpu}
if [[ $gpu == cpu || -z $gpu ]]; then device=cpu; else device=cuda:$gpu; fi
if [[ $task == generation ]]; then
    places=(uniform)
    [[ ${positional[1]} == - ]] || places+=("${positional[1]}")
    exec "$python" -m nmg generation --name "$run" --dataset "$dataset" --model "$model" \
        --device "$device" --placement "${places[@]}" --pretrain-epochs "${positional[8]}" \
        --k "${positional[9]}" "$@"
fi
exec "$python" -m nmg test --policy "${positional[1]}" --task "$task" --dataset "$dataset" \
    --model "$model" --device "$device" --workers "${positional[6]}" --start "${positional[7]}" \
    --pretrain-epochs "${positional[8]}" --budget "${positional[9]}" --name "$run" "$@"
