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

package sandboxes

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// PauseSandbox asks for a pause. What it makes of a repeat the Sandbox API says; a sandbox of which nothing has run yet is a
// contradiction here, where the Sandbox API would take its start back.
func (h *Handler) PauseSandbox(ctx context.Context, params httpapi.PauseSandboxParams) error {
	if err := checkID(params.SandboxId); err != nil {
		return err
	}
	caller := identity.From(ctx)
	sandboxes := caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace)
	// What was seen a moment ago is good enough to go by: the pause is of exactly that version, and is decided anew where it
	// is another by now. To refuse, or to say that there is none, the sandbox is read.
	seen := h.settings.seen(caller.Namespace, params.SandboxId)
	if seen == nil || refusePause(seen) != nil {
		seen = nil
	}
	var err error
	for range 10 {
		if seen == nil {
			if seen, err = sandboxes.Get(ctx, params.SandboxId, metav1.GetOptions{}); err != nil {
				return err
			}
			if err := refusePause(seen); err != nil {
				return err
			}
		}
		body := &v1alpha1.SandboxPause{ObjectMeta: metav1.ObjectMeta{UID: seen.UID, ResourceVersion: seen.ResourceVersion}}
		if _, err = sandboxes.Pause(ctx, params.SandboxId, body, metav1.CreateOptions{}); !outdated(err) {
			return err
		}
		seen = nil
	}
	return err
}

// refusePause is why a sandbox cannot be paused that the Sandbox API would let.
func refusePause(sandbox *v1alpha1.Sandbox) error {
	switch state := StateOf(sandbox); state {
	case httpapi.SandboxStatePending, httpapi.SandboxStateResuming:
		if sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused {
			return nil // a repeat
		}
		said := StatusOf(sandbox)
		return conflict(answer.CodeInvalidState, "sandbox %q is %s (%s: %s), and only one that runs can be paused; wait until its state is Running, or delete it",
			sandbox.Name, state, said.Reason, said.Message)
	}
	return nil
}

// outdated is whether a write was refused for the version that it was of, and not for what it asks.
func outdated(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsConflict(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details == nil || len(details.Causes) == 0
}

// ResumeSandbox asks for a resume.
func (h *Handler) ResumeSandbox(ctx context.Context, params httpapi.ResumeSandboxParams) error {
	if err := checkID(params.SandboxId); err != nil {
		return err
	}
	caller := identity.From(ctx)
	_, err := caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Resume(ctx, params.SandboxId, &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
	return err
}

// PatchSandboxMetadata changes metadata; of two at once the last one counts.
func (h *Handler) PatchSandboxMetadata(ctx context.Context, req httpapi.MetadataPatch, params httpapi.PatchSandboxMetadataParams) (*httpapi.Sandbox, error) {
	if err := checkID(params.SandboxId); err != nil {
		return nil, err
	}
	changes := make(map[string]*string, len(req))
	for key, value := range req {
		if changes[key] = &value.Value; value.Null {
			changes[key] = nil
		}
	}
	patch, err := labelPatch(changes)
	if err != nil {
		return nil, err
	}
	if patch == nil {
		return h.GetSandbox(ctx, httpapi.GetSandboxParams(params))
	}
	caller := identity.From(ctx)
	sandbox, err := caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Patch(ctx, params.SandboxId, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return nil, err
	}
	shown := show(sandbox)
	return &shown, nil
}

// renewals wait a little longer each time that somebody else was first: many clients may renew one sandbox.
var renewals = wait.Backoff{Steps: 25, Duration: 2 * time.Millisecond, Factor: 1.4, Jitter: 0.5, Cap: 300 * time.Millisecond}

// RenewSandboxExpiration moves the time at which a sandbox expires. The write is of the version that was read: what has expired
// meanwhile, or is not to expire any more, is not renewed.
func (h *Handler) RenewSandboxExpiration(ctx context.Context, req *httpapi.RenewSandboxExpirationRequest, params httpapi.RenewSandboxExpirationParams) (*httpapi.RenewSandboxExpirationResponse, error) {
	at := v1alpha1.ExpireAt(req.ExpiresAt.UTC())
	if err := checkRenewal(req.ExpiresAt, h.settings.now()); err != nil {
		return nil, err
	}
	caller := identity.From(ctx)
	sandboxes := caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace)
	var renewed *v1alpha1.Sandbox
	err := retry.RetryOnConflict(renewals, func() error {
		sandbox, err := read(ctx, params.SandboxId)
		if err != nil {
			return err
		}
		if err := refuseRenewal(sandbox); err != nil {
			return err
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": sandbox.UID, "resourceVersion": sandbox.ResourceVersion},
			"spec":     map[string]any{"expireTime": at},
		})
		if err != nil {
			return err
		}
		renewed, err = sandboxes.Patch(ctx, params.SandboxId, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &httpapi.RenewSandboxExpirationResponse{ExpiresAt: renewed.Spec.ExpireTime.UTC()}, nil
}

func checkRenewal(at, now time.Time) error {
	switch {
	case !at.After(now):
		return badRequest(answer.CodeInvalidExpiration, "expiresAt: %s is not in the future: it is %s now", at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case at.Sub(now) > maxTimeout*time.Second:
		return badRequest(answer.CodeInvalidExpiration, "expiresAt: %s is more than a hundred years away", at.UTC().Format(time.RFC3339))
	}
	return nil
}

func refuseRenewal(sandbox *v1alpha1.Sandbox) error {
	switch {
	case sandbox.DeletionTimestamp != nil:
		return conflict(answer.CodeInvalidState, "sandbox %q is being deleted, so it cannot be renewed", sandbox.Name)
	case sandbox.Spec.ExpireTime == nil:
		return conflict(answer.CodeInvalidExpiration, "sandbox %q never expires, so there is nothing to renew; make it with a timeout", sandbox.Name)
	}
	return nil
}
