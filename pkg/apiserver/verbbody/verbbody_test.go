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

package verbbody

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
)

// FuzzVerbBody sends any body to both verbs, as far as the storage: only an empty one is changed
// on the way, and what is decoded means the same when it is written and read again.
func FuzzVerbBody(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", "[]", "{", `{"metadata":{"name":"demo","namespace":"default","uid":"u","resourceVersion":"7"}}`,
		`{"kind":"SandboxPause","apiVersion":"lifecycle.opensandbox.io/v1alpha1"}`,
		`{"kind":"SandboxResume","apiVersion":"lifecycle.opensandbox.io/v1alpha1","snapshotName":"demo-gen1","fromTemplate":true}`,
		`{"kind":"Sandbox","apiVersion":"lifecycle.opensandbox.io/v1alpha1"}`, `{"kind":"Status","apiVersion":"v1"}`,
		`{"snapshotName":7}`, `{"fromTemplate":"yes"}`, `{"SNAPSHOTNAME":"a","snapshotName":"b"}`,
		`{"metadata":{"creationTimestamp":"x"}}`, `{"metadata":{"managedFields":[{"fieldsV1":{"f:a":{}}}]}}`,
		"metadata:\n  name: demo\nsnapshotName: demo-gen1\n", "--- \n", "a: &a [*a]", "\x00", "\xff\xfe{\x00}\x00",
	} {
		for _, yaml := range []bool{false, true} {
			f.Add([]byte(seed), yaml, false)
		}
		f.Add([]byte(seed), false, true)
	}
	f.Fuzz(func(t *testing.T, body []byte, yaml, chunked bool) {
		contentType, passed := pass(t, body, yaml, chunked)
		if !bytes.Equal(passed, body) && len(body) > 0 {
			t.Fatalf("%q became %q", body, passed)
		}
		if len(body) == 0 && (string(passed) != "{}" || contentType != runtime.ContentTypeJSON) {
			t.Fatalf("an empty body became %q of type %s", passed, contentType)
		}
		for _, kind := range []string{"SandboxPause", "SandboxResume"} {
			decodeVerb(t, kind, contentType, passed)
		}
	})
}

// pass returns what becomes of the body of a request.
func pass(t *testing.T, body []byte, yaml, chunked bool) (contentType string, passed []byte) {
	t.Helper()
	reader := io.Reader(bytes.NewReader(body))
	if chunked {
		reader = io.MultiReader(reader) // hides the length
	}
	req := httptest.NewRequest(http.MethodPost, "/", reader)
	req.Header.Set("Content-Type", runtime.ContentTypeJSON)
	if yaml {
		req.Header.Set("Content-Type", runtime.ContentTypeYAML)
	}
	FillEmpty(req)
	passed, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	if req.ContentLength >= 0 && int(req.ContentLength) != len(passed) {
		t.Fatalf("the length is said to be %d and is %d", req.ContentLength, len(passed))
	}
	return req.Header.Get("Content-Type"), passed
}

// decodeVerb does with a body what the generic handler and the storage do, strictly and not.
func decodeVerb(t *testing.T, kind, contentType string, body []byte) {
	t.Helper()
	types := scheme.Codecs.SupportedMediaTypes()
	media := types[slices.IndexFunc(types, func(info runtime.SerializerInfo) bool { return info.MediaType == contentType })]
	wanted := v1alpha1.SchemeGroupVersion.WithKind(kind)
	for _, serializer := range []runtime.Serializer{media.Serializer, media.StrictSerializer} {
		into, err := scheme.Scheme.New(schema.GroupVersionKind{Group: lifecycle.GroupName, Version: runtime.APIVersionInternal, Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		decoded, _, err := scheme.Codecs.DecoderToVersion(serializer, lifecycle.SchemeGroupVersion).Decode(body, &wanted, into)
		if err != nil {
			continue
		}
		if resume, ok := decoded.(*lifecycle.SandboxResume); ok {
			_ = validation.ValidateSandboxResume(resume)
		}
		codec := scheme.Codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)
		written, err := runtime.Encode(codec, decoded)
		if err != nil {
			t.Fatalf("what was read of %q cannot be written: %v", body, err)
		}
		again, err := runtime.Decode(codec, written)
		if err != nil {
			t.Fatalf("%s, written of %q, cannot be read: %v", written, body, err)
		}
		if twice, err := runtime.Encode(codec, again); err != nil || !apiequality.Semantic.DeepEqual(written, twice) {
			t.Fatalf("%q was written as %s, then as %s (%v)", body, written, twice, err)
		}
	}
}
