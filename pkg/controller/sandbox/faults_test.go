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
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// undeletable is a cluster that lets no Pod be deleted.
type undeletable struct {
	client.Client
	answer error
}

func (u *undeletable) Delete(ctx context.Context, object client.Object, options ...client.DeleteOption) error {
	if u.answer != nil {
		return u.answer
	}
	return u.Client.Delete(ctx, object, options...)
}

// A Pod that cannot be deleted holds up a pause for as long as that lasts, and somebody has to hear of it.
func TestWhatGoesOnFailingIsTold(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), snapshotIn(v1alpha1.SnapshotSucceed), podOf())
	host := &undeletable{f.host, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, name, errors.New("no Pod may be deleted here"))}
	f.r.Host = host
	visits, told := f.r.telling(), f.r.Recorder.(*events.FakeRecorder).Events
	visit := func(times int) (tells int) {
		for range times {
			if _, err := visits.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}}); (err != nil) != (host.answer != nil) {
				t.Fatal(err)
			}
		}
		for ; len(told) > 0; tells++ {
			if event := <-told; host.answer != nil && (!strings.HasPrefix(event, "Warning "+v1alpha1.EventReconcileFailed) || !strings.Contains(event, "no Pod may be deleted here")) {
				t.Errorf("the event is %q", event)
			}
		}
		return tells
	}
	if tells := visit(faultsTold - 1); tells != 0 {
		t.Errorf("told %d times of a moment's trouble", tells)
	}
	if tells := visit(1 + 3*faultsTold); tells != 3 {
		t.Errorf("told %d times of %d failures, want 3", tells, 4*faultsTold)
	}
	host.answer = nil
	visit(1)
	if len(f.r.faults.failed) != 0 {
		t.Errorf("still counted: %v", f.r.faults.failed)
	}
}
