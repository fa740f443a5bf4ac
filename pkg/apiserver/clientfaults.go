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
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
)

// patchTypes are the formats of a PATCH.
var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

// WithClientFaults stands in front of the API and refuses requests that the generic handlers would
// answer with 500, or without a word about what is wrong with them.
func WithClientFaults(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if ok && info.IsResourceRequest && info.APIGroup == lifecycle.GroupName {
			if err := clientFault(info, req); err != nil {
				responsewriters.ErrorNegotiated(err, scheme.Codecs, v1alpha1.SchemeGroupVersion, w, req)
				return
			}
		}
		handler.ServeHTTP(w, req)
	})
}

// clientFault returns what is wrong with a request, nil where nothing is that is looked for here.
func clientFault(info *request.RequestInfo, req *http.Request) error {
	// The store makes a path of it, and refuses one that climbs. A name is checked there.
	if messages := content.IsPathSegmentName(info.Namespace); len(messages) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace %q in the path: %s", info.Namespace, strings.Join(messages, ", ")))
	}
	if req.Method == http.MethodGet {
		return resourceVersionFault(req.URL.Query())
	}
	if req.Method == http.MethodPatch {
		return patchFault(req.Header.Get("Content-Type"))
	}
	return nil
}

func resourceVersionFault(query url.Values) error {
	version := query.Get("resourceVersion")
	if version == "" {
		return nil
	}
	if _, err := strconv.ParseUint(version, 10, 64); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("resourceVersion=%s is not one that this server has given; take it from an object or a list", version))
	}
	return nil
}

func patchFault(contentType string) error {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err == nil && slices.Contains(patchTypes, mediaType) {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure,
		Code:   http.StatusUnsupportedMediaType,
		Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("the Content-Type of the patch is %q - accepted media types include: %s",
			contentType, strings.Join(patchTypes, ", ")),
	}}
}
