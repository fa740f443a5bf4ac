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
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Reached is how a client reached the gateway.
type Reached struct {
	// Host is the host that it named, with the port where it named one.
	Host string
	// Prefix is what was before /sandboxes in the path: /v1 or nothing.
	Prefix string
}

// ReachedBy reads it from a request.
func ReachedBy(r *http.Request) Reached {
	reached := Reached{Host: r.Host}
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		reached.Prefix = "/v1"
	}
	return reached
}

// address is what a client puts behind a scheme to reach a port of a sandbox: always the gateway's own, because the
// addresses of Pods are not to be reached from everywhere, and change with every resume. A public address takes the place
// of the host that the client named.
func (r Reached) address(public, id string, port uint16) string {
	host := r.Host
	if public != "" {
		host = public
	}
	return fmt.Sprintf("%s%s/sandboxes/%s/proxy/%d", host, r.Prefix, id, port)
}

// ParsePublicAddress reads host, host:port or host/path, with a scheme or without: clients put one before it themselves.
func ParsePublicAddress(address string) (string, error) {
	if address == "" {
		return "", nil
	}
	_, bare, ok := strings.Cut(address, "://")
	if !ok {
		bare = address
	}
	u, err := url.Parse("http://" + bare)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("public address %q must be host, host:port or host:port/path", address)
	}
	return strings.TrimSuffix(u.Host+u.EscapedPath(), "/"), nil
}

// checkExpires checks when a route token is to expire, in seconds since 1970.
func checkExpires(expires uint64, now time.Time) error {
	if expires <= uint64(now.Unix()) {
		return &Error{Status: http.StatusBadRequest, Code: codeInvalidParameter,
			Message: fmt.Sprintf("expires %d is in the past: it is %d now (seconds since 1970, UTC)", expires, now.Unix())}
	}
	return nil
}
