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

package validation

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

func TestSnapshotWarnings(t *testing.T) {
	one := func(change func(*lifecycle.SnapshotWarning)) []lifecycle.SnapshotWarning {
		warning := lifecycle.SnapshotWarning{Reason: "MountNotKept", ContainerName: "main", Path: "/dev/shm", Message: "a tmpfs is not kept"}
		change(&warning)
		return []lifecycle.SnapshotWarning{warning}
	}
	many := make([]lifecycle.SnapshotWarning, 33)
	for i := range many {
		many[i].Reason = "MountNotKept"
	}
	tests := map[string]struct {
		warnings []lifecycle.SnapshotWarning
		want     string // the field that is refused
	}{
		"none":                {nil, ""},
		"one":                 {one(func(*lifecycle.SnapshotWarning) {}), ""},
		"of the whole Pod":    {one(func(w *lifecycle.SnapshotWarning) { w.ContainerName, w.Path = "", "" }), ""},
		"as many as may be":   {many[:32], ""},
		"too many":            {many, "status.warnings"},
		"no reason":           {one(func(w *lifecycle.SnapshotWarning) { w.Reason = "" }), "status.warnings[0].reason"},
		"a sentence":          {one(func(w *lifecycle.SnapshotWarning) { w.Reason = "not kept" }), "status.warnings[0].reason"},
		"no container's name": {one(func(w *lifecycle.SnapshotWarning) { w.ContainerName = "Main" }), "status.warnings[0].containerName"},
		"a long path":         {one(func(w *lifecycle.SnapshotWarning) { w.Path = strings.Repeat("x", 1025) }), "status.warnings[0].path"},
		"a long message":      {one(func(w *lifecycle.SnapshotWarning) { w.Message = strings.Repeat("x", 1025) }), "status.warnings[0].message"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old := &lifecycle.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", ResourceVersion: "1"}}
			snapshot := old.DeepCopy()
			snapshot.Status.Warnings = test.warnings
			errs := ValidateSandboxSnapshotStatusUpdate(snapshot, old)
			if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || errs[0].Field != test.want) {
				t.Errorf("got %v, want a refusal of %q", errs, test.want)
			}
		})
	}
}

func TestAttemptsOfPauses(t *testing.T) {
	attempt := func(change func(*lifecycle.SandboxSnapshot)) *lifecycle.SandboxSnapshot {
		s := &lifecycle.SandboxSnapshot{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo-gen3"},
			Spec: lifecycle.SandboxSnapshotSpec{
				SandboxName: "demo", DeletionPolicy: lifecycle.DeletionPolicyDelete,
				Pause: &lifecycle.SnapshotPause{SandboxUID: "u", PodUID: "p", Attempt: 3},
			},
		}
		change(s)
		return s
	}
	for name, test := range map[string]struct {
		snapshot *lifecycle.SandboxSnapshot
		server   bool
		want     []string // fields
	}{
		"the server's":                 {attempt(func(*lifecycle.SandboxSnapshot) {}), true, nil},
		"before the Pod is known":      {attempt(func(s *lifecycle.SandboxSnapshot) { s.Spec.Pause.PodUID = "" }), true, nil},
		"an older server's":            {attempt(func(s *lifecycle.SandboxSnapshot) { s.Spec.Pause = nil }), true, nil},
		"another number than its name": {attempt(func(s *lifecycle.SandboxSnapshot) { s.Spec.Pause.Attempt = 2 }), true, []string{"metadata.name"}},
		"another sandbox":              {attempt(func(s *lifecycle.SandboxSnapshot) { s.Spec.SandboxName = "other" }), true, []string{"metadata.name"}},
		"of no sandbox":                {attempt(func(s *lifecycle.SandboxSnapshot) { s.Spec.Pause.SandboxUID = "" }), true, []string{"spec.pause.sandboxUID"}},
		"no number":                    {attempt(func(s *lifecycle.SandboxSnapshot) { s.Name, s.Spec.Pause.Attempt = "demo-gen0", 0 }), true, []string{"spec.pause.attempt"}},
		"a user's":                     {attempt(func(s *lifecycle.SandboxSnapshot) { s.Name = "mine" }), false, []string{"spec.pause"}},
		"a user's of such a name":      {attempt(func(*lifecycle.SandboxSnapshot) {}), false, []string{"metadata.name", "spec.pause"}},
		"a user's, empty":              {attempt(func(s *lifecycle.SandboxSnapshot) { s.Name, s.Spec.Pause = "mine", &lifecycle.SnapshotPause{} }), false, []string{"spec.pause"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, err := range ValidateSandboxSnapshot(test.snapshot, test.server) {
				got = append(got, err.Field)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("refused for %q, want %q", got, test.want)
			}
		})
	}
}

