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

package expiry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/conflict"
)

// deadline bounds every wait of these tests.
const deadline = 30 * time.Second

// api is an API server that notes what is asked of it.
type api struct {
	client.Client
	mutex sync.Mutex
	// deeds are what was done to which resourceVersion.
	deeds []string
	// answers are what is answered to what is to be done, one after the other; then nil.
	answers []error
}

func apiOf(t *testing.T, sandboxes ...*v1alpha1.Sandbox) *api {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	a := &api{}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
		Delete: func(_ context.Context, _ client.WithWatch, object client.Object, options ...client.DeleteOption) error {
			only := (&client.DeleteOptions{}).ApplyOptions(options).Preconditions
			if only == nil || only.UID == nil {
				return errors.New("of no UID")
			}
			return a.done("delete", object.GetName(), *only.UID == object.GetUID(), ptr.Deref(only.ResourceVersion, "any"))
		},
		SubResourceCreate: func(_ context.Context, _ client.Client, verb string, object client.Object, body client.Object, _ ...client.SubResourceCreateOption) error {
			return a.done(verb, object.GetName(), body.GetUID() == object.GetUID(), body.GetResourceVersion())
		},
	})
	for _, s := range sandboxes {
		builder = builder.WithObjects(s)
	}
	a.Client = builder.Build()
	return a
}

func (a *api) done(what, name string, same bool, version string) error {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if !same {
		return errors.New("of another UID")
	}
	a.deeds = append(a.deeds, fmt.Sprintf("%s %s at %s", what, name, version))
	if len(a.answers) == 0 {
		return nil
	}
	answer := a.answers[0]
	a.answers = a.answers[1:]
	return answer
}

func (a *api) did() []string {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return slices.Clone(a.deeds)
}

var demo = ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "team", Name: "demo"}}

var (
	errStale   = apierrors.NewConflict(schema.GroupResource{Resource: "sandboxes"}, "demo", errors.New("the object has been modified"))
	errRefused = func() error {
		err := apierrors.NewConflict(schema.GroupResource{Resource: "sandboxes"}, "demo", errors.New("the previous pause is being cancelled"))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: "PauseCanceling"}}
		return err
	}()
	errGone      = apierrors.NewNotFound(schema.GroupResource{Resource: "sandboxes"}, "demo")
	errForbidden = apierrors.NewForbidden(schema.GroupResource{Resource: "sandboxes"}, "demo", errors.New("the policy says no"))
)

func TestReconcile(t *testing.T) {
	for name, test := range map[string]struct {
		action v1alpha1.SandboxExpireAction
		now    time.Duration // since noon
		answer error
		deeds  string
		after  time.Duration
		errs   bool
		event  string // what it begins with
	}{
		"a day before":             {action: v1alpha1.ExpireActionDelete, now: -24 * time.Hour, after: time.Hour},
		"two minutes before":       {action: v1alpha1.ExpireActionDelete, now: -2 * time.Minute, after: time.Minute},
		"at its time":              {action: v1alpha1.ExpireActionDelete, deeds: "delete demo at 7", event: "Normal Expired the sandbox is being deleted, with its pause snapshots: spec.expireTime (2026-12-01T12:00:00Z) has passed"},
		"to be paused":             {action: v1alpha1.ExpireActionPause, deeds: "pause demo at 7", event: "Normal Expired the sandbox is being paused: spec.expireTime (2026-12-01T12:00:00Z) has passed"},
		"a day late":               {action: v1alpha1.ExpireActionDelete, now: 24 * time.Hour, deeds: "delete demo at 7", event: "Normal Expired"},
		"renewed meanwhile":        {action: v1alpha1.ExpireActionDelete, answer: errStale, deeds: "delete demo at 7", errs: true},
		"resumed meanwhile":        {action: v1alpha1.ExpireActionPause, answer: errStale, deeds: "pause demo at 7", errs: true},
		"refused for the moment":   {action: v1alpha1.ExpireActionPause, answer: errRefused, deeds: "pause demo at 7", after: backstop},
		"deleted by somebody else": {action: v1alpha1.ExpireActionDelete, answer: errGone, deeds: "delete demo at 7"},
		"forbidden, once":          {action: v1alpha1.ExpireActionDelete, answer: errForbidden, deeds: "delete demo at 7", errs: true},
	} {
		t.Run(name, func(t *testing.T) {
			api := apiOf(t, sandbox(test.action))
			if test.answer != nil {
				api.answers = []error{test.answer}
			}
			told := events.NewFakeRecorder(10)
			r := &Reconciler{Client: api, Recorder: told, Clock: clocktesting.NewFakeClock(noon.Add(test.now))}
			result, err := r.Reconcile(t.Context(), demo)
			deeds := api.did()
			if strings.Join(deeds, ", ") != test.deeds || result.RequeueAfter != test.after || (err != nil) != test.errs {
				t.Errorf("did %q, looks again after %s, error %v; want %q, %s, %t", deeds, result.RequeueAfter, err, test.deeds, test.after, test.errs)
			}
			if event := next(told); !strings.HasPrefix(event, test.event) || (event == "") != (test.event == "") {
				t.Errorf("event %q, want %q", event, test.event)
			}
		})
	}
}

