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

package sandboxsnapshot

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// anothers is an image that the server's account may read, and perhaps its tenant may not.
const anothers = "registry.example.com/other-tenant/demo-main:snap-gen1-01234567"

var someDigest = "sha256:" + strings.Repeat("0", 64)

// ofImages: the snapshot is made of existing images.
func ofImages(s *v1alpha1.SandboxSnapshot) {
	s.Spec = v1alpha1.SandboxSnapshotSpec{DeletionPolicy: v1alpha1.DeletionPolicyRetain, Source: &v1alpha1.SnapshotSource{
		Images: []v1alpha1.SnapshotSourceImage{{ContainerName: "main", Image: anothers + "@" + someDigest}},
	}}
}

func TestASnapshotOfExistingImages(t *testing.T) {
	f := newFixture(t, snapshotOf("", "moved", ofImages))
	asked := &album{}
	f.r.Registry = asked
	snapshot := f.visits("moved")
	f.is(snapshot, succeeded)
	want := v1alpha1.ContainerSnapshot{ContainerName: "main", ImageURI: anothers, ImageDigest: someDigest}
	if len(snapshot.Status.Containers) != 1 || snapshot.Status.Containers[0] != want || snapshot.Status.CompletionTime == nil {
		t.Errorf("the status is %+v", snapshot.Status)
	}
	if there := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionImageAvailable); there == nil || there.Status != metav1.ConditionUnknown || there.Reason != v1alpha1.ReasonImageNotChecked {
		t.Errorf("of the images it says %+v", there)
	}
	f.hasJobs()

	// Whatever its policy says by now, they are not its images to delete.
	snapshot.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete
	if err := f.own.Update(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	f.deletes(snapshot)
	f.is(f.visits("moved"), "gone")
	if len(asked.asked) > 0 {
		t.Errorf("the registry was asked to %q", asked.asked)
	}
}

// With the server's credentials a copy could be made of what its tenant may not read.
func TestASnapshotOfASandboxThatIsPausedOnExistingImages(t *testing.T) {
	f := newFixture(t,
		pausing("demo", paused, func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = "moved" }),
		snapshotOf("", "moved", ofImages, func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Phase = v1alpha1.SnapshotSucceed
			s.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ImageURI: anothers, ImageDigest: someDigest}}
		}),
		snapshotOf("demo", "mine"))
	asked := &album{}
	f.r.Registry = asked
	f.is(f.visits("mine"), "Failed Ready=False/SourcePodNotFound Failed=True/SourcePodNotFound")
	if len(asked.asked) > 0 {
		t.Errorf("the registry was asked to %q", asked.asked)
	}
}