func TestSnapshotsOfExistingImages(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0123456789abcdef", 4)
	image := func(container, reference string) lifecycle.SnapshotSourceImage {
		return lifecycle.SnapshotSourceImage{ContainerName: container, Image: reference}
	}
	of := func(images ...lifecycle.SnapshotSourceImage) lifecycle.SandboxSnapshotSpec {
		return lifecycle.SandboxSnapshotSpec{DeletionPolicy: lifecycle.DeletionPolicyRetain, Source: &lifecycle.SnapshotSource{Images: images}}
	}
	with := func(spec lifecycle.SandboxSnapshotSpec, change func(*lifecycle.SandboxSnapshotSpec)) lifecycle.SandboxSnapshotSpec {
		change(&spec)
		return spec
	}
	many := of()
	for i := range 257 {
		many.Source.Images = append(many.Source.Images, image(fmt.Sprintf("c%d", i), "r.example.com/a"+digest))
	}
	good := of(image("main", "r.example.com:5000/team/demo-main:snap-gen1-01234567"+digest))
	for name, test := range map[string]struct {
		spec lifecycle.SandboxSnapshotSpec
		want []string // fields
	}{
		"repository, tag and digest": {good, nil},
		"no tag":                     {of(image("main", "r.example.com/a/b__c/d-e.f"+digest)), nil},
		"two containers":             {of(image("main", "r.example.com/a"+digest), image("side", "r.example.com/a"+digest)), nil},
		"a short name":               {of(image("main", "busybox"+digest)), nil},
		"an IPv6 address":            {of(image("main", "[::1]:5000/a"+digest)), nil},
		"localhost":                  {of(image("main", "localhost:5000/a"+digest)), nil},

		"also a sandbox":        {with(good, func(s *lifecycle.SandboxSnapshotSpec) { s.SandboxName = "demo" }), []string{"spec.sandboxName"}},
		"also containers":       {with(good, func(s *lifecycle.SandboxSnapshotSpec) { s.Containers = []string{"main"} }), []string{"spec.containers"}},
		"to be deleted":         {with(good, func(s *lifecycle.SandboxSnapshotSpec) { s.DeletionPolicy = lifecycle.DeletionPolicyDelete }), []string{"spec.deletionPolicy"}},
		"no images":             {of(), []string{"spec.source.images"}},
		"too many images":       {many, []string{"spec.source.images"}},
		"no container":          {of(image("", "r.example.com/a"+digest)), []string{"spec.source.images[0].containerName"}},
		"no such name":          {of(image("Main", "r.example.com/a"+digest)), []string{"spec.source.images[0].containerName"}},
		"one container twice":   {of(image("main", "r.example.com/a"+digest), image("main", "r.example.com/b"+digest)), []string{"spec.source.images[1].containerName"}},
		"no image":              {of(image("main", "")), []string{"spec.source.images[0].image"}},
		"a tag alone":           {of(image("main", "r.example.com/a:latest")), []string{"spec.source.images[0].image"}},
		"a digest alone":        {of(image("main", digest)), []string{"spec.source.images[0].image"}},
		"a short digest":        {of(image("main", "r.example.com/a@sha256:0123")), []string{"spec.source.images[0].image"}},
		"another algorithm":     {of(image("main", "r.example.com/a@md5:0123456789abcdef0123456789abcdef")), []string{"spec.source.images[0].image"}},
		"upper case":            {of(image("main", "r.example.com/A"+digest)), []string{"spec.source.images[0].image"}},
		"a scheme":              {of(image("main", "https://r.example.com/a"+digest)), []string{"spec.source.images[0].image"}},
		"a space":               {of(image("main", "r.example.com/a b"+digest)), []string{"spec.source.images[0].image"}},
		"a line's end":          {of(image("main", "r.example.com/a"+digest+"\n")), []string{"spec.source.images[0].image"}},
		"two digests":           {of(image("main", "r.example.com/a"+digest+digest)), []string{"spec.source.images[0].image"}},
		"up the path":           {of(image("main", "r.example.com/../a"+digest)), []string{"spec.source.images[0].image"}},
		"longer than any other": {of(image("main", "r.example.com/"+strings.Repeat("a", 1024)+digest)), []string{"spec.source.images[0].image"}},
		"neither of both":       {lifecycle.SandboxSnapshotSpec{DeletionPolicy: lifecycle.DeletionPolicyDelete}, []string{"spec.sandboxName"}},
	} {
		t.Run(name, func(t *testing.T) {
			snapshot := &lifecycle.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "moved"}, Spec: test.spec}
			var got []string
			for _, err := range ValidateSandboxSnapshot(snapshot, false) {
				got = append(got, err.Field)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("refused for %q, want %q", got, test.want)
			}
		})
	}
}

