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

package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/clustertest"
)

func entryOf(key, rest string) string {
	return fmt.Sprintf(`{"sha256": "%x", %s}`, sha256.Sum256([]byte(key)), rest)
}

// run returns an Authenticator that has read the cluster's keys.
func run(t *testing.T, cluster *clustertest.Cluster, change func(*Config)) *Authenticator {
	t.Helper()
	config := Config{Config: cluster.Config(), KeysNamespace: "sandbox-system", KeysName: "keys", DefaultNamespace: "default"}
	if change != nil {
		change(&config)
	}
	a, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	await(t, "the keys", func() bool { return a.Ready() == nil })
	return a
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return done(), nil }); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v1/sandboxes", http.NoBody)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// TestWhoARequestIsFrom is the table of what lets in, and as whom. A key of two entries is nobody's, and a blank one none: with
// "the last one wins" a key changes its tenant by the order of a file
// (https://github.com/opensandbox-group/OpenSandbox/pull/821, https://github.com/opensandbox-group/OpenSandbox/pull/1184). Whoever
// sends a wrong key is told so by its status (https://github.com/daytonaio/daytona/issues/1772).
func TestWhoARequestIsFrom(t *testing.T) {
	cluster := clustertest.New(t, nil)
	cluster.Keys(map[string]string{
		"team-a": entryOf("key-a", `"user": "a", "groups": ["testers"], "namespace": "team-a"`),
		"team-b": "sha256: " + fmt.Sprintf("%X", sha256.Sum256([]byte("key-b"))) + "\nuser: b\n",
		"typo":   entryOf("key-c", `"user": "c", "namspace": "team-c"`),
		"empty":  entryOf("key-d", `"namespace": "team-d"`),
		"twice1": entryOf("key-e", `"user": "e1"`),
		"twice2": entryOf("key-e", `"user": "e2"`),
		"plain":  `{"sha256": "key-f", "user": "f"}`,
		"nobody": entryOf("", `"user": "g"`),
	})
	cluster.Token("token-t", "t", "system:authenticated")
	a := run(t, cluster, nil)
	open := run(t, cluster, func(c *Config) { c.Open = "anyone" })
	keyless := run(t, cluster, func(c *Config) { c.KeysName = "" })
	for _, c := range []struct {
		name      string
		a         *Authenticator
		headers   []string
		user      string
		namespace string
		status    int
		code      string
	}{
		{"a key", a, []string{HeaderKey, "key-a"}, "a", "team-a", 0, ""},
		{"a key whose entry is YAML, in capitals, without a namespace", a, []string{HeaderKey, "key-b"}, "b", "default", 0, ""},
		{"a key and its own namespace", a, []string{HeaderKey, "key-a", HeaderNamespace, "team-a"}, "a", "team-a", 0, ""},
		{"a key and another's namespace", a, []string{HeaderKey, "key-a", HeaderNamespace, "default"}, "", "", 403, answer.CodeOutOfScope},
		{"a key before what is for the sandbox", a, []string{HeaderKey, "key-a", "Authorization", "Bearer other"}, "a", "team-a", 0, ""},
		{"no key", a, nil, "", "", 401, answer.CodeMissingKey},
		{"the empty key, which an entry has", a, []string{HeaderKey, ""}, "", "", 401, answer.CodeMissingKey},
		{"another key", a, []string{HeaderKey, "key-A"}, "", "", 401, answer.CodeInvalidKey},
		{"the digest of a key", a, []string{HeaderKey, fmt.Sprintf("%x", sha256.Sum256([]byte("key-a")))}, "", "", 401, answer.CodeInvalidKey},
		{"an entry with a field that is not known", a, []string{HeaderKey, "key-c"}, "", "", 401, answer.CodeInvalidKey},
		{"an entry without a user", a, []string{HeaderKey, "key-d"}, "", "", 401, answer.CodeInvalidKey},
		{"a key of two entries", a, []string{HeaderKey, "key-e"}, "", "", 401, answer.CodeInvalidKey},
		{"a key in plain text", a, []string{HeaderKey, "key-f"}, "", "", 401, answer.CodeInvalidKey},
		{"a token", a, []string{"Authorization", "Bearer token-t"}, "t", "default", 0, ""},
		{"a token and a namespace", a, []string{"Authorization", "bearer token-t", HeaderNamespace, "team-a"}, "t", "team-a", 0, ""},
		{"a token and no namespace that can be", a, []string{"Authorization", "Bearer token-t", HeaderNamespace, "../a"}, "", "", 400, answer.CodeInvalidParameter},
		{"another token", a, []string{"Authorization", "Bearer token-u"}, "", "", 401, answer.CodeInvalidKey},
		{"the empty token", a, []string{"Authorization", "Bearer "}, "", "", 401, answer.CodeInvalidKey},
		{"another scheme", a, []string{"Authorization", "Basic a2V5LWE="}, "", "", 401, answer.CodeMissingKey},
		{"no key, but open", open, nil, "anyone", "default", 0, ""},
		{"a key, also open", open, []string{HeaderKey, "key-a"}, "a", "team-a", 0, ""},
		{"a key that was removed, though open", open, []string{HeaderKey, "key-z"}, "", "", 401, answer.CodeInvalidKey},
		{"no key, but open, in another's namespace", open, []string{HeaderNamespace, "team-a"}, "", "", 403, answer.CodeOutOfScope},
		{"a key where there are none", keyless, []string{HeaderKey, "key-a"}, "", "", 401, answer.CodeInvalidKey},
		{"a token where there are no keys", keyless, []string{"Authorization", "Bearer token-t"}, "t", "default", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			caller, err := c.a.Authenticate(request(c.headers...))
			if c.status == 0 {
				if err != nil || caller.User.GetName() != c.user || caller.Namespace != c.namespace {
					t.Fatalf("%+v, %v", caller, err)
				}
				return
			}
			var refused *answer.Error
			if !errors.As(err, &refused) || refused.Status != c.status || refused.Code != c.code {
				t.Fatalf("%+v, %v, want %d %s", caller, err, c.status, c.code)
			}
		})
	}
}

