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

package registry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

const unknownUpload = `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}`

// TestUploadsAreBegunAnew has uploads that fail on the way, while containers are frozen: how
// often the layer is read for them, and that none is left behind.
func TestUploadsAreBegunAnew(t *testing.T) {
	taking := func(then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			then(w, r)
		}
	}
	tests := map[string]struct {
		faults   []fault
		readings int
		posts    int
		reason   result.Reason
	}{
		"nothing fails":        {nil, 1, 1, ""},
		"POST is busy":         {[]fault{{method: "POST", path: "/uploads/", times: 2, do: answer(503, "")}}, 1, 3, ""},
		"POST is cut":          {[]fault{{method: "POST", path: "/uploads/", times: 2, do: cut}}, 1, 3, ""},
		"PATCH is busy":        {[]fault{{method: "PATCH", path: "/uploads/", times: 1, do: taking(answer(503, ""))}}, 2, 2, ""},
		"PATCH is cut":         {[]fault{{method: "PATCH", path: "/uploads/", times: 1, do: taking(cut)}}, 2, 2, ""},
		"PATCH is cut always":  {[]fault{{method: "PATCH", path: "/uploads/", do: taking(cut)}}, 2, 2, result.RegistryUnavailable},
		"PATCH is too large":   {[]fault{{method: "PATCH", path: "/uploads/", do: taking(answer(413, ""))}}, 1, 1, result.RegistryDenied},
		"PATCH is forgotten":   {[]fault{{method: "PATCH", path: "/uploads/", times: 1, do: answer(404, unknownUpload)}}, 2, 2, ""},
		"PATCH to another one": {[]fault{{method: "PATCH", path: "/uploads/", times: 1, do: answer(416, "")}}, 2, 2, ""},
		"PATCH is well":        {[]fault{{method: "PATCH", path: "/uploads/", late: true, do: answer(200, "")}}, 1, 1, ""},
		"PATCH is a web page":  {[]fault{{method: "PATCH", path: "/uploads/", do: taking(answer(200, "<html>"))}}, 2, 2, result.RegistryUnavailable},
		"PATCH ends too soon":  {[]fault{{method: "PATCH", path: "/uploads/", times: 1, do: taking(answer(202, ""))}}, 2, 2, ""},
		"PUT is busy":          {[]fault{{method: "PUT", path: "/uploads/", times: 2, do: answer(502, "")}}, 1, 1, ""},
		"PUT is busy always":   {[]fault{{method: "PUT", path: "/uploads/", do: answer(502, "")}}, 1, 1, result.RegistryUnavailable},
		"PUT is cut":           {[]fault{{method: "PUT", path: "/uploads/", times: 1, do: cut}}, 1, 1, ""},
		"PUT is forgotten":     {[]fault{{method: "PUT", path: "/uploads/", times: 1, do: answer(404, unknownUpload)}}, 2, 2, ""},
		"PUT of other bytes":   {[]fault{{method: "PUT", path: "/uploads/", times: 1, do: answer(400, `{"errors":[{"code":"DIGEST_INVALID"}]}`)}}, 2, 2, ""},
		"PUT's answer is lost": {[]fault{{method: "PUT", path: "/uploads/", times: 1, late: true, do: cut}, {method: "PUT", path: "/uploads/", do: answer(404, unknownUpload)}}, 1, 1, ""},
		"PUT's answer is 504":  {[]fault{{method: "PUT", path: "/uploads/", times: 1, late: true, do: answer(504, "")}, {method: "PUT", path: "/uploads/", do: answer(404, unknownUpload)}}, 1, 1, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := InAHurry(context.Background())
			m := misbehave(t, test.faults...)
			m.with(fault{method: "DELETE", path: "/uploads/", do: answer(204, "")})
			to := target(t, Options{Insecure: true}, host(m.Server)+"/a:t")
			readings := 0
			l := layer.New(ctx, func(ctx context.Context, w io.Writer) error {
				readings++
				return noise(4<<20)(ctx, w)
			})
			err := to.Upload(ctx, l)
			if reasonOf(err) != test.reason {
				t.Fatalf("got %v (%s), want %q", err, reasonOf(err), test.reason)
			}
			if posts := m.count("POST", "/uploads/"); readings != test.readings || posts != test.posts {
				t.Errorf("read %d times for %d uploads, want %d and %d", readings, posts, test.readings, test.posts)
			}
			if err == nil {
				hash, _ := l.Digest()
				if there, err := to.has(ctx, hash); !there || err != nil {
					t.Errorf("the layer is there: %v, %v", there, err)
				}
			}
			if err := to.client.CancelUploads(ctx); err != nil {
				t.Error(err)
			}
			left := readings - 1
			if err != nil {
				left = readings
			}
			if n := m.count("DELETE", "/uploads/"); n != left {
				t.Errorf("%d uploads were cancelled, %d were left", n, left)
			}
		})
	}
}

