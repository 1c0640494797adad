#!/usr/bin/env bash
# What the adversary learns to mask, against random masks: docs/results.md.
#
#   benchmarks/adversarial.sh FOLDER
#
# A small masked LM from scratch on wikitext-2 is trained with random and with adversarial masks;
# each run's adapt.json holds, over the training, the rank correlation of the mask rate with
# rarity and with the model's loss, and the share of the masks on the 100 most frequent types. Then
# the testbed. Needs NMG_DATA. The corpus is the 290,000 tokens of WikiText-2's validation part, within
# the reach of one core; CORPUS names another file.
set -euo pipefail

folder=${1:?usage: benchmarks/adversarial.sh FOLDER}
corpus=${CORPUS:-${NMG_DATA:?set NMG_DATA to the folder of the data sets}/wikitext-2/valid.txt}
model=$folder/wikitext-bert

[[ -f $model/config.json ]] ||
  nmg new-lm --architecture bert --corpus "$corpus" --vocab-size 4000 --width 128 --output "$model"
for seed in ${SEEDS:-0 1 2}; do
  for strategy in random adversarial; do
    [[ -f $folder/$strategy-$seed/adapt.json ]] ||
      nmg adapt --model "$model" --corpus "$corpus" --strategy "$strategy" --epochs 2 --lr 1e-3 \
        --budget 0.15 --seed "$seed" --output "$folder/$strategy-$seed"
  done
done
python benchmarks/adversarial_table.py "$folder"
for setting in easy standard; do
  python benchmarks/adversarial_testbed.py --setting "$setting" --deals 10 --seeds 12 \
    --output "$folder/testbed-$setting.json"
done
