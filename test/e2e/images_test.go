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
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	memory "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestOldSnapshotsAndTheirImagesGo(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	keepOne := func(s *v1alpha1.Sandbox) { s.Spec.Snapshot.HistoryLimit = ptr.To[int32](1) }
	r.start("demo", keepOne)
	r.start("kept", func(s *v1alpha1.Sandbox) { s.Spec.Snapshot.DeletionPolicy = v1alpha1.DeletionPolicyRetain })
	r.pause("kept")
	var saved []v1alpha1.ContainerSnapshot
	for cycle := range 3 {
		r.sh("demo", fmt.Sprintf("echo %d >> /root/file", cycle))
		r.pause("demo")
		_, snapshot := r.awaitPaused("demo")
		saved = append(saved, snapshot.Status.Containers[0])
		if cycle < 2 {
			r.resume("demo")
			r.awaitReady("demo")
		}
	}
	for i, name := range []string{"demo-gen1", "demo-gen2"} {
		r.awaitSnapshotGone(name)
		r.mustNotBeInRegistry(saved[i])
	}
	r.mustBeInRegistry(saved[2])

	// The one that the next resume needs waits, and is used all the same.
	r.deleteSnapshot("demo-gen3")
	r.awaitSnapshotReason("demo-gen3", v1alpha1.ConditionReady, v1alpha1.ReasonInUse)
	r.resume("demo")
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "0\n1\n2\n" {
		t.Errorf("the file holds %q", got)
	}
	r.mustBeInRegistry(saved[2])
	r.deleteSandbox("demo")
	r.awaitSnapshotGone("demo-gen3")
	r.mustNotBeInRegistry(saved[2])

	_, retained := r.awaitPaused("kept")
	r.deleteSandbox("kept")
	r.awaitSnapshotGone("kept-gen1")
	r.mustBeInRegistry(retained.Status.Containers[0])
}

func TestAResumeWaitsForAnImageThatTheRegistryHasLost(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", "echo kept > /root/file")
	r.pauseAndResume("demo")
	r.sh("demo", "echo second > /root/file")
	r.pause("demo")
	_, snapshot := r.awaitPaused("demo")
	giveBack := r.loseImage(snapshot.Status.Containers[0])

	r.resume("demo")
	// Where the registry gave no answer in time there is a Pod first, which goes again.
	waits := r.await("demo", "Resuming without its image and without a Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxResuming && s.Status.PodName == "" &&
			reasonOf(s.Status.Conditions, v1alpha1.ConditionReady) == v1alpha1.ReasonImageUnavailable
	})
	if message := messageOf(waits.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(message, snapshot.Status.Containers[0].ImageDigest) {
		t.Errorf("it does not say which image is missing: %s", message)
	}
	lost := r.snapshot("demo-gen2")
	if !meta.IsStatusConditionFalse(lost.Status.Conditions, v1alpha1.ConditionImageAvailable) || lost.Status.Phase != v1alpha1.SnapshotSucceed {
		t.Errorf("the snapshot is %s", describeSnapshot(lost))
	}
	r.awaitEventOn("Sandbox", "demo", v1alpha1.ReasonImageUnavailable)
	r.awaitEventOn("SandboxSnapshot", "demo-gen2", v1alpha1.ReasonImageUnavailable)

	// It is no dead end: another snapshot will do, and this one too once its image is back.
	if _, err := r.sandboxes().Resume(t.Context(), "demo", &v1alpha1.SandboxResume{SnapshotName: "demo-gen1"}, metav1.CreateOptions{}); err != nil {
		t.Fatalf("resume from elsewhere: %v", err)
	}
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("from the older snapshot the file holds %q", got)
	}
	r.pause("demo")
	r.awaitPaused("demo")
	if _, err := r.sandboxes().Resume(t.Context(), "demo", &v1alpha1.SandboxResume{SnapshotName: "demo-gen2"}, metav1.CreateOptions{}); err != nil {
		t.Fatalf("resume from demo-gen2: %v", err)
	}
	r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonImageUnavailable)
	giveBack()
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "second\n" {
		t.Errorf("once its image is back the file holds %q", got)
	}
	if found := r.snapshot("demo-gen2"); !meta.IsStatusConditionTrue(found.Status.Conditions, v1alpha1.ConditionImageAvailable) {
		t.Errorf("the snapshot is %s", describeSnapshot(found))
	}
}

// loseImage deletes an image in the registry; giveBack puts it there again.
func (r *room) loseImage(saved v1alpha1.ContainerSnapshot) (giveBack func()) {
	r.t.Helper()
	image := r.image(saved)
	manifest, err := image.RawManifest()
	if err != nil {
		r.t.Fatal(err)
	}
	kind, err := image.MediaType()
	if err != nil {
		r.t.Fatal(err)
	}
	tag := r.tag(saved)
	if err := remote.Delete(tag.Digest(saved.ImageDigest), remote.WithContext(r.t.Context())); err != nil {
		r.t.Fatalf("delete image %s: %v", saved.ImageURI, err)
	}
	return func() {
		r.t.Helper()
		if err := remote.Put(tag, rawManifest{manifest, kind}, remote.WithContext(r.t.Context())); err != nil {
			r.t.Fatalf("put image %s back: %v", saved.ImageURI, err)
		}
	}
}

// ownRegistry is a registry in this process, for nodes and Pods to reach, that can be shut.
type ownRegistry struct {
	host string
	shut atomic.Bool
}

func (c *cluster) newRegistry(t *testing.T) *ownRegistry {
	t.Helper()
	address, _, err := net.SplitHostPort(c.registry)
	if err != nil {
		t.Fatal(err)
	}
	return newRegistryAt(t, address)
}

