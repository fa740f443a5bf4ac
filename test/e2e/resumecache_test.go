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
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/test/trees"
)

// TestResumeCache pauses with the cache on. What a resume finds on the node is what was there before the pause, and the
// same as the registry gives; and it goes with its sandbox.
func TestResumeCache(t *testing.T) {
	needsHalfADisk(t)
	theCluster(t).withServerArgs(t, "--resume-cache=2Gi")

	for seed := 1; seed <= repetitions(t, 3, 20); seed++ {
		t.Run("random tree "+strconv.Itoa(seed), func(t *testing.T) {
			r := newRoom(t)
			r.start("demo", makesTrees(r.treemakerImage(t, fmt.Sprintf("cached-%d", seed), treeLayer(t, uint64(seed)))))
			for cycle := 1; cycle <= 2; cycle++ {
				r.program("demo", "/treemaker", "change", "/", strconv.Itoa(seed<<8+cycle), "80", "treemaker")
				before := r.inventory("demo", "main", "/")
				reference := r.pauseInCache("demo")
				r.resume("demo")
				r.awaitReady("demo")
				r.mustNotHavePulled("demo", reference)
				cached := r.inventory("demo", "main", "/")
				if lines := trees.Differences(trees.Kept(before), trees.Kept(cached)); len(lines) > 0 {
					t.Fatalf("cycle %d: before the pause there was (-), after the resume (+):\n%s", cycle, trees.Shorten(lines))
				}

				r.forgetImage(reference)
				snapshot := naming.PauseSnapshot("demo", int64(cycle))
				clone := fmt.Sprintf("clone%d", cycle)
				r.create(clone, restoring(snapshot))
				r.awaitReady(clone)
				pulled := r.inventory(clone, "main", "/")
				if lines := trees.Differences(trees.Kept(cached), trees.Kept(pulled)); len(lines) > 0 {
					t.Fatalf("cycle %d: the node has kept (-), the registry has (+):\n%s", cycle, trees.Shorten(lines))
				}
			}
		})
	}

	t.Run("large changes again and again", func(t *testing.T) {
		r := newRoom(t)
		r.start("demo")
		const look = "cd /root; find . ! -name tick | sort; find . -type f ! -name tick -exec md5sum {} + | sort"
		var want, reference string
		// Enough to be read twice, into two layers because something changes between, and for layers to be merged.
		for cycle := range 6 {
			r.sh("demo", fmt.Sprintf("head -c 40000000 /dev/urandom > /root/big%d; rm -rf /root/d; mkdir /root/d; echo %d > /root/d/%d; rm -f /root/big%d", cycle%2, cycle, cycle, (cycle+1)%2))
			r.sh("demo", "while :; do echo x >> /root/tick; sleep 0.05; done >/dev/null 2>&1 &")
			want = r.sh("demo", look)
			snapshot := r.pauseLetting("demo")
			reference = r.reference(snapshot)
			layers := snapshot.Status.Containers[0].Layers
			if layers > 8 {
				t.Errorf("cycle %d: the image has %d layers", cycle, layers)
			}
			kept := layers == int32(2*(cycle+1)) // or some were merged
			if kept {
				r.awaitCached(reference)
			}
			r.resume("demo")
			r.awaitReady("demo")
			if kept {
				r.mustNotHavePulled("demo", reference)
			} else if cycle < 3 {
				t.Errorf("cycle %d: the image has %d layers, which says nothing of two at a time", cycle, layers)
			}
			if got := r.sh("demo", look); got != want {
				t.Fatalf("cycle %d: there is\n%s\nwant\n%s", cycle, got, want)
			}
		}
		r.forgetImage(reference)
		r.create("clone", restoring("demo-gen6"))
		r.awaitReady("clone")
		if got := r.sh("clone", look); got != want {
			t.Errorf("the registry has\n%s\nwant\n%s", got, want)
		}
	})

	t.Run("it goes with its sandbox", func(t *testing.T) {
		r := newRoom(t)
		r.start("demo")
		first := r.pauseInCache("demo")
		r.resume("demo")
		r.awaitReady("demo")
		second := r.pauseInCache("demo")
		r.awaitUncached(first) // replaced
		r.deleteSandbox("demo")
		r.awaitUncached(second)
	})
}

