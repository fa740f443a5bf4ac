#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Generates everything that is generated: deepcopy, defaults, conversion, OpenAPI and clients, and the HTTP API from its document.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

module=$(GOWORK=off go list -m)
export GOBIN="${PWD}/bin/codegen"
source "$(go list -m -f '{{.Dir}}' k8s.io/code-generator)/kube_codegen.sh"

boilerplate=hack/boilerplate.go.txt

kube::codegen::gen_helpers \
    --boilerplate "${boilerplate}" \
    apis

# Pods are part of this API (spec.template), so their definitions are generated as well:
# server-side apply and kubectl explain need them.
kube::codegen::gen_openapi \
    --output-dir generated/openapi \
    --output-pkg "${module}/generated/openapi" \
    --output-model-name-file zz_generated.model_name.go \
    --extra-pkgs k8s.io/api/core/v1 \
    --extra-pkgs k8s.io/apimachinery/pkg/util/intstr \
    --report-filename hack/api-violations.list \
    --update-report \
    --boilerplate "${boilerplate}" \
    apis

kube::codegen::gen_client \
    --with-watch \
    --with-applyconfig \
    --output-dir generated \
    --output-pkg "${module}/generated" \
    --boilerplate "${boilerplate}" \
    apis

# The HTTP API, from its document: types, validation and routing.
go tool ogen --config apis/http/ogen.yaml --target pkg/gateway/httpapi --package httpapi --clean apis/http/lifecycle.yaml
