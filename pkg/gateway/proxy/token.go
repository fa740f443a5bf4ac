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

package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// A route token opens one port of one sandbox for whoever has it, until it expires. It names the sandbox by its UID, so
// that it opens no other that has the name later.
const (
	// pathTokenMark begins the segment of a path that is a token: …/proxy/8080/~route.TOKEN/index.html.
	pathTokenMark = "~route."
	// HeaderRouteToken is the header that a token may be in instead.
	HeaderRouteToken = "OpenSandbox-Route-Token"
	// HeaderSecureAccess is the header that the reference's clients send it in, where the endpoint has told them to: of
	// sandboxes that were made with secureAccess, whose ports open to nobody without one.
	HeaderSecureAccess = "OpenSandbox-Secure-Access"

	// tokenPurpose is signed with each token, so that the key can serve for nothing else.
	tokenPurpose = "lifecycle-gateway route token 1\x00"
)

// grant is what a token says.
type grant struct {
	namespace string
	sandbox   string
	uid       types.UID
	port      uint16
	verbs     verbs
	// expires is in seconds since 1970.
	expires uint64
}

// sign makes a token. Of the sandbox's name and the port it only has the signature: they are in the path.
func (g grant) sign(key []byte) string {
	said := g.said()
	return base64.RawURLEncoding.EncodeToString(append(said, g.mac(key, said)...))
}

func (g grant) said() []byte {
	said := binary.BigEndian.AppendUint64(nil, g.expires)
	said = append(said, byte(g.verbs), byte(len(g.uid)))
	said = append(said, g.uid...)
	return append(said, g.namespace...)
}

func (g grant) mac(key, said []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(tokenPurpose))
	mac.Write(binary.BigEndian.AppendUint16(nil, g.port))
	mac.Write([]byte(g.sandbox + "\x00"))
	mac.Write(said)
	return mac.Sum(nil)
}

// verify reads a token that came with a request for a port of a sandbox.
func verify(token, sandbox string, port uint16, key []byte, now time.Time) (grant, error) {
	const fixed = 8 + 1 + 1
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < fixed+sha256.Size {
		return grant{}, invalidToken()
	}
	said, mac := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	g := grant{sandbox: sandbox, port: port}
	if !hmac.Equal(mac, g.mac(key, said)) {
		return grant{}, invalidToken()
	}
	g.expires, g.verbs = binary.BigEndian.Uint64(said), verbs(said[8])
	uid := int(said[9])
	if len(said) < fixed+uid {
		return grant{}, invalidToken()
	}
	g.uid, g.namespace = types.UID(said[fixed:fixed+uid]), string(said[fixed+uid:])
	if g.expires <= uint64(now.Unix()) {
		return grant{}, answer.Errorf(http.StatusUnauthorized, answer.CodeInvalidKey,
			"the route token expired at %s: ask for the endpoint again", time.Unix(int64(g.expires), 0).UTC().Format(time.RFC3339))
	}
	return g, nil
}

func invalidToken() *answer.Error {
	return answer.Errorf(http.StatusUnauthorized, answer.CodeInvalidKey,
		"the route token is not valid for this port of this sandbox: ask for the endpoint again")
}

// isPathToken says whether a segment of a path is meant as a token, well or badly.
func isPathToken(segment string) bool { return strings.HasPrefix(segment, pathTokenMark) }