func TestRescues(t *testing.T) {
	const id = "3f2a9c0d1e4b5a6978877665544332211000ffeeddccbbaa99887766554433ab"
	rescue := func(change func(*lifecycle.SandboxSnapshot)) *lifecycle.SandboxSnapshot {
		s := &lifecycle.SandboxSnapshot{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo-rescue2"},
			Spec: lifecycle.SandboxSnapshotSpec{
				SandboxName: "demo", DeletionPolicy: lifecycle.DeletionPolicyDelete,
				Rescue: &lifecycle.SnapshotRescue{SandboxUID: "u", PodUID: "p", Containers: []lifecycle.RescuedContainer{{ContainerName: "main", ContainerID: id}}},
			},
		}
		change(s)
		return s
	}
	of := func(containers ...lifecycle.RescuedContainer) func(*lifecycle.SandboxSnapshot) {
		return func(s *lifecycle.SandboxSnapshot) { s.Spec.Rescue.Containers = containers }
	}
	for name, test := range map[string]struct {
		snapshot *lifecycle.SandboxSnapshot
		server   bool
		want     []string // fields
	}{
		"the server's":            {rescue(func(*lifecycle.SandboxSnapshot) {}), true, nil},
		"two containers":          {rescue(of(lifecycle.RescuedContainer{ContainerName: "a", ContainerID: id}, lifecycle.RescuedContainer{ContainerName: "b", ContainerID: id})), true, nil},
		"another's name":          {rescue(func(s *lifecycle.SandboxSnapshot) { s.Name = "other-rescue2" }), true, []string{"metadata.name"}},
		"a name without a number": {rescue(func(s *lifecycle.SandboxSnapshot) { s.Name = "demo" }), true, []string{"metadata.name"}},
		"of no sandbox":           {rescue(func(s *lifecycle.SandboxSnapshot) { s.Spec.Rescue.SandboxUID = "" }), true, []string{"spec.rescue.sandboxUID"}},
		"of no Pod":               {rescue(func(s *lifecycle.SandboxSnapshot) { s.Spec.Rescue.PodUID = "" }), true, []string{"spec.rescue.podUID"}},
		"of no container":         {rescue(of()), true, []string{"spec.rescue.containers"}},
		"of one container twice":  {rescue(of(lifecycle.RescuedContainer{ContainerName: "a", ContainerID: id}, lifecycle.RescuedContainer{ContainerName: "a", ContainerID: id})), true, []string{"spec.rescue.containers[1].containerName"}},
		"no ID":                   {rescue(of(lifecycle.RescuedContainer{ContainerName: "a"})), true, []string{"spec.rescue.containers[0].containerID"}},
		"an ID with a scheme":     {rescue(of(lifecycle.RescuedContainer{ContainerName: "a", ContainerID: "containerd://" + id})), true, []string{"spec.rescue.containers[0].containerID"}},
		"a path":                  {rescue(of(lifecycle.RescuedContainer{ContainerName: "a", ContainerID: "../../etc"})), true, []string{"spec.rescue.containers[0].containerID"}},
		"also of a pause": {rescue(func(s *lifecycle.SandboxSnapshot) {
			s.Spec.Pause = &lifecycle.SnapshotPause{SandboxUID: "u", Attempt: 2}
			s.Name = "demo-gen2"
		}), true, []string{"spec.rescue.podUID"}},
		"of a pause of the same Pod": {rescue(func(s *lifecycle.SandboxSnapshot) {
			s.Spec.Pause = &lifecycle.SnapshotPause{SandboxUID: "u", PodUID: "p", Attempt: 2}
			s.Name = "demo-gen2"
		}), true, nil},
		"a user's":                {rescue(func(s *lifecycle.SandboxSnapshot) { s.Name = "mine" }), false, []string{"spec.rescue"}},
		"a user's of such a name": {rescue(func(*lifecycle.SandboxSnapshot) {}), false, []string{"metadata.name", "spec.rescue"}},
		"a user's name alone":     {rescue(func(s *lifecycle.SandboxSnapshot) { s.Spec.Rescue = nil }), false, []string{"metadata.name"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fieldsOf(ValidateSandboxSnapshot(test.snapshot, test.server)); !slices.Equal(got, test.want) {
				t.Errorf("refused for %q, want %q", got, test.want)
			}
			old := test.snapshot.DeepCopy()
			old.ResourceVersion = "1"
			changed := old.DeepCopy()
			changed.Spec.Rescue = &lifecycle.SnapshotRescue{SandboxUID: "another"}
			if got := fieldsOf(ValidateSandboxSnapshotUpdate(changed, old)); !slices.Equal(got, []string{"spec.rescue"}) {
				t.Errorf("a change of it is refused for %q", got)
			}
		})
	}
}
