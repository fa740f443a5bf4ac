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

package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/inbound"
)

// ask asks for the address of a port of the sandbox demo as one who may get it.
func (w *world) ask(params httpapi.GetSandboxEndpointParams) (*httpapi.Endpoint, error) {
	ctx := identity.With(context.Background(), &identity.Caller{User: &user.DefaultInfo{Name: "someone"}, Namespace: tenant, Lifecycle: w.lifecycle})
	ctx = inbound.With(ctx, inbound.Request{Host: strings.TrimPrefix(w.url, "http://"), Base: "/v1"})
	return w.Endpoints().GetSandboxEndpoint(ctx, params)
}

// within are the parameters for an address that needs no key for a while.
func (w *world) within(d time.Duration) httpapi.GetSandboxEndpointParams {
	return httpapi.GetSandboxEndpointParams{SandboxId: "demo", Port: 8080, Expires: httpapi.NewOptUint64(uint64(w.clock.Now().Add(d).Unix()))}
}

// endpoint is such an address, with the scheme.
func (w *world) endpoint(within time.Duration) string {
	w.t.Helper()
	endpoint, err := w.ask(w.within(within))
	if err != nil {
		w.t.Fatal(err)
	}
	return "http://" + endpoint.Endpoint
}

func get(t *testing.T, method, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRouteTokens(t *testing.T) {
	w := newWorld(t)
	sandbox := w.sandbox("demo", nil)
	w.sandbox("other", nil)
	var seen *http.Request
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		seen = r
		rw.Header().Set("Location", "/next")
		echo(rw, r)
	})
	address := w.endpoint(time.Hour)
	base, token, ok := strings.Cut(address, "/"+pathTokenMark)
	if !ok {
		t.Fatalf("address %s has no token", address)
	}

	// In the path, or in the header; without a key.
	r := get(t, "GET", address+"/a%2Fb?c")
	r.Header.Set("Referer", address+"/page")
	response, _ := do(t, r)
	if response.StatusCode != http.StatusOK || response.Header.Get("X-Uri") != "/a%2Fb?c" {
		t.Errorf("by the path: %s %v", response.Status, response.Header)
	}
	if want := strings.TrimPrefix(address, w.url) + "/next"; response.Header.Get("Location") != want {
		t.Errorf("a redirect loses the token: %s, want %s", response.Header.Get("Location"), want)
	}
	for name, values := range seen.Header {
		if strings.Contains(strings.Join(values, " "), token) {
			t.Errorf("the sandbox gets the token, in %s", name)
		}
	}
	r = get(t, "GET", base+"/a")
	r.Header.Set(HeaderRouteToken, token)
	if response, body := do(t, r); response.StatusCode != http.StatusOK || response.Header.Get("X-Uri") != "/a" {
		t.Errorf("by the header: %s %s", response.Status, body)
	}
	if response, _ := do(t, get(t, "GET", address)); response.StatusCode != http.StatusOK || response.Header.Get("X-Uri") != "/" {
		t.Errorf("bare: %s %v", response.Status, response.Header)
	}

	// Nothing else.
	mustRefuse(t, get(t, "GET", base+"/a"), http.StatusUnauthorized, answer.CodeMissingKey, "")
	changed := []byte(token)
	changed[len(changed)/2] ^= 1
	for _, bad := range []string{
		base + "/" + pathTokenMark + string(changed),
		base + "/" + pathTokenMark,
		base + "/" + pathTokenMark + token + "A",
		base + "/" + pathTokenMark + token[:len(token)-4],
		base + "/" + pathTokenMark + base64.RawURLEncoding.EncodeToString(make([]byte, 200)),
		strings.Replace(address, "/8080/", "/8081/", 1),
		strings.Replace(address, "/demo/", "/other/", 1),
	} {
		mustRefuse(t, get(t, "GET", bad), http.StatusUnauthorized, answer.CodeInvalidKey, "not valid")
		r := get(t, "GET", bad)
		r.Header.Set(identity.HeaderKey, goodKey) // whoever shows a token is let in by it alone
		mustRefuse(t, r, http.StatusUnauthorized, answer.CodeInvalidKey, "not valid")
	}

	// Until it expires.
	w.clock.SetTime(w.clock.Now().Add(time.Hour - 2*time.Second))
	if response, body := do(t, get(t, "GET", address)); response.StatusCode != http.StatusOK {
		t.Errorf("just before it expires: %s %s", response.Status, body)
	}
	w.clock.SetTime(w.clock.Now().Add(3 * time.Second))
	mustRefuse(t, get(t, "GET", address), http.StatusUnauthorized, answer.CodeInvalidKey, "expired")

	// And for that sandbox: not for the next of its name.
	again := w.endpoint(time.Hour)
	next := sandbox.DeepCopy()
	next.UID = "the next"
	sandboxes := w.lifecycle.LifecycleV1alpha1().Sandboxes(tenant)
	if err := sandboxes.Delete(context.Background(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, get(t, "GET", again), http.StatusNotFound, answer.CodeSandboxNotFound, "gone")
	if _, err := sandboxes.Create(context.Background(), next, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, get(t, "GET", again), http.StatusNotFound, answer.CodeSandboxNotFound, "gone")
}