// TestPublishedAllTheSame has manifests that are there although the registry did not say so,
// and one that is not ours.
func TestPublishedAllTheSame(t *testing.T) {
	const immutable = `{"errors":[{"code":"TAG_INVALID","message":"The image tag already exists and is immutable."}]}`
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
	tests := map[string]struct {
		faults []fault
		before string // is what the tag names already
		reason result.Reason
	}{
		"the connection is cut":         {[]fault{{method: "PUT", path: "/manifests/", times: 1, late: true, do: cut}, {method: "PUT", path: "/manifests/", do: answer(400, immutable)}}, "", ""},
		"a proxy has lost it":           {[]fault{{method: "PUT", path: "/manifests/", times: 1, late: true, do: answer(502, "")}, {method: "PUT", path: "/manifests/", do: answer(412, "")}}, "", ""},
		"a proxy always loses it":       {[]fault{{method: "PUT", path: "/manifests/", late: true, do: answer(504, "")}}, "", ""},
		"no header tells of the digest": {[]fault{{method: "PUT", path: "/manifests/", times: 1, late: true, do: answer(500, "")}, {method: "PUT", path: "/manifests/", do: answer(409, "")}, {method: "GET", path: "/manifests/t", do: answer(200, string(manifest))}}, "", ""},
		"the tag is another's":          {[]fault{{method: "PUT", path: "/manifests/", after: 1, do: answer(400, immutable)}}, `{"schemaVersion":2}`, result.RegistryDenied},
		"another digest is told":        {[]fault{{method: "PUT", path: "/manifests/", late: true, do: answer(201, "", "Docker-Content-Digest", "sha512:0")}}, "", ""},
		"another is kept":               {[]fault{{method: "PUT", path: "/manifests/", do: answer(201, "", "Docker-Content-Digest", "sha256:0")}}, "", result.RegistryDenied},
		"it was refused":                {[]fault{{method: "PUT", path: "/manifests/", do: answer(400, immutable)}}, "", result.RegistryDenied},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := InAHurry(context.Background())
			m := misbehave(t, test.faults...)
			to := target(t, Options{Insecure: true}, host(m.Server)+"/a:t")
			if test.before != "" {
				if err := to.Publish(ctx, []byte(test.before)); err != nil {
					t.Fatal(err)
				}
			}
			if err := to.Publish(ctx, manifest); reasonOf(err) != test.reason {
				t.Errorf("got %v (%s), want %q", err, reasonOf(err), test.reason)
			}
		})
	}
}

// TestNames compares the manifest itself.
func TestNames(t *testing.T) {
	ctx := context.Background()
	to := target(t, Options{Insecure: true}, host(misbehave(t).Server)+"/a:t")
	if err := to.Publish(ctx, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if !to.names(ctx, digest.FromString("{}")) || to.names(ctx, digest.FromString("{ }")) {
		t.Error("the tag names another manifest than it does")
	}
}

// TestNextTry is how long a request waits for its next try.
func TestNextTry(t *testing.T) {
	soon := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}}
	late := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"3600"}}}
	dated := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}}
	never := &http.Response{StatusCode: http.StatusInternalServerError, Header: http.Header{"Retry-After": {"-1"}}}
	tests := []struct {
		try    int
		answer *http.Response
		err    error
		frozen bool
		pause  time.Duration
		again  bool
	}{
		{try: 1, answer: soon, pause: 7 * time.Second, again: true},
		{try: 1, answer: soon, frozen: true, pause: 2 * time.Second, again: true},
		{try: 3, answer: soon},
		{try: 1, answer: late, pause: 30 * time.Second, again: true},
		{try: 1, answer: dated, pause: 30 * time.Second, again: true},
		{try: 1, answer: never, pause: 500 * time.Millisecond, again: true},
		{try: 2, answer: never, pause: 1500 * time.Millisecond, again: true},
		{try: 1, answer: &http.Response{StatusCode: http.StatusInsufficientStorage}},
		{try: 1, answer: &http.Response{StatusCode: http.StatusOK}},
		{try: 1, err: &silentError{}, again: true},
		{try: 2, err: &silentError{}},
		{try: 1, err: &connectionError{io.ErrUnexpectedEOF}, pause: 500 * time.Millisecond, again: true},
		{try: 1, err: context.Canceled},
		{try: 1, err: io.ErrNoProgress},
	}
	for _, test := range tests {
		pause, again := nextTry(test.try, test.answer, test.err, test.frozen)
		if again != test.again || again && pause != test.pause {
			t.Errorf("after try %d with %v, %v (frozen %v): %s, %v; want %s, %v", test.try, test.answer, test.err, test.frozen, pause, again, test.pause, test.again)
		}
	}
}

// TestRetryAfterIsNotLongerThanTheContext lasts: then the answer tells more than a time that is up.
func TestRetryAfterIsNotLongerThanTheContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m := misbehave(t, fault{method: "POST", path: "/uploads/", do: answer(429, "", "Retry-After", "25")})
	began := time.Now()
	_, err := target(t, Options{Insecure: true}, host(m.Server)+"/a:t").Begin(ctx)
	if reasonOf(err) != result.RegistryUnavailable || !strings.Contains(err.Error(), "429") || time.Since(began) > 15*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// TestATokenForThePushAlone has a registry that greets anybody.
func TestATokenForThePushAlone(t *testing.T) {
	inner := inMemory()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			if user, password, _ := r.BasicAuth(); user != "robot$a" || password != "p" || !strings.Contains(r.URL.Query().Get("scope"), "push") {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = io.WriteString(w, `{"token":"t"}`)
		case r.URL.Path != "/v2/" && r.Header.Get("Authorization") != "Bearer t":
			answer(http.StatusUnauthorized, "", "WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s",scope="repository:a:pull,push"`)(w, r)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	defer s.Close()
	ctx := context.Background()
	for password, want := range map[string]result.Reason{"p": "", "wrong": result.PushSecretInvalid} {
		to := target(t, Options{Insecure: true, Config: []byte(`{"auths":{"` + host(s) + `":{"username":"robot$a","password":"` + password + `"}}}`)}, host(s)+"/a:t")
		_, err := to.Begin(ctx)
		if err == nil {
			err = to.Upload(ctx, layer.New(ctx, noise(1<<20)))
		}
		if err == nil {
			err = to.Publish(ctx, []byte("{}"))
		}
		if reasonOf(err) != want {
			t.Errorf("with the password %q: %v (%s)", password, err, reasonOf(err))
		}
	}
}