// needsHalfADisk fails at once, and says so, where nothing is kept because the disk is too full for that.
func needsHalfADisk(t *testing.T) {
	t.Helper()
	var disk unix.Statfs_t
	if err := unix.Statfs(clusterDir(), &disk); err != nil {
		t.Fatal(err)
	}
	if used := disk.Blocks - disk.Bfree; used*100 >= (used+disk.Bavail)*70 {
		t.Fatalf("the disk of %s is %d %% full. The cache of resumes keeps nothing above 70 %%, so that there is nothing to see: free some of it", clusterDir(), used*100/(used+disk.Bavail))
	}
}

// TestTheResumeCacheIsBounded pauses more than may stay on the node. Whatever is not there is pulled.
func TestTheResumeCacheIsBounded(t *testing.T) {
	needsHalfADisk(t)
	const bound = 30 << 20 // of "old" and "new" one has room, "large" has none
	theCluster(t).withServerArgs(t, fmt.Sprintf("--resume-cache=%d", bound), "--v=2")
	r := newRoom(t)
	sizes := map[string]int{"old": 20e6, "large": 40e6, "new": 20e6}
	for name := range sizes {
		r.create(name)
	}
	sums := map[string]string{}
	for name, size := range sizes {
		r.awaitReady(name)
		sums[name] = r.sh(name, fmt.Sprintf("head -c %d /dev/urandom > /root/data; md5sum /root/data", size))
	}

	old := r.pauseInCache("old")
	large := r.reference(r.pauseLetting("large"))
	refusal := regexp.MustCompile(fmt.Sprintf(`its \d+ bytes are more than the %d that may be kept on a node`, bound))
	eventually(t, "the server's log says that the large one is not kept", patience, func(ctx context.Context) (bool, string) {
		log := r.log(ctx, serverPod, "server", 1000)
		return refusal.MatchString(log), log
	})
	r.awaitUncached(large)
	r.awaitCached(old) // nothing went for what was not kept

	latest := r.pauseInCache("new")
	r.awaitUncached(old)
	r.awaitKeptWithin(bound, "old", "large", "new")

	for name := range sums {
		r.resume(name)
	}
	for name, want := range sums {
		r.awaitReady(name)
		if got := r.sh(name, "md5sum /root/data"); got != want {
			t.Errorf("%s has %s after the resume, want %s", name, got, want)
		}
	}
	r.mustNotHavePulled("new", latest)
	r.mustHavePulled("old", old)
	r.mustHavePulled("large", large)
}

// TestWithoutAResumeCacheNothingIsKept is the default.
func TestWithoutAResumeCacheNothingIsKept(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	reference := r.reference(r.pauseLetting("demo"))
	if _, err := r.containerd.ImageService().Get(namespaces.WithNamespace(t.Context(), "k8s.io"), reference); !errdefs.IsNotFound(err) {
		t.Errorf("the node has %s (%v)", reference, err)
	}
}

// pauseLetting pauses a sandbox and waits until it is.
func (r *room) pauseLetting(sandbox string) *v1alpha1.SandboxSnapshot {
	r.t.Helper()
	r.pause(sandbox)
	_, snapshot := r.awaitPaused(sandbox)
	return snapshot
}

// pauseInCache pauses a sandbox and waits until the node has its image, which a resume asks for by the name returned.
func (r *room) pauseInCache(sandbox string) string {
	r.t.Helper()
	reference := r.reference(r.pauseLetting(sandbox))
	r.awaitCached(reference)
	return reference
}

