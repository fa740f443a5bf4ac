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
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// kubectl replace sends what the file says, and no file has finalizers.
func TestReplaceKeepsTheFinalizers(t *testing.T) {
	f := newFixture(t)
	s := f.create(sandbox("demo"))
	s.Finalizers = []string{"example.com/mine"}
	s, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	if !slices.Equal(s.Finalizers, []string{"example.com/mine", v1alpha1.SandboxFinalizer}) {
		t.Errorf("the sandbox has the finalizers %q", s.Finalizers)
	}

	snapshot, err := f.snapshots.Create(context.Background(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
	}, metav1.CreateOptions{})
	f.must(err)
	snapshot.Finalizers = nil
	snapshot, err = f.snapshots.Update(context.Background(), snapshot, metav1.UpdateOptions{})
	f.must(err)
	if !slices.Equal(snapshot.Finalizers, []string{v1alpha1.SnapshotFinalizer}) {
		t.Errorf("the snapshot has the finalizers %q", snapshot.Finalizers)
	}
}

// Who takes the server's finalizer from a commit under way would leave its Pod frozen, or have two commits of it.
func TestTheFinalizerOfACommitIsTheServers(t *testing.T) {
	f := newFixture(t)
	attempt := func(name string, n int64, pause bool, phase v1alpha1.SandboxSnapshotPhase) {
		f.Helper()
		spec := v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"}
		if pause {
			spec.Pause = &v1alpha1.SnapshotPause{SandboxUID: "u", PodUID: "p", Attempt: n}
		}
		made, err := f.controller.SandboxSnapshots(f.namespace).Create(t.Context(), &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		f.must(err)
		made.Status.Phase = phase
		if phase == v1alpha1.SnapshotSucceed {
			made.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ImageURI: "r/a:t", ImageDigest: "sha256:" + strings.Repeat("a", 64)}}
		}
		_, err = f.controller.SandboxSnapshots(f.namespace).UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
		f.must(err)
		f.must(f.snapshots.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	attempt("demo-gen1", 1, true, v1alpha1.SnapshotCommitting)
	attempt("demo-gen2", 2, true, v1alpha1.SnapshotSucceed)
	attempt("demo-gen3", 3, true, v1alpha1.SnapshotPending)
	attempt("demo-gen4", 4, true, v1alpha1.SnapshotFailed)
	attempt("demo-gen5", 5, false, v1alpha1.SnapshotSucceed) // of a server from before spec.pause
	attempt("mine-commits", 0, false, v1alpha1.SnapshotCommitting)
	attempt("mine", 0, false, v1alpha1.SnapshotSucceed)
	for name, stays := range map[string]bool{
		"demo-gen1": true, "demo-gen2": true, "demo-gen3": true, "demo-gen4": false, "demo-gen5": true, "mine-commits": true, "mine": false,
	} {
		at := f.pathOf("sandboxsnapshots", "/"+name)
		if stays {
			for way, got := range map[string]answer{
				"merge":   f.patch(at, asMergePatch, `{"metadata":{"finalizers":null}}`),
				"dry run": f.patch(at+"?dryRun=All", asMergePatch, `{"metadata":{"finalizers":[]}}`),
				"another": f.patch(at, asMergePatch, `{"metadata":{"finalizers":["example.com/x"]}}`),
			} {
				if got.code != 422 || !slices.Contains(causes(got.status(f)), "metadata.finalizers") {
					t.Errorf("%s, %s: %d %s", name, way, got.code, got.body)
				}
			}
			// The server's own may.
			_, err := f.controller.SandboxSnapshots(f.namespace).Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			f.must(err)
		} else if got := f.patch(at, asMergePatch, `{"metadata":{"finalizers":null}}`); got.code != 200 {
			t.Errorf("%s: %d %s", name, got.code, got.body)
		}
		if _, err := f.snapshots.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// The namespace controller and the garbage collector would rather have protobuf, and take JSON.
// While they got neither, no namespace of the cluster could be deleted.
func TestMetadataClientsDelete(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"one", "two", "three"} {
		f.create(sandbox(name))
	}
	config := f.running.as(admin)
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := metadata.NewForConfig(config)
	f.must(err)
	sandboxes := client.Resource(v1alpha1.SchemeGroupVersion.WithResource("sandboxes")).Namespace(f.namespace)
	list, err := sandboxes.List(context.Background(), metav1.ListOptions{})
	f.must(err)
	if len(list.Items) != 3 {
		t.Errorf("lists %d", len(list.Items))
	}

	f.must(sandboxes.Delete(context.Background(), "one", metav1.DeleteOptions{}))
	_, err = sandboxes.Patch(context.Background(), "one", types.StrategicMergePatchType,
		[]byte(`{"metadata":{"$deleteFromPrimitiveList/finalizers":["`+v1alpha1.SandboxFinalizer+`"]}}`), metav1.PatchOptions{})
	f.must(err)
	if _, err := f.sandboxes.Get(context.Background(), "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without its finalizer it is still there: %v", err)
	}

	f.must(sandboxes.DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	if f.get("two").DeletionTimestamp == nil || f.get("three").DeletionTimestamp == nil {
		t.Error("the collection has not been deleted")
	}
}
