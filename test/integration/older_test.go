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
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/finalizer"
)

// olderStore is a server whose etcd can be written past it, as one of another version would have.
type olderStore struct {
	*fixture
	dir string
}

func newOlderStore(t *testing.T) *olderStore {
	t.Helper()
	s := &olderStore{dir: t.TempDir()}
	s.start(t)
	t.Cleanup(func() { _ = s.running.stop() })
	return s
}

func (s *olderStore) start(t *testing.T) {
	t.Helper()
	r, err := start(s.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.fixture = fixtureOn(t, r)
}

// restart ends the server, and has another begin with what is in etcd.
func (s *olderStore) restart() {
	s.Helper()
	s.must(s.running.stop())
	s.start(s.T)
}

// rewrite changes an object in etcd. It returns the key.
func (s *olderStore) rewrite(resource, name string, change func(stored []byte) []byte) string {
	s.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + s.dir + "/etcd.sock"}, DialTimeout: deadline})
	s.must(err)
	defer func() { _ = etcd.Close() }()
	all, err := etcd.Get(context.Background(), "/registry/", clientv3.WithPrefix())
	s.must(err)
	for _, kv := range all.Kvs {
		if key := string(kv.Key); strings.HasSuffix(key, "/"+resource+"/"+s.namespace+"/"+name) {
			_, err := etcd.Put(context.Background(), key, string(change(kv.Value)))
			s.must(err)
			return key
		}
	}
	s.Fatalf("etcd has no %s %s/%s", resource, s.namespace, name)
	return ""
}

// set changes a field of an object in etcd.
func (s *olderStore) set(resource, name, path string, value any) {
	s.Helper()
	s.rewrite(resource, name, func(stored []byte) []byte {
		var object map[string]any
		s.must(json.Unmarshal(stored, &object))
		if value == nil {
			unstructured.RemoveNestedField(object, strings.Split(path, ".")...)
		} else {
			s.must(unstructured.SetNestedField(object, value, strings.Split(path, ".")...))
		}
		changed, err := json.Marshal(object)
		s.must(err)
		return changed
	})
}