func next(told *events.FakeRecorder) string {
	select {
	case event := <-told.Events:
		return event
	default:
		return ""
	}
}

// TestWhatFailsIsTold: a policy that forbids it is no moment's trouble, and nobody reads logs.
func TestWhatFailsIsTold(t *testing.T) {
	api := apiOf(t, sandbox(v1alpha1.ExpireActionPause))
	told := events.NewFakeRecorder(10)
	r := &Reconciler{Client: api, Recorder: told, Clock: clocktesting.NewFakeClock(noon)}
	for visit := 1; visit <= 20; visit++ {
		api.answers = []error{errForbidden}
		if _, err := r.Reconcile(t.Context(), demo); err == nil {
			t.Fatal("a failure is not tried again")
		}
		event := next(told)
		if is := visit == 8 || visit == 16; (event != "") != is || is && (!strings.HasPrefix(event, "Warning ExpiryFailed") || !strings.Contains(event, "the policy says no")) {
			t.Errorf("visit %d: event %q", visit, event)
		}
	}
}

// counting is a queue that counts the visits that are over, and what they have put into it.
type counting struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]
	over atomic.Int64
}

func (c *counting) Done(request reconcile.Request) {
	c.TypedRateLimitingInterface.Done(request)
	c.over.Add(1)
}

// TestOneQueueByOneClock: three sandboxes wait for their time without that anything looks at them, one is renewed, and each goes
// when its time has come.
func TestOneQueueByOneClock(t *testing.T) {
	begun := noon.Add(-3 * time.Hour)
	clock := clocktesting.NewFakeClock(begun)
	named := func(name string, expire time.Duration, action v1alpha1.SandboxExpireAction) *v1alpha1.Sandbox {
		return sandbox(action, func(s *v1alpha1.Sandbox) {
			s.Name, s.Spec.ExpireTime = name, &metav1.Time{Time: begun.Add(expire)}
		})
	}
	api := apiOf(t, named("first", 40*time.Minute, v1alpha1.ExpireActionDelete), named("second", 50*time.Minute, v1alpha1.ExpireActionPause),
		named("third", 3*time.Hour, v1alpha1.ExpireActionDelete))
	r := &Reconciler{Client: api, Recorder: events.NewFakeRecorder(100), Clock: clock}
	visits := &counting{}
	watch := make(chan workqueue.TypedRateLimitingInterface[reconcile.Request], 1)
	c, err := controller.NewUnmanaged("expiry", controller.Options{
		Reconciler: conflict.Repeat(r), SkipNameValidation: ptr.To(true),
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Millisecond, time.Second),
		NewQueue: func(name string, limiter workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
			visits.TypedRateLimitingInterface = r.queue(name, limiter)
			return visits
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Watch(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		watch <- queue
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	queue := <-watch
	see := func(name string) {
		queue.Add(reconcile.Request{NamespacedName: client.ObjectKey{Namespace: "team", Name: name}})
	}
	// after sets the clock, and waits until so many visits are over in all, which have done that.
	after := func(at time.Duration, want int64, did string) {
		t.Helper()
		clock.SetTime(begun.Add(at))
		began := time.Now()
		for heartbeats := 1; visits.over.Load() < want; time.Sleep(time.Millisecond) {
			if time.Since(began) > deadline {
				t.Fatalf("after %s: %d visits are over, want %d", at, visits.over.Load(), want)
			}
			if time.Since(began) > time.Duration(heartbeats)*time.Second {
				// The queue has read the clock before it was set, and set its timer after: it looks again every ten seconds.
				heartbeats++
				clock.Step(10 * time.Second)
			}
		}
		if deeds := api.did(); visits.over.Load() != want || strings.Join(deeds, ", ") != did {
			t.Fatalf("after %s: %d visits, which did %q; want %d and %q", at, visits.over.Load(), deeds, want, did)
		}
	}

	for _, name := range []string{"first", "second", "third"} {
		see(name)
	}
	after(0, 3, "")
	after(38*time.Minute, 3, "")
	after(39*time.Minute, 4, "") // the first is told of
	renewed := &v1alpha1.Sandbox{}
	if err := api.Client.Get(ctx, client.ObjectKey{Namespace: "team", Name: "first"}, renewed); err != nil {
		t.Fatal(err)
	}
	renewed.Spec.ExpireTime = &metav1.Time{Time: begun.Add(55 * time.Minute)}
	if err := api.Update(ctx, renewed); err != nil {
		t.Fatal(err)
	}
	see("first")
	after(39*time.Minute+30*time.Second, 5, "")
	after(40*time.Minute, 6, "") // of the time that it had before
	after(49*time.Minute, 7, "")
	after(50*time.Minute, 8, "pause second at 7")
	after(54*time.Minute, 9, "pause second at 7")
	after(55*time.Minute, 10, "pause second at 7, delete first at 8")
	after(59*time.Minute, 10, "pause second at 7, delete first at 8")
}
