#!/usr/bin/env bash
# Measures what docs/results.md shows: some thirty minutes on two cores with nothing else running.
#   bash benchmarks/run_results.sh [DEEPSPARSE_PYTHON]     # without one, DeepSparse is left out
#   pruneonce report runs/studies/minilm/*.study.json benchmarks/results/*.json --markdown docs/results.md --html runs/results.html
# The study is that of docs/fidelity.md. STUDY=its folder measures some of its models as well, with their accuracy.
# A record that is there already is kept; delete it to measure again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=benchmarks/results
all=torch,onnxruntime,openvino
sparse_rival=()
if [ $# -gt 0 ]; then
  all=$all,deepsparse
  sparse_rival=(--deepsparse-python "$1")
fi

# measure NAME OPTIONS…
measure() {
  local file=$out/$1.json
  shift
  [ -f "$file" ] || .venv/bin/pruneonce bench "${sparse_rival[@]}" --json "$file" "$@"
}

# measure_step NAME OPTIONS…
measure_step() {
  local file=$out/$1.json
  shift
  [ -f "$file" ] || .venv/bin/pruneonce bench-train --json "$file" "$@"
}

measure base-90 --random bert-base --grid 1x32,1x128,16x128,1x384 --rounds 9 --against $all
measure base-90-blocks --random bert-base --pattern 1x4 --grid 1x32,1x128,16x128 --rounds 9 --against ${all#torch,onnxruntime,}
measure base-80-blocks --random bert-base --pattern 1x4 --sparsity 0.8 --grid 1x32,1x128,16x128 --rounds 9 --against openvino
measure large-90 --random bert-large --grid 1x128,1x384 --rounds 7 --against ${all#torch,}
# The instruction set of older processors, for our engine alone: rivals choose theirs themselves.
PRUNEONCE_ISA=avx2 measure base-90-avx2 --random bert-base --grid 1x128,16x128 --rounds 7 --against onnxruntime
# What the second core brings, and what mixed lengths cost.
measure base-90-one-thread --random bert-base --grid 1x32,1x128,16x128 --threads 1 --rounds 9 --against ''
measure base-90-mixed --random bert-base --grid 1x128 --mixed squad --rounds 9 --against ''
# Where zeros pay.
for sparsity in 0 50 60 70 80 95; do
  measure base-$sparsity --random bert-base --sparsity 0.$(printf %02d $sparsity) --grid 1x32,1x128,16x128 --rounds 5 --against openvino
done
for sparsity in 50 70; do
  measure base-$sparsity-blocks --random bert-base --pattern 1x4 --sparsity 0.$sparsity --grid 1x32,1x128,16x128 --rounds 5 --against openvino
done
# A step of fine-tuning.
measure_step step-base-90 --random bert-base --grid 16x128 --rounds 10
measure_step step-base-90-spans --random bert-base --task question_answering --grid 8x384 --rounds 7
measure_step step-minilm-90 --random minilm --grid 16x128 --rounds 20
# Accuracy by latency and size: models of the study, dense, pruned and quantised; the file has the name of the run.
for run in ${STUDY:+finetune-sst2-seed1-96485b2a locked-85-sst2-seed1-5da5db20 locked-90-sst2-seed1-d1760470 int8-90-sst2-seed1-0c532592}; do
  measure $run "$STUDY/$run" --task sst2 --data "${SST2_DEV:?the dev.tsv of SST-2}" --grid 1x128 --rounds 9 --against onnxruntime,openvino
done
