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

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/collector"
)

// restorable is a server whose directory is saved and restored while it does not run.
type restorable struct {
	*testing.T
	dir  string
	kube *kubefake.Clientset
}

func newRestorable(t *testing.T) *restorable {
	return &restorable{T: t, dir: shortTempDir(t), kube: kubefake.NewSimpleClientset()}
}

// guard installs what keeps the garbage collector from what belongs to unknown sandboxes.
func (r *restorable) guard() {
	r.Helper()
	api := r.kube.AdmissionregistrationV1()
	for _, name := range []string{collector.PodsPolicy, collector.DependentsPolicy} {
		if _, err := api.ValidatingAdmissionPolicies().Create(r.Context(), &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			r.Fatal(err)
		}
		if _, err := api.ValidatingAdmissionPolicyBindings().Create(r.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
		}, metav1.CreateOptions{}); err != nil {
			r.Fatal(err)
		}
	}
}

// taken is when the ConfigMap says that the store was taken.
func (r *restorable) taken() time.Time {
	r.Helper()
	known, err := r.kube.CoreV1().ConfigMaps("sandbox-system").Get(r.Context(), server.StoreConfigMapName, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	when, err := time.Parse(time.RFC3339, known.Data["storeTaken"])
	if err != nil {
		r.Fatalf("the ConfigMap says %v", known.Data)
	}
	return when
}

func (r *restorable) start(accept bool) (*running, error) {
	r.Helper()
	return start(filepath.Join(r.dir, "data"), func(o *server.Options) {
		o.Namespace = "sandbox-system"
		o.Standalone.Client = r.kube
		o.AcceptNewStorage = accept
	})
}

// serve runs the server until do has returned.
func (r *restorable) serve(accept bool, do func(f *fixture)) {
	r.Helper()
	own, err := r.start(accept)
	if err != nil {
		r.Fatal(err)
	}
	do(fixtureOn(r.T, own))
	if err := own.stop(); err != nil {
		r.Fatal(err)
	}
}

func (r *restorable) save(as string) {
	r.Helper()
	if err := os.CopyFS(filepath.Join(r.dir, as), os.DirFS(filepath.Join(r.dir, "data"))); err != nil {
		r.Fatal(err)
	}
}

func (r *restorable) restore(from string) {
	r.Helper()
	if err := os.RemoveAll(filepath.Join(r.dir, "data")); err != nil {
		r.Fatal(err)
	}
	if from == "" {
		return
	}
	if err := os.CopyFS(filepath.Join(r.dir, "data"), os.DirFS(filepath.Join(r.dir, from))); err != nil {
		r.Fatal(err)
	}
}

// creates a sandbox as soon as the store is confirmed, and returns its resourceVersion.
func (f *fixture) creates(name string) string {
	f.Helper()
	f.eventually(func() error { return f.tryCreating(sandbox(name)) })
	return f.get(name).ResourceVersion
}

// TestAnOlderBackup is restored under the cluster that has gone on: nothing is served of it before
// somebody says so, and then no client sees resourceVersions that it has seen before.
func TestAnOlderBackup(t *testing.T) {
	for _, row := range []struct {
		name, backup string
		want         []string
		says         string
	}{
		{"a backup", "backup", []string{"first"}, "a backup was restored"},
		{"an empty volume", "", nil, "is empty"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRestorable(t)
			newest := ""
			r.serve(false, func(f *fixture) { f.creates("first") })
			installed := r.taken()
			if time.Since(installed) > time.Minute {
				t.Errorf("a new store was taken at %s", installed)
			}
			r.save("backup")
			r.serve(false, func(f *fixture) { newest = f.creates("second") })
			r.serve(false, func(f *fixture) {
				f.eventually(func() error { _, err := f.sandboxes.Get(t.Context(), "second", metav1.GetOptions{}); return err })
			})

			r.restore(row.backup)
			r.serve(false, func(f *fixture) {
				f.eventually(func() error {
					_, err := f.sandboxes.List(t.Context(), metav1.ListOptions{})
					if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), "--accept-new-storage") {
						return fmt.Errorf("a list is answered: %w", err)
					}
					return wantEvents(t, r.kube, "StoreNotAccepted", 1)
				})
			})

			// Accepted it ends once, to be started again.
			accepted := time.Now().Add(-time.Second)
			own, err := r.start(true)
			if err == nil {
				err = <-own.ended
			}
			if err == nil || !strings.Contains(err.Error(), "accepted") {
				t.Fatalf("the server has ended with: %v", err)
			}
			// What others have given to sandboxes that it does not know would be collected.
			r.serve(true, func(f *fixture) {
				f.eventually(func() error {
					_, err := f.sandboxes.List(t.Context(), metav1.ListOptions{})
					if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "the cluster lacks ValidatingAdmissionPolicy "+collector.PodsPolicy) {
						return fmt.Errorf("without the policies a list is answered: %w", err)
					}
					return nil
				})
			})
			if now := r.taken(); now != installed {
				t.Errorf("without the policies the store was taken at %s", now)
			}
			r.guard()
			r.serve(true, func(f *fixture) {
				f.eventually(func() error { _, err := f.sandboxes.List(t.Context(), metav1.ListOptions{}); return err })
				when := r.taken()
				if when.Before(accepted) || when.After(time.Now()) {
					t.Errorf("it is served before the policies keep what was made until %s", when)
				}
				list, err := f.sandboxes.List(t.Context(), metav1.ListOptions{})
				f.must(err)
				var got []string
				for _, s := range list.Items {
					got = append(got, s.Name)
				}
				if strings.Join(got, " ") != strings.Join(row.want, " ") {
					t.Errorf("there are %v, want %v", got, row.want)
				}
				if version(t, list.ResourceVersion) <= version(t, newest) {
					t.Errorf("the list is of %s, and there was %s before", list.ResourceVersion, newest)
				}
				// Who has seen what is gone is told to begin again.
				watching, err := f.sandboxes.Watch(t.Context(), metav1.ListOptions{ResourceVersion: newest})
				if err == nil {
					event := <-watching.ResultChan()
					watching.Stop()
					err = apierrors.FromObject(event.Object)
				}
				if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
					t.Errorf("a watch from before is answered: %v", err)
				}
				f.creates("third")
			})
			// From then on it is this cluster's.
			r.serve(false, func(f *fixture) { f.creates("fourth") })
		})
	}
}

func version(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAServerThatWasKilled between the two places of a mark finds the ConfigMap behind the store.
func TestAServerThatWasKilled(t *testing.T) {
	r := newRestorable(t)
	r.serve(false, func(f *fixture) { f.creates("first") })
	configMaps := r.kube.CoreV1().ConfigMaps("sandbox-system")
	known, err := configMaps.Get(t.Context(), server.StoreConfigMapName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	known.Data["storeMark"] = strconv.FormatInt(version(t, known.Data["storeMark"])-1, 10)
	if _, err := configMaps.Update(t.Context(), known, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.serve(false, func(f *fixture) {
		f.creates("second")
		f.get("first")
	})
}
