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
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestClonesLiveOnWithoutTheirSource(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", "echo source > /root/file")
	r.takeSnapshot("mine", "demo")
	mine := r.awaitSucceed("mine").Status.Containers[0]

	// Two at once, beside their source.
	r.create("a", restoring("mine"))
	r.create("b", restoring("mine"))
	for _, clone := range []string{"a", "b"} {
		r.awaitReady(clone)
		if got := r.sh(clone, "cat /root/file; echo of "+clone+" > /root/own"); got != "source\n" {
			t.Errorf("in %s the file holds %q", clone, got)
		}
	}

	// A clone keeps its own files, in images of its own.
	for cycle := range 3 {
		r.sh("a", fmt.Sprintf("echo %d >> /root/cycles", cycle))
		_, snapshot := r.pauseAndResume("a")
		saved := snapshot.Status.Containers[0]
		if !strings.Contains(saved.ImageURI, "/"+r.namespace+"/a-main:") || saved.ImageDigest == mine.ImageDigest {
			t.Errorf("cycle %d: the clone's image is %s@%s", cycle+1, saved.ImageURI, saved.ImageDigest)
		}
	}
	if got := r.sh("a", "cat /root/file /root/own /root/cycles"); got != "source\nof a\n0\n1\n2\n" {
		t.Errorf("after three cycles the clone's files hold %q", got)
	}
	r.mustBeInRegistry(mine)

	// b needs the snapshot until it has one of its own.
	r.deleteSnapshot("mine")
	waits := r.awaitSnapshotReason("mine", v1alpha1.ConditionReady, v1alpha1.ReasonInUse)
	if message := messageOf(waits.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(message, "sandbox b") {
		t.Errorf("it waits: %s", message)
	}
	r.pause("b")
	_, own := r.awaitPaused("b")
	r.awaitSnapshotGone("mine")
	r.mustNotBeInRegistry(mine)
	r.deleteSandbox("demo")
	r.mustBeInRegistry(own.Status.Containers[0])

	r.resume("b")
	r.awaitReady("b")
	if got := r.sh("b", "cat /root/file /root/own"); got != "source\nof b\n" {
		t.Errorf("without its source the clone's files hold %q", got)
	}
	r.pauseAndResume("a")
	if got := r.sh("a", "cat /root/file /root/own"); got != "source\nof a\n" {
		t.Errorf("without its source the clone's files hold %q", got)
	}
}

func TestToStartFromASnapshotNeedsTheRightToGetIt(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	for _, name := range []string{"shared", "secret"} {
		r.takeSnapshot(name, "demo")
	}
	for _, name := range []string{"shared", "secret"} {
		r.awaitSucceed(name)
	}
	r.grant("creator",
		rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"sandboxes"}, Verbs: []string{"create", "get", "patch"}},
		rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"sandboxsnapshots"}, ResourceNames: []string{"shared"}, Verbs: []string{"get"}})
	creator := r.as(t, "creator").LifecycleV1alpha1().Sandboxes(r.namespace)

	if _, err := creator.Create(t.Context(), newSandbox("thief", restoring("secret")), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "restoreFrom") {
		t.Errorf("start from a snapshot without the right to get it: %v, want 403 Forbidden that names the field", err)
	}
	if _, err := creator.Create(t.Context(), newSandbox("thief", restoring("unknown")), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("start from a snapshot that is not there: %v, want 403 Forbidden, which tells nothing", err)
	}
	if _, err := r.sandboxes().Get(t.Context(), "thief", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the sandbox is there all the same (%v)", err)
	}
	if _, err := creator.Create(t.Context(), newSandbox("friend", restoring("shared")), metav1.CreateOptions{}); err != nil {
		t.Fatalf("start from a snapshot with the right to get it: %v", err)
	}
	r.awaitReady("friend")
}

