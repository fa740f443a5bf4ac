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

package answer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// TestOf is the table of what becomes of an error.
func TestOf(t *testing.T) {
	sandboxes := schema.GroupResource{Group: "lifecycle.opensandbox.io", Resource: "sandboxes"}
	snapshots := schema.GroupResource{Group: "lifecycle.opensandbox.io", Resource: "sandboxsnapshots"}
	later := &Error{Status: 503, Code: "A", Message: "b", RetryAfter: 1500 * time.Millisecond}
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
		says   string
		again  bool
	}{
		{"a handler's", later, 503, "A", "b", true},
		{"a handler's, wrapped", fmt.Errorf("creating: %w", later), 503, "A", "b", true},
		{"no such sandbox", apierrors.NewNotFound(sandboxes, "a"), 404, CodeSandboxNotFound, `"a" not found`, false},
		{"no such snapshot", fmt.Errorf("x: %w", apierrors.NewNotFound(snapshots, "a")), 404, CodeSnapshotNotFound, `"a" not found`, false},
		{"no such namespace", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "n"), 409, CodeInvalidState, `namespaces "n" not found`, false},
		{"a verb that is refused", apierrors.NewConflict(sandboxes, "a", errors.New("it is Pending")), 409, CodeInvalidState, "it is Pending", false},
		{"a snapshot that is refused", apierrors.NewConflict(snapshots, "a", errors.New("it is in use")), 409, CodeSnapshotInvalidState, "it is in use", false},
		{"a name that is taken", apierrors.NewAlreadyExists(sandboxes, "a"), 409, CodeInvalidState, "already exists", false},
		{"no right", apierrors.NewForbidden(sandboxes, "a", errors.New(`User "u" cannot get`)), 403, CodeInsufficientRole, `User "u"`, false},
		{"a quota", apierrors.NewForbidden(sandboxes, "a", errors.New("exceeded quota: five, requested: count/sandboxes=1")), 403, CodeQuotaExceeded, "five", false},
		{"no right to impersonate", apierrors.NewForbidden(schema.GroupResource{Resource: "users"}, "u", errors.New("cannot impersonate")), 500, CodeAPIError, "administrator", false},
		{"an expired token", apierrors.NewUnauthorized("expired"), 401, CodeInvalidKey, "expired", false},
		{"an invalid object", apierrors.NewInvalid(schema.GroupKind{Kind: "Sandbox"}, "a", field.ErrorList{field.Required(field.NewPath("spec", "template"), "")}), 400, CodeInvalidParameter, "spec.template", false},
		{"a bad request", apierrors.NewBadRequest("what?"), 400, CodeInvalidParameter, "what?", false},
		{"too many requests", apierrors.NewTooManyRequests("slowly", 7), 429, CodeAPIError, "slowly", true},
		{"a server that is away", apierrors.NewServiceUnavailable("away"), 503, CodeUnavailable, "away", true},
		{"a server that is slow", apierrors.NewTimeoutError("slow", 3), 503, CodeUnavailable, "slow", true},
		{"a store that is slow", apierrors.NewServerTimeout(sandboxes, "get", 1), 503, CodeUnavailable, "sandboxes", true},
		{"a webhook that fails", apierrors.NewInternalError(errors.New("failed calling webhook")), 500, CodeAPIError, "webhook", false},
		{"a Status of nothing", &apierrors.StatusError{ErrStatus: metav1.Status{Code: 418}}, 418, CodeAPIError, "418", false},
		{"a Status of success", &apierrors.StatusError{ErrStatus: metav1.Status{Code: 200}}, 500, CodeAPIError, "200", false},
		{"no connection", &url.Error{Op: "Get", URL: "https://10.0.0.1", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}, 503, CodeUnavailable, "kube-apiserver", true},
		{"no answer in time", fmt.Errorf("x: %w", context.DeadlineExceeded), 503, CodeUnavailable, "kube-apiserver", true},
		{"anything else", errors.New("a secret"), 500, CodeUnknown, "X-Request-ID", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			Write(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", http.NoBody), c.err)
			body := w.Body.String()
			if w.Code != c.status || !strings.Contains(body, `"code":"`+c.code+`"`) || (w.Header().Get("Retry-After") != "") != c.again {
				t.Errorf("%d %v %s", w.Code, w.Header(), body)
			}
			if !strings.Contains(strings.ReplaceAll(body, `\"`, `"`), c.says) || strings.Contains(body, "a secret") || strings.Contains(body, "10.0.0.1") {
				t.Errorf("%s", body)
			}
		})
	}
}

