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
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/test/trees/writers"
)

// TestWhatAnObserverWasToldIsThereAfterResume has grandchildren of the container's process append, write in place, rename
// and store to mapped memory, each telling an observer on the node what it has written. What the observer was told
// is there after resume, to the last of it. COUNT is how often.
func TestWhatAnObserverWasToldIsThereAfterResume(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	o := observe(t)
	r.start("demo", makesTrees(r.treemakerImage(t, "writers")), o.inAll)
	for run := range repetitions(t, 3, 100) {
		o.forget()
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(ended)
			// However it ends, the Pod's end is behind it.
			_ = r.exec(ctx, "demo", "main", io.Discard, io.Discard, "/treemaker", "start", "/", observerSocket)
		}()
		o.awaitWriters(t)

		r.pause("demo")
		r.awaitPaused("demo")
		<-ended
		cancel()
		// Nobody has run since the freeze, so all that was ever acknowledged has to be there.
		told := o.all(t)
		r.resume("demo")
		r.awaitReady("demo")

		r.mustHaveWritten("demo", told)
		for _, message := range r.killsThatFailed() {
			t.Errorf("run %d: not everything was killed while it was frozen: %s", run, message)
		}
		if t.Failed() {
			return
		}
	}
}

// mustHaveWritten compares what the writers have left in the sandbox with what they told of.
func (r *room) mustHaveWritten(sandbox string, told map[string]uint64) {
	r.t.Helper()
	var written map[string]uint64
	if err := json.Unmarshal(r.program(sandbox, "/treemaker", "written", "/"), &written); err != nil {
		r.t.Fatal(err)
	}
	for _, kind := range writers.Kinds {
		// The freeze may fall between a write and its acknowledgement.
		if n := written[kind]; n != told[kind] && n != told[kind]+1 {
			r.t.Errorf("%s: %d was acknowledged, %d is there after resume", kind, told[kind], n)
		}
	}
}

// observerSocket is where the observer is found in the containers.
const observerSocket = "/observer/socket"

// observer listens on the node, outside of every container.
type observer struct {
	socket    string
	listening sync.WaitGroup // to a writer each
	mutex     sync.Mutex
	last      map[string]uint64
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
			o.listening.Go(func() {
				defer writer.Close()
				writers.Observe(writer, o.hear)
			})
		}
	}()
	return o
}

// inAll mounts the observer's socket in each container of a sandbox.
func (o *observer) inAll(s *v1alpha1.Sandbox) {
	pod := &s.Spec.Template.Spec
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "observer", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: filepath.Dir(o.socket), Type: ptr.To(corev1.HostPathDirectory)}}})
	for i := range pod.Containers {
		pod.Containers[i].VolumeMounts = append(pod.Containers[i].VolumeMounts, observerMount)
	}
}

var observerMount = corev1.VolumeMount{Name: "observer", MountPath: filepath.Dir(observerSocket)}

// awaitWriters waits until all kinds of writers are at work.
func (o *observer) awaitWriters(t *testing.T) {
	t.Helper()
	eventually(t, "all kinds of writers are at work", patience, func(context.Context) (bool, string) {
		heard := o.heard()
		for _, kind := range writers.Kinds {
			if heard[kind] < 20 {
				return false, fmt.Sprint(heard)
			}
		}
		return true, ""
	})
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

// all is what was heard when all writers are gone: what they had sent may wait in the sockets' buffers.
func (o *observer) all(t *testing.T) map[string]uint64 {
	t.Helper()
	heard := make(chan map[string]uint64, 1)
	go func() {
		o.listening.Wait()
		heard <- o.heard()
	}()
	select {
	case all := <-heard:
		return all
	case <-time.After(patience):
		t.Fatal("a writer of a Pod that is gone still holds its connection")
		return nil
	}
}

func (o *observer) forget() {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	clear(o.last)
}
