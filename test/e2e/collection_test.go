//go:build e2e

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

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// ownedBy gives an object of the room an owner that waits for it when it is deleted in the
// foreground.
func ownedBy(apiVersion, kind, name string, uid types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, BlockOwnerDeletion: ptr.To(true)}}
}

func (r *room) awaitGone(what string, get func(context.Context) error) {
	r.t.Helper()
	eventually(r.t, what+" is gone", patience, func(ctx context.Context) (bool, string) {
		err := get(ctx)
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

func (r *room) awaitSandboxGone(name string) {
	r.t.Helper()
	r.awaitGone("sandbox "+name, func(ctx context.Context) error {
		_, err := r.sandboxes().Get(ctx, name, metav1.GetOptions{})
		return err
	})
}

// The owner is of another API server than what it owns: only the garbage collector brings both
// together.
func TestASandboxGoesWithItsOwner(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	for _, way := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		name := strings.ToLower(string(way))
		maps := r.kube.CoreV1().ConfigMaps(r.namespace)
		owner, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.start(name, func(s *v1alpha1.Sandbox) {
			s.OwnerReferences = ownedBy("v1", "ConfigMap", owner.Name, owner.UID)
			// A Pod that takes its time, so that one sees who waits for whom.
			s.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](2)
		})
		if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &way}); err != nil {
			t.Fatal(err)
		}
		if way == metav1.DeletePropagationForeground {
			r.awaitGone("ConfigMap "+name, func(ctx context.Context) error {
				_, err := maps.Get(ctx, name, metav1.GetOptions{})
				return err
			})
			if _, err := r.sandboxes().Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("its owner is gone and did not wait for the sandbox: %v", err)
			}
		}
		r.awaitSandboxGone(name)
		r.awaitGone("Pod "+name, func(ctx context.Context) error {
			_, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, name, metav1.GetOptions{})
			return err
		})
	}
}

// kubectl delete --cascade says what becomes of the snapshots. The Pod goes in any case: it is the
// sandbox.
func TestKubectlDeletesASandboxInThreeWays(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	for _, way := range []string{"background", "foreground", "orphan"} {
		k.start(way)
		k.sh(way, "echo kept > /root/file")
		k.verb("pause", way)
	}
	for _, way := range []string{"background", "foreground", "orphan"} {
		k.wait("condition=Paused", "sandbox/"+way)
		k.verb("resume", way)
	}
	for _, way := range []string{"background", "foreground", "orphan"} {
		k.wait("condition=Ready", "sandbox/"+way)
		// A snapshot of a user's goes with the sandbox only where the user says that it is the owner.
		for _, owned := range []bool{false, true} {
			snapshot := &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-owned-%t", way, owned)}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: way}}
			if owned {
				snapshot.OwnerReferences = ownedBy(v1alpha1.SchemeGroupVersion.String(), "Sandbox", way, k.get(way).UID)
			}
			if _, err := k.snapshots().Create(t.Context(), snapshot, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			k.wait("condition=Ready", "sandboxsnapshot/"+snapshot.Name)
		}
	}

	for _, delete := range []struct {
		way  string
		left []string
	}{
		{"background", []string{"background-owned-false"}},
		{"foreground", []string{"foreground-owned-false"}},
		{"orphan", []string{"orphan-gen1", "orphan-owned-false", "orphan-owned-true"}},
	} {
		k.do("delete", "sandbox", delete.way, "--cascade="+delete.way, "--timeout="+patience.String())
		k.mustList(nil, "pods", "--field-selector=metadata.name="+delete.way)
		left := func() []string { return k.names("sandboxsnapshots", "--field-selector=spec.sandboxName="+delete.way) }
		if got := left(); delete.way != "background" && !slices.Equal(got, delete.left) {
			// Both of these wait for the snapshots: the one until they are gone, the other until they
			// are nobody's.
			t.Errorf("deleted with --cascade=%s, the sandbox leaves %q, want %q", delete.way, got, delete.left)
		}
		eventually(t, "the collector has collected", patience, func(context.Context) (bool, string) {
			got := left()
			return slices.Equal(got, delete.left), fmt.Sprint(got)
		})
	}

	// What was orphaned is nobody's, and good for another life of the sandbox under its old name.
	if owners := k.snapshot("orphan-gen1").OwnerReferences; len(owners) != 0 {
		t.Errorf("the orphaned snapshot has the owners %v", owners)
	}
	k.start("orphan", func(s *v1alpha1.Sandbox) {
		s.Spec.Template, s.Spec.RestoreFrom = nil, &v1alpha1.SandboxRestoreSource{SnapshotName: "orphan-gen1"}
	})
	if got := k.sh("orphan", "cat /root/file"); got != "kept\n" {
		t.Errorf("restored, the file holds %q", got)
	}
	k.verb("pause", "orphan")
	if _, snapshot := k.awaitPaused("orphan"); snapshot.Name != "orphan-gen2" {
		t.Errorf("its next pause makes %s, want orphan-gen2: the first name is taken", snapshot.Name)
	}
}

// awaitSnapshots waits until these are all the snapshots of the room.
func (r *room) awaitSnapshots(want ...string) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("there are the snapshots %q", want), patience, func(ctx context.Context) (bool, string) {
		list, err := r.snapshots().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return slices.Equal(names, want), fmt.Sprint(names)
	})
}
