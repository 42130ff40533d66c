# The vocabulary of the project: people, hooks and CI call these targets and nothing else.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export BENTOML_DO_NOT_TRACK := True
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help
help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] < (3, 13), "Python 3.11 or 3.12 is needed: make PYTHON=python3.11 ..."'
	@echo 'installing what requirements.lock names into $(VENV): some minutes, about 2 GB'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## make .venv from requirements.lock

.PHONY: demo
demo: install ## both models on real flights: train, release, serve; then a season, a dead feed and a bad release, healed by themselves
	$(BIN)/mlops-assets demo

.PHONY: replay-year
replay-year: install ## the whole year through the service and the monitors, a month at a time, and what they found
	$(BIN)/mlops-assets replay-year

.PHONY: drills
drills: install ## break a running system in fifteen ways and see it heal; writes benchmarks/results/drills.json
	$(BIN)/mlops-assets drill all --json benchmarks/results/drills.json

.PHONY: test
test: install ## the test suite (what needs a server or browser that is not installed is skipped by name)
	$(BIN)/pytest -m "not slow" -n 2 --dist loadscope

.PHONY: test-slow
test-slow: install ## end to end, with real servers and a browser: a skip is a failure
	MLOPS_NO_SKIP=1 $(BIN)/pytest -m slow

.PHONY: check
check: install ## format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: install ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: dev
dev: install ## the Dagster UI and daemon on http://127.0.0.1:3000
	$(BIN)/dagster dev --host 127.0.0.1 --port 3000

.PHONY: serve
serve: install ## the prediction service on http://127.0.0.1:8000
	$(BIN)/mlops-assets serve

.PHONY: up
up: install ## the Dagster UI, its daemon and the service, on what the demo left, until Ctrl-C
	$(BIN)/mlops-assets up

.PHONY: lock
lock: ## resolve requirements.lock again from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-strip-extras --python-version 3.11 \
		--output-file requirements.lock

# --no-deps: the lock is complete, and pip's resolver does not see that `pandas[parquet]==…` pins `pandas` too
.venv-bench/.installed: benchmarks/requirements.lock
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --no-deps --require-hashes --requirement benchmarks/requirements.lock
	@touch $@

.PHONY: .venv-bench
.venv-bench: .venv-bench/.installed ## make .venv-bench: our requirements and the peers that benchmarks/ compares with

.PHONY: bench-monitoring
bench-monitoring: bench-monitoring-speed bench-drift-detection bench-estimation bench-labelled-decay ## the four benchmarks of the monitors against their peers
	.venv-bench/bin/python -m benchmarks.document

.PHONY: bench-monitoring-speed
bench-monitoring-speed: .venv-bench ## how fast a window is judged, and in how much memory
	.venv-bench/bin/python -m benchmarks.monitoring_speed

.PHONY: bench-drift-detection
bench-drift-detection: .venv-bench ## false alarms and delay of the drift detector
	.venv-bench/bin/python -m benchmarks.drift_detection

.PHONY: bench-estimation
bench-estimation: .venv-bench ## performance estimated without labels, against what came true
	.venv-bench/bin/python -m benchmarks.estimation

.PHONY: bench-labelled-decay
bench-labelled-decay: .venv-bench ## false alarms and delay of the performance test
	.venv-bench/bin/python -m benchmarks.labelled_decay

.PHONY: bench-sequential
bench-sequential: install ## error rates and samples of the tests of a release, on made-up rollouts and on real flights
	$(BIN)/python -m benchmarks.sequential

.PHONY: bench-serving
bench-serving: bench-serving-speed bench-hot-swap bench-prediction-log bench-overload bench-memory ## the service against its peers, and what it survives (needs wrk and two cores)
	$(BIN)/python -m benchmarks.document_serving

.PHONY: bench-serving-speed
bench-serving-speed: install ## requests a second and CPU a request, of the service and its peers
	$(BIN)/python -m benchmarks.serving

.PHONY: bench-hot-swap
bench-hot-swap: install ## new versions under load, and the way back from a bad one
	$(BIN)/python -m benchmarks.hot_swap

.PHONY: bench-prediction-log
bench-prediction-log: install ## records a second of the prediction log, and what is lost when its writer is killed
	$(BIN)/python -m benchmarks.prediction_log

.PHONY: bench-overload
bench-overload: install ## five times as many requests as can be answered
	$(BIN)/python -m benchmarks.overload

.PHONY: bench-memory
bench-memory: install ## memory after a million requests
	$(BIN)/python -m benchmarks.memory

.PHONY: bench-batch
bench-batch: install ## two million rows scored as a table, against the scikit-learn pipeline in chunks
	$(BIN)/python -m benchmarks.batch_scoring

.PHONY: lock-bench
lock-bench: ## resolve benchmarks/requirements.lock again from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra bench --generate-hashes --no-emit-index-url --no-strip-extras --python-version 3.11 \
		--output-file benchmarks/requirements.lock

.PHONY: clean
clean: ## remove local state, caches and test artifacts; keeps .venv
	rm -rf .mlops .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache test-artifacts build dist .tmp_dagster_home_*
	find mlops_assets mlops_assets_tests bentos -name __pycache__ -prune -exec rm -rf {} +
