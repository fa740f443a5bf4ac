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
	"slices"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
)

const (
	ours     = "io.opensandbox.lifecycle.v1alpha1."
	oursV3At = "/openapi/v3/apis/lifecycle.opensandbox.io/v1alpha1"
)

// schema is as much of a schema as the tests look at, the same in both versions of OpenAPI.
type schema struct {
	Ref         string                  `json:"$ref"`
	AllOf       []schema                `json:"allOf"`
	Description string                  `json:"description"`
	Type        string                  `json:"type"`
	Properties  map[string]*schema      `json:"properties"`
	Items       *schema                 `json:"items"`
	Enum        []string                `json:"enum"`
	ListType    string                  `json:"x-kubernetes-list-type"`
	ListMapKeys []string                `json:"x-kubernetes-list-map-keys"`
	Kinds       []struct{ Kind string } `json:"x-kubernetes-group-version-kind"`
}

// model is the name of the model that a schema refers to; empty where it refers to none.
func (s schema) model() string {
	ref := s.Ref
	for _, of := range s.AllOf {
		ref = of.Ref
	}
	return ref[strings.LastIndex(ref, "/")+1:]
}

// operation is a method of a path, in both versions: v2 says in its parameters what v3 says in its
// requestBody.
type operation struct {
	Parameters []struct {
		In     string
		Schema schema
	}
	RequestBody struct {
		Content map[string]struct{ Schema schema }
	}
	Responses map[string]struct {
		Schema  schema
		Content map[string]struct{ Schema schema }
	}
	Description string
}

func (o operation) request() string {
	for _, parameter := range o.Parameters {
		if parameter.In == "body" {
			return parameter.Schema.model()
		}
	}
	return modelOf(o.RequestBody.Content)
}

func (o operation) response(code string) string {
	if in := o.Responses[code].Schema.model(); in != "" {
		return in
	}
	return modelOf(o.Responses[code].Content)
}

func modelOf(content map[string]struct{ Schema schema }) string {
	for _, mediaType := range content {
		return mediaType.Schema.model()
	}
	return ""
}

// document is an OpenAPI document of either version.
type document struct {
	Paths       map[string]map[string]json.RawMessage
	Definitions map[string]*schema
	Components  struct{ Schemas map[string]*schema }
}

func (d *document) schemas() map[string]*schema {
	if d.Definitions != nil {
		return d.Definitions
	}
	return d.Components.Schemas
}

func (d *document) operation(f *fixture, path, method string) operation {
	f.Helper()
	var o operation
	if raw := d.Paths[path][method]; raw != nil {
		f.must(json.Unmarshal(raw, &o))
	}
	return o
}

// documents are the descriptions of the API, by their version. Each is checked to be what its
// version allows.
func (f *fixture) documents() map[string]*document {
	f.Helper()
	v2, v3 := f.read("/openapi/v2"), f.read(oursV3At)
	if _, err := openapiv2.ParseDocument(v2.body); err != nil {
		f.Errorf("not OpenAPI v2: %v", err)
	}
	if _, err := openapiv3.ParseDocument(v3.body); err != nil {
		f.Errorf("not OpenAPI v3: %v", err)
	}
	documents := map[string]*document{"v2": {}, "v3": {}}
	v2.decode(f, documents["v2"])
	v3.decode(f, documents["v3"])
	return documents
}

func TestOpenAPIReferencesResolve(t *testing.T) {
	f := newFixture(t)
	for version, document := range f.documents() {
		schemas := document.schemas()
		var walk func(at string, s *schema)
		walk = func(at string, s *schema) {
			if s == nil {
				return
			}
			if model := s.model(); model != "" && schemas[model] == nil {
				t.Errorf("%s: %s refers to %s, which is not there", version, at, model)
			}
			for name, property := range s.Properties {
				walk(at+"."+name, property)
			}
			walk(at+"[]", s.Items)
		}
		for name, s := range schemas {
			walk(name, s)
		}
	}
}

