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
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"

	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

// withNote gives a sandbox an annotation of so many bytes: many bytes for little work.
func withNote(size int) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Annotations = map[string]string{"note": strings.Repeat("x", size)} }
}

// relabel changes a label of a sandbox.
func (f *fixture) relabel(name string, n int) error {
	_, err := f.sandboxes.Patch(f.Context(), name, types.MergePatchType,
		fmt.Appendf(nil, `{"metadata":{"labels":{"n":"%d"}}}`, n), metav1.PatchOptions{})
	return err
}

func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return ignoreNotExist(err)
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return ignoreNotExist(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// ignoreNotExist is for files that go while they are looked at.
func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// TestTheLogOfTheStoreIsBounded writes 130 MB. etcd's log, left to its defaults, keeps all of it.
func TestTheLogOfTheStoreIsBounded(t *testing.T) {
	const bound = 112 << 20
	dir := shortTempDir(t)
	f := serverIn(t, dir, nil)
	f.create(sandbox("large", withNote(240<<10)))
	for n := range 550 {
		f.must(f.relabel("large", n))
	}
	f.eventually(func() error {
		if size := sizeOf(t, filepath.Join(dir, "etcd", "member", "wal")); size > bound {
			return fmt.Errorf("the log takes %d MiB", size>>20)
		}
		return nil
	})
}

// TestAFullDatabase fills what the database may hold.
func TestAFullDatabase(t *testing.T) {
	kube := kubefake.NewSimpleClientset()
	f := serverIn(t, shortTempDir(t), func(o *server.Options) {
		o.Namespace = "sandbox-system"
		o.Standalone.Client = kube
		if err := o.StoreQuota.Set("32Mi"); err != nil {
			t.Fatal(err)
		}
	})
	f.eventually(func() error { return f.tryCreating(sandbox("first", withNote(1<<10))) })
	f.asRunning("first")
	var err error
	for n := 0; err == nil && n < 500; n++ {
		_, err = f.sandboxes.Create(t.Context(), sandbox(fmt.Sprintf("filler-%d", n), withNote(200<<10)), metav1.CreateOptions{})
	}
	f.wantFull(err)
	f.wantFull(f.relabel("first", 1))
	_, err = f.sandboxes.Pause(t.Context(), "first", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.wantFull(err)

	// What makes room is accepted, and so is what the controllers write.
	f.writeStatus("first", func(status *v1alpha1.SandboxStatus) { status.PodIP = "10.0.0.2" })
	_, err = f.sandboxes.Patch(t.Context(), "filler-0", types.MergePatchType, []byte(`{"metadata":{"annotations":{"note":"short"}}}`), metav1.PatchOptions{})
	f.must(err)
	f.must(f.sandboxes.Delete(t.Context(), "filler-1", metav1.DeleteOptions{}))
	_, err = f.sandboxes.Patch(t.Context(), "filler-1", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	f.must(err)

	// Administrators are told, once.
	f.eventually(func() error { return wantEvents(t, kube, "StoreFull", 1) })

	// All of them at once: each deletion writes its object once more, to say so. etcd may refuse that
	// for a moment.
	f.eventually(func() error {
		return f.sandboxes.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
	})
	all, err := f.sandboxes.List(t.Context(), metav1.ListOptions{})
	f.must(err)
	for _, s := range all.Items {
		f.eventually(func() error {
			_, err := f.sandboxes.Patch(t.Context(), s.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			return err
		})
	}
	f.eventually(func() error {
		_, err := f.sandboxes.Create(t.Context(), sandbox("after"), metav1.CreateOptions{})
		return err
	})
}

func (f *fixture) tryCreating(s *v1alpha1.Sandbox) error {
	_, err := f.sandboxes.Create(f.Context(), s, metav1.CreateOptions{})
	return err
}

func (f *fixture) wantFull(err error) {
	f.Helper()
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		f.Fatalf("the store is full, and the answer is: %v", err)
	}
	if said := status.Status(); said.Code != http.StatusInsufficientStorage || said.Reason != "InsufficientStorage" || !strings.Contains(said.Message, "store") {
		f.Fatalf("the store is full, and the answer is: %+v", said)
	}
}

func wantEvents(t *testing.T, kube *kubefake.Clientset, reason string, want int) error {
	events, err := kube.CoreV1().Events("sandbox-system").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	got := 0
	for _, event := range events.Items {
		if event.Reason == reason && event.Type == corev1.EventTypeWarning && event.InvolvedObject.Name == server.StoreConfigMapName {
			got++
		}
	}
	if got != want {
		return fmt.Errorf("%d events %s of %d events", got, reason, len(events.Items))
	}
	return nil
}

// TestAVolumeThatOthersFill has somebody else take all of the volume, to the last byte.
func TestAVolumeThatOthersFill(t *testing.T) {
	for name, mount := range map[string]func(*testing.T, int64) string{"tmpfs": mounted, "ext4": mountedExt4} {
		t.Run(name, func(t *testing.T) { othersFill(t, mount(t, 256<<20)) })
	}
}

func othersFill(t *testing.T, dir string) {
	own, err := start(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := fixtureOn(t, own)
	f.create(sandbox("first", withNote(1<<10)))
	ballast := filepath.Join(dir, "ballast")
	f.eventually(func() error { _, err := os.Stat(ballast); return err })

	fill(t, filepath.Join(dir, "others"))
	f.eventually(f.refuses)
	// It serves what needs no room for long.
	for range 50 {
		f.asRunning("first")
	}
	f.get("first")
	f.must(own.stop())

	// Started again it takes the ballast's room. What others leave of that is theirs.
	own, err = start(dir, nil)
	if err != nil {
		t.Fatalf("no start in a full volume: %v", err)
	}
	f = fixtureOn(t, own)
	if _, err := os.Stat(ballast); err == nil {
		t.Error("the start has left the ballast in a full volume")
	}
	f.eventually(f.refuses)
	f.asRunning("first")
	f.must(f.sandboxes.Delete(t.Context(), "first", metav1.DeleteOptions{}))
	_, err = f.sandboxes.Patch(t.Context(), "first", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	f.must(err)

	f.must(os.Remove(filepath.Join(dir, "others")))
	f.eventually(func() error { return f.tryCreating(sandbox("second")) })
	f.eventually(func() error { _, err := os.Stat(ballast); return err })
	f.must(own.stop())
}

// refuses asks for a sandbox that the store has no room for.
func (f *fixture) refuses() error {
	_, err := f.sandboxes.Create(f.Context(), &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "too-much-"}, Spec: sandbox("").Spec,
	}, metav1.CreateOptions{})
	if err == nil {
		return errors.New("accepted")
	}
	f.wantFull(err)
	return nil
}

// TestAStartInAVolumeWithoutBallast is the start after a crash in a volume that was full before there
// was a ballast: what the crash has left half-done is in the way.
func TestAStartInAVolumeWithoutBallast(t *testing.T) {
	dir := mounted(t, 256<<20)
	own, err := start(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := fixtureOn(t, own)
	f.create(sandbox("first"))
	ballast := filepath.Join(dir, "ballast")
	f.eventually(func() error { _, err := os.Stat(ballast); return err })
	f.must(own.stop())
	f.must(os.Remove(ballast))
	left := filepath.Join(dir, "etcd", "member", "wal", "1.tmp")
	f.must(os.WriteFile(left, make([]byte, 24<<20), 0o600))
	fill(t, filepath.Join(dir, "others"))

	own, err = start(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	f = fixtureOn(t, own)
	f.eventually(f.refuses)
	f.asRunning("first")
	f.must(own.stop())
}

// fill writes a file until the volume is full.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		switch _, err := file.Write(block); {
		case errors.Is(err, unix.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			t.Fatal(err)
		}
	}
}

// mounted is a volume of its own, in memory.
func mounted(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a volume")
	}
	dir := shortTempDir(t)
	if err := unix.Mount("sandbox-apiserver-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skipf("cannot mount a volume: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A server that a failed test has left running still has it.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mountedExt4 is a volume as nodes have them, in a file.
func mountedExt4(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a volume")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip(err)
	}
	image, dir := filepath.Join(t.TempDir(), "image"), shortTempDir(t)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	// Nothing is kept for root, which the test is.
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-m", "0", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a volume: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// shortTempDir is a directory for a server. Not t.TempDir: the path of a Unix socket must be short.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sbx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serverIn runs a server over a directory for a test.
func serverIn(t *testing.T, dir string, change func(*server.Options)) *fixture {
	t.Helper()
	own, err := start(dir, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.stop(); err != nil {
			t.Error(err)
		}
	})
	return fixtureOn(t, own)
}