// TestTheCallersClientsAskAsTheCaller: with a key by impersonation of exactly its user and groups, with a token by the token;
// whatever the request says about it (https://github.com/projectcapsule/capsule-proxy/issues/188: there a header Connection that
// named Impersonate-User had it taken out again).
func TestTheCallersClientsAskAsTheCaller(t *testing.T) {
	cluster := clustertest.New(t, nil)
	cluster.Keys(map[string]string{"a": entryOf("key-a", `"user": "a", "groups": ["one", "two"]`)})
	cluster.Token("token-t", "t", "system:masters")
	a := run(t, cluster, nil)
	for _, c := range []struct {
		headers       []string
		authorization string
		user          string
		groups        []string
	}{
		{[]string{HeaderKey, "key-a"}, "Bearer the-gateways-own", "a", []string{"one", "two"}},
		{[]string{"Authorization", "Bearer token-t"}, "Bearer token-t", "", nil},
	} {
		caller, err := a.Authenticate(request(append(c.headers, "Connection", "Impersonate-User, Impersonate-Group",
			"Impersonate-User", "admin", "Impersonate-Group", "system:masters")...))
		if err != nil {
			t.Fatal(err)
		}
		before := len(cluster.Seen())
		_, _ = caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Get(t.Context(), "s", metav1.GetOptions{})
		_, _ = caller.Kube.CoreV1().Pods(caller.Namespace).Get(t.Context(), "s", metav1.GetOptions{})
		seen := cluster.Seen()[before:]
		if len(seen) != 2 {
			t.Fatalf("%d requests, want 2", len(seen))
		}
		for _, r := range seen {
			if r.Header.Get("Authorization") != c.authorization || r.Header.Get("Impersonate-User") != c.user ||
				fmt.Sprint(r.Header.Values("Impersonate-Group")) != fmt.Sprint(c.groups) {
				t.Errorf("%v: %s %v", c.headers, r.URL, r.Header)
			}
		}
	}
}

// TestAKeysUserHasTheGroupsOfEverybody: rights are asked by groups, and kube-apiserver adds these to whom it is asked as.
func TestAKeysUserHasTheGroupsOfEverybody(t *testing.T) {
	for _, c := range []struct {
		name         string
		groups, want []string
	}{
		{"a", nil, []string{"system:authenticated"}},
		{"a", []string{"b"}, []string{"b", "system:authenticated"}},
		{"a", []string{"system:authenticated"}, []string{"system:authenticated"}},
		{"system:serviceaccount:n:a", nil, []string{"system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"}},
		{"system:serviceaccount:n:a", []string{"b"}, []string{"b", "system:authenticated"}},
	} {
		if got := impersonated(&user.DefaultInfo{Name: c.name, Groups: c.groups}); got.GetName() != c.name || !slices.Equal(got.GetGroups(), c.want) {
			t.Errorf("%s %v: %+v, want %v", c.name, c.groups, got, c.want)
		}
	}
}

