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

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
)

// api is both API servers of a storm: what the Reconciler asks is answered of what is stored, or as the weather is.
// cached answers reads of what an informer shows, which may be older.
type api struct {
	client.Client // what nobody is to call
	s             *storm
	cached        bool
}

// errCrash is what everything answers once the process is gone.
var errCrash = fmt.Errorf("the process ends: %w", context.Canceled)

// weather is the trouble that comes before anything is done.
func (a *api) weather() error {
	s := a.s
	switch {
	case s.crashed:
		return errCrash
	case !s.visiting || s.calm || a.cached:
	case s.chance(80):
		s.crashed = true
		s.note("  the process ends")
		return errCrash
	case s.chance(40):
		return []error{
			apierrors.NewInternalError(errors.New("etcdserver: request timed out")),
			apierrors.NewServiceUnavailable("not yet"),
			apierrors.NewTooManyRequests("later", 1),
			errors.New("dial tcp 10.0.0.1:443: connect: connection refused"),
		}[s.rand.IntN(4)]
	}
	return nil
}

// after is the trouble that comes after it was done: the answer is lost on its way.
func (a *api) after() error {
	if a.s.visiting && a.s.chance(60) {
		a.s.note("  the answer is lost")
		return context.DeadlineExceeded
	}
	return nil
}

func notFound404(kind, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
}

func (a *api) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	if err := a.weather(); err != nil {
		return err
	}
	at := &a.s.stored
	if a.cached {
		at = &a.s.shown
	}
	switch object := object.(type) {
	case *v1alpha1.Sandbox:
		at.sandbox.DeepCopyInto(object)
	case *v1alpha1.SandboxSnapshot:
		found := at.snapshots[key.Name]
		if found == nil {
			return notFound404("sandboxsnapshots", key.Name)
		}
		found.DeepCopyInto(object)
	case *corev1.Pod:
		if at.pod == nil {
			return notFound404("pods", key.Name)
		}
		at.pod.DeepCopyInto(object)
	case *corev1.Namespace:
		object.Name, object.UID = key.Name, "namespace-1"
	default:
		a.s.fail("reads a %T", object)
	}
	return nil
}

func (a *api) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	if err := a.weather(); err != nil {
		return err
	}
	at := &a.s.stored
	if a.cached {
		at = &a.s.shown
	}
	if snapshots, ok := list.(*v1alpha1.SandboxSnapshotList); ok {
		for _, snapshot := range at.snapshots {
			snapshots.Items = append(snapshots.Items, *snapshot.DeepCopy())
		}
	}
	return nil
}

func (a *api) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	if err := a.weather(); err != nil {
		return err
	}
	if err := a.refusal(object); err != nil {
		return err
	}
	switch object := object.(type) {
	case *corev1.Pod:
		if a.s.stored.pod != nil {
			return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "pods"}, object.Name)
		}
		a.s.makePod(object)
	case *v1alpha1.SandboxSnapshot:
		if a.s.stored.snapshots[object.Name] != nil {
			return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "sandboxsnapshots"}, object.Name)
		}
		object.UID, object.ResourceVersion = a.s.uid("snapshot"), a.s.version()
		object.Finalizers = []string{v1alpha1.SnapshotFinalizer}
		a.s.stored.snapshots[object.Name] = object.DeepCopy()
	default:
		a.s.fail("creates a %T", object)
	}
	return a.after()
}

// refusal is what admission, quotas and webhooks answer to the creation of something.
func (a *api) refusal(object client.Object) error {
	if a.s.calm || !a.s.chance(8) {
		return nil
	}
	resource := schema.GroupResource{Resource: "pods"}
	if _, ok := object.(*v1alpha1.SandboxSnapshot); ok {
		resource.Resource = "sandboxsnapshots"
	}
	long := strings.Repeat("x is not valid, and that is a long story; ", 152_000/42)
	answers := []error{
		apierrors.NewForbidden(resource, object.GetName(), errors.New("exceeded quota: small")),
		apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, object.GetName(), field.ErrorList{field.Invalid(field.NewPath("spec"), "x", long)}),
		apierrors.NewInternalError(errors.New(`failed calling webhook "x": connection refused`)),
		apierrors.NewConflict(resource, object.GetName(), errors.New("the quota has changed")),
		apierrors.NewBadRequest("no"),
	}
	answer := answers[a.s.rand.IntN(len(answers))]
	a.s.note("  refused: %.60s", answer)
	return answer
}

