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
	"slices"
	"strings"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// callersOwn are headers that are between a client and the gateway. What runs in a sandbox could call the gateway with
// them as its owner, so they are never handed on, whichever of them this caller has shown.
var callersOwn = []string{identity.HeaderKey, identity.HeaderNamespace, HeaderRouteToken, HeaderSecureAccess, "Authorization", "Cookie"}

// originWide are headers of an answer that a browser applies to all that the gateway serves: to other people's sandboxes
// below the same name. A cookie would not come back anyway.
var originWide = []string{"Set-Cookie", "Strict-Transport-Security", "Clear-Site-Data", "Service-Worker-Allowed", "Alt-Svc", "Public-Key-Pins"}

// setRequestHeaders makes a client's headers those of the request to the sandbox. Hop-by-hop headers are gone from it
// already, and those of forwarding.
func setRequestHeaders(out, in http.Header, secure bool, remote, host string, r route) {
	for _, name := range callersOwn {
		out.Del(name)
	}
	if referer := out.Get("Referer"); r.token != "" && strings.Contains(referer, r.token) {
		out.Set("Referer", strings.ReplaceAll(referer, "/"+r.token, ""))
	}
	// A proxy before us knows better than we how the client got to it. To believe one that is none harms only its own
	// sandbox, for our last entry in X-Forwarded-For is always true.
	out["X-Forwarded-For"] = []string{strings.Join(append(slices.Clone(in["X-Forwarded-For"]), remote), ", ")}
	forwarded(out, in, "X-Forwarded-Host", host)
	scheme := "http"
	if secure {
		scheme = "https"
	}
	forwarded(out, in, "X-Forwarded-Proto", scheme)
	// What a program has to put before its own absolute paths; of what a proxy before us cut off it has said so.
	out.Set("X-Forwarded-Prefix", strings.TrimSuffix(in.Get("X-Forwarded-Prefix"), "/")+r.base)
}

func forwarded(out, in http.Header, name, ours string) {
	if before := in.Get(name); before != "" {
		ours = before
	}
	out.Set(name, ours)
}

// setResponseHeaders makes a sandbox's headers those of the answer. own are the answer's so far: where a sandbox has one of
// them too, its own counts, but for the request's ID, which is ours.
func setResponseHeaders(header, own http.Header, host string, r route) {
	for _, name := range originWide {
		header.Del(name)
	}
	for name := range own {
		if name == "X-Request-Id" {
			header.Del(name)
		} else if header[name] != nil {
			own.Del(name)
		}
	}
	if location := header.Get("Location"); location != "" {
		header.Set("Location", belowPrefix(location, host, r))
	}
}

// belowPrefix leads a redirect to a path of the sandbox's own to where the client has it: taken as it is it would lead to
// the root of the gateway. One that has the prefix already is of a program that goes by X-Forwarded-Prefix.
func belowPrefix(location, host string, r route) string {
	u, err := url.Parse(location)
	if err != nil || u.Host != "" && u.Host != host || u.Opaque != "" || !strings.HasPrefix(u.EscapedPath(), "/") && u.Host == "" {
		return location
	}
	rest := location
	if u.Host != "" {
		_, rest, _ = strings.Cut(location, "//")
		rest = strings.TrimPrefix(rest, host)
		if !strings.HasPrefix(rest, "/") {
			rest = "/" + rest
		}
	}
	if after, ok := strings.CutPrefix(rest, r.base); ok && (after == "" || strings.ContainsRune("/?#", rune(after[0]))) {
		if r.token == "" || strings.HasPrefix(after, "/"+r.token) {
			return location
		}
		rest = after
	}
	return r.prefix() + rest
}
