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

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// house is a registry that a test can shut.
type house struct {
	*httptest.Server
	shut bool
	// asked counts the requests.
	asked atomic.Int64
	// password, where it is set, is what it wants.
	password string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{}
	inside := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		_, password, _ := r.BasicAuth()
		switch {
		case h.shut:
			w.WriteHeader(http.StatusServiceUnavailable)
		case h.password != "" && password != h.password:
			w.Header().Set("WWW-Authenticate", `Basic realm="house"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			inside.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *house) host() string { return h.Listener.Addr().String() }

// push pushes an image and returns its reference and digest.
func (h *house) push(t *testing.T, image string) (string, string) {
	t.Helper()
	tag, err := name.NewTag(h.host()+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return tag.String(), digest.String()
}

// newRegistry is the way to it, with the objects that hold credentials.
func newRegistry(t *testing.T, h *house, objects ...client.Object) (*Registry, *clocktesting.FakePassiveClock) {
	t.Helper()
	now := clocktesting.NewFakePassiveClock(epoch)
	below, err := naming.ParseImageTemplate(h.host()+"/a", "")
	if err != nil {
		t.Fatal(err)
	}
	return &Registry{
		Images: below,
		Config: commitjob.Config{Namespace: "sandbox-system", RegistryInsecure: true},
		Reader: fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(objects...).Build(),
		Clock:  now,
	}, now
}

func TestRegistry(t *testing.T) {
	h := newHouse(t)
	r, _ := newRegistry(t, h)
	image, digest := h.push(t, "a/b:t")

	twin, err := r.Duplicate(t.Context(), image, digest, h.host()+"/a/b:u", map[string]string{"uid": "1"})
	if err != nil || twin == digest {
		t.Fatalf("%s is copied as %s: %v", digest, twin, err)
	}
	if err := r.Delete(t.Context(), image, digest); err != nil {
		t.Fatal(err)
	}
	for digest, want := range map[string]bool{digest: false, twin: true} {
		if found, err := r.Look(t.Context(), image, digest); found.Manifest != want || err != nil {
			t.Errorf("%s: found %+v, want %t (error: %v)", digest, found, want, err)
		}
	}
}

func TestCredentialsAreThoseOfNow(t *testing.T) {
	h := newHouse(t)
	image, digest := h.push(t, "a/b:t")
	h.password = "right"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "sandbox-system", Name: "push"}}
	write := func(password string) {
		secret.Data = map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"` + h.host() + `":{"username":"u","password":"` + password + `"}}}`)}
	}
	write("wrong")
	r, _ := newRegistry(t, h, secret)
	r.Config.PushSecret = "push"
	_, err := r.Look(t.Context(), image, digest)
	if result.From(err).Reason != result.PushSecretInvalid || strings.Contains(err.Error(), "wrong") {
		t.Fatalf("with the wrong password: %v", err)
	}
	write("right")
	if err := r.Reader.(client.Client).Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if found, err := r.Look(t.Context(), image, digest); !found.Manifest || err != nil {
		t.Fatalf("with the right one it is there: %+v, %v", found, err)
	}
	if err := r.Reader.(client.Client).Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Look(t.Context(), image, digest); err == nil || !strings.Contains(err.Error(), "Secret sandbox-system/push") {
		t.Fatalf("without the Secret: %v", err)
	}
}

func TestAnOutageIsNotAskedAbout(t *testing.T) {
	h := newHouse(t)
	image, digest := h.push(t, "a/b:t")
	r, now := newRegistry(t, h)
	exists := func() error {
		_, err := r.Look(t.Context(), image, digest)
		return err
	}
	h.shut = true
	if err := exists(); result.From(err).Reason != result.RegistryUnavailable {
		t.Fatal(err)
	}
	before := h.asked.Load()
	if err := r.Delete(t.Context(), image, digest); result.From(err).Reason != result.RegistryUnavailable || h.asked.Load() != before {
		t.Fatalf("%d more requests during the outage: %v", h.asked.Load()-before, err)
	}
	h.shut = false
	if err := exists(); err == nil || h.asked.Load() != before {
		t.Fatalf("%d more requests during the silence: %v", h.asked.Load()-before, err)
	}
	now.SetTime(epoch.Add(silence))
	if err := exists(); err != nil {
		t.Fatal(err)
	}
}

