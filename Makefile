# Everything a contributor types. `make` alone prints this list.

SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## From this checkout to a running pod, until Ctrl-C (ONCE=1: then stop; TARGET=builtin: containerd's own CRI)
	@tests/e2e/run.sh

.PHONY: run-cgroup2
run-cgroup2: ## The same in a User Mode Linux with cgroup v2, and stop
	@tests/e2e/cgroup2.sh

.PHONY: test
test: ## All tests (tests/run.sh names them)
	@tests/run.sh

.PHONY: lint
lint: ## Formatting, clippy, the fuzz targets' types, shellcheck
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- --deny warnings
	cargo check --locked --features otlp
	RUSTFLAGS='--cfg fuzzing' RUSTC_BOOTSTRAP=1 cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-check
	@if command -v shellcheck >/dev/null; then shellcheck $$(git ls-files '*.sh'); \
	else echo "shellcheck is not installed: scripts not checked (apt-get install shellcheck)"; fi

.PHONY: e2e
e2e: ## The level-5 suite against Pontoon (TARGET=builtin: containerd's own CRI)
	@tests/e2e/suite.sh

.PHONY: abuse
abuse: ## What a tenant's pod or image must not do to the node: each attack beside a victim (TARGET=builtin)
	@tests/e2e/suite.sh abuse::

.PHONY: abuse-memory
abuse-memory: ## The same beside 100 pods, with a daemon that has 1 GiB of address space: nothing dies
	@PONTOON_AS=$$((1 << 30)) E2E_STANDING=100 tests/e2e/suite.sh abuse::

.PHONY: critest
critest: ## The CRI conformance tests (FOCUS=regex: some; WEBSOCKET=1: streaming by it; TARGET=builtin: containerd's own CRI)
	@tests/e2e/critest.sh

.PHONY: test-cgroup2
test-cgroup2: ## critest and the suite with cgroup v2, with AppArmor and with SELinux (LSM=apparmor|selinux: one; TARGET=builtin)
	@tests/e2e/test-cgroup2.sh

.PHONY: golden-specs
golden-specs: ## The OCI specs of Pontoon beside those of containerd's own CRI (tests/golden/differences.toml)
	@tests/e2e/golden-specs.sh

.PHONY: bench-critest
bench-critest: ## critest's benchmarks, Pontoon beside containerd's own CRI
	@tests/e2e/bench-critest.sh

.PHONY: bench-calls
bench-calls: ## How long each call of a pod's life takes, Pontoon beside containerd's own CRI, or two builds (A_BIN=, B_BIN=)
	@tests/e2e/bench-calls.sh

.PHONY: bench-lists
bench-lists: ## What listing 1,000 containers costs, Pontoon beside containerd's own CRI; fails above half
	@tests/e2e/bench-lists.sh

.PHONY: bench-stats
bench-stats: ## What stats and metrics of 100 pods cost, Pontoon beside containerd's own CRI
	@tests/e2e/bench-stats.sh

.PHONY: compare-stats
compare-stats: ## What Pontoon and containerd's own CRI say of the same load, and the direct reads of the cgroup around it
	@tests/e2e/compare-stats.sh

.PHONY: bench-idle
bench-idle: ## What 100 idle pods cost while a client polls as kubelet does, Pontoon beside containerd's own CRI
	@tests/e2e/bench-stats.sh idle

.PHONY: bench-streaming
bench-streaming: ## A gigabyte through exec and port-forward, Pontoon beside containerd's own CRI: MB/s and CPU seconds
	@tests/e2e/bench-streaming.sh

.PHONY: churn-streaming
churn-streaming: ## 2,000 execs and 2,000 attaches whose client goes away: nothing is left of any (make e2e has 240)
	@E2E_SESSIONS=667 tests/e2e/suite.sh sessions_whose_client_drops

.PHONY: churn-containerd
churn-containerd: ## containerd, and Pontoon too, killed 60 times while pods come and go; the built-in beside it (E2E_KILLS=n)
	@tests/e2e/churn-containerd.sh

.PHONY: kubelet
kubelet: ## A pod by a real kubelet, without a cluster (TARGET=builtin: on containerd's own CRI)
	@tests/e2e/kubelet.sh

.PHONY: bench-kubelet
bench-kubelet: ## How fast kubelet's pods are ready, Pontoon beside containerd's own CRI
	@tests/e2e/kubelet.sh --compare

.PHONY: clean
clean: ## Take down beds that still stand and remove what cargo built; the tools' cache stays
	@tests/e2e/bed.sh list | while IFS=$$'\t' read -r _ name _; do tests/e2e/bed.sh down "$$name"; done
	cargo clean
