.DEFAULT_GOAL := help
PYTHON ?= python

.PHONY: help dev fmt lint type test soak bench wheel

help:  ## show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

dev:  ## install the package, editable, with everything for development
	$(PYTHON) -m pip install --editable ".[dev]"

fmt:  ## format Rust and Python
	cargo fmt --all
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix-only .

lint:  ## check formatting, lints, and which module imports which
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	lint-imports

type:  ## check types, and the stub of the Rust module
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy.stubtest knnspect._core

test:  ## run all tests, of Python and of Rust
	$(PYTHON) -m pytest
	cargo test --workspace --release

soak:  ## compare all matchers with each other and with float64, for SOAK_SECONDS (600)
	SOAK_JSON="$(CURDIR)/benches/results/soak.json" \
		cargo test -p knnspect-core --release --test soak -- --ignored --nocapture

bench:  ## run the benchmarks of the public path and of the kernels
	$(PYTHON) -m pytest benches/python
	cargo bench -p knnspect-core

wheel:  ## build the wheel into dist/
	$(PYTHON) -m maturin build --release --out dist