func TestRollback(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.start("other")
	r.sh("demo", "echo first > /root/file")
	r.pause("other")
	r.awaitPaused("other")
	r.pauseAndResume("demo")
	r.sh("demo", "echo second > /root/file; echo more > /root/more")
	r.takeSnapshot("failed", "unknown")
	r.awaitSnapshotReason("failed", v1alpha1.ConditionFailed, v1alpha1.ReasonSandboxNotFound)
	r.pause("demo")
	paused, _ := r.awaitPaused("demo")

	resume := func(request v1alpha1.SandboxResume) error {
		_, err := r.sandboxes().Resume(t.Context(), "demo", &request, metav1.CreateOptions{})
		return err
	}
	for name, cause := range map[string]string{"other-gen1": "SnapshotOfAnotherSandbox", "failed": "SnapshotNotReady", "demo-gen7": "SnapshotNotFound"} {
		err := resume(v1alpha1.SandboxResume{SnapshotName: name})
		r.mustRefuse("resume from "+name, err)
		if !apierrors.HasStatusCause(err, metav1.CauseType(cause)) {
			t.Errorf("resume from %s: %v, want the cause %s", name, err, cause)
		}
	}
	if now := r.get("demo"); now.ResourceVersion != paused.ResourceVersion {
		t.Errorf("after what was refused the sandbox is %s", describe(now))
	}

	if err := resume(v1alpha1.SandboxResume{SnapshotName: "demo-gen1"}); err != nil {
		t.Fatalf("resume from demo-gen1: %v", err)
	}
	if now := r.awaitReady("demo"); now.Status.SnapshotName != "demo-gen1" {
		t.Errorf("rolled back, the sandbox is %s", describe(now))
	}
	if got := r.sh("demo", "cat /root/file; ls /root"); got != "first\nfile\n" {
		t.Errorf("rolled back, there is %q", got)
	}
	// A rollback forgets nothing: the next pause has a new name, and the way forward is open.
	r.pause("demo")
	if _, third := r.awaitPaused("demo"); third.Name != "demo-gen3" {
		t.Errorf("the pause after it is %s", third.Name)
	}
	if err := resume(v1alpha1.SandboxResume{SnapshotName: "demo-gen2"}); err != nil {
		t.Fatalf("resume from demo-gen2: %v", err)
	}
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "second\n" {
		t.Errorf("rolled forward, the file holds %q", got)
	}

	r.pause("demo")
	r.awaitPaused("demo")
	if err := resume(v1alpha1.SandboxResume{FromTemplate: true}); err != nil {
		t.Fatalf("resume from the template: %v", err)
	}
	if now := r.awaitReady("demo"); now.Status.SnapshotName != "" {
		t.Errorf("from its template the sandbox is %s", describe(now))
	}
	if got := r.sh("demo", "ls /root"); got != "" {
		t.Errorf("from its template it has %q", got)
	}
}

// Names that look alike, or are the same, never share an image.
func TestNamesThatCouldMeanTheSameImage(t *testing.T) {
	t.Parallel()
	container := func(name string) func(*v1alpha1.Sandbox) {
		return func(s *v1alpha1.Sandbox) { s.Spec.Template.Spec.Containers[0].Name = name }
	}
	here, there := newRoom(t), newRoom(t)
	lives := []*struct {
		r                        *room
		sandbox, container, what string
		saved                    v1alpha1.ContainerSnapshot
	}{
		{r: here, sandbox: "a-b", container: "c", what: "a-b with c"},
		{r: here, sandbox: "a", container: "b-c", what: "a with b-c"},
		{r: here, sandbox: "demo", container: "main", what: "demo here"},
		{r: there, sandbox: "demo", container: "main", what: "demo there"},
	}
	for _, life := range lives {
		life.r.create(life.sandbox, container(life.container))
	}
	for _, life := range lives {
		life.r.awaitReady(life.sandbox)
		life.r.shIn(life.sandbox, life.container, "echo "+life.what+" > /root/file")
		life.r.pause(life.sandbox)
	}
	images, digests := map[string]string{}, map[string]string{}
	note := func(what string, saved v1alpha1.ContainerSnapshot) {
		t.Helper()
		if other := images[saved.ImageURI]; other != "" {
			t.Errorf("%s and %s are both %s", what, other, saved.ImageURI)
		}
		if other := digests[saved.ImageDigest]; other != "" {
			t.Errorf("%s and %s are both %s", what, other, saved.ImageDigest)
		}
		images[saved.ImageURI], digests[saved.ImageDigest] = what, what
	}
	for _, life := range lives {
		_, snapshot := life.r.awaitPaused(life.sandbox)
		life.saved = snapshot.Status.Containers[0]
		note(life.what, life.saved)
	}

	// Created anew, its first pause has the name of the one before, and another image.
	here.deleteSandbox("demo")
	here.awaitSnapshotGone("demo-gen1")
	here.mustNotBeInRegistry(lives[2].saved)
	here.start("demo")
	here.sh("demo", "echo demo anew > /root/file")
	here.pause("demo")
	_, anew := here.awaitPaused("demo")
	lives[2].what, lives[2].saved = "demo anew", anew.Status.Containers[0]
	note("demo anew", lives[2].saved)

	here.deleteSandbox("a-b")
	here.awaitSnapshotGone("a-b-gen1")
	for _, life := range lives[1:] {
		life.r.resume(life.sandbox)
		life.r.awaitReady(life.sandbox)
		if got := life.r.shIn(life.sandbox, life.container, "cat /root/file"); got != life.what+"\n" {
			t.Errorf("the file of %s holds %q", life.what, got)
		}
	}
}
