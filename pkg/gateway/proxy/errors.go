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

import "net/http"

// Codes of errors, as OpenSandbox's clients know them.
const (
	codeInvalidPort      = "DOCKER::INVALID_PORT"
	codeInvalidParameter = "SANDBOX::INVALID_PARAMETER"
	codeInvalidState     = "KUBERNETES::INVALID_STATE"
	codeInvalidKey       = "INVALID_API_KEY"
	codeNotFound         = "KUBERNETES::SANDBOX_NOT_FOUND"
	codeNoAddress        = "KUBERNETES::POD_IP_NOT_AVAILABLE"
	codeConnectionFailed = "BACKEND_CONNECTION_FAILED"
	codeAPIError         = "KUBERNETES::API_ERROR"
)

// Error is an answer that is no sandbox's.
type Error struct {
	Status        int
	Code, Message string
	RetryAfter    int // seconds; 0: not said
}

func (e *Error) Error() string { return e.Message }

func unavailable(why string) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Code: codeAPIError, Message: why, RetryAfter: 1}
}
