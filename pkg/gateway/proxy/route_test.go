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
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/inbound"
)

func TestRoute(t *testing.T) {
	for path, want := range map[string]struct {
		route route
		code  string
		not   bool
	}{
		"/v1/sandboxes/demo/proxy/8080":                  {route: route{base: "/v1/sandboxes/demo/proxy/8080", id: "demo", port: 8080, rest: "/"}},
		"/v1/sandboxes/demo/proxy/8080/":                 {route: route{base: "/v1/sandboxes/demo/proxy/8080", id: "demo", port: 8080, rest: "/"}},
		"/sandboxes/demo/proxy/8080/a/b/":                {route: route{base: "/sandboxes/demo/proxy/8080", id: "demo", port: 8080, rest: "/a/b/"}},
		"/sandboxes/demo/proxy/65535//double":            {route: route{base: "/sandboxes/demo/proxy/65535", id: "demo", port: 65535, rest: "//double"}},
		"/v1/sandboxes/demo/proxy/1/a%2Fb%20c|d%7C":      {route: route{base: "/v1/sandboxes/demo/proxy/1", id: "demo", port: 1, rest: "/a%2Fb%20c|d%7C"}},
		"/v1/sandboxes/demo/proxy/1/a..b/..c":            {route: route{base: "/v1/sandboxes/demo/proxy/1", id: "demo", port: 1, rest: "/a..b/..c"}},
		"/v1/sandboxes/%64emo/proxy/1":                   {route: route{base: "/v1/sandboxes/%64emo/proxy/1", id: "demo", port: 1, rest: "/"}},
		"/v1/sandboxes/demo/proxy/1/~route.x":            {route: route{base: "/v1/sandboxes/demo/proxy/1", id: "demo", port: 1, token: "~route.x", rest: "/"}},
		"/v1/sandboxes/demo/proxy/1/~route.x/a%2F":       {route: route{base: "/v1/sandboxes/demo/proxy/1", id: "demo", port: 1, token: "~route.x", rest: "/a%2F"}},
		"/v1/sandboxes/demo/proxy/1/~somebody/x":         {route: route{base: "/v1/sandboxes/demo/proxy/1", id: "demo", port: 1, rest: "/~somebody/x"}},
		"/v1/sandboxes/demo/proxy/0":                     {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy/65536":                 {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy/-1/":                   {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy/+80/":                  {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy/http/":                 {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy/99999999999999999999/": {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy":                       {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy/":                      {code: answer.CodeInvalidPort},
		"/v1/sandboxes/demo/proxy/8080/..":               {code: answer.CodeInvalidParameter},
		"/v1/sandboxes/demo/proxy/8080/a/../b":           {code: answer.CodeInvalidParameter},
		"/v1/sandboxes/demo/proxy/8080/%2e%2E/b":         {code: answer.CodeInvalidParameter},
		"/v1/sandboxes/demo/proxy/8080/..%2fb":           {code: answer.CodeInvalidParameter},
		"/v1/sandboxes/demo/proxy/8080/a%5c..%5Cb":       {code: answer.CodeInvalidParameter},
		"/v1/sandboxes/demo/proxy/8080/~route.x/../b":    {code: answer.CodeInvalidParameter},
		"/v1/sandboxes/demo":                             {not: true},
		"/v1/sandboxes/demo/proxys/80":                   {not: true},
		"/v1/sandboxes//proxy/80":                        {not: true},
		"/v2/sandboxes/demo/proxy/80":                    {not: true},
		"/v1/v1/sandboxes/demo/proxy/80":                 {not: true},
		"/x/v1/sandboxes/demo/proxy/80":                  {not: true},
		"/v1/snapshots/demo/proxy/80":                    {not: true},
	} {
		if matches(path) == want.not {
			t.Errorf("matches(%q) = %v", path, !want.not)
		}
		if want.not {
			continue
		}
		got, err := parseRoute(path)
		var refusal *answer.Error
		switch {
		case want.code == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want.code == "" && got != want.route:
			t.Errorf("%s:\n got %+v\nwant %+v", path, got, want.route)
		case want.code != "" && (!errors.As(err, &refusal) || refusal.Code != want.code || refusal.Status != http.StatusBadRequest):
			t.Errorf("%s: %+v, %v: want a 400 with %s", path, got, err, want.code)
		}
	}
}

func TestEndpointAddress(t *testing.T) {
	for _, c := range []struct{ base, host, public, want string }{
		{"/v1", "gw.example.com", "", "gw.example.com/v1/sandboxes/demo/proxy/44772"},
		{"", "10.0.0.1:30080", "", "10.0.0.1:30080/sandboxes/demo/proxy/44772"},
		{"/v1", "[fd00::1]:80", "", "[fd00::1]:80/v1/sandboxes/demo/proxy/44772"},
		{"/v1", "10.0.0.1", "sandboxes.example.com", "sandboxes.example.com/v1/sandboxes/demo/proxy/44772"},
		{"", "10.0.0.1", "https://example.com:8443/lifecycle/", "example.com:8443/lifecycle/sandboxes/demo/proxy/44772"},
	} {
		public, err := ParsePublicAddress(c.public)
		if err != nil {
			t.Errorf("%s: %v", c.public, err)
		}
		if got := address(inbound.Request{Host: c.host, Base: c.base}, public, "demo", 44772); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
	for _, bad := range []string{"http://", "/path", "https://user:password@example.com", "example.com?x", "example.com#x", "a b"} {
		if address, err := ParsePublicAddress(bad); err == nil {
			t.Errorf("public address %q is taken as %q", bad, address)
		}
	}
}

func TestExpires(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for expires, ok := range map[uint64]bool{0: false, 1: false, 1_799_999_999: false, 1_800_000_000: false, 1_800_000_001: true, 1<<64 - 1: true} {
		if err := checkExpires(expires, now); (err == nil) != ok {
			t.Errorf("expires %d: %v", expires, err)
		}
	}
}
