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

package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	toolscache "k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// It fits into a ConfigMap, and what belongs to the rest is kept.
func TestReleased(t *testing.T) {
	taken := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	const uid = "3f1c7a52-8a0b-4b57-9d54-0d9a4a3f5a01"
	full := strings.TrimSpace(strings.Repeat("00000000-0000 ", maxReleased/(uidBeginning+1)))
	for name, test := range map[string]struct {
		before string
		taken  time.Time
		going  map[types.UID]time.Time
		want   string
	}{
		"older than the store":               {"", taken, map[types.UID]time.Time{uid: taken.Add(-time.Second)}, "3f1c7a52-8a0b"},
		"beside others":                      {"00000000-0000", taken, map[types.UID]time.Time{uid: taken.Add(-time.Second)}, "00000000-0000 3f1c7a52-8a0b"},
		"noted before":                       {"3f1c7a52-8a0b 00000000-0000", taken, map[types.UID]time.Time{uid: taken.Add(-time.Second)}, "3f1c7a52-8a0b 00000000-0000"},
		"newer":                              {"", taken, map[types.UID]time.Time{uid: taken}, ""},
		"of a store that nobody had to take": {"", time.Time{}, map[types.UID]time.Time{uid: taken}, ""},
		"what is no UID":                     {"", taken, map[types.UID]time.Time{"x": taken.Add(-time.Second)}, ""},
		"no room":                            {full, taken, map[types.UID]time.Time{uid: taken.Add(-time.Second)}, full},
	} {
		if got := released(test.before, test.taken, test.going); got != test.want {
			t.Errorf("%s: %.100q, want %.100q", name, got, test.want)
		}
	}
}

// Where nothing is older than the store the ConfigMap is read once, whatever goes.
func TestReleasesAreNotedOfWhatIsOlderAlone(t *testing.T) {
	taken := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	known := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "sandbox-system", Name: StoreConfigMapName}, Data: map[string]string{storeTakenKey: taken.Format(time.RFC3339)}}
	kube := fake.NewClientset(known)
	identity := &storeIdentity{client: kube, namespace: "sandbox-system"}
	for n := range 5 {
		if err := identity.release(t.Context(), map[types.UID]time.Time{types.UID(fmt.Sprintf("0000000%d-0000-4000-8000-000000000000", n)): taken.Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	if asked := len(kube.Actions()); asked != 1 {
		t.Errorf("%d requests, want 1: %v", asked, kube.Actions())
	}
	if err := identity.release(t.Context(), map[types.UID]time.Time{"3f1c7a52-8a0b-4b57-9d54-0d9a4a3f5a01": taken.Add(-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	after, err := kube.CoreV1().ConfigMaps("sandbox-system").Get(t.Context(), StoreConfigMapName, metav1.GetOptions{})
	if err != nil || after.Data[storeReleasedKey] != "3f1c7a52-8a0b" {
		t.Errorf("the ConfigMap says %v, %v", after.Data, err)
	}
}

// It is noted as soon as it goes, and again where it could not be.
func TestReleasesSeeWhatGoes(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	noted := make(chan map[types.UID]time.Time)
	fails := make(chan error, 1)
	fails <- errors.New("connection refused")
	releases := newReleases(func(_ context.Context, going map[types.UID]time.Time) error {
		noted <- going
		select {
		case err := <-fails:
			return err
		default:
			return nil
		}
	})
	releases.clock = clock
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- releases.Start(ctx) }()
	made := metav1.NewTime(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC))
	sandbox := func(uid types.UID, deleted *metav1.Time) *v1alpha1.Sandbox {
		return &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{UID: uid, CreationTimestamp: made, DeletionTimestamp: deleted}}
	}
	releases.see(sandbox("stays", nil), false)
	releases.see(sandbox("goes", &made), false)
	if going := <-noted; len(going) != 1 || !going["goes"].Equal(made.Time) {
		t.Errorf("noted is %v", going)
	}
	releases.see(toolscache.DeletedFinalStateUnknown{Obj: sandbox("gone", nil)}, true)
	for deadline := time.Now().Add(10 * time.Second); !clock.HasWaiters(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not wait after a failure")
		}
	}
	clock.Step(releaseRetry)
	if going := <-noted; len(going) != 2 || going["stays"] != (time.Time{}) {
		t.Errorf("after a failure noted is %v", going)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestSettles(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	says := func(when string) *corev1.ConfigMap {
		return &corev1.ConfigMap{Data: map[string]string{storeTakenKey: when}}
	}
	for name, test := range map[string]struct {
		configMap *corev1.ConfigMap
		waits     bool
	}{
		"there is none":                   {nil, false},
		"an older server's":               {&corev1.ConfigMap{}, false},
		"taken just now, by some replica": {says(now.Add(settleTime).Format(time.RFC3339)), true},
		"heard of by now":                 {says(now.Format(time.RFC3339)), false},
		"long ago":                        {says("2026-01-01T00:00:00Z"), false},
		"what a person has written":       {says("tomorrow"), false},
		"of another clock":                {says("2027-01-01T00:00:00Z"), false},
	} {
		if err := settles(test.configMap, now); errors.Is(err, errStoreSettles) != test.waits {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A store that has not said when it was taken is not marked: from the mark on nobody would.
func TestTakeComesBeforeTheMark(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	known := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "sandbox-system", Name: StoreConfigMapName}, Data: map[string]string{storeIDKey: "a", storeMarkKey: "5", storeReleasedKey: "3f1c7a52-8a0b", "other": "x"}}
	kube := fake.NewClientset(known)
	identity := &storeIdentity{
		client: kube, namespace: "sandbox-system", clock: clocktesting.NewFakeClock(now),
	}
	var missing []string
	var silent error
	identity.unguarded = func(context.Context) ([]string, error) { return missing, silent }

	missing = []string{"a policy"}
	if _, refusal, err := identity.take(t.Context(), known, true); err != nil || !strings.Contains(refusal, "lacks a policy") {
		t.Errorf("without a policy: %q, %v", refusal, err)
	}
	missing, silent = nil, errors.New("connection refused")
	if _, _, err := identity.take(t.Context(), known, true); err == nil {
		t.Error("it is taken though nobody knows of policies")
	}
	if _, refusal, err := identity.take(t.Context(), known, false); err != nil || refusal != "" {
		t.Errorf("a new store, which nobody doubts, waits for policies: %q, %v", refusal, err)
	}
	silent = nil
	written, refusal, err := identity.take(t.Context(), known, true)
	if err != nil || refusal != "" {
		t.Fatal(refusal, err)
	}
	want := map[string]string{storeIDKey: "a", storeMarkKey: "5", "other": "x", storeTakenKey: "2026-11-30T12:00:05Z", storeReleasedKey: ""}
	if fmt.Sprint(written.Data) != fmt.Sprint(want) {
		t.Errorf("the ConfigMap says %v, want %v", written.Data, want)
	}
}
