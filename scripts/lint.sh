#!/usr/bin/env bash
# Linter, formatter and type checker, all three whatever the first says; --fix mends what ruff can mend.
set -euo pipefail
source "$(dirname "$0")/env.sh" lint
fix=() format=(--check)
[ "${1:-}" = --fix ] && fix=(--fix) format=()
failed=0
.venv/bin/ruff check "${fix[@]}" . || failed=1
.venv/bin/ruff format "${format[@]}" . || failed=1
.venv/bin/mypy || failed=1
exit $failed