// A token is worth what its maker could do.
func TestRouteTokensHaveTheirMakersRights(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(echo)
	w.allow(func(a authorizer.Attributes) (bool, error) { return a.GetVerb() == "get", nil })
	address := w.endpoint(time.Hour)
	if response, body := do(t, get(t, "GET", address)); response.StatusCode != http.StatusOK {
		t.Errorf("GET: %s %s", response.Status, body)
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "PROPFIND"} {
		mustRefuse(t, get(t, method, address), http.StatusNotFound, answer.CodeSandboxNotFound, "pods/proxy")
	}
	w.allow(func(authorizer.Attributes) (bool, error) { return false, nil })
	if _, err := w.ask(w.within(time.Hour)); answer.Of(err).Status != http.StatusNotFound {
		t.Errorf("a token for nothing: %v", err)
	}
}

func TestEndpoints(t *testing.T) {
	w := newWorld(t)
	// It is told before there is a Pod, to whoever may get the sandbox: without a token an address opens nothing.
	w.sandbox("demo", func(s *v1alpha1.Sandbox, p *corev1.Pod) {
		s.Status, p.Name = v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxPending}, ""
	})
	w.allow(func(authorizer.Attributes) (bool, error) { return false, nil })
	for _, port := range []int32{1, 44772, 18080, 65535} {
		for _, useServerProxy := range []bool{false, true} {
			endpoint, err := w.ask(httpapi.GetSandboxEndpointParams{SandboxId: "demo", Port: port, UseServerProxy: httpapi.NewOptBool(useServerProxy)})
			if want := fmt.Sprintf("%s/v1/sandboxes/demo/proxy/%d", strings.TrimPrefix(w.url, "http://"), port); err != nil || endpoint.Endpoint != want {
				t.Errorf("%+v, %v, want %s", endpoint, err, want)
			}
		}
	}
	w.allow(nil)
	proxied := w.within(time.Hour)
	proxied.UseServerProxy = httpapi.NewOptBool(true)
	for name, c := range map[string]struct {
		params httpapi.GetSandboxEndpointParams
		status int
		code   string
	}{
		"unknown":                {httpapi.GetSandboxEndpointParams{SandboxId: "nope", Port: 1}, http.StatusNotFound, answer.CodeSandboxNotFound},
		"expired":                {w.within(-time.Second), http.StatusBadRequest, answer.CodeInvalidExpiration},
		"expires now":            {w.within(0), http.StatusBadRequest, answer.CodeInvalidExpiration},
		"expires, by the server": {proxied, http.StatusBadRequest, answer.CodeInvalidParameter},
	} {
		if _, err := w.ask(c.params); answer.Of(err).Status != c.status || answer.Of(err).Code != c.code {
			t.Errorf("%s: %v, want %d %s", name, err, c.status, c.code)
		}
	}
}