func newRegistryAt(t *testing.T, address string) *ownRegistry {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	own := &ownRegistry{host: listener.Addr().String()}
	inside := memory.New(memory.Logger(log.New(t.Output(), "", 0)))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if own.shut.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		inside.ServeHTTP(w, request)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return own
}

// Not in parallel with others: it is the server's registry that fails.
func TestARegistryThatFails(t *testing.T) {
	r := newRoom(t)
	own := r.newRegistry(t)
	restore := r.withServerArgs(t, "--snapshot-registry="+own.host+"/sandboxes", "--image-check-interval=4s")
	r.start("demo")
	r.start("other")
	r.pause("demo")
	r.pause("other")
	_, snapshot := r.awaitPaused("demo")
	_, gone := r.awaitPaused("other")
	saved := snapshot.Status.Containers[0]

	// A paused sandbox tells before anybody resumes it, and takes it back.
	giveBack := r.loseImage(saved)
	paused := r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonImageUnavailable)
	if paused.Status.Phase != v1alpha1.SandboxPaused || !meta.IsStatusConditionTrue(paused.Status.Conditions, v1alpha1.ConditionPaused) {
		t.Errorf("paused, without its image, the sandbox is %s", describe(paused))
	}
	r.awaitEventOn("SandboxSnapshot", "demo-gen1", v1alpha1.ReasonImageUnavailable)
	giveBack()
	r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPaused)

	// A registry that cannot be asked is no reason to refuse anything.
	own.shut.Store(true)
	r.awaitSnapshotReason("demo-gen1", v1alpha1.ConditionImageAvailable, v1alpha1.ReasonRegistryUnavailable)
	if now := r.get("demo"); reasonOf(now.Status.Conditions, v1alpha1.ConditionReady) != v1alpha1.ReasonPaused {
		t.Errorf("with the registry away the paused sandbox is %s", describe(now))
	}
	r.resume("demo")
	r.await("demo", "Resuming with a Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.PodUID != "" && reasonOf(s.Status.Conditions, v1alpha1.ConditionReady) == v1alpha1.ReasonImagePullFailed
	})

	// Nor does it hold up a sandbox that goes; the images are deleted when it is back.
	r.deleteSandbox("other")
	waits := r.awaitSnapshotReason("other-gen1", v1alpha1.ConditionReady, v1alpha1.ReasonImageDeletionFailed)
	t.Logf("meanwhile: %s", messageOf(waits.Status.Conditions, v1alpha1.ConditionReady))
	own.shut.Store(false)
	r.awaitSnapshotGone("other-gen1")
	r.mustNotBeInRegistry(gone.Status.Containers[0])
	r.awaitSnapshotReason("demo-gen1", v1alpha1.ConditionImageAvailable, v1alpha1.ReasonImageAvailable)
	r.deleteSandbox("demo")
	r.awaitSnapshotGone("demo-gen1")
	r.mustNotBeInRegistry(saved)

	// What another registry holds is not touched, and that it stays is told.
	r.start("demo")
	r.pause("demo")
	_, snapshot = r.awaitPaused("demo")
	restore()
	r.deleteSandbox("demo")
	r.awaitEventOn("SandboxSnapshot", "demo-gen1", v1alpha1.EventImageLeft)
	r.awaitSnapshotGone("demo-gen1")
	r.mustBeInRegistry(snapshot.Status.Containers[0])
}

// Not in parallel with others, as above. Ten minutes are the limit, which is too long to be waited
// for here.
func TestANamespaceWaitsForARegistryThatIsAway(t *testing.T) {
	r := newRoom(t)
	own := r.newRegistry(t)
	r.withServerArgs(t, "--snapshot-registry="+own.host+"/sandboxes")
	r.start("demo")
	r.pause("demo")
	_, snapshot := r.awaitPaused("demo")

	own.shut.Store(true)
	if err := r.kube.CoreV1().Namespaces().Delete(t.Context(), r.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.awaitSandboxGone("demo")
	waits := r.awaitSnapshotReason("demo-gen1", v1alpha1.ConditionReady, v1alpha1.ReasonImageDeletionFailed)
	t.Logf("meanwhile: %s", messageOf(waits.Status.Conditions, v1alpha1.ConditionReady))
	eventually(t, "the namespace says what it waits for", patience, func(ctx context.Context) (bool, string) {
		namespace, err := r.kube.CoreV1().Namespaces().Get(ctx, r.namespace, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		for _, condition := range namespace.Status.Conditions {
			if condition.Type == corev1.NamespaceFinalizersRemaining && condition.Status == corev1.ConditionTrue && strings.Contains(condition.Message, v1alpha1.SnapshotFinalizer) {
				return true, ""
			}
		}
		return false, inYAML(namespace.Status)
	})

	own.shut.Store(false)
	eventually(t, "the namespace is gone", patience, func(ctx context.Context) (bool, string) {
		namespace, err := r.kube.CoreV1().Namespaces().Get(ctx, r.namespace, metav1.GetOptions{})
		if err != nil {
			return apierrors.IsNotFound(err), err.Error()
		}
		return false, inYAML(namespace.Status)
	})
	r.mustNotBeInRegistry(snapshot.Status.Containers[0])
}

// awaitEventOn waits for an event about an object of the room.
func (r *room) awaitEventOn(kind, name, reason string) (message string) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("an event %s about %s %s", reason, kind, name), patience, func(ctx context.Context) (bool, string) {
		events, err := r.kube.CoreV1().Events(r.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		var others []string
		for _, event := range events.Items {
			if event.InvolvedObject.Kind == kind && event.InvolvedObject.Name == name {
				if event.Reason == reason {
					message = event.Message
					return true, ""
				}
				others = append(others, event.Reason)
			}
		}
		return false, fmt.Sprint(others)
	})
	return message
}
