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
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// badCall is a request to the gateway that must be refused, naming what is wrong with it.
type badCall struct {
	name, method, path, body string
	status                   int
	code                     string
	names                    string
}

// creation is a valid request with one field replaced; JSON that is empty leaves the field out.
func creation(field, value string) string {
	fields := map[string]json.RawMessage{
		"image": json.RawMessage(`{"uri":"python:3.12"}`), "entrypoint": json.RawMessage(`["tail","-f","/dev/null"]`),
		"resourceLimits": json.RawMessage(`{"cpu":"500m","memory":"512Mi"}`), "timeout": json.RawMessage("600"),
	}
	if delete(fields, field); value != "" {
		fields[field] = json.RawMessage(value)
	}
	var all []string
	for name, content := range fields {
		all = append(all, fmt.Sprintf("%q:%s", name, content))
	}
	return "{" + strings.Join(all, ",") + "}"
}

func TestBadInputOverHTTP(t *testing.T) {
	g := newGateway(t)
	g.create(sandbox("demo", func(s *v1alpha1.Sandbox) {
		at := metav1.NewTime(metav1.Now().Add(3600e9))
		s.Spec.ExpireTime = &at
	}))
	g.asRunning("demo")
	snapshot := g.snapshot(g.is(g.asks(http.MethodPost, "/v1/sandboxes/demo/snapshots", "{}"), 202, "")).ID
	before := g.everything()

	const (
		parameter = "SANDBOX::INVALID_PARAMETER"
		label     = "SANDBOX::INVALID_METADATA_LABEL"
		port      = "DOCKER::INVALID_PORT"
		expiry    = "DOCKER::INVALID_EXPIRATION"
		entry     = "DOCKER::INVALID_ENTRYPOINT"
		noSandbox = "KUBERNETES::SANDBOX_NOT_FOUND"
		noneSuch  = "SNAPSHOT::NOT_FOUND"
		offered   = "SANDBOX::API_NOT_SUPPORTED"
	)
	long := func(n int) string { return strings.Repeat("a", n) }
	var calls []badCall
	add := func(name, method, path, body string, status int, code, names string) {
		calls = append(calls, badCall{name, method, path, body, status, code, names})
	}
	create := func(name, field, value string, status int, code, names string) {
		add("create: "+name, http.MethodPost, "/v1/sandboxes", creation(field, value), status, code, names)
	}

	// Bodies that are none, of every route that takes one.
	for _, route := range []struct{ method, path string }{
		{http.MethodPost, "/v1/sandboxes"}, {http.MethodPost, "/v1/sandboxes/demo/renew-expiration"}, {http.MethodPatch, "/v1/sandboxes/demo/metadata"},
		{http.MethodPost, "/v1/sandboxes/demo/snapshots"}, {http.MethodPost, "/v1/metrics/events"},
	} {
		at := route.method + " " + route.path + ": "
		code := ""
		add(at+"no JSON", route.method, route.path, "hello", 400, code, "JSON")
		add(at+"half of it", route.method, route.path, `{"name":`, 400, code, "JSON")
		add(at+"two of them", route.method, route.path, `{}{}`, 400, code, "")
		add(at+"an array", route.method, route.path, `[]`, 400, code, "")
		add(at+"a string", route.method, route.path, `"x"`, 400, code, "")
		add(at+"a number", route.method, route.path, `7`, 400, code, "")
		add(at+"no UTF-8", route.method, route.path, "{\"\xff\xfe\":1}", 400, code, "")
		add(at+"zeros", route.method, route.path, strings.Repeat("\x00", 100), 400, code, "JSON")
		add(at+"deep arrays", route.method, route.path, strings.Repeat("[", 100_000), 400, code, "")
		add(at+"10 MB", route.method, route.path, `{"a":"`+long(10<<20)+`"}`, 413, "GENERAL::BODY_TOO_LARGE", "bytes")
	}
	add("create: nothing", http.MethodPost, "/v1/sandboxes", "", 400, parameter, "body")

	create("a field that there is not", "imgae", `{}`, 400, parameter, "imgae")
	create("neither image nor snapshot", "image", "", 400, parameter, "image")
	create("both", "snapshotId", `"`+snapshot+`"`, 400, parameter, "snapshotId")
	create("an image that is a number", "image", "3", 400, parameter, "image")
	create("an image that is a string", "image", `"python"`, 400, parameter, "image")
	create("an image without a name", "image", `{}`, 400, parameter, "image.uri")
	create("an empty name", "image", `{"uri":""}`, 400, parameter, "image.uri")
	create("a name that is none", "image", `{"uri":"UPPER CASE"}`, 400, parameter, "image.uri")
	create("no entrypoint", "entrypoint", "", 400, entry, "entrypoint")
	create("an empty entrypoint", "entrypoint", "[]", 400, entry, "entrypoint")
	create("an entrypoint that is a string", "entrypoint", `"bash"`, 400, entry, "entrypoint")
	create("an entrypoint of numbers", "entrypoint", `[1]`, 400, entry, "entrypoint")
	for _, timeout := range []string{"0", "59", "-1", "1e300", "99999999999999999999", "9223372036854775807", "60.5", `"600"`, "true", "[]"} {
		create("timeout "+timeout, "timeout", timeout, 400, parameter, "timeout")
	}
	create("no limits", "resourceLimits", "", 400, parameter, "resourceLimits")
	create("limits that are a list", "resourceLimits", "[]", 400, parameter, "resourceLimits")
	create("much memory", "resourceLimits", `{"memory":"much"}`, 400, parameter, "memory")
	create("negative memory", "resourceLimits", `{"memory":"-1Gi"}`, 400, parameter, "memory")
	create("an environment of numbers", "env", `{"A":1}`, 400, parameter, "env")
	create("a variable without a name", "env", `{"":"x"}`, 400, parameter, "env")
	create("metadata of numbers", "metadata", `{"a":1}`, 400, label, "metadata")
	create("a key over 63", "metadata", `{"`+long(64)+`":"x"}`, 400, label, long(64))
	create("a value over 63", "metadata", `{"a":"`+long(64)+`"}`, 400, label, "metadata")
	create("a key that is none", "metadata", `{"a b":"x"}`, 400, label, "a b")
	create("an empty key", "metadata", `{"":"x"}`, 400, label, "metadata")
	for _, key := range []string{"opensandbox.io/id", "lifecycle.opensandbox.io/sandbox-uid", "kubernetes.io/name", "app.kubernetes.io/name", "node.k8s.io/x"} {
		create("the reserved key "+key, "metadata", `{"`+key+`":"x"}`, 400, label, key)
	}
	create("a snapshot that there is not", "image", `null,"snapshotId":"missing"`, 404, noneSuch, "missing")
	create("a snapshot that cannot be", "image", `null,"snapshotId":"../x"`, 0, "", "snapshotId")
	create("a snapshot that is not ready", "image", `null,"snapshotId":"`+snapshot+`"`, 409, "SNAPSHOT::NOT_READY", snapshot)
	create("a volume without a source", "volumes", `[{"name":"a","mountPath":"/a"}]`, 400, "", "volumes[0]")
	create("a volume over 63", "volumes", `[{"name":"`+long(64)+`","mountPath":"/a","pvc":{"claimName":"a"}}]`, 400, "", "volumes[0].name")
	create("two volumes of a name", "volumes", `[{"name":"a","mountPath":"/a","pvc":{"claimName":"a"}},{"name":"a","mountPath":"/b","pvc":{"claimName":"b"}}]`, 400, "", "volumes[1]")
	create("a mount path with ..", "volumes", `[{"name":"a","mountPath":"/a/../b","pvc":{"claimName":"a"}}]`, 400, "", "volumes[0].mountPath")
	create("a relative mount path", "volumes", `[{"name":"a","mountPath":"a","pvc":{"claimName":"a"}}]`, 400, "", "volumes[0].mountPath")
	create("a sub-path with ..", "volumes", `[{"name":"a","mountPath":"/a","subPath":"../x","pvc":{"claimName":"a"}}]`, 400, "", "volumes[0].subPath")
	create("a folder of the node", "volumes", `[{"name":"a","mountPath":"/a","host":{"path":"/etc"}}]`, 0, "", "volumes[0].host")
	create("a folder of the node with ..", "volumes", `[{"name":"a","mountPath":"/a","host":{"path":"/data/../etc"}}]`, 0, "", "volumes[0].host")
	create("an unknown platform", "platform", `{"os":"plan9","arch":"amd64"}`, 400, parameter, "platform.os")
	create("an unknown processor", "platform", `{"os":"linux","arch":"pdp11"}`, 400, parameter, "platform.arch")
	// A field that would make something safer is never taken and not heeded.
	create("a network policy", "networkPolicy", `{"defaultAction":"deny","egress":[]}`, 501, offered, "networkPolicy")
	create("an empty network policy", "networkPolicy", `{}`, 501, offered, "networkPolicy")
	create("a credential proxy", "credentialProxy", `{"enabled":true}`, 501, offered, "credentialProxy")
	create("a template", "image", `null,"templateId":"a"`, 501, offered, "templateId")
	create("Windows", "platform", `{"os":"windows","arch":"amd64"}`, 501, offered, "platform.os")
	create("OSS", "volumes", `[{"name":"a","mountPath":"/a","ossfs":{"bucket":"b"}}]`, 501, offered, "ossfs")
	create("a pool", "extensions", `{"poolRef":"a"}`, 0, "", "poolRef")

	for _, resource := range []string{"sandboxes", "snapshots"} {
		list := "/v1/" + resource
		for _, query := range []struct{ is, names string }{
			{"page=0", "page"}, {"page=-1", "page"}, {"page=x", "page"}, {"page=1.5", "page"}, {"page=99999999999", "page"}, {"page=", "page"},
			{"pageSize=0", "pageSize"}, {"pageSize=201", "pageSize"}, {"pageSize=-1", "pageSize"}, {"pageSize=many", "pageSize"}, {"pageSize=", "pageSize"},
			{"state=Asleep", "state"}, {"state=", "state"}, {"state=Running&state=Asleep", "state"}, {"state=" + long(100), "state"}, {"state=%00", "state"},
		} {
			add(resource+"?"+query.is, http.MethodGet, list+"?"+query.is, "", 400, parameter, query.names)
		}
	}
	for name, metadata := range map[string]string{
		"no pair": "a", "no key": "=x", "a key that is none": "a b=x", "a reserved key": "opensandbox.io/id=x", "a value over 63": "a=" + long(64), "half an escape": "a=%", "a semicolon": "a=1;b=2",
	} {
		add("metadata: "+name, http.MethodGet, "/v1/sandboxes?metadata="+url.QueryEscape(metadata), "", 400, "", "metadata")
	}
	add("no sandbox's snapshots", http.MethodGet, "/v1/snapshots?sandboxId=", "", 400, parameter, "sandboxId")
	add("a sandbox's name beyond all names", http.MethodGet, "/v1/snapshots?sandboxId="+long(1000), "", 400, parameter, "sandboxId")
	add("no name", http.MethodGet, "/v1/snapshots?name=", "", 400, parameter, "name")
	add("a name over 256", http.MethodGet, "/v1/snapshots?name="+long(257), "", 400, parameter, "name")

	add("a snapshot's name that is empty", http.MethodPost, "/v1/sandboxes/demo/snapshots", `{"name":""}`, 400, parameter, "name")
	add("a snapshot's name that is a number", http.MethodPost, "/v1/sandboxes/demo/snapshots", `{"name":3}`, 400, parameter, "name")
	add("a snapshot's name over 256", http.MethodPost, "/v1/sandboxes/demo/snapshots", `{"name":"`+long(257)+`"}`, 400, parameter, "name")
	add("a snapshot's field that there is not", http.MethodPost, "/v1/sandboxes/demo/snapshots", `{"label":"x"}`, 400, parameter, "label")

	for _, at := range []string{`"yesterday"`, `"2020-01-01T00:00:00Z"`, `""`, "0", "null", `"2026-13-45T00:00:00Z"`, `"9999-12-31T23:59:59Z"`, `"2026-01-01"`} {
		add("renewed until "+at, http.MethodPost, "/v1/sandboxes/demo/renew-expiration", `{"expiresAt":`+at+`}`, 400, expiry, "expiresAt")
	}
	add("renewed until nothing", http.MethodPost, "/v1/sandboxes/demo/renew-expiration", `{}`, 400, expiry, "expiresAt")

	for name, patch := range map[string]string{
		"a number": `{"a":1}`, "an object": `{"a":{}}`, "a reserved key": `{"opensandbox.io/id":"x"}`, "a reserved key removed": `{"kubernetes.io/x":null}`,
		"a key over 63": `{"` + long(64) + `":"x"}`, "a value over 63": `{"a":"` + long(64) + `"}`,
	} {
		add("metadata patched by "+name, http.MethodPatch, "/v1/sandboxes/demo/metadata", patch, 400, label, "")
	}

	for _, p := range []string{"0", "65536", "-1", "http", "8080x", "99999999999", "1.5"} {
		add("port "+p, http.MethodGet, "/v1/sandboxes/demo/endpoints/"+p, "", 400, port, "port")
	}
	for _, p := range []string{"0", "65536", ""} {
		add("proxy to port "+p, http.MethodGet, "/v1/sandboxes/demo/proxy/"+p+"/", "", 400, port, "port")
	}
	for _, expires := range []string{"0", "1", "-1", "x", "99999999999999999999999"} {
		add("a route until "+expires, http.MethodGet, "/v1/sandboxes/demo/endpoints/8080?expires="+expires, "", 400, expiry, "expires")
	}
	add("a route that is of no kind", http.MethodGet, "/v1/sandboxes/demo/endpoints/8080?use_server_proxy=perhaps", "", 400, parameter, "use_server_proxy")

	for _, query := range []string{"logs?tail=0", "logs?tail=10001", "logs?tail=x", "logs?since=yesterday", "logs?since=-5m", "logs?since=", "logs?scope=", "logs?scope=everything",
		"events?limit=0", "events?limit=501", "events?scope=everything", "summary?tail=0", "summary?event_limit=501"} {
		_, parameters, _ := strings.Cut(query, "?")
		names, _, _ := strings.Cut(parameters, "=")
		add("diagnostics/"+query, http.MethodGet, "/v1/sandboxes/demo/diagnostics/"+query, "", 400, parameter, names)
	}

	// Names that nothing has, or can have.
	for _, id := range []string{"missing", "UPPER", "a_b", "..%2F..%2Fsecrets", "%2e%2e", long(64), "a%00b", "demo%2Fstatus", "demo%3Fx"} {
		add("sandbox "+id, http.MethodGet, "/v1/sandboxes/"+id, "", 404, noSandbox, "")
		add("delete sandbox "+id, http.MethodDelete, "/v1/sandboxes/"+id, "", 404, noSandbox, "")
		add("pause sandbox "+id, http.MethodPost, "/v1/sandboxes/"+id+"/pause", "", 404, noSandbox, "")
		add("resume sandbox "+id, http.MethodPost, "/v1/sandboxes/"+id+"/resume", "", 404, noSandbox, "")
		add("snapshot of sandbox "+id, http.MethodPost, "/v1/sandboxes/"+id+"/snapshots", "{}", 404, noSandbox, "")
		if len(id) != 64 {
			add("snapshot "+id, http.MethodGet, "/v1/snapshots/"+id, "", 404, noneSuch, "")
			add("delete snapshot "+id, http.MethodDelete, "/v1/snapshots/"+id, "", 404, noneSuch, "")
		}
	}
	add("a path with ..", http.MethodGet, "/v1/sandboxes/../snapshots", "", 405, "GENERAL::METHOD_NOT_ALLOWED", "POST")
	add("a path with .. below a proxy", http.MethodGet, "/v1/sandboxes/demo/proxy/8080/../../../../sandboxes", "", 0, "", "")
	for _, path := range []string{"/v1/../v1/sandboxes/demo/..", "/v1//sandboxes", "/v1/nothing", "/v2/sandboxes", "/"} {
		add("path "+path, http.MethodGet, path, "", 404, "", "")
	}
	add("another method", http.MethodPut, "/v1/sandboxes/demo", "{}", 405, "GENERAL::METHOD_NOT_ALLOWED", "DELETE")
	add("another method of snapshots", http.MethodPatch, "/v1/snapshots/"+snapshot, "{}", 405, "GENERAL::METHOD_NOT_ALLOWED", "DELETE")

	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) {
			g := g.within(t)
			got := g.asks(c.method, c.path, c.body)
			if c.status == 0 && got.code >= 400 && got.code <= 501 && got.code != 500 {
				c.status = got.code
			}
			if got.code != c.status {
				t.Fatalf("got %d %.1000s, want %d %s", got.code, got.body, c.status, c.code)
			}
			code, message := g.refusal(got)
			if c.code != "" && code != c.code {
				t.Errorf("got %d %.1000s, want code %s", got.code, got.body, c.code)
			}
			if !strings.Contains(message, c.names) {
				t.Errorf("the message does not name %.100q: %.1000s", c.names, message)
			}
			if len(got.body) > 64<<10 {
				t.Errorf("an answer of %d bytes", len(got.body))
			}
		})
	}
	if after := g.everything(); after != before {
		t.Errorf("after all that was refused there is\n%s\nand before there was\n%s", after, before)
	}
}

