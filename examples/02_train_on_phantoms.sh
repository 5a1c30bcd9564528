#!/usr/bin/env bash
# Makes and checks synthetic chest X-rays with gaze, then trains CLIP and eCLIP on them. Takes about two minutes on one core.
#
#   bash examples/02_train_on_phantoms.sh [OUT]      OUT: a new folder (default: phantom_example)
#   QUICK=1: a few steps only, to see that it runs
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="${1:-phantom_example}"
python="${PYTHON:-python}"
images=1024 epochs=8 methods="clip eclip"
if [ -n "${QUICK:-}" ]; then images=64 epochs=1 methods="clip"; fi

"$python" -m openclip_eclip.prepare phantom "$out/data" --train "$images" --test 64 --annotated 0.1
"$python" -m openclip_eclip.data.check "$out/data/train.csv" --sheet "$out/contact_sheet.png"

# A folder with open_clip_config.json and no weights is a model to train from scratch. --method clip is the plain baseline;
# all other flags are the same for both methods. fp32, because mixed precision is slow on a CPU.
for method in $methods; do
    "$python" -m openclip_eclip.train --method "$method" --model "local-dir:$here/configs/tiny" \
        --train-data "$out/data/train.csv" --batch-size 32 --epochs "$epochs" --warmup 4 --lr 1e-3 --wd 1e-3 \
        --force-context-length 64 --precision fp32 --workers 0 --seed 0 --save-frequency 1000 --log-every-n-steps 8 \
        --logs "$out/logs" --name "$method"
done
echo "results: $out/contact_sheet.png, $out/logs/*/out.log, $out/logs/eclip/figures/"
