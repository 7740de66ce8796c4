# latentserve's verbs. `make setup` once, then `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
RECIPE ?= vae_digits
BUF := npx --yes @bufbuild/buf@1.75.0
MERMAID := mermaid@11.17.2
PACKAGES := latentserve service training export deploy
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml

# is_new_enough PYTHON, WHAT_TO_DO
is_new_enough = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(1) is $$($(1) --version 2>&1), expected Python 3.11 or later: $(2)" >&2; exit 1; }

.PHONY: help setup demo serve mnist test bench-test ops-test ray-test check fix protos docs lock bench soak clients gpu gpu-rehearsal reproduce clean
.DEFAULT_GOAL := help

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(VENV)/ready  ## make .venv with everything in it (python3 and its pip suffice)

$(VENV)/ready: requirements/dev.txt
	test -x $(BIN)/python || { $(call is_new_enough,$(PYTHON),install one and say which: make setup PYTHON=python3.11) && $(PYTHON) -m venv $(VENV); }
	@$(call is_new_enough,$(BIN)/python,remove $(VENV) and say which to take: make setup PYTHON=python3.11)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements/dev.txt
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	touch $@

demo: setup  ## the whole pipeline on digits: train, export, serve, score, report
	$(BIN)/python -m demo digits

serve: setup  ## as demo, then leave the server running until Ctrl-C
	$(BIN)/python -m demo digits --serve

mnist: setup  ## the same pipeline on full MNIST, with probes and baselines through the server
	$(BIN)/python -m demo mnist

test: setup  ## run the tests, as many files at once as there are cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench-test: setup  ## benchmarks' commands from end to end, small: minutes (a GPU's rehearsal, a recipe, a suite, clients, transformers, a refit)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m bench -n logical --maxprocesses 4 --dist loadfile

ops-test: setup  ## real Prometheus and Envoy on the real service: rules, dashboards, alerts, restarts (needs prometheus); hand-over to PostgreSQL (needs pgvector)
	$(BIN)/python -m pytest -m ops --timeout 900

ray-test: build/ray-venv/ready  ## a job on a Ray cluster of three machines, one of which goes away (downloads Ray)
	build/ray-venv/bin/python -m pytest tests/integration/test_ray.py tests/integration/test_ray_serve.py

build/ray-venv/ready: requirements/dev.txt | setup
	$(BIN)/python -m venv --clear build/ray-venv
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >build/ray-venv/lib/python3.$$($(BIN)/python -c 'import sys; print(sys.version_info.minor)')/site-packages/setup.pth
	build/ray-venv/bin/python -m pip install --quiet 'ray[data,serve]==2.60.0'
	touch $@

check: setup  ## ruff, mypy, buf, stubs up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) benchmarks demo
	deploy/check_stubs.sh $(BIN)/python
	if command -v npm >/dev/null; then cd protos && $(BUF) lint; else echo "buf: no npm here, the descriptor test stands in"; fi

fix: setup  ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: setup  ## generate the stubs from protos/
	deploy/make_stubs.sh $(BIN)/python .

docs: build/docs-venv/ready build/mermaid.min.js  ## build the site of the documents into build/docs, strictly
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --strict --quiet
	@echo build/docs/index.html

build/mermaid.min.js:  # without npm the site's readers ask unpkg.com for it
	if command -v npm >/dev/null; then cd build && npm pack --silent $(MERMAID) >/dev/null && tar -xzOf mermaid-*.tgz package/dist/mermaid.min.js >mermaid.min.js && rm mermaid-*.tgz; fi

build/docs-venv/ready: requirements/docs.txt | setup
	$(PYTHON) -m venv --clear build/docs-venv
	$(BIN)/uv pip sync --quiet --require-hashes --python build/docs-venv/bin/python requirements/docs.txt
	touch $@

lock: setup  ## pin what pyproject.toml asks for, with hashes
	$(COMPILE) --extra serve --extra import --extra bulk --extra lancedb --extra qdrant --extra dev -o requirements/dev.txt
	$(COMPILE) --extra serve -c requirements/dev.txt -o requirements/serve.txt
	$(COMPILE) --extra serve-cpu -c requirements/dev.txt -o requirements/serve-cpu.txt
	$(COMPILE) --extra serve --extra train -c requirements/dev.txt -o requirements/train.txt
	$(COMPILE) --extra docs -c requirements/dev.txt -o requirements/docs.txt

bench: setup  ## serving beside its peers, as ratios (needs h2load)
	$(BIN)/python -m benchmarks.serving

soak: setup  ## half an hour at 70 % load with a fault every 20 s: no wrong answer, no failure that nothing explains (ARGS="--minutes 5")
	$(BIN)/python -m benchmarks.soak $(ARGS)

clients: setup  ## what clients of other makes and proxies get (ARGS="--install" brings npm's)
	$(BIN)/python -m benchmarks.clients $(ARGS)

gpu: setup  ## on an NVIDIA GPU: facts, parity, speed, serving, scores, training (ARGS="--stages parity --minutes 2")
	$(BIN)/python -m benchmarks.gpu $(ARGS)

gpu-rehearsal: setup  ## the same stages on the CPU with small sizes: two minutes
	$(BIN)/python -m benchmarks.gpu --rehearse --again $(ARGS)

reproduce: setup  ## train a recipe again and check its figures (RECIPE=vae_digits, see training/recipes)
	$(BIN)/python -m benchmarks.results.reproduce $(RECIPE)

clean:  ## remove what the verbs above made (runs, bundles, caches), not .venv
	rm -rf runs models .mypy_cache .pytest_cache .ruff_cache
