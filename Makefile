.DEFAULT_GOAL := help
PYTHON ?= python

.PHONY: help dev fmt lint type check test soak fuzz asan bench wheel licenses

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
	$(PYTHON) rust/layers.py
	$(PYTHON) rust/licenses.py --check

type:  ## check types, and the stub of the Rust module
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy.stubtest knnspect._core

# What is quick and still touches most of the package.
QUICK = tests/unit/cli tests/unit/gallery tests/unit/metrics tests/unit/report \
	tests/unit/search tests/unit/testing tests/unit/views tests/unit/test_errors.py tests/unit/test_parameters.py \
	tests/unit/test_pyramid.py tests/unit/test_rust_layers.py tests/unit/test_structure.py

check: lint type  ## lint, type, and the quick tests: while working, in less than 90 seconds
	$(PYTHON) -m pytest -q $(QUICK)

# A file's tests share what they fit, so a file stays in one process.
PARALLEL = -n auto --dist loadfile

test:  ## run all tests, of Python and of Rust
	$(PYTHON) -m pytest $(PARALLEL)
	cargo test --workspace --release

soak:  ## compare all matchers with each other and with float64, for SOAK_SECONDS (600)
	SOAK_JSON="$(CURDIR)/benches/results/soak.json" \
		cargo test -p knnspect-core --release --test soak -- --ignored --nocapture

fuzz:  ## alter files of every kind, byte by byte and by forging, for FUZZ_SECONDS (600)
	KNNSPECT_FUZZ_SECONDS="$${FUZZ_SECONDS:-600}" \
		KNNSPECT_FUZZ_JSON="$(CURDIR)/benches/results/fuzz.json" \
		$(PYTHON) -m pytest tests/integration/test_fuzz.py -q -s

asan:  ## run the Rust tests under AddressSanitizer, on Linux; built apart, in target/asan
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR="$(CURDIR)/target/asan" \
		cargo test -p knnspect-core --release --lib --tests --target x86_64-unknown-linux-gnu

bench:  ## run the benchmarks of the public path and of the kernels
	$(PYTHON) -m pytest benches/python
	cargo bench -p knnspect-core

wheel:  ## build what is published, and check it, into dist/: a wheel for any Linux, and the source distribution
	.ci/wheel dist

licenses:  ## write the licences of the crates that are compiled in to rust/LICENSES.txt
	$(PYTHON) rust/licenses.py
