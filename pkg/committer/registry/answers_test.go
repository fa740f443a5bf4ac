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
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// TestAnswers has what registries, and proxies before them, answer to the steps of a push: the
// reason, and a message that begins with their words.
func TestAnswers(t *testing.T) {
	ctx := context.Background()
	errors := func(code, message string) string {
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q,"detail":{"a":1}}]}`, code, message)
	}
	const (
		begin    = "POST /uploads/"
		content  = "PATCH /uploads/"
		commit   = "PUT /uploads/"
		manifest = "PUT /manifests/"
		greeting = "GET /v2/"
	)
	const quota = "adding 4.8 MiB of storage resource, which when updated to current usage of 9.9 GiB will exceed the configured upper limit of 10.0 GiB."
	tests := []struct {
		name, at string
		code     int
		body     string
		reason   result.Reason
		begins   string
		advises  string
	}{
		{"Harbor's quota, at the manifest", manifest, 403, errors("DENIED", quota), result.RegistryDenied, "DENIED: " + quota, "a quota or a rule"},
		{"Harbor's quota, at the blob", commit, 403, errors("DENIED", quota), result.RegistryDenied, "DENIED: " + quota, "a quota or a rule"},
		{"Harbor's immutable tags", manifest, 412, errors("PRECONDITION", "Failed to process request due to 'a:t' configured as immutable."), result.RegistryDenied, "PRECONDITION: Failed to process", "keeps it as it is"},
		{"Harbor has no such project", begin, 404, errors("NOT_FOUND", "project ns not found"), result.RegistryDenied, "NOT_FOUND: project ns not found", "create it"},
		{"ECR has no such repository", begin, 404, errors("NAME_UNKNOWN", "The repository with name 'a/b' does not exist in the registry with id '1'"), result.RegistryDenied, "NAME_UNKNOWN: The repository", "create on push"},
		{"ECR's immutable tags", manifest, 400, errors("TAG_INVALID", "The image tag 't' already exists in the 'a/b' repository and cannot be overwritten because the tag is immutable."), result.RegistryDenied, "TAG_INVALID: The image tag", "keeps it as it is"},
		{"levels", begin, 403, errors("DENIED", "requested access to the resource is denied"), result.RegistryDenied, "DENIED: requested access", "there is no push secret with credentials"},
		{"levels, by name", begin, 400, errors("NAME_INVALID", "invalid repository name"), result.RegistryDenied, "NAME_INVALID: invalid", "--snapshot-image-template"},
		{"no credentials", begin, 401, errors("UNAUTHORIZED", "authentication required"), result.PushSecretInvalid, "UNAUTHORIZED: authentication required", "there is no push secret"},
		{"no credentials, as 403", begin, 403, errors("UNAUTHORIZED", "access to the requested resource is not authorized"), result.PushSecretInvalid, "UNAUTHORIZED: access", "there is no push secret"},
		{"a disk that is full", commit, 507, "", result.RegistryUnavailable, "Insufficient Storage (status 507", "full"},
		{"a disk that is full, as 500", commit, 500, errors("UNKNOWN", "unknown error"), result.RegistryUnavailable, "UNKNOWN: unknown error", "own trouble"},
		{"not implemented", content, 501, "", result.RegistryUnavailable, "Not Implemented (status 501", "own trouble"},
		{"Cloudflare", content, 524, "<!DOCTYPE html><html><head><title>registry | 524: A timeout occurred</title></head><body>" + strings.Repeat("<p>x</p>", 1000), result.RegistryUnavailable, "registry | 524: A timeout occurred (status 524", "own trouble"},
		{"nginx's limit of bodies", content, 413, "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n<center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx</center></body></html>", result.RegistryDenied, "413 Request Entity Too Large (status 413", "proxy-body-size"},
		{"a proxy that wants lengths", content, 411, "length required", result.RegistryDenied, "length required (status 411", "chunked"},
		{"read-only", begin, 405, errors("UNSUPPORTED", "The operation is unsupported."), result.RegistryDenied, "UNSUPPORTED: The operation", "read-only"},
		{"no OCI", manifest, 400, errors("MANIFEST_INVALID", "manifest invalid"), result.RegistryDenied, "MANIFEST_INVALID: manifest invalid", "--layer-compression=gzip"},
		{"no zstd", manifest, 415, "", result.RegistryDenied, "Unsupported Media Type (status 415", "--layer-compression=gzip"},
		{"a blob that was collected", manifest, 404, errors("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"), result.RegistryUnavailable, "MANIFEST_BLOB_UNKNOWN: blob", "garbage"},
		{"uploads that are not shared", content, 404, errors("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"), result.RegistryUnavailable, "BLOB_UPLOAD_UNKNOWN: blob", "replicas"},
		{"Docker Hub's limit", greeting, 429, errors("TOOMANYREQUESTS", "You have reached your pull rate limit."), result.RegistryUnavailable, "TOOMANYREQUESTS: You have reached", "too often"},
		{"a limit of a proxy", begin, 429, "<html><body>Too many\nrequests</body></html>", result.RegistryUnavailable, "Too many requests (status 429", "too often"},
		{"money", begin, 402, errors("DENIED", "the plan has expired"), result.RegistryDenied, "DENIED: the plan", "a quota or a rule"},
		{"a web server", greeting, 404, "<html><h1>Not Found</h1></html>", result.RegistryUnavailable, "Not Found (status 404", "is there a registry"},
		{"a web page", begin, 200, "<html><title>Sign in</title></html>", result.RegistryUnavailable, "Sign in (status 200", "is there one"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			method, path, _ := strings.Cut(test.at, " ")
			m := misbehave(t, fault{method: method, path: path, do: answer(test.code, test.body)})
			to := target(t, Options{Insecure: true}, host(m.Server)+"/a/b:t")
			ctx := InAHurry(ctx)
			err := to.Upload(ctx, static.NewLayer([]byte("x"), types.OCILayer))
			if err == nil {
				err = to.Publish(ctx, []byte("{}"))
			}
			if reasonOf(err) != test.reason {
				t.Fatalf("got %v (%s), want %s", err, reasonOf(err), test.reason)
			}
			said := err.Error()
			if !strings.HasPrefix(said, test.begins) || !strings.Contains(said, test.advises) || !strings.Contains(said, to.String()) || len(said) > 800 || strings.ContainsAny(said, "\n<") {
				t.Errorf("got %q, want it to begin with %q, advise %q and name %s", said, test.begins, test.advises, to)
			}
		})
	}
}

// TestTokenServers refuse in their own ways.
func TestTokenServers(t *testing.T) {
	for code, want := range map[int]result.Reason{400: result.PushSecretInvalid, 401: result.PushSecretInvalid, 403: result.PushSecretInvalid, 429: result.RegistryUnavailable, 502: result.RegistryUnavailable} {
		m := misbehave(t, fault{method: http.MethodGet, path: "/token", do: answer(code, `{"details":"incorrect username or password"}`)})
		m.with(fault{method: http.MethodGet, path: "/v2/", do: func(w http.ResponseWriter, r *http.Request) {
			answer(http.StatusUnauthorized, "", "WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s"`)(w, r)
		}})
		_, err := target(t, Options{Insecure: true}, host(m.Server)+"/a/b:t").Begin(InAHurry(context.Background()))
		if reasonOf(err) != want || !strings.Contains(err.Error(), "incorrect username or password") {
			t.Errorf("%d: got %v (%s), want %s", code, err, reasonOf(err), want)
		}
	}
}

// TestAnswersAreDocumented compares the table of docs/troubleshooting.md with the one here.
func TestAnswersAreDocumented(t *testing.T) {
	var table strings.Builder
	table.WriteString("| the registry answers | reason | what the message advises |\n| --- | --- | --- |\n")
	for _, m := range meanings {
		fmt.Fprintf(&table, "| %s | `%s` | %s |\n", m.answer, m.reason, m.advice)
	}
	page, err := os.ReadFile("../../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte(table.String())) {
		t.Errorf("docs/troubleshooting.md has to have this table:\n%s", &table)
	}
}
