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

package sandboxes

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// identityOf is what makes a sandbox the one that a request is about.
type identityOf struct {
	namespace string
	id        string
	// fingerprint is of the request.
	fingerprint string
	// secret is the name of its pull secret, should it have one.
	secret string
}

// identify gives the sandbox of a request its id. With a key it follows from that and from who calls, so that it is the same for
// each of the caller's requests with it, whichever replica has them, and kube-apiserver lets only one of them create it.
func identify(caller *identity.Caller, key, fingerprint string) identityOf {
	id := string(uuid.NewUUID())
	if key != "" {
		id = derived(caller.Namespace, caller.User.GetName(), key)
	}
	return identityOf{namespace: caller.Namespace, id: id, fingerprint: fingerprint, secret: newPullSecretName(id)}
}

// derived is a UUID of the eighth version, whose bits are the maker's own business.
// https://www.rfc-editor.org/rfc/rfc9562.html#name-uuid-version-8
func derived(parts ...string) string {
	sum := sha256.Sum256([]byte("lifecycle-gateway idempotency key 1\x00" + strings.Join(parts, "\x00")))
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	text := hex.EncodeToString(b)
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}
