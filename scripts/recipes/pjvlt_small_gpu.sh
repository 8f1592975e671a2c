#!/bin/bash
# Trains pjvlt_small.yaml on one GPU in a quarter of an hour, with data that fit into 45 MB.
#
#   python scripts/shrink_images.py my-videos my-images --max_side 208 --quality 60 --output_dir data
#   bash scripts/recipes/pjvlt_small_gpu.sh data/my-videos data/my-images START OUTPUT
#
# START is a checkpoint to start from: the grafted one of pjvlt_small.yaml, or one to go on from. SECONDS_TO_TRAIN
# (default 720), BATCH (256), WORKERS (14), STEPS (3 000), PRECISION (bf16), EVERY (400 steps between checkpoints),
# PAUSE (20 seconds between looks for a new one) and VAL, a folder of videos to evaluate on, come from the
# environment. Each checkpoint is also written to OUTPUT/weights in bfloat16, under 20 MB.
set -euo pipefail
videos=$1 images=$2 start=$3 output=$4
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$output/weights"

python -m modeling_pjvlt convert folders "$videos" --output "$output/videos"
timeout --signal TERM --kill-after 60 "${SECONDS_TO_TRAIN:-720}" python -m modeling_pjvlt train \
  --config "$here/pjvlt_small.yaml" --model_name_or_path "$start" \
  --dataset_name "$output/videos" photographs boxed_images procedural \
  --boxed_images "$images" --photographs "$images" \
  --num_warmup_steps $(("${STEPS:-3000}" / 20)) --num_decay_steps $(("${STEPS:-3000}" / 3)) \
  --per_device_train_batch_size "${BATCH:-256}" --dataloader_num_workers "${WORKERS:-14}" \
  --mixed_precision "${PRECISION:-bf16}" --max_train_steps "${STEPS:-3000}" \
  --checkpointing_steps "${EVERY:-400}" --output_dir "$output/run" &
trained=$!
while kill -0 "$trained" 2>/dev/null; do
  sleep "${PAUSE:-20}"
  for checkpoint in "$output"/run/checkpoints/[0-9]*/pretrained_model; do
    weights="$output/weights/$(basename "$(dirname "$checkpoint")")"
    if [ -f "$checkpoint/model.safetensors" ] && [ ! -d "$weights" ]; then
      python "$here/../average_checkpoints.py" "$checkpoint" --output_dir "$weights"
    fi
  done
done
wait "$trained" || test $? -eq 124  # 124: the time is over, as planned
last=$(ls -d "$output"/run/checkpoints/[0-9]*/pretrained_model | tail -n 4)
# shellcheck disable=SC2086
python "$here/../average_checkpoints.py" $last --output_dir "$output/weights/mean"
if [ -n "${VAL:-}" ]; then
  python -m modeling_pjvlt eval --dataset_name "$VAL" --model "$output/weights/mean" --output_dir "$output/report"
fi
