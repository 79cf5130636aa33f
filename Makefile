# The commands for contributors. `make` without a target lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Build all, run the example pod until Ctrl-C (ONCE=1: stop it at once; TARGET=builtin: on containerd's own CRI)
	@tests/e2e/run.sh

.PHONY: run-cgroup2
run-cgroup2: ## Run the example pod once in User Mode Linux with cgroup v2
	@tests/e2e/cgroup2.sh

.PHONY: test
test: ## Run all tests (tests/run.sh lists its stages)
	@tests/run.sh

.PHONY: lint
lint: ## Check the formatting; run clippy, shellcheck and cargo check (feature otlp, fuzz targets)
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- --deny warnings
	cargo check --locked --features otlp
	RUSTFLAGS='--cfg fuzzing' RUSTC_BOOTSTRAP=1 cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-check
	@if command -v shellcheck >/dev/null; then shellcheck $$(git ls-files '*.sh'); \
	else echo "shellcheck is not installed: scripts not checked (apt-get install shellcheck)"; fi

.PHONY: e2e
e2e: ## Run the level-5 suite against Pontoon (TARGET=builtin: against containerd's own CRI)
	@tests/e2e/suite.sh

.PHONY: abuse
abuse: ## Attacks of a tenant's pods and images on the node, each with a victim pod next to it (TARGET=builtin)
	@tests/e2e/suite.sh abuse::

.PHONY: abuse-memory
abuse-memory: ## `make abuse` with 100 more pods and 1 GiB of address space for the daemon: no process may die
	@PONTOON_AS=$$((1 << 30)) E2E_STANDING=100 tests/e2e/suite.sh abuse::

.PHONY: critest
critest: ## Run the CRI conformance tests (FOCUS=regex: some; WEBSOCKET=1: stream by WebSocket; TARGET=builtin)
	@tests/e2e/critest.sh

.PHONY: test-cgroup2
test-cgroup2: ## Run critest and the suite with cgroup v2, with AppArmor and with SELinux (LSM=apparmor|selinux: one; TARGET=builtin)
	@tests/e2e/test-cgroup2.sh

.PHONY: golden-specs
golden-specs: ## Compare the OCI specs of Pontoon and of containerd's own CRI (tests/golden/differences.toml)
	@tests/e2e/golden-specs.sh

.PHONY: bench-critest
bench-critest: ## Compare Pontoon and containerd's own CRI by critest's benchmarks
	@tests/e2e/bench-critest.sh

.PHONY: bench-calls
bench-calls: ## Compare the duration of each RPC of a pod, for Pontoon and containerd's own CRI, or two builds (A_BIN=, B_BIN=)
	@tests/e2e/bench-calls.sh

.PHONY: bench-lists
bench-lists: ## Compare the CPU time for lists of 1,000 containers; fails if Pontoon takes more than half of containerd's own CRI
	@tests/e2e/bench-lists.sh

.PHONY: bench-stats
bench-stats: ## Compare the cost of stats and metrics of 100 pods, for Pontoon and containerd's own CRI
	@tests/e2e/bench-stats.sh

.PHONY: compare-stats
compare-stats: ## Compare the stats of Pontoon and containerd's own CRI for the same load with direct reads of the cgroup
	@tests/e2e/compare-stats.sh

.PHONY: bench-idle
bench-idle: ## Compare the CPU time for 100 idle pods while a client polls as kubelet does
	@tests/e2e/bench-stats.sh idle

.PHONY: bench-streaming
bench-streaming: ## Compare MB/s and CPU seconds for a gigabyte through exec and port-forward
	@tests/e2e/bench-streaming.sh

.PHONY: churn-streaming
churn-streaming: ## Disconnect the clients of 2,000 execs and 2,000 attaches: nothing may be left (make e2e: 240)
	@E2E_SESSIONS=667 tests/e2e/suite.sh sessions_whose_client_drops

.PHONY: churn-containerd
churn-containerd: ## Kill containerd, and Pontoon too, 60 times while pods are created and removed (E2E_KILLS=n)
	@tests/e2e/churn-containerd.sh

.PHONY: kubelet
kubelet: ## Run a pod with a real kubelet, without a cluster (TARGET=builtin: on containerd's own CRI)
	@tests/e2e/kubelet.sh

.PHONY: bench-kubelet
bench-kubelet: ## Compare how fast kubelet's pods are ready, on Pontoon and containerd's own CRI
	@tests/e2e/kubelet.sh --compare

.PHONY: clean
clean: ## Remove beds that still exist and cargo's build directory; the cache of tools stays
	@tests/e2e/bed.sh list | while IFS=$$'\t' read -r _ name _; do tests/e2e/bed.sh down "$$name"; done
	cargo clean
