#!/usr/bin/env bash
# From a fresh clone to a picture: .venv, installation, synthetic images, three methods, their scores. Arguments go to demo.py.
set -euo pipefail
source "$(dirname "$0")/env.sh" evaluate
if [ -e demo_output ] && [ $# -eq 0 ]; then
    echo "demo_output exists: remove it, or give another folder with --out" >&2
    exit 2
fi
export HF_HUB_OFFLINE=1
exec .venv/bin/python scripts/demo.py "$@"
