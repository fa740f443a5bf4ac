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
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	ht "github.com/ogen-go/ogen/http"
	"github.com/ogen-go/ogen/ogenerrors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// retryAfter is when to try again, where nobody has said it.
const retryAfter = 2 * time.Second

// Of is the answer to an error, whoever it is from: a handler, the generated code in front of it, or kube-apiserver.
func Of(err error) *Error {
	var (
		answer  *Error
		params  *ogenerrors.DecodeParamsError
		request *ogenerrors.DecodeRequestError
		status  apierrors.APIStatus
		urlErr  *url.Error
		netErr  net.Error
	)
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &params):
		return ofParams(params)
	case errors.As(err, &request):
		return ofRequest(request)
	case errors.Is(err, ht.ErrNotImplemented):
		return NotSupported("this route is not offered by this server")
	case errors.As(err, &status):
		return ofStatus(status.Status(), err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &urlErr), errors.As(err, &netErr):
		return Unavailable("kube-apiserver has not answered", err)
	}
	return &Error{
		Status: http.StatusInternalServerError, Code: CodeUnknown, Cause: err,
		Message: "something went wrong inside the gateway; its log has the cause under this answer's X-Request-ID",
	}
}

// Unavailable is the answer where what the gateway depends on is away: a client that tries again finds it, some time.
func Unavailable(what string, cause error) *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: CodeUnavailable, RetryAfter: retryAfter, Cause: cause,
		Message: what + "; try again",
	}
}
