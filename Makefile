# The whole project by `make`: everything it needs is installed outside of the tree, under $(CACHE).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finetune-operator
LOCK_HASH := $(shell cat requirements/dev.txt requirements/bootstrap.txt hack/bootstrap | sha256sum | cut -c1-12)
VENV := $(CACHE)/venv-$(LOCK_HASH)
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
SOURCES := api core operator trainer-image sdk cli cluster demo
CODE := $(SOURCES) tests hack
E2E := tests/e2e --ignore tests/e2e/test_monitoring.py --ignore-glob "tests/e2e/*_long.py"
GENERATED := crds charts install.yaml docs/monitoring.md llms.txt

empty :=
space := $(empty) $(empty)
export PYTHONPATH := $(subst $(space),:,$(addprefix $(CURDIR)/,$(SOURCES)))
export PATH := $(BIN):$(PATH)

##@ Use
demo: install ## Start a cluster, train a model with one FineTuneJob, show the result
	@$(PYTHON) -m finetune_demo

demo-clean: install ## Remove everything that make demo created: the cluster and its results
	@$(PYTHON) -m finetune_cluster down
	@rm -rf out

monitoring: install ## Start Prometheus beside the cluster; Ctrl-C stops it (PORT=9090)
	@$(PYTHON) -m finetune_demo.monitoring $(if $(PORT),--port $(PORT))

cluster: install ## Start the cluster (CLUSTER=auto|embedded|kind|existing)
	@$(PYTHON) -m finetune_cluster up

cluster-down: install ## Stop the cluster
	@$(PYTHON) -m finetune_cluster down

kubeconfig: install ## Print the path of the running cluster's kubeconfig
	@$(PYTHON) -m finetune_cluster kubeconfig

images: install ## Build all images and push them to the cluster
	@$(PYTHON) -m finetune_cluster images

kind-node-image: install ## Build a node image for kind without an image registry (VERSION=v1.36.3; root)
	@$(PYTHON) -m finetune_cluster kind-node-image $(if $(VERSION),--version $(VERSION))

##@ Test
test: test-unit test-examples test-integration test-e2e ## Run all tests; creates and removes its own clusters

test-unit: install ## Run tests without a cluster; takes some minutes
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(or $(PYTEST),tests/unit tests/conventions)

test-examples: install ## Train every example, from its YAML through the operator's plan
	@$(PYTHON) -m pytest -q -n 2 tests/examples

test-integration: install ## Run tests against a real API server and etcd
	@$(PYTHON) -m finetune_cluster build etcd kube-apiserver kube-controller-manager kubectl helm kstatus
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/security tests/integration tests/chart --ignore tests/security/test_flood.py

test-security: install ## Run the tests of tenants, rights and the audit log, and a flood of the progress port; three minutes
	@$(PYTHON) -m finetune_cluster build etcd kube-apiserver kube-controller-manager kubectl helm
	@$(PYTHON) -m pytest -v tests/security

test-chart: install ## Run tests of the chart with Helm 3, OCI, an earlier version and the schemas of Flux, Argo CD, Prometheus
	@$(PYTHON) -m finetune_cluster build etcd kube-apiserver kube-controller-manager kubectl helm helm3 registry kubeconform controller-gen
	@$(PYTHON) -m pytest -q tests/deployment

test-kueue: install ## Run Kueue itself: queues, quotas, preemption, priorities; claimed devices with kube-scheduler; some minutes
	@$(PYTHON) -m finetune_cluster build etcd kube-apiserver kube-controller-manager kube-scheduler kubectl kueue
	@$(PYTHON) -m pytest -q tests/kueue

test-e2e: install ## Run tests on a real node, with pods that train models
	@$(PYTHON) -m pytest -v $(E2E)

