#!/usr/bin/env bash
# eCLIP^P: fine-tune a trained CLIP, here that of 02, with expert heatmaps and a fresh processor. About a minute.
#
#   bash examples/03_finetune_eclip_p.sh [OUT]       OUT: the folder of 02_train_on_phantoms.sh
#   QUICK=1: a handful of steps, to see that it runs
set -euo pipefail
out="${1:-phantom_example}"
python="${PYTHON:-python}"
epochs=3
if [ -n "${QUICK:-}" ]; then epochs=1; fi

# a run becomes a plain open_clip folder: any code that uses open_clip loads it, and so does our training
"$python" -m openclip_eclip.export "$out/logs/clip" "$out/clip"
# the recipe's 1 000 steps would be long for an example: flags that are given win over it, the learning rate (1e-5) stays
"$python" -m openclip_eclip.train --recipe eclip-p --model "local-dir:$out/clip" \
    --train-data "$out/data/train.csv" --batch-size 32 --epochs "$epochs" --force-context-length 64 --precision fp32 \
    --workers 0 --seed 0 --save-frequency 1000 --log-every-n-steps 8 --logs "$out/logs" --name eclip-p
echo "look at: $out/logs/eclip-p/out.log; its first lines of training start from CLIP's loss, not from chance"
