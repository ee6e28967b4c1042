# Everything lives in .venv; a stage runs again only when the files that decide it change.
# Variables: HOST, PORT, CONFIG (serve); PYTHON, TORCH_BUILD (install); MINUTES (fuzz, soak); JOBS (test); ARGS (test, fuzz, bench, gpu-check, gpu-bench).

VENV := .venv
BIN := $(VENV)/bin
FIND_PYTHON := for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done
INSTALL = $(PYTHON) scripts/install.py $(VENV)
LOCK := $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate
PYTHON ?= $(shell $(FIND_PYTHON))
GPU_PYTHON = $(or $(wildcard $(BIN)/python),$(PYTHON))
LANES := not gpu and not vllm and not clients and not listen and not attack and not page and not provenance and not deploy and not ray
TEST_MARKS := $(LANES) and not slow

export TORCH_BUILD
# Tests start a hundred processes; each would compile all it imports anew, three times the work of starting.
unexport PYTHONDONTWRITEBYTECODE

# vLLM asks for versions of its own, so it has an environment of its own.
ifeq ($(VENV),.venv-vllm)
VLLM := -r tests/vllm/requirements.txt
export PINS := constraints-vllm.txt
endif

.PHONY: help install serve test coverage test-fast test-slow test-deploy test-ray test-vllm attack provenance clients page listen fuzz soak check bench gpu-first gpu-check gpu-bench carry lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.serve ## set up .venv with what the server needs

serve: $(VENV)/.serve ## set up what is missing and serve (HOST=, PORT=, CONFIG=)
	@exec $(BIN)/python -m qtts_openai serve \
		$(if $(HOST),--host "$(HOST)") $(if $(PORT),--port "$(PORT)") $(if $(CONFIG),--config "$(CONFIG)")

# Files are shared out among as many processes as there are cores. A test that fails gets one more go and is
# listed as RERUN: on a busy machine that is noise, on an idle one a fault.
JOBS ?= auto
SPREAD := -n $(JOBS) --maxprocesses 4 --dist loadfile --reruns 1 -rfER
test: $(VENV)/.test ## set up what tests need and run them (ARGS="-k voices" JOBS=0)
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false timeout -k 30 3000 \
		$(BIN)/python -m pytest -q -m "$(TEST_MARKS)" $(SPREAD) $(or $(ARGS),--durations=40 --durations-min=4)
	@echo "Not run: the tests of the vLLM backend (make test-vllm)"

coverage: ## make test, and which lines of engine and qtts_openai it ran; half as long again
	@$(MAKE) --no-print-directory test ARGS="--cov --cov-report=term"

test-vllm: ## the talker on vLLM, on this CPU, in .venv-vllm (3.6 GB)
	@$(MAKE) --no-print-directory VENV=.venv-vllm .venv-vllm/.test
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false .venv-vllm/bin/python -m pytest -q -m vllm $(SPREAD) tests/vllm $(ARGS)
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false VLLM_TEST_RUNNER=v2 \
		.venv-vllm/bin/python -m pytest -q -m vllm tests/vllm/test_golden.py $(ARGS)

attack: $(VENV)/.test ## attack a server of its own in every known way
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest tests/attack $(ARGS)

provenance: $(VENV)/.provenance ## sign and verify answers, with packages of their own
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -m provenance $(ARGS)

# In one process: two would import everything twice, for no more than 25 s of tests.
test-fast: $(VENV)/.test ## those that need no engine and no server (ARGS="-k voices")
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q --fast -p no:schemathesis -p no:faker -m "$(TEST_MARKS)" $(ARGS)

test-slow: $(VENV)/.test ## a model of the published size, a dry run of the GPU bench, two servers (needs redis)
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -m "$(LANES) and slow" $(ARGS)

# What these tests need besides .venv: servers and tools of distribution packages.
DEPLOY_PACKAGES := redis-server nginx-light prometheus
test-deploy: $(VENV)/.test ## shared voices and limits, proxy, chart, alerts (installs packages where it may)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v redis-server && command -v nginx && command -v promtool; } >/dev/null; then \
		apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $(DEPLOY_PACKAGES) >/dev/null; fi
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest tests/api/deploy tests/api/test_check.py \
		tests/api/http/test_redis_store.py tests/api/voices/test_object_store.py $(ARGS)

test-ray: .venv-ray/.done ## two replicas under Ray Serve on this machine (needs redis-server; an environment of its own)
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false .venv-ray/bin/python -m pytest -W ignore tests/ray $(ARGS)

clients: $(VENV)/.test .venv-clients/.done ## drive third-party clients against a server (needs node and npm)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m clients $(ARGS)

page: $(VENV)/.test $(VENV)/.page ## use the page in a browser (needs chromium and npm), take its pictures for docs/page
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -m page tests/page $(ARGS)

listen: $(VENV)/.test $(VENV)/.listen ## let an offline recogniser hear the embedded voice
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m listen $(ARGS)

