#!/usr/bin/env bash
# eCLIP^P: fine-tunes a trained CLIP, here that of 02, with expert heatmaps and a new processor. Takes about a minute.
#
#   bash examples/03_finetune_eclip_p.sh [OUT]       OUT: the folder of 02_train_on_phantoms.sh
#   QUICK=1: a few steps only, to see that it runs
set -euo pipefail
out="${1:-phantom_example}"
python="${PYTHON:-python}"
epochs=3
if [ -n "${QUICK:-}" ]; then epochs=1; fi

# Export the run as a plain open_clip folder, which open_clip and this package's training can load.
"$python" -m openclip_eclip.export "$out/logs/clip" "$out/clip"
# The recipe's 1 000 steps would take long: given flags override the recipe; its learning rate (1e-5) is kept.
"$python" -m openclip_eclip.train --recipe eclip-p --model "local-dir:$out/clip" \
    --train-data "$out/data/train.csv" --batch-size 32 --epochs "$epochs" --force-context-length 64 --precision fp32 \
    --workers 0 --seed 0 --save-frequency 1000 --log-every-n-steps 8 --logs "$out/logs" --name eclip-p
echo "results: $out/logs/eclip-p/out.log; training starts from the loss of the trained CLIP, not from chance"
