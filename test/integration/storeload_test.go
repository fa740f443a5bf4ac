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
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

// TestEightClientsPatchTheLargestObject until a volume is full, where nothing bounds what the store
// takes: every night for ten minutes in a volume of 1 GiB, else in a quarter of it until there is more in
// the log than may be.
func TestEightClientsPatchTheLargestObject(t *testing.T) {
	const clients = 8
	// 450 are 140 MB of entries.
	volume, lasts, enough, maxHeap := int64(256<<20), 5*time.Minute, int64(450), uint64(768<<20)
	if os.Getenv("NIGHTLY") == "true" {
		volume, lasts, enough, maxHeap = 1<<30, 10*time.Minute, math.MaxInt64, 1<<30
	}
	dir := mounted(t, volume)
	own, err := start(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := fixtureOn(t, own)
	// As large as the validation lets it be, the template and the annotations.
	f.create(sandbox("large", withNote(250<<10), func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "LARGE", Value: strings.Repeat("x", 60<<10)}}
	}))

	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var done atomic.Int64
	var working sync.WaitGroup
	for client := range clients {
		working.Go(func() {
			for n := 0; ctx.Err() == nil && done.Load() < enough; n++ {
				// All of it is new, so that nothing can be kept once for two versions.
				note := strings.Repeat(fmt.Sprintf("%d-%d ", client, n), (250<<10)/len(fmt.Sprintf("%d-%d ", client, n)))
				_, err := f.sandboxes.Patch(ctx, "large", types.MergePatchType,
					fmt.Appendf(nil, `{"metadata":{"annotations":{"note":%q}}}`, note), metav1.PatchOptions{})
				switch {
				case err == nil:
					done.Add(1)
				case ctx.Err() == nil && !apierrors.IsTooManyRequests(err) && !apierrors.IsConflict(err) && !apierrors.IsTimeout(err):
					t.Errorf("a patch was answered: %v", err)
					return
				}
			}
		})
	}
	working.Wait()

	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	log := sizeOf(t, filepath.Join(dir, "etcd", "member", "wal"))
	t.Logf("%d patches, %d MiB of heap, %d MiB of log, %d MiB in all", done.Load(), memory.HeapAlloc>>20, log>>20, sizeOf(t, dir)>>20)
	if memory.HeapAlloc > maxHeap {
		t.Errorf("%d MiB of heap are in use, want at most %d", memory.HeapAlloc>>20, maxHeap>>20)
	}
	if log > 112<<20 {
		t.Errorf("the log takes %d MiB", log>>20)
	}
	if done.Load() < 450 {
		t.Errorf("only %d patches", done.Load())
	}
	f.must(own.stop())

	if own, err = start(dir, nil); err != nil {
		t.Fatalf("no start after that: %v", err)
	}
	f = fixtureOn(t, own)
	f.get("large")
	f.eventually(func() error { return f.relabel("large", 1) })
	f.must(own.stop())
}

// TestHistoryIsNoReasonToRefuse has one of many objects changed until history would fill what they leave.
func TestHistoryIsNoReasonToRefuse(t *testing.T) {
	f := serverIn(t, shortTempDir(t), func(o *server.Options) {
		if err := o.StoreQuota.Set("32Mi"); err != nil {
			t.Fatal(err)
		}
	})
	// 20 MiB of them, and 16 MiB of changes.
	for n := range 85 {
		f.create(sandbox(fmt.Sprintf("object-%d", n), withNote(240<<10)))
	}
	for n := range 68 {
		if err := f.relabel("object-0", n); err != nil {
			t.Fatalf("change %d: %v", n, err)
		}
	}
}