fuzz: MINUTES ?= 10
fuzz: $(VENV)/.test ## send hostile input to a server of its own (MINUTES=, ARGS="--target http_sample --seed 3")
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

soak: $(VENV)/.test ## callers of every kind while everything goes wrong: what is lost? (MINUTES= or REQUESTS=)
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m tests.soak \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(REQUESTS),--requests $(REQUESTS)) \
		$(if $(MINUTES)$(REQUESTS),,--requests 10000) $(ARGS)

check: $(VENV)/.dev ## lint, formatting, types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: ARGS ?= --shape tiny-0b6 --batch 1,8
bench: $(VENV)/.serve ## time the engine alone (ARGS="--shape 0.6B --batch 1,8"; more in benchmarks/)
	@$(BIN)/python -m qtts_openai bench $(ARGS)

# These need no installation, only a Python with torch and pytest (.venv's where there is one, else PYTHON) and, on
# PYTHONPATH, what it lacks of `make carry`.
gpu-first: ## the first five minutes on a GPU, each step with a limit (OUT=, PYTHON=, ARGS="--device cpu --shape tiny-0b6")
	@OUT="$(OUT)" && export OUT=$${OUT:-benchmarks/results} && $(GPU_PYTHON) -m benchmarks.gpu_first $(ARGS)

gpu-check: ## parity on a GPU, entered in benchmarks/RESULTS.md (PYTHON=, ARGS="--out FOLDER")
	@$(GPU_PYTHON) -m benchmarks.gpu_check $(ARGS)

gpu-bench: ## speed on a GPU beside the floor and rivals, likewise (PYTHON=, ARGS="--quick")
	@$(GPU_PYTHON) -m benchmarks.gpu_bench $(ARGS)

carry: FOR ?= 3.12
carry: $(VENV)/.serve ## gather what the server imports, torch aside, for the Python FOR= of another machine
	@$(BIN)/python scripts/install.py $(VENV) --target carry --python-version $(FOR) --python-platform linux -r pyproject.toml

EXTRAS := alignment dev objects otel provenance ray redis test watermark # not vllm, whose pins are others
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: $(VENV)/.serve ## refresh versions and hashes (torch's and uv's stay: edit theirs by hand, then run this)
	@for name in torch uv; do sed -n 's/^\('$$name'==[^ ]*\).*/\1/p' constraints-$$name.txt \
		| $(LOCK) --no-deps - -o constraints-$$name.txt >/dev/null || exit 1; done
	@$(LOCK) pyproject.toml $(EXTRAS:%=--extra %) --no-emit-package torch -c constraints-torch.txt -o constraints.txt >/dev/null
	@test ! -e .venv-vllm/.test || .venv-vllm/bin/uv pip freeze -q --exclude-editable --python .venv-vllm/bin/python \
		| grep -v '^torch==' | $(LOCK) --no-deps - -o constraints-vllm.txt >/dev/null

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.serve: WITH := -e .
$(VENV)/.test: WITH := -e '.[test]'
$(VENV)/.dev: WITH := -e '.[dev]'
$(VENV)/.serve $(VENV)/.test $(VENV)/.dev: pyproject.toml constraints.txt constraints-torch.txt constraints-uv.txt scripts/install.py \
		engine/native/build.py $(wildcard engine/native/*.cpp engine/native/*.h)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with PYTHON=..." >&2; exit 1; }
	@echo "[setup] $(VENV), uv, torch, the server and its dependencies ($(@F))"
	@$(INSTALL) $(WITH) $(VLLM)
	@touch $@ $(VENV)/.serve

# Third-party clients ask for versions of their own, so they have an environment of their own.
.venv-clients/.done: tests/api/clients/requirements.txt tests/api/clients/package.json $(VENV)/.serve
	@echo "[clients] their Python and Node packages"
	@$(BIN)/python -m venv .venv-clients
	@.venv-clients/bin/python -m pip --disable-pip-version-check install -qq -r tests/api/clients/requirements.txt
	@cp tests/api/clients/package.json .venv-clients/ && cd .venv-clients && npm install --silent --no-fund --no-audit
	@touch $@

.venv-ray/.done: pyproject.toml constraints.txt
	@echo "[ray] an environment with Ray"
	@$(PYTHON) scripts/install.py .venv-ray -e '.[test,ray]'
	@touch $@

$(VENV)/.provenance: $(VENV)/.test
	@echo "[provenance] what signs and verifies"
	@$(INSTALL) -e '.[test,provenance,watermark]'
	@touch $@

$(VENV)/.listen: $(VENV)/.test tests/listen/requirements.txt
	@echo "[listen] the recogniser"
	@$(INSTALL) -r tests/listen/requirements.txt
	@touch $@

$(VENV)/.page: tests/page/requirements.txt tests/page/package.json $(VENV)/.test
	@echo "[page] what drives the browser, and axe-core"
	@$(INSTALL) -r tests/page/requirements.txt
	@mkdir -p $(VENV)/page && cp tests/page/package.json $(VENV)/page/ && cd $(VENV)/page \
		&& npm install --silent --no-fund --no-audit
	@touch $@