func (r *room) awaitCached(reference string) {
	r.t.Helper()
	eventually(r.t, "the node has kept "+reference, patience, func(ctx context.Context) (bool, string) {
		_, err := r.containerd.ImageService().Get(namespaces.WithNamespace(ctx, "k8s.io"), reference)
		return err == nil, fmt.Sprint(err)
	})
}

func (r *room) reference(snapshot *v1alpha1.SandboxSnapshot) string {
	r.t.Helper()
	saved := snapshot.Status.Containers[0]
	reference, err := naming.ByDigest(saved.ImageURI, saved.ImageDigest)
	if err != nil {
		r.t.Fatal(err)
	}
	return reference
}

func (r *room) awaitUncached(reference string) {
	r.t.Helper()
	eventually(r.t, "the node has dropped "+reference, patience, func(ctx context.Context) (bool, string) {
		_, err := r.containerd.ImageService().Get(namespaces.WithNamespace(ctx, "k8s.io"), reference)
		return errdefs.IsNotFound(err), fmt.Sprint(err)
	})
}

// forgetImage removes an image from the node, whatever it is called.
func (r *room) forgetImage(reference string) {
	r.t.Helper()
	ctx := namespaces.WithNamespace(r.t.Context(), "k8s.io")
	store := r.containerd.ImageService()
	all, err := store.List(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	_, digest, _ := strings.Cut(reference, "@")
	for _, image := range all {
		if image.Target.Digest.String() != digest {
			continue
		}
		if err := store.Delete(ctx, image.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
			r.t.Fatal(err)
		}
	}
}

// awaitKeptWithin waits until what is kept for the sandboxes takes at most so many bytes of the disk: containerd removes it a
// moment after its name.
func (r *room) awaitKeptWithin(most int64, sandboxes ...string) {
	r.t.Helper()
	var theirs []string
	for _, sandbox := range sandboxes {
		theirs = append(theirs, fmt.Sprintf(`labels."lifecycle.opensandbox.io/resume-cache"==%q`, r.get(sandbox).UID))
	}
	store := r.containerd.SnapshotService("overlayfs")
	eventually(r.t, fmt.Sprintf("what is kept takes at most %d bytes", most), patience, func(ctx context.Context) (bool, string) {
		ctx = namespaces.WithNamespace(ctx, "k8s.io")
		total, found := int64(0), 0
		err := store.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
			usage, err := store.Usage(ctx, info.Name)
			total, found = total+usage.Size, found+1
			return err
		}, theirs...)
		return err == nil && found > 0 && total <= most, fmt.Sprintf("%d bytes in %d snapshots (error: %v)", total, found, err)
	})
}

// mustNotHavePulled checks that the kubelet found the image of a sandbox's Pod on the node.
func (r *room) mustNotHavePulled(sandbox, reference string) {
	r.t.Helper()
	if told := r.toldOfImage(sandbox, reference); !strings.Contains(told, "already present") {
		r.t.Errorf("it was pulled: %s", told)
	}
}

// mustHavePulled checks that it did not.
func (r *room) mustHavePulled(sandbox, reference string) {
	r.t.Helper()
	if told := r.toldOfImage(sandbox, reference); !strings.Contains(told, "Successfully pulled") {
		r.t.Errorf("it was not pulled: %s", told)
	}
}

// toldOfImage is what the kubelet told of the image of a sandbox's Pod, once it had it.
func (r *room) toldOfImage(sandbox, reference string) string {
	r.t.Helper()
	told := ""
	eventually(r.t, "the kubelet tells of image "+reference, patience, func(ctx context.Context) (bool, string) {
		events, err := r.kube.CoreV1().Events(r.namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Pulled,involvedObject.name=" + sandbox})
		if err != nil {
			return false, err.Error()
		}
		for _, event := range events.Items {
			if strings.Contains(event.Message, reference) {
				told = event.Message
				return true, ""
			}
		}
		return false, fmt.Sprintf("%d other events", len(events.Items))
	})
	return told
}