test-signals: install ## Run trainers that are killed, evicted, preempted by Kueue or on a lost node, and four pods of one attempt, on a real node; minutes
	@$(PYTHON) -m finetune_cluster build kueue
	@$(PYTHON) -m pytest -v tests/e2e/test_signals.py tests/e2e/*_long.py

test-faults: install ## Run the operator under faults of requests, watches, API server, etcd, leaders and names; half an hour
	@$(PYTHON) -m finetune_cluster build etcd kube-apiserver kube-controller-manager
	@$(PYTHON) -m pytest -v tests/faults

test-dashboards: install ## Run jobs of every kind under a real Prometheus: metrics, rules, alerts, dashboards; some minutes
	@$(PYTHON) -m pytest -v tests/e2e/test_monitoring.py

test-kind: install ## Run the tests of test-e2e on kind; prepares Docker and a node image where they are missing
	@hack/test-kind $(or $(PYTEST),$(E2E))

test-grafana: install ## Draw the dashboards with Grafana's components, check them with its types; needs node, npm, chromium
	@$(PYTHON) -m pytest -q tests/dashboards

bench: install ## Run the benchmarks of docs/benchmarks.md
	@PYTHONPATH="$$PYTHONPATH:tests" $(PYTHON) tests/bench/apply_to_child.py
	@PYTHONPATH="$$PYTHONPATH:tests" $(PYTHON) tests/bench/node_latencies.py

bench-operator: install ## Measure many jobs at once, beside Kubeflow's training-operator; half an hour on an idle machine; root
	@$(PYTHON) -m finetune_cluster build etcd kube-apiserver kube-controller-manager kube-scheduler kwok training-operator.v1
	@$(PYTHON) -m tests.bench.operator_cost --image --jobs 100 500 --peer --bare --out out/operator_cost.jsonl
	@$(PYTHON) -m tests.bench.operator_cost --image --jobs 1000 5000 --out out/operator_cost.jsonl
	@$(PYTHON) -m tests.bench.operator_cost --image --jobs 100 500 1000 5000 10000 --pods none --bare --takeover --out out/operator_cost.jsonl
	@$(PYTHON) -m tests.bench.operator_cost --image --jobs 5000 --pods none --flood --out out/operator_cost.jsonl

bench-stream: install ## Measure memory with a 5 GB data file; takes an hour and 9 GB of disk
	@PYTHONPATH="$$PYTHONPATH:tests" $(PYTHON) tests/bench/stream_5gb.py

bench-equivalence: install ## Compare updates for micro-batches x processes x objectives, and with transformers.Trainer
	@PYTHONPATH="$$PYTHONPATH:tests" $(PYTHON) tests/bench/equivalence.py

bench-tensor-parallel: install ## Compare losses, gradients and weights of tensor groups with those of one process
	@PYTHONPATH="$$PYTHONPATH:tests" $(PYTHON) tests/bench/tensor_parallel.py

bench-sharding: install ## Measure the host memory of a rank with training.sharding: Full
	@PYTHONPATH="$$PYTHONPATH:tests" $(PYTHON) tests/bench/sharded_memory.py

bench-all-reduce: install ## Measure the all-reduce of a step on gloo, after and during the backward pass
	@PYTHONPATH="$$PYTHONPATH:tests" $(PYTHON) tests/bench/all_reduce.py

bench-trainer: install ## Measure the trainer's speed against a bare PyTorch loop and transformers.Trainer
	@$(PYTHON) tests/bench/trainer_speed.py

bench-quality: install ## Measure the trainer's quality on real data against a baseline
	@$(PYTHON) tests/bench/quality.py

bench-search: install ## Compare search algorithms and pruning on a table of trained runs; some minutes
	@$(PYTHON) tests/bench/search_gain.py

bench-ensembles: install ## Compare ensembles, soups, EMA and a student with their members on test rows; half an hour
	@OMP_NUM_THREADS=1 $(PYTHON) tests/bench/ensemble_gain.py

bench-preference: install ## Measure the memory of language models' losses, and preferences beside TRL; some minutes
	@OMP_NUM_THREADS=1 $(PYTHON) tests/bench/preference.py

bench-gpu: install ## Check every CUDA path on this machine's GPU, and measure its speed beside others; minutes
	@$(PYTHON) tests/bench/gpu.py

bench-architectures: install ## Train every objective on real checkpoints of five architectures; 20 minutes
	@$(PYTHON) tests/bench/architectures.py

##@ Develop
install: $(VENV)/complete ## Create the Python environment

$(VENV)/complete:
	@hack/bootstrap $(VENV)

format: install ## Format the code
	@ruff format -q $(CODE)
	@ruff check -q --fix $(CODE)

lint: install ## Check style, layers and dead code
	@ruff check $(CODE)
	@ruff format --check -q $(CODE)
	@lint-imports --no-logo
	@vulture

types: install ## Check the types
	@mypy

generate: install ## Write generated files: the CRD and the chart's copy
	@$(PYTHON) hack/generate.py

docs: install ## Build the documentation as a site, in out/site
	@NO_MKDOCS_2_WARNING=1 mkdocs build
	@echo "the site is in out/site; to read it: $(PYTHON) -m http.server --directory out/site"

lock: install ## Resolve the dependencies and write requirements/
	@hack/lock

verify: lint types generate ## Check that the code is clean and generated files are current
	@test -z "$$(git status --porcelain -- $(GENERATED))" || { git --no-pager diff -- $(GENERATED); git status --short -- $(GENERATED); echo "generated files are not current: run make generate and commit"; exit 1; }
	@echo "verified"

audit: install ## Ask an advisory database about every pinned package; reports, and does not fail
	@$(PYTHON) hack/audit

sbom: install ## Write a bill of materials (CycloneDX) of each image to out/sbom
	@$(PYTHON) -m finetune_cluster sbom out/sbom

release: install ## Make all that a release uploads, in out/release (VERSION=0.2.0)
	@$(PYTHON) hack/release $(VERSION)

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo demo-clean monitoring cluster cluster-down kubeconfig images kind-node-image test test-unit test-examples test-integration test-chart test-e2e test-dashboards test-faults test-security test-signals test-kind test-kueue test-grafana bench bench-equivalence bench-sharding bench-tensor-parallel bench-architectures bench-stream bench-operator bench-trainer bench-quality bench-search bench-ensembles bench-preference bench-gpu install format docs lint types generate lock verify audit sbom release help bench-all-reduce
