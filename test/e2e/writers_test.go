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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/test/trees/writers"
)

// TestWhatAnObserverWasToldIsThereAfterResume has grandchildren of the container's process append, write in place, rename
// and store to mapped memory, each telling an observer on the node what it has written. What the observer had heard when
// the container was frozen is there after resume. COUNT is how often.
func TestWhatAnObserverWasToldIsThereAfterResume(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	o := observe(t)
	r.start("demo", makesTrees(r.treemakerImage(t, "writers")), func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "observer", VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: filepath.Dir(o.socket), Type: ptr.To(corev1.HostPathDirectory)}}}}
		s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "observer", MountPath: "/observer"}}
	})
	for run := range repetitions(t, 3, 100) {
		o.forget()
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(ended)
			// However it ends, the Pod's end is behind it.
			_ = r.exec(ctx, "demo", "main", io.Discard, io.Discard, "/treemaker", "start", "/", "/observer/socket")
		}()
		eventually(t, "all kinds of writers are at work", patience, func(context.Context) (bool, string) {
			heard := o.heard()
			for _, kind := range writers.Kinds {
				if heard[kind] < 20 {
					return false, fmt.Sprint(heard)
				}
			}
			return true, ""
		})

		r.pause("demo")
		frozen := r.heardWhileFrozen("demo", o)
		r.awaitPaused("demo")
		r.resume("demo")
		r.awaitReady("demo")
		<-ended
		cancel()

		var written map[string]uint64
		if err := json.Unmarshal(r.program("demo", "/treemaker", "written", "/"), &written); err != nil {
			t.Fatal(err)
		}
		for _, kind := range writers.Kinds {
			// The freeze may fall between a write and its acknowledgement.
			if n := written[kind]; n != frozen[kind] && n != frozen[kind]+1 {
				t.Errorf("run %d: %s: %d was acknowledged before the freeze, %d is there after resume", run, kind, frozen[kind], n)
			}
		}
		// Children run for a moment when it is the kubelet that ends a frozen container.
		if late := o.heard(); !maps.Equal(late, frozen) {
			t.Logf("run %d: frozen at %v, killed at %v; kills that failed: %q", run, frozen, late, r.killsThatFailed())
		}
		if t.Failed() {
			return
		}
	}
}

// observer listens on the node, outside of every container.
type observer struct {
	socket string
	mutex  sync.Mutex
	last   map[string]uint64
}

func observe(t *testing.T) *observer {
	t.Helper()
	// Not t.TempDir, whose paths can be too long for a socket.
	dir, err := os.MkdirTemp("", "e2e-observer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o := &observer{socket: dir + "/socket", last: map[string]uint64{}}
	listener, err := net.Listen("unix", o.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			writer, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("accept a writer: %v", err)
				return
			}
			go func() {
				defer writer.Close()
				writers.Observe(writer, o.hear)
			}()
		}
	}()
	return o
}

func (o *observer) hear(kind string, n uint64) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.last[kind] = n
}

func (o *observer) heard() map[string]uint64 {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return maps.Clone(o.last)
}

func (o *observer) forget() {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	clear(o.last)
}

// heardWhileFrozen is what the observer had heard when the container was last frozen before the sandbox was paused. An
// attempt may fail, and another follow. What a frozen process has sent is in the sockets' buffers, and read within moments;
// what is heard later of one that is still called frozen comes from its being killed.
func (r *room) heardWhileFrozen(sandbox string, o *observer) map[string]uint64 {
	r.t.Helper()
	var frozen map[string]uint64
	last, since, settled := o.heard(), time.Now(), false
	quickly(r.t, "sandbox "+sandbox+" is paused", patience, func(ctx context.Context) (bool, string) {
		now, err := r.frozen(ctx, r.namespace)
		if err != nil {
			return false, err.Error()
		}
		switch heard := o.heard(); {
		case !slices.Contains(now, sandbox+"/main"):
			last, since, settled = heard, time.Now(), false
		case settled:
		case !maps.Equal(heard, last):
			last, since = heard, time.Now()
		case time.Since(since) > 100*time.Millisecond:
			frozen, settled = last, true
		}
		s, err := r.sandboxes().Get(ctx, sandbox, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return s.Status.Phase == v1alpha1.SandboxPaused, describe(s)
	})
	if frozen == nil {
		r.t.Fatal("the container was never seen frozen")
	}
	return frozen
}