// TestAnAPIThatIsNotServedIsNoMissingSandbox: client-go makes a Status of kube-apiserver's plain "404 page not found", and it
// looks as if the sandbox were gone, which a client that deletes takes for done
// (https://github.com/kubernetes/kubernetes/pull/57943).
func TestAnAPIThatIsNotServedIsNoMissingSandbox(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	client, err := versioned.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	err = client.LifecycleV1alpha1().Sandboxes("default").Delete(t.Context(), "a", metav1.DeleteOptions{})
	if a := Of(err); a.Status != http.StatusServiceUnavailable || a.RetryAfter == 0 {
		t.Errorf("%v is answered as %v", err, a)
	}
}

// TestBadInputIsNamed: each field that cannot be as it is, by its path.
func TestBadInputIsNamed(t *testing.T) {
	server := handlerOf(t)
	const create = "POST /sandboxes"
	for _, c := range []struct {
		request, body string
		status        int
		code, says    string
	}{
		{create, `{"timeout":"60"}`, 400, CodeInvalidParameter, "timeout: "},
		{create, `{"timeout":59}`, 400, CodeInvalidParameter, "timeout: value 59"},
		{create, `{"timeout":0}`, 400, CodeInvalidParameter, "timeout: value 0"},
		{create, `{"timeout":1e99}`, 400, CodeInvalidParameter, "timeout: "},
		{create, `{"timeout":99999999999999999999}`, 400, CodeInvalidParameter, "timeout: "},
		{create, `{"timeout":60.5}`, 400, CodeInvalidParameter, "timeout: "},
		{create, `{"image":"busybox"}`, 400, CodeInvalidParameter, "image: "},
		{create, `{"image":{}}`, 400, CodeInvalidParameter, "image.uri: is missing"},
		{create, `{"image":{"uri":5}}`, 400, CodeInvalidParameter, "image.uri: "},
		{create, `{"image":{"uri":"a","auth":{"password":5}}}`, 400, CodeInvalidParameter, "image.auth.password: "},
		{create, `{"image":{"uri":"a","tag":"b"}}`, 400, CodeInvalidParameter, "image.tag: is no field"},
		{create, `{"networkpolicy":{}}`, 400, CodeInvalidParameter, "networkpolicy: is no field"},
		{create, `{"entrypoint":[]}`, 400, CodeInvalidEntrypoint, "entrypoint: "},
		{create, `{"entrypoint":"sh"}`, 400, CodeInvalidEntrypoint, "entrypoint: "},
		{create, `{"entrypoint":["sh",1]}`, 400, CodeInvalidEntrypoint, "entrypoint"},
		{create, `{"metadata":{"a":1}}`, 400, CodeInvalidMetadataLabel, "metadata.a: "},
		{create, `{"env":{"a":1}}`, 400, CodeInvalidParameter, "env.a: "},
		{create, `{"env":{"a.b \"c":1}}`, 400, CodeInvalidParameter, `env.a.b "c: `},
		{create, `{"platform":{"os":"beos","arch":"amd64"}}`, 400, CodeInvalidParameter, "platform.os: "},
		{create, `{"volumes":[{"name":"a","mountPath":"/a"},{"name":"A","mountPath":"/b"}]}`, 400, CodeInvalidParameter, "volumes[1].name: "},
		{create, `{"volumes":[{"mountPath":"/a"}]}`, 400, CodeInvalidParameter, ".name: is missing"},
		{create, `{"secureAccess":"yes"}`, 400, CodeInvalidParameter, "secureAccess: "},
		{create, `{"image":`, 400, CodeInvalidParameter, "no JSON"},
		{create, `{"image":null} {}`, 400, CodeInvalidParameter, "no JSON"},
		{create, `{"image":null,}`, 400, CodeInvalidParameter, "no JSON"},
		{create, "\x00", 400, CodeInvalidParameter, "no JSON"},
		{create, ``, 400, CodeInvalidParameter, "empty"},
		{create, `[]`, 400, CodeInvalidParameter, "the request's body"},
		{create, `null`, 400, CodeInvalidParameter, "the request's body"},
		{create, `{"timeout":null,"networkPolicy":null,"image":null,"entrypoint":null,"env":null,"volumes":null,"platform":null,"lifecycle":null,"credentialProxy":null}`, 501, CodeNotSupported, ""},
		{"POST /sandboxes/a/renew-expiration", `{"expiresAt":"soon"}`, 400, CodeInvalidExpiration, "expiresAt: is no time"},
		{"POST /sandboxes/a/renew-expiration", `{"expiresAt":5}`, 400, CodeInvalidExpiration, "expiresAt: "},
		{"POST /sandboxes/a/renew-expiration", `{}`, 400, CodeInvalidExpiration, "expiresAt: is missing"},
		{"POST /sandboxes/a/renew-expiration", `{"expiresAt":"2027-01-01T00:00:00Z"}`, 501, CodeNotSupported, ""},
		{"PATCH /sandboxes/a/metadata", `{"b":5}`, 400, CodeInvalidMetadataLabel, "b: "},
		{"POST /sandboxes/a/snapshots", ``, 501, CodeNotSupported, ""},
		{"POST /sandboxes/a/snapshots", `{"name":""}`, 400, CodeInvalidParameter, "name: "},
		{"GET /sandboxes?pageSize=0", ``, 400, CodeInvalidParameter, "pageSize: "},
		{"GET /sandboxes?pageSize=201", ``, 400, CodeInvalidParameter, "pageSize: "},
		{"GET /sandboxes?pageSize=x", ``, 400, CodeInvalidParameter, "pageSize: "},
		{"GET /sandboxes?pageSize=1&pageSize=2", ``, 400, CodeInvalidParameter, "pageSize: "},
		{"GET /sandboxes?page=0", ``, 400, CodeInvalidParameter, "page: "},
		{"GET /sandboxes?page=99999999999", ``, 400, CodeInvalidParameter, "page: "},
		{"GET /sandboxes/a/endpoints/0", ``, 400, CodeInvalidPort, "port: "},
		{"GET /sandboxes/a/endpoints/65536", ``, 400, CodeInvalidPort, "port: "},
		{"GET /sandboxes/a/endpoints/http", ``, 400, CodeInvalidPort, "port: "},
		{"GET /sandboxes/a/endpoints/80?use_server_proxy=maybe", ``, 400, CodeInvalidParameter, "use_server_proxy: "},
		{"GET /sandboxes/a/endpoints/80?expires=-1", ``, 400, CodeInvalidExpiration, "expires: "},
		{"GET /sandboxes/A", ``, 404, CodeSandboxNotFound, "sandboxId: "},
		{"GET /snapshots/a_b", ``, 404, CodeSnapshotNotFound, "snapshotId: "},
		{"GET /sandboxes/" + strings.Repeat("a", 254), ``, 400, CodeInvalidParameter, "sandboxId: "},
	} {
		method, target, _ := strings.Cut(c.request, " ")
		r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(c.body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		body := strings.ReplaceAll(w.Body.String(), `\"`, `"`)
		if w.Code != c.status || !strings.Contains(body, `"code":"`+c.code+`"`) || !strings.Contains(body, c.says) {
			t.Errorf("%s %s: %d %s, want %d %s %q", c.request, c.body, w.Code, body, c.status, c.code, c.says)
		}
	}
}

func TestABodyOfAnotherTypeAndOneThatIsTooLarge(t *testing.T) {
	server := handlerOf(t)
	for _, c := range []struct {
		media  string
		limit  int64
		status int
		code   string
	}{
		{"text/plain", 1000, 415, CodeUnsupportedMediaType},
		{"application/json", 10, 413, CodeBodyTooLarge},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/sandboxes", io.NopCloser(strings.NewReader(`{"env":{"a":"b"}}`)))
		r.Header.Set("Content-Type", c.media)
		w := httptest.NewRecorder()
		r.Body = http.MaxBytesReader(w, r.Body, c.limit)
		server.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.code) {
			t.Errorf("%s: %d %s", c.media, w.Code, w.Body)
		}
	}
}

// handlerOf is the generated code with nothing behind it.
func handlerOf(t testing.TB) http.Handler {
	t.Helper()
	server, err := httpapi.NewServer(none{}, let{}, httpapi.WithErrorHandler(func(_ context.Context, w http.ResponseWriter, r *http.Request, err error) {
		Write(w, r, err)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return server
}

type none struct{ httpapi.UnimplementedHandler }

func (none) NewError(ctx context.Context, err error) *httpapi.ErrorStatusCodeWithHeaders {
	return Encoded(ctx, err)
}

type let struct{}

func (let) HandleApiKey(ctx context.Context, _ string, _ httpapi.ApiKey) (context.Context, error) {
	return ctx, nil
}

func (let) HandleBearer(ctx context.Context, _ string, _ httpapi.Bearer) (context.Context, error) {
	return ctx, nil
}