// kubectl explain shows these descriptions: a field without one is a field that one must guess.
func TestOpenAPIDescribesEveryField(t *testing.T) {
	f := newFixture(t)
	for version, document := range f.documents() {
		found := 0
		for name, s := range document.schemas() {
			if !strings.HasPrefix(name, ours) {
				continue
			}
			found++
			if len(s.Description) < 10 {
				t.Errorf("%s: %s is described by %q", version, name, s.Description)
			}
			for field, property := range s.Properties {
				if len(property.Description) < 10 {
					t.Errorf("%s: %s.%s is described by %q", version, name, field, property.Description)
				}
			}
		}
		if found < 12 {
			t.Errorf("%s: only %d models of ours", version, found)
		}
	}
}

func TestOpenAPIStructure(t *testing.T) {
	f := newFixture(t)
	for version, document := range f.documents() {
		for _, test := range []struct {
			model, field, listType string
			keys                   []string
		}{
			{"SandboxStatus", "conditions", "map", []string{"type"}},
			{"SandboxSnapshotStatus", "conditions", "map", []string{"type"}},
			{"SandboxSnapshotStatus", "containers", "map", []string{"containerName"}},
			{"SnapshotPolicy", "containers", "set", nil},
			{"SandboxSnapshotSpec", "containers", "set", nil},
		} {
			s := document.schemas()[ours+test.model].Properties[test.field]
			if s == nil || s.ListType != test.listType || !slices.Equal(s.ListMapKeys, test.keys) {
				t.Errorf("%s: %s.%s is %+v", version, test.model, test.field, s)
			}
		}
		// Every other list of ours would be replaced as a whole by an apply: say so, or say how it merges.
		for name, s := range document.schemas() {
			for field, property := range s.Properties {
				if strings.HasPrefix(name, ours) && property.Type == "array" && property.ListType == "" && field != "items" {
					t.Errorf("%s: %s.%s does not say how it is merged", version, name, field)
				}
			}
		}
		for model, values := range map[string][]string{
			"SandboxSpec.desiredState":           {"Paused", "Running"},
			"SandboxStatus.phase":                {"Failed", "Paused", "Pausing", "Pending", "Resuming", "Running"},
			"SnapshotPolicy.deletionPolicy":      {"Delete", "Retain"},
			"SandboxSnapshotStatus.phase":        {"Committing", "Failed", "Pending", "Succeed"},
			"SandboxSnapshotSpec.deletionPolicy": {"Delete", "Retain"},
		} {
			name, field, _ := strings.Cut(model, ".")
			if got := document.schemas()[ours+name].Properties[field].Enum; !slices.Equal(got, values) {
				t.Errorf("%s: the values of %s are %q", version, model, got)
			}
		}
		for _, kind := range []string{"Sandbox", "SandboxList", "SandboxSnapshot", "SandboxSnapshotList", "SandboxPause", "SandboxResume"} {
			if s := document.schemas()[ours+kind]; s == nil || len(s.Kinds) != 1 || s.Kinds[0].Kind != kind {
				t.Errorf("%s: %s does not say which kind it is", version, kind)
			}
		}
	}
}

func TestOpenAPIOperations(t *testing.T) {
	f := newFixture(t)
	for version, document := range f.documents() {
		for _, test := range []struct{ path, method, request, code, response string }{
			{"sandboxes", "post", "Sandbox", "201", "Sandbox"},
			{"sandboxes", "get", "", "200", "SandboxList"},
			{"sandboxes/{name}", "get", "", "200", "Sandbox"},
			{"sandboxes/{name}", "put", "Sandbox", "200", "Sandbox"},
			{"sandboxes/{name}/status", "put", "Sandbox", "200", "Sandbox"},
			{"sandboxes/{name}/pause", "post", "SandboxPause", "201", "Sandbox"},
			{"sandboxes/{name}/resume", "post", "SandboxResume", "201", "Sandbox"},
			{"sandboxsnapshots", "post", "SandboxSnapshot", "201", "SandboxSnapshot"},
			{"sandboxsnapshots/{name}/status", "get", "", "200", "SandboxSnapshot"},
		} {
			o := document.operation(f, group+"/namespaces/{namespace}/"+test.path, test.method)
			request, response := strings.TrimPrefix(o.request(), ours), strings.TrimPrefix(o.response(test.code), ours)
			if request != test.request || response != test.response || o.Description == "" {
				t.Errorf("%s: %s %s takes %q and answers %q (%s)", version, test.method, test.path, request, response, o.Description)
			}
		}
	}
}