// As for pods/proxy of kube-apiserver.
func TestRights(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", func(s *v1alpha1.Sandbox, p *corev1.Pod) { s.Status.PodName, p.Name = "pooled", "pooled" })
	w.serves(echo)
	for method, verb := range map[string]string{"GET": "get", "HEAD": "get", "OPTIONS": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "PROPFIND": "create"} {
		w.asked = nil
		do(t, w.request(method, "/", ""))
		if want := "tenant-user " + verb + " pods/proxy tenant/pooled"; len(w.asked) != 1 || w.asked[0] != want {
			t.Errorf("%s asked for %v, want %s", method, w.asked, want)
		}
	}
	w.allow(func(a authorizer.Attributes) (bool, error) { return false, nil })
	_, forbidden := do(t, w.request("GET", "/", ""))
	mustRefuse(t, w.request("GET", "/", ""), http.StatusNotFound, answer.CodeSandboxNotFound, `"demo"`)
	unknown := w.request("GET", "/", "")
	unknown.URL.Path = "/v1/sandboxes/nope/proxy/8080/"
	for _, allowed := range []bool{false, true} {
		w.allow(func(a authorizer.Attributes) (bool, error) { return allowed, nil })
		mustRefuse(t, unknown, http.StatusNotFound, answer.CodeSandboxNotFound, `"nope"`)
		if _, body := do(t, unknown); strings.ReplaceAll(body, "nope", "demo") != forbidden {
			t.Errorf("an unknown one and a forbidden one differ:\n%s\n%s", body, forbidden)
		}
	}
	w.allow(func(a authorizer.Attributes) (bool, error) { return false, errors.New("no answer") })
	mustRefuse(t, w.request("GET", "/", ""), http.StatusServiceUnavailable, answer.CodeUnavailable, "try again")
	w.dialled = nil
	r := w.request("GET", "/", "")
	r.Header.Del(identity.HeaderKey)
	mustRefuse(t, r, http.StatusUnauthorized, answer.CodeMissingKey, "")
	if len(w.dialled) > 0 {
		t.Errorf("dialled %v", w.dialled)
	}
}

// A sandbox may be asked for before the watch has brought it.
func TestASandboxThatIsJustCreated(t *testing.T) {
	w := newWorld(t)
	late := aSandbox("late")
	late.Status = v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxPending}
	w.lifecycle.PrependReactor("get", "sandboxes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, late, nil })
	r := w.request("GET", "/ping", "")
	r.URL.Path = "/v1/sandboxes/late/proxy/44772/ping"
	mustRefuse(t, r, http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "Pending")
}

// All replicas have one key, whichever of them made it.
func TestTheKeyOfRouteTokens(t *testing.T) {
	kube := kubefake.NewClientset()
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t}
	var replicas []*signingKey
	ended := make(chan struct{}, 2)
	for range 2 {
		replica, err := newSigningKey(kube, "sandbox-system", "route-key")
		if err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, replica)
		go func() { replica.run(ctx); ended <- struct{}{} }()
	}
	defer func() { cancel(); <-ended; <-ended }()
	same := func(not string) (key string) {
		t.Helper()
		w.eventually("both replicas have one key", func() error {
			one, err := replicas[0].get()
			two, err2 := replicas[1].get()
			key = string(one)
			return errors.Join(err, err2, unless(string(one) == string(two) && len(one) == keyBytes && key != not, "%x and %x, before %x", one, two, not))
		})
		return key
	}
	first := same("")
	secrets := kube.CoreV1().Secrets("sandbox-system")
	if err := secrets.Delete(ctx, "route-key", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	second := same(first)
	if err := secrets.Delete(ctx, "route-key", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	same(second)
	secret, err := secrets.Get(ctx, "route-key", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret.Data[keyEntry] = []byte("short")
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("a key that is too short opens nothing", func() error {
		_, err := replicas[0].get()
		return unless(err != nil, "it is used")
	})
}

func FuzzToken(f *testing.F) {
	key := make([]byte, keyBytes)
	g := grant{namespace: tenant, sandbox: "demo", uid: "8c5e3f0e-8c5d-4c0e-9d5b-0a5a4e7d1f11", port: 80, verbs: verbGet, expires: 1 << 40}
	f.Add(g.sign(key))
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, 42)))
	f.Fuzz(func(t *testing.T, token string) {
		got, err := verify(token, g.sandbox, g.port, key, time.Unix(0, 0))
		if err == nil && (got != g || token != g.sign(key)) {
			t.Errorf("%q is taken as %+v", token, got)
		}
	})
}

func FuzzRoute(f *testing.F) {
	for _, path := range []string{"/v1/sandboxes/demo/proxy/8080/a%2Fb", "/sandboxes/a/proxy/1/~route.x/..", "/sandboxes/%2e%2e/proxy/1"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if !matches(path) {
			return
		}
		r, err := parseRoute(path)
		if err != nil {
			return
		}
		if r.port == 0 || !strings.HasPrefix(r.rest, "/") || !strings.HasPrefix(path, r.prefix()) || strings.TrimPrefix(strings.TrimPrefix(path, r.prefix()), "/") != r.rest[1:] {
			t.Errorf("%q is taken as %+v", path, r)
		}
		for _, segment := range strings.Split(r.rest, "/") {
			if segment == ".." {
				t.Errorf("%q leads to %q", path, r.rest)
			}
		}
	})
}
