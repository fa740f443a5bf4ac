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
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEncode(t *testing.T) {
	tests := map[string]struct {
		result Result
		want   string
	}{
		"committed": {
			Result{Containers: []Container{{Name: "main", Image: "r/a:t", Digest: "sha256:1", LayerBytes: 123, Layers: 1}}, FrozenMillis: 153},
			`{"containers":[{"name":"main","image":"r/a:t","digest":"sha256:1","layerBytes":123,"layers":1}],"frozenMillis":153}`,
		},
		"failed": {
			Result{Error: Errorf(RegistryUnavailable, "pushing to %s: <%w>", "r", io.EOF), Thawed: true},
			`{"error":{"reason":"RegistryUnavailable","message":"pushing to r: <EOF>"},"thawed":true}`,
		},
		"thawed": {Result{Thawed: true}, `{"thawed":true}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			data, err := test.result.Encode()
			if err != nil || string(data) != test.want {
				t.Errorf("got %s (%v), want %s", data, err, test.want)
			}
			again, err := Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if data, _ := again.Encode(); string(data) != test.want {
				t.Errorf("after decoding: %s", data)
			}
		})
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	for name, message := range map[string]string{
		"letters": strings.Repeat("x", 10000),
		"wide":    strings.Repeat("é€", 5000),
		"escaped": strings.Repeat("\x01\"", 9000),
		"a bit":   strings.Repeat("x", MaxBytes-60),
		"binary":  strings.Repeat("\xff", 5000),
	} {
		t.Run(name, func(t *testing.T) {
			data, err := Result{Error: Errorf(Canceled, "%s", message), Thawed: true, Containers: []Container{{Name: "main"}}}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > MaxBytes || len(data) < MaxBytes-200 && name != "a bit" {
				t.Errorf("%d bytes", len(data))
			}
			r, err := Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Thawed || r.Error.Reason != Canceled || !utf8.ValidString(r.Error.Message) {
				t.Errorf("decoded %+v", r)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{"", "panic: oh", "[]"} {
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%q was taken for a result", text)
		}
	}
}

func TestFrom(t *testing.T) {
	inner := Errorf(PushSecretInvalid, "refused: %w", io.EOF)
	got := From(fmt.Errorf("container %q: %w", "main", inner))
	if got.Reason != PushSecretInvalid || got.Message != `container "main": refused: EOF` || !errors.Is(got, io.EOF) {
		t.Errorf("got %+v", got)
	}
	if got := From(errors.Join(io.EOF, io.EOF)); got.Reason != CommitJobFailed || got.Message != "EOF; EOF" {
		t.Errorf("got %+v", got)
	}
}