// TestKeysComeAndGo: a new one lets in, a removed one does not, and one that is changed is somebody else's; nothing is
// started anew.
func TestKeysComeAndGo(t *testing.T) {
	cluster := clustertest.New(t, nil)
	cluster.Keys(nil)
	a := run(t, cluster, nil)
	if err := a.NeedKeys(); !errors.Is(err, ErrNoKeys) {
		t.Errorf("without keys: %v", err)
	}
	is := func(key, user string) func() bool {
		return func() bool {
			caller, err := a.Authenticate(request(HeaderKey, key))
			if user == "" {
				return err != nil
			}
			return err == nil && caller.User.GetName() == user
		}
	}
	cluster.Keys(map[string]string{"a": entryOf("key-a", `"user": "a"`)})
	await(t, "a new key", is("key-a", "a"))
	if err := a.NeedKeys(); err != nil {
		t.Errorf("with a key: %v", err)
	}
	same, _ := a.Authenticate(request(HeaderKey, "key-a"))
	cluster.Keys(map[string]string{"a": entryOf("key-a", `"user": "a"`), "b": entryOf("key-b", `"user": "b"`)})
	await(t, "a second key", is("key-b", "b"))
	if again, _ := a.Authenticate(request(HeaderKey, "key-a")); again != same {
		t.Error("a key that has not changed has other clients")
	}
	cluster.Keys(map[string]string{"a": entryOf("key-a", `"user": "c"`)})
	await(t, "the removal of a key", is("key-b", ""))
	await(t, "another user of a key", is("key-a", "c"))
	cluster.Keys(nil)
	await(t, "the removal of the Secret", is("key-a", ""))
}

// TestTokensAreAskedAboutOnce, and nobody is let in, or sent away for good, while they cannot be: a lookup that fails is no
// wrong key (https://github.com/opensandbox-group/OpenSandbox/pull/979).
func TestTokensAreAskedAboutOnce(t *testing.T) {
	cluster := clustertest.New(t, nil)
	cluster.Token("token-t", "t")
	a := run(t, cluster, func(c *Config) { c.KeysName = "" })
	cluster.Down(true)
	_, err := a.Authenticate(request("Authorization", "Bearer token-t"))
	if refused := answer.Of(err); refused.Status != http.StatusServiceUnavailable || refused.RetryAfter == 0 {
		t.Errorf("while kube-apiserver is away: %v", err)
	}
	cluster.Down(false)
	var first *Caller
	for range 50 {
		caller, err := a.Authenticate(request("Authorization", "Bearer token-t"))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = caller
		}
		if caller != first {
			t.Fatal("each request of one token has clients of its own")
		}
	}
	if other, err := a.Authenticate(request("Authorization", "Bearer token-t", HeaderNamespace, "other")); err != nil || other == first {
		t.Errorf("another namespace: %+v, %v", other, err)
	}
	if n := cluster.Reviews(); n != 1 {
		t.Errorf("%d reviews for 50 requests", n)
	}
}

// TestKeysAreInNoLog: neither one that is presented, nor one that somebody has written into the Secret itself.
func TestKeysAreInNoLog(t *testing.T) {
	var log lockedBuffer
	klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log), textlogger.Verbosity(10))))
	defer klog.ClearLogger()
	cluster := clustertest.New(t, nil)
	cluster.Keys(map[string]string{
		"raw":  "key-secret-1",
		"json": `{"sha256": "key-secret-2", "user": "a"}`,
		"bad":  `{"user": "a", "key-secret-3": 1}`,
	})
	a := run(t, cluster, nil)
	for _, headers := range [][]string{{HeaderKey, "key-secret-4"}, {"Authorization", "Bearer key-secret-5"}} {
		w := httptest.NewRecorder()
		a.Middleware(http.NotFoundHandler()).ServeHTTP(w, request(headers...))
		if body := w.Body.String(); w.Code != http.StatusUnauthorized || strings.Contains(body, "key-secret") {
			t.Errorf("%d %s", w.Code, body)
		}
	}
	if said := log.String(); strings.Contains(said, "key-secret") || !strings.Contains(said, "is left out") {
		t.Errorf("the log has:\n%s", said)
	}
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// TestReadyMeansThatTheKeysAreKnown: an informer has its list a moment before its handlers have seen it, and a gateway that looks
// at its keys in between does not start.
func TestReadyMeansThatTheKeysAreKnown(t *testing.T) {
	cluster := clustertest.New(t, nil)
	cluster.Keys(map[string]string{"a": entryOf("key-a", `"user": "a"`)})
	for range 100 {
		a, err := New(Config{Config: cluster.Config(), KeysNamespace: "sandbox-system", KeysName: "keys", DefaultNamespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		var running sync.WaitGroup
		running.Go(func() { a.Run(ctx) })
		for a.Ready() != nil && ctx.Err() == nil {
			runtime.Gosched()
		}
		err = a.NeedKeys()
		cancel()
		running.Wait()
		if err != nil {
			t.Fatal(err)
		}
	}
}
