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
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestIdempotencyKeyOverHTTP: one key of one caller is one sandbox, from 50 clients at once through two replicas, and after answers that
// were lost on their way, before and after the write; of another caller it is another one.
func TestIdempotencyKeyOverHTTP(t *testing.T) {
	g := newGateway(t)
	second := g.replica()
	key := func(idempotency string) http.Header {
		return http.Header{"Open-Sandbox-Api-Key": {g.key}, "Idempotency-Key": {idempotency}, "Content-Type": {asJSON}}
	}
	body := creation("metadata", `{"a":"b"}`)

	var all sync.WaitGroup
	ids := make([]string, 50)
	for i := range ids {
		at := g
		if i%2 == 1 {
			at = second
		}
		all.Go(func() {
			got := at.callWith(http.MethodPost, "/v1/sandboxes", key("one"), body)
			if got.code != http.StatusAccepted {
				t.Errorf("client %d: %d %s", i, got.code, got.body)
				return
			}
			ids[i] = at.sandboxIn(got).ID
		})
	}
	all.Wait()
	for i, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("client %d has %q, and the first one %q", i, id, ids[0])
		}
	}
	if got := g.sandboxesIn(""); got.Pagination.TotalItems != 1 {
		t.Fatalf("%d sandboxes of one key", got.Pagination.TotalItems)
	}
	g.is(g.callWith(http.MethodPost, "/v1/sandboxes", key("one"), creation("metadata", `{"a":"c"}`)), 409, "KUBERNETES::INVALID_STATE", "Idempotency-Key")

	// The request comes through and its answer does not; or neither does.
	for i, reaches := range []bool{true, false} {
		name := fmt.Sprintf("lost-%d", i)
		g.host.loseAnswer(http.MethodPost, "/sandboxes", reaches)
		first := g.callWith(http.MethodPost, "/v1/sandboxes", key(name), body)
		if first.code != http.StatusAccepted && first.code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", name, first.code, first.body)
		}
		again := g.sandboxIn(g.is(second.callWith(http.MethodPost, "/v1/sandboxes", key(name), body), 202, ""))
		if first.code == http.StatusAccepted && g.sandboxIn(first).ID != again.ID {
			t.Errorf("%s: %s and then %s", name, first.body, again.ID)
		}
		if got := g.sandboxesIn(""); got.Pagination.TotalItems != i+2 {
			t.Errorf("%s: %d sandboxes, want %d", name, got.Pagination.TotalItems, i+2)
		}
	}

	g.setKeys(map[string]string{"tenant": keyOf(g.key, tenants+g.namespace, g.namespace), "editor": keyOf("e", editor, g.namespace)})
	g.eventually(func() error {
		if got := g.call(http.MethodGet, "/v1/sandboxes", "e", ""); got.code != http.StatusOK {
			return fmt.Errorf("%d %s", got.code, got.body)
		}
		return nil
	})
	others := key("one")
	others.Set("Open-Sandbox-Api-Key", "e")
	if got := g.sandboxIn(g.is(g.callWith(http.MethodPost, "/v1/sandboxes", others, body), 202, "")); got.ID == ids[0] {
		t.Error("another caller's key is the same sandbox")
	}
	// One that is on its way out is no answer to who asks for a new one.
	g.must(g.sandboxes.Delete(t.Context(), ids[0], metav1.DeleteOptions{}))
	g.is(g.callWith(http.MethodPost, "/v1/sandboxes", key("one"), body), 409, "KUBERNETES::INVALID_STATE", "Idempotency-Key")
	for _, bad := range []string{"", strings.Repeat("k", 256)} {
		if got := g.callWith(http.MethodPost, "/v1/sandboxes", key(bad), body); got.code != http.StatusBadRequest || !strings.Contains(string(got.body), "Idempotency-Key") {
			t.Errorf("a key of %d bytes: %d %s", len(bad), got.code, got.body)
		}
	}
}