// TestWhatAnOlderServerTookLivesOn: a sandbox that the rules of today refuse can be labelled, changed
// elsewhere, paused, and it goes when it is deleted.
func TestWhatAnOlderServerTookLivesOn(t *testing.T) {
	t.Parallel()
	s := newOlderStore(t)
	known := runtime.NewScheme()
	s.must(v1alpha1.AddToScheme(known))
	controllers, err := client.New(s.running.server.Loopback(), client.Options{Scheme: known})
	s.must(err)

	container := func(fields map[string]any) []any {
		return []any{fields, map[string]any{"name": "other", "image": "busybox"}}
	}
	for name, broken := range map[string]struct {
		path  string
		value any
	}{
		"desired-state":   {"spec.desiredState", "Hibernated"},
		"no-state":        {"spec.desiredState", nil},
		"no-template":     {"spec.template", nil},
		"history":         {"spec.snapshot.historyLimit", int64(-1)},
		"policy":          {"spec.snapshot.deletionPolicy", "Archive"},
		"kept":            {"spec.snapshot.containers", []any{"gone", "gone", "G O N E"}},
		"restored":        {"spec.restoreFrom", map[string]any{"snapshotName": ""}},
		"no-containers":   {"spec.template.spec.containers", []any{}},
		"no-image":        {"spec.template.spec.containers", container(map[string]any{"name": "main"})},
		"a-bad-name":      {"spec.template.spec.containers", container(map[string]any{"name": "A B", "image": "busybox"})},
		"a-mount":         {"spec.template.spec.containers", container(map[string]any{"name": "main", "image": "busybox", "volumeMounts": []any{map[string]any{"name": "gone", "mountPath": "/x"}}})},
		"large":           {"spec.template.metadata.annotations", map[string]any{"a": strings.Repeat("x", 100<<10)}},
		"template-labels": {"spec.template.metadata.labels", map[string]any{"a b": "c d"}},
		"ephemeral":       {"spec.template.spec.ephemeralContainers", []any{map[string]any{"name": "debugger", "image": "busybox"}}},
		"phase":           {"status.phase", "Hibernated"},
		"condition": {"status.conditions", []any{map[string]any{
			"type": "Ready", "status": "Perhaps", "reason": "not a word", "message": strings.Repeat("x", 40_000), "lastTransitionTime": nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &olderStore{fixture: s.within(t), dir: s.dir}
			f.create(sandbox(name))
			f.asRunning(name)
			f.set("sandboxes", name, broken.path, broken.value)

			if got := f.patch(f.path("/"+name), asMergePatch, `{"metadata":{"labels":{"team":"a"}}}`); got.code != http.StatusOK {
				t.Errorf("a label: %d %s", got.code, got.body)
			}
			if got := f.patch(f.path("/"+name+"?fieldManager=test"), asApply, `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"`+name+`","annotations":{"a":"b"}}}`); got.code == http.StatusUnprocessableEntity {
				t.Errorf("an annotation, applied: %d %s", got.code, got.body)
			}
			if broken.path != "spec.snapshot.historyLimit" {
				if got := f.patch(f.path("/"+name), asMergePatch, `{"spec":{"snapshot":{"historyLimit":7}}}`); got.code != http.StatusOK {
					t.Errorf("another field: %d %s", got.code, got.body)
				}
			}
			if broken.path != "status.phase" {
				if got := f.post(f.path("/"+name+"/pause"), `{}`); got.code != http.StatusCreated {
					t.Errorf("a pause: %d %s", got.code, got.body)
				}
			}
			f.writeStatus(name, func(status *v1alpha1.SandboxStatus) { status.PodIP = "10.0.0.2" })

			f.must(f.sandboxes.Delete(t.Context(), name, metav1.DeleteOptions{}))
			f.writeStatus(name, func(status *v1alpha1.SandboxStatus) { status.PodIP = "" })
			going := f.get(name)
			if !slices.Contains(going.Finalizers, v1alpha1.SandboxFinalizer) {
				t.Fatalf("it goes without its finalizer: %q", going.Finalizers)
			}
			f.must(finalizer.Remove(t.Context(), controllers, going, v1alpha1.SandboxFinalizer))
			if got := f.read(f.path("/" + name)); got.code != http.StatusNotFound {
				t.Errorf("it is still there: %d %s", got.code, got.body)
			}
		})
	}

	for name, broken := range map[string]struct {
		path  string
		value any
	}{
		"no-sandbox":  {"spec.sandboxName", "A B"},
		"policy":      {"spec.deletionPolicy", "Archive"},
		"containers":  {"spec.containers", []any{"main", "main", ""}},
		"both":        {"spec.source", map[string]any{"images": []any{map[string]any{"containerName": "A B", "image": "x:latest"}}}},
		"empty":       {"status.containers", []any{}},
		"no-digest":   {"status.containers", []any{map[string]any{"containerName": "main", "containerID": "c", "imageUri": "r/i:t"}}},
		"some-phase":  {"status.phase", "Archived"},
		"many-causes": {"status.warnings", slices.Repeat([]any{map[string]any{"reason": "not a word", "message": strings.Repeat("x", 2000)}}, 40)},
	} {
		t.Run("snapshot-"+name, func(t *testing.T) {
			f := &olderStore{fixture: s.within(t), dir: s.dir}
			of := f.create(sandbox("of-" + name))
			f.succeeded(name, of)
			f.set("sandboxsnapshots", name, broken.path, broken.value)

			if got := f.patch(f.pathOf("sandboxsnapshots", "/"+name), asMergePatch, `{"metadata":{"labels":{"team":"a"}}}`); got.code != http.StatusOK {
				t.Errorf("a label: %d %s", got.code, got.body)
			}
			snapshots := f.controller.SandboxSnapshots(f.namespace)
			snapshot, err := snapshots.Get(t.Context(), name, metav1.GetOptions{})
			f.must(err)
			snapshot.Status.Conditions = append(snapshot.Status.Conditions, metav1.Condition{
				Type: v1alpha1.ConditionImageAvailable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonImageAvailable, LastTransitionTime: metav1.Now(),
			})
			if _, err := snapshots.UpdateStatus(t.Context(), snapshot, metav1.UpdateOptions{}); err != nil {
				t.Errorf("a condition: %v", err)
			}
			f.must(f.snapshots.Delete(t.Context(), name, metav1.DeleteOptions{}))
			going, err := f.snapshots.Get(t.Context(), name, metav1.GetOptions{})
			f.must(err)
			f.must(finalizer.Remove(t.Context(), controllers, going, v1alpha1.SnapshotFinalizer))
			if got := f.read(f.pathOf("sandboxsnapshots", "/"+name)); got.code != http.StatusNotFound {
				t.Errorf("it is still there: %d %s", got.code, got.body)
			}
		})
	}
}

// TestAnObjectThatCannotBeReadCanBeDeleted: it holds up every list of its kind, and with them the deletion of every
// namespace, until an administrator deletes it as kubectl delete --raw does.
func TestAnObjectThatCannotBeReadCanBeDeleted(t *testing.T) {
	t.Parallel()
	s := newOlderStore(t)
	s.create(sandbox("broken"))
	s.create(sandbox("well"))
	s.rewrite("sandboxes", "broken", func([]byte) []byte {
		return []byte(`{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","spec":7}`)
	})

	s.restart()
	s.eventually(func() error {
		// Else nobody would send it anything any more.
		if ready := s.read("/readyz?verbose"); ready.code != http.StatusOK {
			return fmt.Errorf("the server is not ready: %s", ready.body)
		}
		return nil
	})

	list := s.read(s.path("?resourceVersion="))
	if status := list.status(s.fixture); list.code < 400 || !strings.Contains(status.Message, "/sandboxes/"+s.namespace+"/broken") {
		t.Errorf("a list does not name the object that cannot be read: %d %s", list.code, list.body)
	}
	without := s.request(http.MethodDelete, s.path("/broken"), asJSON, `{}`)
	if without.code != http.StatusInternalServerError {
		t.Errorf("deleted like any other: %d %s", without.code, without.body)
	}
	options := `{"apiVersion":"v1","kind":"DeleteOptions","ignoreStoreReadErrorWithClusterBreakingPotential":true}`
	if well := s.request(http.MethodDelete, s.path("/well"), asJSON, options); well.code < 400 {
		t.Errorf("one that can be read was deleted unsafely: %d %s", well.code, well.body)
	}
	if got := s.send(editor, http.MethodDelete, s.path("/broken"), strings.NewReader(options), http.Header{"Content-Type": {asJSON}}); got.code != http.StatusForbidden {
		t.Errorf("by somebody without the right to: %d %s", got.code, got.body)
	}
	if got := s.request(http.MethodDelete, s.path("/broken"), asJSON, options); got.code != http.StatusOK {
		t.Errorf("deleted unsafely: %d %s", got.code, got.body)
	}
	s.eventually(func() error {
		if got := s.read(s.path("")); got.code != http.StatusOK {
			return fmt.Errorf("after that a list is %d %s", got.code, got.body)
		}
		return nil
	})
}

// TestWhatKubernetesRefusesOfMetadataHasToBeMended: the generic server checks labels and the like with every write, and
// asks nobody. No server that ran its checks has stored such an object.
func TestWhatKubernetesRefusesOfMetadataHasToBeMended(t *testing.T) {
	t.Parallel()
	s := newOlderStore(t)
	s.create(sandbox("demo"))
	s.set("sandboxes", "demo", "metadata.labels", map[string]any{"a b": "c"})
	refused := s.patch(s.path("/demo"), asMergePatch, `{"metadata":{"finalizers":null}}`)
	if refused.code != http.StatusUnprocessableEntity || !slices.Contains(causes(refused.status(s.fixture)), "metadata.labels") {
		t.Errorf("another field: %d %s", refused.code, refused.body)
	}
	s.must(s.sandboxes.Delete(t.Context(), "demo", metav1.DeleteOptions{}))
	if got := s.patch(s.path("/demo"), asMergePatch, `{"metadata":{"labels":null}}`); got.code != http.StatusOK {
		t.Errorf("mended: %d %s", got.code, got.body)
	}
	if got := s.patch(s.path("/demo"), asMergePatch, `{"metadata":{"finalizers":null}}`); got.code != http.StatusOK {
		t.Errorf("without its finalizers: %d %s", got.code, got.body)
	}
	if got := s.read(s.path("/demo")); got.code != http.StatusNotFound {
		t.Errorf("it is still there: %d %s", got.code, got.body)
	}
}
