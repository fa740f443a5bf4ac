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
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/inbound"
)

// finishTimeout bounds what is done once a sandbox is there, whether or not its caller still waits.
const finishTimeout = 20 * time.Second

// CreateSandbox makes a sandbox, and answers when it is stored. It never waits for its Pod.
func (h *Handler) CreateSandbox(ctx context.Context, req *httpapi.CreateSandboxRequest, params httpapi.CreateSandboxParams) (*httpapi.CreateSandboxResponseHeaders, error) {
	wanted := creationOf(req)
	if err := wanted.check(&h.settings); err != nil {
		return nil, err
	}
	fingerprint, err := wanted.fingerprint()
	if err != nil {
		return nil, err
	}
	attempt := &creating{
		caller: identity.From(ctx), settings: &h.settings, wanted: wanted, keyed: params.IdempotencyKey.IsSet(),
	}
	attempt.identity = identify(attempt.caller, params.IdempotencyKey.Or(""), fingerprint)
	sandbox, err := attempt.do(ctx)
	if err != nil {
		return nil, err
	}
	return &httpapi.CreateSandboxResponseHeaders{
		Location: inbound.From(ctx).Base + "/sandboxes/" + sandbox.Name,
		Response: showCreated(sandbox),
	}, nil
}

// creating is one request's way to its sandbox.
type creating struct {
	caller   *identity.Caller
	settings *Settings
	wanted   *creation
	identity identityOf
	// keyed is whether others may be on the way to the same one.
	keyed bool
}

// errAgain says that the sandbox which was in the way has gone meanwhile.
var errAgain = errors.New("the sandbox that was there has gone")

func (c *creating) do(ctx context.Context) (*v1alpha1.Sandbox, error) {
	for range 3 {
		sandbox, err := c.once(ctx)
		if !errors.Is(err, errAgain) {
			return sandbox, err
		}
	}
	return nil, conflict(answer.CodeInvalidState, "Idempotency-Key: sandbox %q of this key is created and deleted again and again; use another key", c.identity.id)
}

func (c *creating) once(ctx context.Context) (*v1alpha1.Sandbox, error) {
	if c.keyed {
		// Before anything is looked at that may have changed since, such as the snapshot to start from.
		switch sandbox, err := c.get(ctx); {
		case err == nil:
			return c.repeat(ctx, sandbox)
		case !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
			return nil, err
		}
	}
	from, err := c.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.lookForClaims(ctx); err != nil {
		return nil, err
	}
	object, err := c.wanted.sandbox(c.identity, from, c.settings)
	if err != nil {
		return nil, err
	}
	sandbox, err := c.sandboxes().Create(ctx, object, metav1.CreateOptions{})

	// From here on a caller that hangs up leaves nothing half done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	switch {
	case err == nil:
	case apierrors.IsAlreadyExists(err):
		there, err := c.get(ctx)
		switch {
		case apierrors.IsNotFound(err):
			return nil, errAgain
		case err != nil:
			return nil, err
		}
		return c.repeat(ctx, there)
	case unknown(err):
		// It may be there all the same: the answer was lost, and not the request.
		there, lookErr := c.get(ctx)
		if lookErr != nil || there.Annotations[annotationRequest] != c.identity.fingerprint || there.DeletionTimestamp != nil {
			return nil, err
		}
		sandbox = there
	default:
		return nil, err
	}
	if err := c.bringDependents(ctx, sandbox); err != nil {
		c.takeBack(ctx, sandbox)
		return nil, err
	}
	return sandbox, nil
}

// repeat answers with a sandbox that is there already, if it is what was asked for.
func (c *creating) repeat(ctx context.Context, sandbox *v1alpha1.Sandbox) (*v1alpha1.Sandbox, error) {
	if sandbox.Annotations[annotationRequest] != c.identity.fingerprint {
		return nil, conflict(answer.CodeInvalidState, "Idempotency-Key: sandbox %q was made with this key and another request; send the same one, or use another key", sandbox.Name)
	}
	if sandbox.DeletionTimestamp != nil {
		return nil, conflict(answer.CodeInvalidState, "Idempotency-Key: sandbox %q, which was made with this key, is being deleted; use another key for another sandbox", sandbox.Name)
	}
	// Whoever made it may have got no further than that.
	if err := c.bringDependents(ctx, sandbox); err != nil {
		return nil, err
	}
	return sandbox, nil
}

// snapshot is the one to start from, nil where that is an image.
func (c *creating) snapshot(ctx context.Context) (*v1alpha1.SandboxSnapshot, error) {
	name := c.wanted.SnapshotID
	if name == "" {
		return nil, nil
	}
	if err := checkSnapshotID(name); err != nil {
		return nil, err
	}
	snapshot, err := c.caller.Lifecycle.LifecycleV1alpha1().SandboxSnapshots(c.caller.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	switch phase := snapshot.Status.Phase; {
	case snapshot.DeletionTimestamp != nil:
		return nil, conflict(codeSnapshotNotReady, "snapshotId: snapshot %q is being deleted", name)
	case phase == v1alpha1.SnapshotFailed:
		return nil, conflict(codeSnapshotNotReady, "snapshotId: snapshot %q has failed, so there are no files to start from (%s)", name, failureOf(snapshot))
	case phase != v1alpha1.SnapshotSucceed:
		return nil, conflict(codeSnapshotNotReady, "snapshotId: snapshot %q is still being made; wait until its state is Ready", name)
	}
	return snapshot, nil
}

// unknown is whether an error leaves open what has become of a write.
func unknown(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	return status.Status().Code >= http.StatusInternalServerError
}

// takeBack deletes a sandbox that its caller is told has not come about.
func (c *creating) takeBack(ctx context.Context, sandbox *v1alpha1.Sandbox) {
	uid := sandbox.UID
	err := c.sandboxes().Delete(ctx, sandbox.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "A sandbox that was answered to have failed could not be deleted again", "sandbox", klog.KObj(sandbox))
	}
}
