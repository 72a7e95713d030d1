// Package crds names the packages from which controller-gen makes the CustomResourceDefinitions of Flux and of the
// Prometheus operator. Tests read their schemas.
package crds

import (
	_ "github.com/fluxcd/helm-controller/api/v2"
	_ "github.com/fluxcd/kustomize-controller/api/v1"
	_ "github.com/fluxcd/source-controller/api/v1"
	_ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)
