#!/usr/bin/env bash
# MASS and the Adversarial Masking Transformer on translation: the commands behind docs/results.md.
#
#   benchmarks/generation.sh FOLDER [mass|amt|ends|all]     default: all
#
# FOLDER gets models and results; run again, the same command goes on where it stopped. Needs the
# data sets under NMG_DATA and the extra `generation`. DEVICE=cuda, SEEDS=5 and FIRST=3 (the first
# seed, to share the work between processes) are understood. Costs on one core: see docs/results.md.
set -euo pipefail

folder=${1:?usage: benchmarks/generation.sh FOLDER [mass|amt|ends|all]}
what=${2:-all}
device=${DEVICE:-cpu}
seeds=${SEEDS:-3}
first=${FIRST:-0}
model=$folder/multi30k-bart

[[ -f $model/config.json ]] ||
  nmg new-lm --architecture bart --dataset multi30k --vocab-size 5000 --width 128 --layers 2 \
    --length 64 --output "$model"

common=(--dataset multi30k --model "$model" --device "$device" --precision bf16
  --seeds "$seeds" --first-seed "$first" --test-examples 500
  --max-source-length 64 --max-target-length 64)

# Which fragment, on few pairs: none, MASS from one token to all, as many scattered tokens.
if [[ $what == mass || $what == all ]]; then
  nmg generation "${common[@]}" --eval-tokens 8192 --objective mass scattered --k 0 0.25 0.5 0.75 1 \
    --scattered-k 0.5 --contexts 30000 --pretrain-epochs 2 --pairs 1000 5000 \
    --finetune-steps 625 --output "$folder/mass"
fi

# The paper's own setting of adversarial masking, on a third of the pairs, from scratch.
if [[ $what == amt || $what == all ]]; then
  nmg generation "${common[@]}" --objective amt --pairs 10000 --finetune-steps 625 \
    --output "$folder/amt"
fi

# Summaries and dialogues, from end to end: small, to see that they run.
if [[ $what == ends || $what == all ]]; then
  for dataset in scitldr dailydialog; do
    [[ -f $folder/$dataset-bart/config.json ]] ||
      nmg new-lm --architecture bart --dataset "$dataset" --vocab-size 5000 --length 192 \
        --output "$folder/$dataset-bart"
    nmg generation --dataset "$dataset" --model "$folder/$dataset-bart" --device "$device" \
      --precision bf16 --objective mass --pairs 500 --contexts 1000 --test-examples 100 --seeds 1 \
      --pretrain-epochs 1 --finetune-epochs 4 --max-source-length 192 --max-target-length 48 \
      --output "$folder/$dataset"
  done
fi
