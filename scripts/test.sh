#!/usr/bin/env bash
# The whole test suite on a fresh machine: creates .venv, installs what it needs, runs pytest. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/env.sh" test
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
exec .venv/bin/python -m pytest "$@"
