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

// Package sandboxes answers the routes of sandboxes: it makes Sandboxes of requests, and tells of Sandboxes as the reference's
// clients know them. All that it reads and writes it does as the caller.
package sandboxes

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
)

// Settings are what whoever runs the gateway decides.
type Settings struct {
	// Execd is what is put into sandboxes.
	Execd injection.Execd
	// AllowedHostPaths are the folders of nodes that callers may mount, with what is below them; empty: none.
	AllowedHostPaths []string
	// Clock tells the time; nil is the machine's.
	Clock clock.PassiveClock
	// Seen is a sandbox as it was seen last, which may be a moment ago; nil where none was. It saves a pause the question
	// what state the sandbox is in. The function may be nil.
	Seen func(namespace, name string) *v1alpha1.Sandbox
}

func (s *Settings) now() time.Time {
	if s.Clock == nil {
		return time.Now()
	}
	return s.Clock.Now()
}

func (s *Settings) seen(namespace, name string) *v1alpha1.Sandbox {
	if s.Seen == nil {
		return nil
	}
	return s.Seen(namespace, name)
}

// Handler has the operations on sandboxes.
type Handler struct {
	settings Settings
}

// New makes a handler.
func New(settings Settings) *Handler { return &Handler{settings: settings} }

// What this project keeps on the Sandboxes that are made here.
const (
	// annotationExtensions are the extensions as they came, in JSON.
	annotationExtensions = v1alpha1.LabelPrefix + "extensions"
	// annotationRequest is the fingerprint of the request that the sandbox was made by.
	annotationRequest = v1alpha1.LabelPrefix + "request-hash"
)

// GetSandbox reads a sandbox.
func (h *Handler) GetSandbox(ctx context.Context, params httpapi.GetSandboxParams) (*httpapi.Sandbox, error) {
	sandbox, err := read(ctx, params.SandboxId)
	if err != nil {
		return nil, err
	}
	shown := show(sandbox)
	return &shown, nil
}

// DeleteSandbox deletes a sandbox, and what goes with it.
func (h *Handler) DeleteSandbox(ctx context.Context, params httpapi.DeleteSandboxParams) error {
	if err := checkID(params.SandboxId); err != nil {
		return err
	}
	caller := identity.From(ctx)
	return caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Delete(ctx, params.SandboxId, metav1.DeleteOptions{})
}

func read(ctx context.Context, id string) (*v1alpha1.Sandbox, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	caller := identity.From(ctx)
	return caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Get(ctx, id, metav1.GetOptions{})
}

// checkID keeps what no sandbox can be called from going into a path of kube-apiserver's.
func checkID(id string) error {
	if faults := validation.IsDNS1123Label(id); len(faults) > 0 {
		return answer.Errorf(404, answer.CodeSandboxNotFound, "sandboxId: there is no sandbox %s: an id has at most 63 lowercase letters, digits and hyphens", describe(id))
	}
	return nil
}
