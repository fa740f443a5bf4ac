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

// Package template tells which Pod template a sandbox runs from.
package template

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// ErrNone says that the sandbox has no template of its own and no snapshot that brings one.
var ErrNone = errors.New("the sandbox has no template of its own and none comes with a snapshot")

// Of is the sandbox's own template, else that of the snapshot it starts from.
func Of(sandbox *v1alpha1.Sandbox, from *v1alpha1.SandboxSnapshot) (*corev1.PodTemplateSpec, error) {
	switch {
	case sandbox.Spec.Template != nil:
		return sandbox.Spec.Template, nil
	case from != nil && from.Status.Template != nil:
		return from.Status.Template, nil
	}
	return nil, ErrNone
}

// Read is Of with the snapshot read from the API.
func Read(ctx context.Context, reader client.Reader, sandbox *v1alpha1.Sandbox) (*corev1.PodTemplateSpec, error) {
	if sandbox.Spec.Template != nil || sandbox.Status.SnapshotName == "" {
		return Of(sandbox, nil)
	}
	from := &v1alpha1.SandboxSnapshot{}
	key := client.ObjectKey{Namespace: sandbox.Namespace, Name: sandbox.Status.SnapshotName}
	if err := reader.Get(ctx, key, from); err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", key, err)
	}
	return Of(sandbox, from)
}
