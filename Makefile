# What contributors run. scripts/env.sh makes .venv where it is missing.
SHELL := bash
.PHONY: test test-all lint format docs

# about 90 s on two cores: no training, no GPU
test:
	bash scripts/test.sh -m "not slow and not gpu"

# everything, as CI runs it: about 12 minutes on two cores
test-all:
	bash scripts/test.sh

# ruff check, ruff format --check, mypy
lint:
	bash scripts/lint.sh

format:
	bash scripts/lint.sh --fix

# the generated pages and blocks of the documentation, then the site in site/; a broken link is an error
docs:
	source scripts/env.sh docs && .venv/bin/python scripts/build_docs.py && .venv/bin/python -m mkdocs build --strict
