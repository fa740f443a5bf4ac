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

package apiserver

import (
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/verbbody"
	sandboxstorage "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox/storage"
)

// WithVerbRequests stands in front of the API and makes a POST to sandboxes/pause and
// sandboxes/resume what its storage expects:
//
//   - An empty body means {}.
//   - The name of the calling program goes into the context. The generic handler derives the
//     field manager of a request body from it, but tells the storage nothing, and a verb changes
//     the fields of the sandbox, not those of the body.
func WithVerbRequests(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || !isVerb(info) || req.Method != http.MethodPost {
			handler.ServeHTTP(w, req)
			return
		}
		req = req.WithContext(sandboxstorage.WithUserAgent(req.Context(), req.UserAgent()))
		verbbody.FillEmpty(req)
		handler.ServeHTTP(w, req)
	})
}

func isVerb(info *request.RequestInfo) bool {
	return info.IsResourceRequest && info.APIGroup == lifecycle.GroupName && info.Resource == "sandboxes" &&
		(info.Subresource == "pause" || info.Subresource == "resume")
}
