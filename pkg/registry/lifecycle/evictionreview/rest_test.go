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

package evictionreview

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// cached is a watch cache that knows one sandbox, or none.
type cached struct{ sandbox *lifecycle.Sandbox }

func (c cached) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	if options.ResourceVersion != "0" || request.NamespaceValue(ctx) != "team" {
		return nil, errors.New("past the cache, or elsewhere")
	}
	if c.sandbox == nil || c.sandbox.Name != name {
		return nil, apierrors.NewNotFound(lifecycle.Resource("sandboxes"), name)
	}
	return c.sandbox, nil
}

func (cached) NewList() runtime.Object { return &lifecycle.SandboxList{} }

func (cached) List(context.Context, *internalversion.ListOptions) (runtime.Object, error) {
	return &lifecycle.SandboxList{}, nil
}

func (cached) ConvertToTable(context.Context, runtime.Object, runtime.Object) (*metav1.Table, error) {
	return nil, errors.New("nobody prints it")
}

// onlyPod is a cluster of one Pod.
type onlyPod struct{ pod *corev1.Pod }

func (c onlyPod) Pod(context.Context, string, string) (*corev1.Pod, error) { return c.pod, nil }
func (c onlyPod) Node(context.Context, string) (*corev1.Node, error)       { return &corev1.Node{}, nil }

// TestWhatTheStoreDoesNotAnswer: of what is known to be a sandbox's nothing passes because etcd is away for a moment.
func TestWhatTheStoreDoesNotAnswer(t *testing.T) {
	away := apierrors.NewServiceUnavailable("etcdserver: no leader")
	for name, test := range map[string]struct {
		cached      func(*v1alpha1.Sandbox)
		unknown     bool
		read, write error
		code        int32
		says        string
	}{
		"all is well":                  {code: http.StatusTooManyRequests, says: "are being saved"},
		"it cannot be read":            {read: away, code: http.StatusTooManyRequests, says: "could not be read: etcdserver: no leader"},
		"it cannot be read, may go":    {read: away, cached: func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }},
		"it is gone since":             {read: apierrors.NewNotFound(lifecycle.Resource("sandboxes"), "demo")},
		"it cannot be written":         {write: away, code: http.StatusTooManyRequests, says: "could not be noted"},
		"it is a stranger, etcd or no": {unknown: true, read: away},
	} {
		t.Run(name, func(t *testing.T) {
			scheme := runtime.NewScheme()
			if err := v1alpha1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			sandbox := running(test.cached)
			own := fake.NewClientBuilder().WithScheme(scheme).WithObjects(sandbox).WithStatusSubresource(sandbox).WithInterceptorFuncs(interceptor.Funcs{
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
					if test.read != nil {
						return test.read
					}
					return c.Get(ctx, key, object, options...)
				},
				SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, object client.Object, options ...client.SubResourceUpdateOption) error {
					if test.write != nil {
						return test.write
					}
					return c.SubResource(sub).Update(ctx, object, options...)
				},
			}).Build()
			known := cached{internal(sandbox)}
			if test.unknown {
				known = cached{}
			}
			rest := NewREST(Config{Surroundings: Surroundings{Cluster: onlyPod{runs(nil)}, Own: own}, Sandboxes: known, Clock: testingclock.NewFakePassiveClock(now)})
			got, err := rest.answer(request.WithNamespace(t.Context(), "team"), eviction{namespace: "team", pod: "demo"})
			if err != nil || got.code != test.code || !strings.Contains(got.message, test.says) {
				t.Errorf("answered %d %q, %v; want %d and %q", got.code, got.message, err, test.code, test.says)
			}
		})
	}
}
