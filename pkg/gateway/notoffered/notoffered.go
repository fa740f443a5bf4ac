/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

// Package notoffered answers the routes that the reference has and this server does not. A client learns that at once, by the code
// that it knows.
package notoffered

import (
	"context"
	"net/http"

	"github.com/go-faster/jx"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// codePools is the reference's code where what it runs on has no pools.
const codePools = "KUBERNETES::POOL_NOT_SUPPORTED"

// Handler has the operations that are not offered.
type Handler struct{}

func pools() error {
	return answer.Errorf(http.StatusNotImplemented, codePools,
		"this server has no pools of warm Pods: create sandboxes from an image or a snapshot, without extensions.poolRef")
}

// CreatePool is not offered.
func (Handler) CreatePool(context.Context, *httpapi.CreatePoolRequest) (*httpapi.Pool, error) {
	return nil, pools()
}

// ListPools is not offered.
func (Handler) ListPools(context.Context) (*httpapi.ListPoolsResponse, error) { return nil, pools() }

// GetPool is not offered.
func (Handler) GetPool(context.Context, httpapi.GetPoolParams) (*httpapi.Pool, error) {
	return nil, pools()
}

// UpdatePool is not offered.
func (Handler) UpdatePool(context.Context, *httpapi.UpdatePoolRequest, httpapi.UpdatePoolParams) (*httpapi.Pool, error) {
	return nil, pools()
}

// DeletePool is not offered.
func (Handler) DeletePool(context.Context, httpapi.DeletePoolParams) error { return pools() }

func networkPolicy() error {
	return answer.NotSupported("this server does not restrict what a sandbox may reach: a NetworkPolicy of the cluster, which selects its Pod, does")
}

// GetNetworkPolicy is not offered.
func (Handler) GetNetworkPolicy(context.Context, httpapi.GetNetworkPolicyParams) (jx.Raw, error) {
	return nil, networkPolicy()
}

// PatchNetworkPolicy is not offered.
func (Handler) PatchNetworkPolicy(context.Context, jx.Raw, httpapi.PatchNetworkPolicyParams) (jx.Raw, error) {
	return nil, networkPolicy()
}

// DeleteNetworkPolicy is not offered.
func (Handler) DeleteNetworkPolicy(context.Context, jx.Raw, httpapi.DeleteNetworkPolicyParams) (jx.Raw, error) {
	return nil, networkPolicy()
}

func templates() error {
	return answer.NotSupported("templates are of virtual machines, and this server runs sandboxes as Pods: create them from an image or a snapshot")
}

// CreateTemplate is not offered.
func (Handler) CreateTemplate(context.Context, jx.Raw) (jx.Raw, error) { return nil, templates() }

// ListTemplates is not offered.
func (Handler) ListTemplates(context.Context) (jx.Raw, error) { return nil, templates() }

// GetTemplate is not offered.
func (Handler) GetTemplate(context.Context, httpapi.GetTemplateParams) (jx.Raw, error) {
	return nil, templates()
}

// DeleteTemplate is not offered.
func (Handler) DeleteTemplate(context.Context, httpapi.DeleteTemplateParams) error {
	return templates()
}

func forks() error {
	return answer.NotSupported("this server has no forks: create a snapshot of the sandbox, and sandboxes from its id")
}

// ForkSandbox is not offered.
func (Handler) ForkSandbox(context.Context, jx.Raw, httpapi.ForkSandboxParams) (jx.Raw, error) {
	return nil, forks()
}

// GetFork is not offered.
func (Handler) GetFork(context.Context, httpapi.GetForkParams) (jx.Raw, error) { return nil, forks() }
