// The tools that the end-to-end tests run, pinned. This module has no code: build.sh reads the versions here, lets
// `go mod download` check each module against go.sum, and builds every tool inside its own module, so that each has
// exactly the dependencies its authors released it with (one common go.mod would mix them by minimal version selection).
module pontoon.test/tools

go 1.26.0

require (
	github.com/containerd/containerd/v2 v2.4.2
	github.com/containernetworking/plugins v1.10.0
	github.com/opencontainers/runc v1.5.3
	sigs.k8s.io/cri-tools v1.37.0
)
