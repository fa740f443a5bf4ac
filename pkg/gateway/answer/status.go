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
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ofStatus is the one table from what kube-apiserver answers to what the gateway does.
func ofStatus(status metav1.Status, err error) *Error {
	kind, group := "", ""
	if status.Details != nil {
		kind, group = status.Details.Kind, status.Details.Group
	}
	a := &Error{Status: int(status.Code), Code: CodeAPIError, Message: status.Message, Cause: err}
	if a.Message == "" {
		a.Message = fmt.Sprintf("kube-apiserver has answered %d %s, and nothing else", status.Code, status.Reason)
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		a.RetryAfter = time.Duration(status.Details.RetryAfterSeconds) * time.Second
	}
	switch {
	case unserved(status):
		return Unavailable("the cluster does not serve the Sandbox API at the moment", err)
	case status.Code == http.StatusUnauthorized:
		a.Code = CodeInvalidKey
	case status.Code == http.StatusForbidden && impersonation(kind, group):
		a.Status = http.StatusInternalServerError
		a.Message = "the gateway may not act as the user or a group of this key: its administrator has to allow it to impersonate them. " + status.Message
	case status.Code == http.StatusForbidden && overQuota(status):
		a.Code = CodeQuotaExceeded
	case status.Code == http.StatusForbidden:
		a.Code = CodeInsufficientRole
	case status.Code == http.StatusNotFound && kind == "sandboxsnapshots":
		a.Code = CodeSnapshotNotFound
	case status.Code == http.StatusNotFound && kind == "sandboxes":
		a.Code = CodeSandboxNotFound
	case status.Code == http.StatusNotFound:
		// A namespace, a Secret, a class: nothing that the caller has asked for by its id.
		a.Status = http.StatusConflict
		a.Code = CodeInvalidState
	case status.Code == http.StatusConflict && kind == "sandboxsnapshots":
		a.Code = CodeSnapshotInvalidState
	case status.Code == http.StatusConflict:
		a.Code = CodeInvalidState
	case status.Code == http.StatusBadRequest, status.Code == http.StatusUnprocessableEntity:
		a.Status, a.Code = http.StatusBadRequest, CodeInvalidParameter
	case status.Code == http.StatusRequestEntityTooLarge:
		a.Code = CodeBodyTooLarge
	case status.Code == http.StatusTooManyRequests:
		a.RetryAfter = max(a.RetryAfter, time.Second)
	case status.Code == http.StatusGatewayTimeout, status.Code == http.StatusServiceUnavailable, status.Reason == metav1.StatusReasonServerTimeout:
		a.Status, a.Code = http.StatusServiceUnavailable, CodeUnavailable
		if a.RetryAfter == 0 {
			a.RetryAfter = retryAfter
		}
	case status.Code < http.StatusBadRequest:
		a.Status = http.StatusInternalServerError
	}
	return a
}

// unserved is whether kube-apiserver knows no such API: what it answers then is no Status, and client-go makes one of it
// that looks as if the object were not there.
func unserved(status metav1.Status) bool {
	return status.Code == http.StatusNotFound && status.Details != nil &&
		slices.ContainsFunc(status.Details.Causes, func(c metav1.StatusCause) bool { return c.Type == metav1.CauseTypeUnexpectedServerResponse })
}

// impersonation is whether somebody's right to act as another is what is refused.
func impersonation(kind, group string) bool {
	switch kind {
	case "users", "groups", "serviceaccounts":
		return group == ""
	case "uids", "userextras":
		return group == "authentication.k8s.io"
	}
	return false
}

// overQuota is whether it is a quota that refuses: nothing but the message says so
// (k8s.io/apiserver/pkg/admission/plugin/resourcequota, checkRequest).
func overQuota(status metav1.Status) bool {
	return strings.Contains(status.Message, "exceeded quota: ")
}
