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

package answer

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"

	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/inbound"
)

// Write answers with an error. Nothing must have been written to w.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	a := Of(err)
	log(r.Context(), a)
	header := w.Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Del("Content-Length")
	if a.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	if seconds := a.seconds(); seconds > 0 {
		header.Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	body, marshalErr := json.Marshal(httpapi.Error{Code: a.Code, Message: a.Message})
	if marshalErr != nil {
		klog.ErrorS(marshalErr, "An error could not be written as JSON")
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(body)
}

// Encoded is the answer as the generated code writes it.
func Encoded(ctx context.Context, err error) *httpapi.ErrorStatusCodeWithHeaders {
	a := Of(err)
	log(ctx, a)
	encoded := &httpapi.ErrorStatusCodeWithHeaders{
		StatusCode: a.Status,
		Response:   httpapi.Error{Code: a.Code, Message: a.Message},
	}
	if seconds := a.seconds(); seconds > 0 {
		encoded.RetryAfter = httpapi.NewOptInt32(seconds)
	}
	return encoded
}

func (e *Error) seconds() int32 {
	return int32(math.Ceil(e.RetryAfter.Seconds()))
}

// log tells the operator of what is not the caller's fault, and has a cause that the caller is not told.
func log(ctx context.Context, a *Error) {
	if a.Status < http.StatusInternalServerError || a.Cause == nil || errors.Is(a.Cause, context.Canceled) {
		return
	}
	klog.FromContext(ctx).Error(a.Cause, "A request was answered with an error", "request", inbound.From(ctx).ID, "status", a.Status, "code", a.Code)
}