// everything is what the namespace has, and how it stands.
func (g *gatewayFixture) everything() string {
	g.Helper()
	var all []string
	sandboxes, err := g.sandboxes.List(g.Context(), metav1.ListOptions{})
	g.must(err)
	for _, s := range sandboxes.Items {
		all = append(all, fmt.Sprintf("Sandbox %s at %s", s.Name, s.ResourceVersion))
	}
	snapshots, err := g.snapshots.List(g.Context(), metav1.ListOptions{})
	g.must(err)
	for _, s := range snapshots.Items {
		all = append(all, fmt.Sprintf("SandboxSnapshot %s at %s", s.Name, s.ResourceVersion))
	}
	for _, resource := range []string{"secrets", "persistentvolumeclaims", "pods"} {
		all = append(all, fmt.Sprintf("%s %v", resource, g.host.named(resource, g.namespace)))
	}
	return strings.Join(all, "\n")
}

// TestWhoIsLetIn: nobody by a wrong key, nor into another's namespace by a right one.
func TestWhoIsLetIn(t *testing.T) {
	g := newGateway(t)
	g.create(sandbox("demo"))
	other := namespaceOf(t) + "-other"
	g.setKeys(map[string]string{"tenant": keyOf(g.key, tenants+g.namespace, g.namespace), "other": keyOf("other's", tenants+other, other)})
	g.eventually(func() error {
		if got := g.call(http.MethodGet, "/v1/sandboxes", "other's", ""); got.code != http.StatusOK {
			return fmt.Errorf("the other's key: %d %s", got.code, got.body)
		}
		return nil
	})
	for _, c := range []struct {
		name   string
		header http.Header
		status int
		code   string
	}{
		{"no key", nil, 401, "MISSING_API_KEY"},
		{"an empty key", http.Header{"Open-Sandbox-Api-Key": {""}}, 401, "MISSING_API_KEY"},
		{"another key", http.Header{"Open-Sandbox-Api-Key": {g.key + "x"}}, 401, "INVALID_API_KEY"},
		{"the digest of the key", http.Header{"Open-Sandbox-Api-Key": {"sha256:abc"}}, 401, "INVALID_API_KEY"},
		{"a key of 100 kB", http.Header{"Open-Sandbox-Api-Key": {strings.Repeat("k", 100_000)}}, 401, "INVALID_API_KEY"},
		{"a key of another namespace", http.Header{"Open-Sandbox-Api-Key": {"other's"}}, 404, "KUBERNETES::SANDBOX_NOT_FOUND"},
		{"a key for another namespace", http.Header{"Open-Sandbox-Api-Key": {"other's"}, "Open-Sandbox-Namespace": {g.namespace}}, 403, "OUT_OF_SCOPE"},
		{"a token of nobody", http.Header{"Authorization": {"Bearer nobody"}}, 401, "INVALID_API_KEY"},
		{"a token without rights there", http.Header{"Authorization": {"Bearer " + tenants + other}, "Open-Sandbox-Namespace": {g.namespace}}, 403, "INSUFFICIENT_ROLE"},
		{"a token for a namespace that cannot be", http.Header{"Authorization": {"Bearer " + admin}, "Open-Sandbox-Namespace": {"../x"}}, 400, "SANDBOX::INVALID_PARAMETER"},
		{"a password", http.Header{"Authorization": {"Basic YTpi"}}, 401, "MISSING_API_KEY"},
		{"to act as another", http.Header{"Open-Sandbox-Api-Key": {"other's"}, "Impersonate-User": {admin}}, 404, "KUBERNETES::SANDBOX_NOT_FOUND"},
		{"a token that works", http.Header{"Authorization": {"Bearer " + tenants + g.namespace}, "Open-Sandbox-Namespace": {g.namespace}}, 200, ""},
		{"a key that works", http.Header{"Open-Sandbox-Api-Key": {g.key}}, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := g.within(t)
			header := c.header.Clone()
			if header == nil {
				header = http.Header{}
			}
			got := g.is(g.callWith(http.MethodGet, "/v1/sandboxes/demo", header, ""), c.status, c.code)
			if strings.Contains(string(got.body), g.key) {
				t.Errorf("the answer has a key: %s", got.body)
			}
		})
	}
	// What is not the caller's is in no list, either.
	if got := g.call(http.MethodGet, "/v1/sandboxes", "other's", ""); strings.Contains(string(got.body), "demo") {
		t.Errorf("the other's list: %s", got.body)
	}
}
