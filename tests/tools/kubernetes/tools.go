//go:build tools

// Package tools keeps kubelet's dependencies in go.mod and go.sum.
package tools

import (
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
