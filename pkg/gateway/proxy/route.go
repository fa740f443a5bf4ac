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
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// route is what the path of a request below …/sandboxes/{id}/proxy/{port} says.
type route struct {
	// base is the path up to and with the port, as the client has it, without a token.
	base string
	// id is the sandbox's.
	id   string
	port uint16
	// token is a route token of the path, with its mark; empty: there is none.
	token string
	// rest is what the sandbox is asked for, escaped as it came. It begins with a slash.
	rest string
}

// prefix is what the client has before rest.
func (r route) prefix() string {
	if r.token == "" {
		return r.base
	}
	return r.base + "/" + r.token
}

// matches says whether a path leads into a sandbox, well or badly.
func matches(escaped string) bool {
	_, _, ok := cutProxy(escaped)
	return ok
}

// cutProxy cuts …/sandboxes/{id}/proxy from what follows it.
func cutProxy(escaped string) (id, after string, ok bool) {
	path := strings.TrimPrefix(escaped, "/v1")
	path, ok = strings.CutPrefix(path, "/sandboxes/")
	if !ok {
		return "", "", false
	}
	id, path, ok = strings.Cut(path, "/")
	if !ok || id == "" {
		return "", "", false
	}
	after, ok = strings.CutPrefix(path, "proxy")
	return id, after, ok && (after == "" || after[0] == '/')
}

// parseRoute reads a path that matches. Nothing in what is the sandbox's own is decoded and encoded again: programs tell
// %2F from a slash, and each library encodes other characters.
func parseRoute(escaped string) (route, error) {
	id, after, _ := cutProxy(escaped)
	r := route{rest: "/"}
	var err error
	if r.id, err = url.PathUnescape(id); err != nil {
		return route{}, invalidPath("the sandbox's id %q is not well escaped", id)
	}
	digits, rest, more := strings.Cut(strings.TrimPrefix(after, "/"), "/")
	if r.port, err = parsePort(digits); err != nil {
		return route{}, err
	}
	r.base = strings.TrimSuffix(escaped, after) + "/" + digits
	if more {
		if segment, below, _ := strings.Cut(rest, "/"); isPathToken(segment) {
			r.token, rest = segment, below
		}
		r.rest = "/" + rest
	}
	if err := refuseDots(r.rest); err != nil {
		return route{}, err
	}
	return r, nil
}

// parsePort reads the port of a path.
func parsePort(digits string) (uint16, error) {
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || port == 0 {
		return 0, answer.Errorf(http.StatusBadRequest, answer.CodeInvalidPort, "port: %q must be a number from 1 to 65535", digits)
	}
	return uint16(port), nil
}

// refuseDots refuses a path that means another one than it says, also where that is escaped: programs between here and
// there that resolve it would be led out of the sandbox's paths.
func refuseDots(escaped string) error {
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return invalidPath("is not well escaped (%v)", err)
	}
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if segment == ".." {
			return invalidPath("must not have .. in it: write the path that is meant")
		}
	}
	return nil
}

func invalidPath(format string, args ...any) *answer.Error {
	return answer.InvalidParameter("path", format, args...)
}

// escapedPath is the path of a request as it came.
func escapedPath(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		path, _, _ := strings.Cut(r.RequestURI, "?")
		return path
	}
	return r.URL.EscapedPath() // http://host/path, which clients send to proxies that they know to be one
}