// Greetings and tokens count as well: what the registry sees is what is bounded.
func TestTheRegistryIsNotAskedTooFast(t *testing.T) {
	h := newHouse(t)
	r, _ := newRegistry(t, h)
	r.Pace = NewPace().Wait
	begin, checks := time.Now(), 0
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	for n := 0; ctx.Err() == nil; n++ {
		// A repository of its own for each, as sandboxes have.
		_, err := r.Look(ctx, fmt.Sprintf("%s/a/b%d:t", h.host(), n), "sha256:"+strings.Repeat("a", 64))
		if errors.Is(err, errBusy) {
			if len(r.outages.hosts) > 0 {
				t.Error("that it may not be asked passes for an outage")
			}
			break
		}
		if ctx.Err() != nil {
			break // the time was up in the middle of it
		}
		if err != nil {
			t.Fatal(err)
		}
		checks++
	}
	if most := requestsPerSecond + int(time.Since(begin).Seconds()*requestsPerSecond) + 1; checks == 0 || int(h.asked.Load()) > most {
		t.Errorf("%d requests for %d checks in %s, at most %d are allowed", h.asked.Load(), checks, time.Since(begin), most)
	}
}

func TestOutages(t *testing.T) {
	const host = "registry.example.com"
	down := result.Errorf(result.RegistryUnavailable, "deleting the image of another tenant: it does not answer")
	refused := result.Errorf(result.PushSecretInvalid, "other credentials")
	o := &outages{}
	asks := func(at time.Duration, may bool) {
		t.Helper()
		if err := o.ask(host, epoch.Add(at)); (err == nil) != may {
			t.Fatalf("after %s: %v", at, err)
		} else if err != nil && (!errors.Is(err, down) || result.From(err).Reason != result.RegistryUnavailable) {
			t.Fatalf("after %s it fails without the reason: %v", at, err)
		} else if err != nil && strings.Contains(err.Error(), "another tenant") {
			t.Fatalf("after %s it tells of what others asked: %v", at, err)
		}
	}
	asks(0, true)
	asks(0, true) // nobody knows better yet
	o.answered(host, down, epoch)
	asks(silence-time.Second, false)
	asks(silence, true)
	asks(silence, false) // one asks for all
	o.answered(host, down, epoch.Add(silence))
	asks(2*silence-time.Second, false)
	asks(2*silence, true)
	asks(2*silence+answerTimeout, true) // who asked has not come back
	o.answered(host, refused, epoch.Add(2*silence))
	asks(2*silence, true) // it answers again, though it says no
	asks(2*silence, true)
	o.answered(host, context.Canceled, epoch)
	if err := o.ask("another.example.com", epoch); err != nil {
		t.Fatal(err)
	}
}

// TestARegistryOfTheNodes is one at a loopback address: what answers here is another one.
func TestARegistryOfTheNodes(t *testing.T) {
	h := newHouse(t)
	r, _ := newRegistry(t, h)
	image, digest := h.push(t, "a/b:t")
	r.Config.RegistryOfNode = true
	asked := h.asked.Load()
	_, exists := r.Look(t.Context(), image, digest)
	_, duplicate := r.Duplicate(t.Context(), image, digest, h.host()+"/a/b:u", nil)
	for what, err := range map[string]error{"Look": exists, "Delete": r.Delete(t.Context(), image, digest), "Duplicate": duplicate} {
		if !errors.Is(err, registry.ErrOutOfReach) || reasonOf(err) != "RegistryUnavailable" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if h.asked.Load() != asked {
		t.Errorf("it was asked %d times", h.asked.Load()-asked)
	}
}

// TestNobodyElseIsAsked: what a status says may be forged, or from before the registry was another.
func TestNobodyElseIsAsked(t *testing.T) {
	h, elsewhere := newHouse(t), newHouse(t)
	r, _ := newRegistry(t, h)
	mine, digest := h.push(t, "a/b:t")
	for _, image := range []string{
		elsewhere.host() + "/a/b:t", h.host() + "/other/b:t", h.host() + "/abc:t", h.host() + "/a/../other/b:t", "a/b:t", "", h.host(),
	} {
		before := h.asked.Load() + elsewhere.asked.Load()
		_, look := r.Look(t.Context(), image, digest)
		_, from := r.Duplicate(t.Context(), image, digest, h.host()+"/a/b:u", nil)
		_, to := r.Duplicate(t.Context(), mine, digest, image, nil)
		for what, err := range map[string]error{"Look": look, "Delete": r.Delete(t.Context(), image, digest), "Duplicate from there": from, "Duplicate to there": to} {
			if !errors.Is(err, errElsewhere) || reasonOf(err) != v1alpha1.ReasonImageNotChecked {
				t.Errorf("%s %q: %v", what, image, err)
			}
		}
		if asked := h.asked.Load() + elsewhere.asked.Load(); asked != before {
			t.Errorf("%q: somebody was asked %d times", image, asked-before)
		}
	}
}
