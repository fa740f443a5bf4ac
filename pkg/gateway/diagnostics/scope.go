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

package diagnostics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// What is told of, by the names that the reference has for it.
const (
	// scopeContainer is what the containers have written, scopeRuntime what Kubernetes says of the Pod, and scopeLifecycle what
	// the Sandbox API says of the sandbox and its snapshots.
	scopeContainer = "container"
	scopeRuntime   = "runtime"
	scopeLifecycle = "lifecycle"
	scopeAll       = "all"
)

var (
	logScopes   = []string{scopeContainer, scopeAll}
	eventScopes = []string{scopeLifecycle, scopeRuntime, scopeAll}
	// known are those of the reference.
	known = []string{scopeContainer, scopeLifecycle, scopeRuntime, "network", "process", scopeAll}
)

// codeNotImplemented is the reference's for diagnostics that it does not have.
const codeNotImplemented = "DIAGNOSTICS_NOT_IMPLEMENTED"

// checkScope refuses scopes that there is nothing of.
func checkScope(scope string, given bool, offered []string) error {
	switch {
	case !given, slices.Contains(offered, scope):
		return nil
	case slices.Contains(known, scope):
		return answer.Errorf(http.StatusNotImplemented, codeNotImplemented,
			"scope: this server has nothing of the scope %s here; there are %s", scope, strings.Join(offered, ", "))
	}
	return answer.InvalidParameter("scope", "%q is no scope; there are %s", scope, strings.Join(offered, ", "))
}

// maxSince is far beyond the age of any log.
const maxSince = 100 * 365 * 24 * time.Hour

// seconds reads a duration such as 10m, 1h30m or 2d; nil: none was given.
func seconds(since httpapi.OptString) (*int64, error) {
	given, is := since.Get()
	if !is {
		return nil, nil
	}
	duration, err := time.ParseDuration(given)
	if days, isDays := strings.CutSuffix(given, "d"); isDays {
		var n int64
		if n, err = strconv.ParseInt(days, 10, 32); err == nil {
			duration = min(time.Duration(n)*24*time.Hour, maxSince)
		}
	}
	if err != nil || duration <= 0 || duration > maxSince {
		return nil, answer.InvalidParameter("since", "%q is no duration such as 10m, 1h30m or 2d", given)
	}
	whole := int64((duration + time.Second - 1) / time.Second)
	return &whole, nil
}
