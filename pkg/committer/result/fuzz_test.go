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

package result

import (
	"bytes"
	"testing"
)

// FuzzDecode reads any termination message: whoever can write to the Pod can write one. What is
// taken for a result can be written again in the same space, unless it holds more than the
// committer ever writes, and then means the same.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", "[]", "panic: oh", `{"thawed":true}`, `{"thawed":1}`, `{"error":null}`, `{"error":{}}`,
		`{"containers":[{"name":"main","image":"r/a:t","digest":"sha256:1","layerBytes":123,"layers":1}],"frozenMillis":153}`,
		`{"error":{"reason":"RegistryUnavailable","message":"pushing to r: <EOF>"},"thawed":true}`,
		`{"packed":{"of":"u7UlVTpx9RlYlJ9e","each":"AAAA"}}`, `{"packed":null,"logged":""}`, `{"logged":"00"}`,
		`{"error":{"reason":"Canceled","message":"\ud800"}}`, `{"containers":[null]}`, `{"frozenMillis":1e99}`, `{"thawed":true}{"thawed":false}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		r, err := Decode(message)
		if err != nil {
			return
		}
		if r.Error != nil && r.Error.Unwrap() == nil {
			t.Fatalf("the error of %q has no cause", message)
		}
		written, err := r.Encode()
		if err != nil {
			if r.Error == nil && len(r.Containers) == 0 && r.Packed == nil && r.Logged == "" {
				t.Fatalf("what was read of %q cannot be written: %v", message, err)
			}
			return
		}
		if len(written) > MaxBytes || bytes.ContainsRune(written, '\n') {
			t.Fatalf("%q was written as %d bytes: %q", message, len(written), written)
		}
		again, err := Decode(written)
		if err != nil {
			t.Fatalf("%q, written of %q, cannot be read: %v", written, message, err)
		}
		if r.Packed != nil {
			_ = r.Unpack([]Ref{{"main", "r/a:t"}})
		}
		if again.Thawed != r.Thawed || again.FrozenMillis != r.FrozenMillis || (again.Error == nil) != (r.Error == nil) {
			t.Fatalf("%q was read as %+v, then as %+v", message, r, again)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(twice, written) {
			t.Fatalf("%q was written as %q, then as %q (%v)", message, written, twice, err)
		}
	})
}