// Update removes finalizers, of which a storm sees none.
func (a *api) Update(_ context.Context, object client.Object, _ ...client.UpdateOption) error {
	a.s.fail("updates %T %s", object, object.GetName())
	return nil
}

// Patch makes a Pod its sandbox's.
func (a *api) Patch(_ context.Context, object client.Object, _ client.Patch, _ ...client.PatchOption) error {
	if err := a.weather(); err != nil {
		return err
	}
	pod := a.s.stored.pod
	if pod == nil || pod.ResourceVersion != object.GetResourceVersion() {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, object.GetName(), errors.New("it has changed"))
	}
	a.s.changePod(func(p *corev1.Pod) {
		p.OwnerReferences, p.Annotations = object.GetOwnerReferences(), object.GetAnnotations()
	})
	return a.after()
}

func (a *api) Delete(_ context.Context, object client.Object, options ...client.DeleteOption) error {
	if err := a.weather(); err != nil {
		return err
	}
	how := (&client.DeleteOptions{}).ApplyOptions(options)
	switch object := object.(type) {
	case *corev1.Pod:
		pod := a.s.stored.pod
		if pod == nil {
			return notFound404("pods", object.Name)
		}
		if only := how.Preconditions; only.UID != nil && *only.UID != pod.UID || only.ResourceVersion != nil && *only.ResourceVersion != pod.ResourceVersion {
			return apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, object.Name, errors.New("it has changed"))
		}
		a.s.controllerDeletes(pod)
		a.s.terminate(how.GracePeriodSeconds)
	case *v1alpha1.SandboxSnapshot:
		if snapshot := a.s.stored.snapshots[object.Name]; snapshot != nil && snapshot.DeletionTimestamp == nil {
			if a.s.stored.sandbox.Status.SnapshotName == object.Name {
				a.s.fail("deletes snapshot %s, which the next resume needs", object.Name)
			}
			a.s.changeSnapshot(object.Name, func(s *v1alpha1.SandboxSnapshot) { s.DeletionTimestamp = &metav1.Time{Time: a.s.now} })
		}
	}
	return a.after()
}

func (a *api) Status() client.SubResourceWriter { return &statusAPI{s: a.s, api: a} }

// statusAPI writes the status of a sandbox, as far as the real validation lets it.
type statusAPI struct {
	client.SubResourceWriter // what nobody is to call
	s                        *storm
	api                      *api
}

func (w *statusAPI) Update(_ context.Context, object client.Object, _ ...client.SubResourceUpdateOption) error {
	if err := w.api.weather(); err != nil {
		return err
	}
	sandbox := object.(*v1alpha1.Sandbox)
	stored := w.s.stored.sandbox
	if sandbox.ResourceVersion != stored.ResourceVersion {
		return apierrors.NewConflict(schema.GroupResource{Resource: "sandboxes"}, sandbox.Name, errors.New("it has changed"))
	}
	next := stored.DeepCopy()
	sandbox.Status.DeepCopyInto(&next.Status)
	before, after := &lifecycle.Sandbox{}, &lifecycle.Sandbox{}
	w.s.convert(stored, before)
	w.s.convert(next, after)
	if errs := validation.ValidateSandboxStatusUpdate(after, before); len(errs) > 0 {
		w.s.fail("a status that is not valid: %.300s", errs.ToAggregate())
	}
	w.s.store(next)
	w.s.note("  %s", summary(&next.Status))
	w.s.check()
	next.DeepCopyInto(sandbox)
	return w.api.after()
}
