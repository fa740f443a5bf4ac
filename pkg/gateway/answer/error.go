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

// Package answer writes what is no 2xx: {"code", "message"}, whatever has gone wrong, and wherever.
package answer

import (
	"fmt"
	"net/http"
	"time"
)

// Error is an answer that is no 2xx. Handlers return it as their error.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is for programs.
	Code string
	// Message says to a person what was wrong with which field or object, and what to do. It holds nobody's secrets.
	Message string
	// RetryAfter is when to try again, in whole seconds, rounded up; zero: nothing is said about it.
	RetryAfter time.Duration
	// Cause is for the log alone; nil: there is nothing to add.
	Cause error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message)
}

func (e *Error) Unwrap() error {
	return e.Cause
}

// Errorf is an answer with a message.
func Errorf(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// InvalidParameter is the answer to a field that cannot be as it is.
func InvalidParameter(field, format string, args ...any) *Error {
	return Errorf(http.StatusBadRequest, CodeInvalidParameter, "%s: %s", field, fmt.Sprintf(format, args...))
}

// NotSupported is the answer to what this server does not offer: instead of doing without it.
func NotSupported(format string, args ...any) *Error {
	return Errorf(http.StatusNotImplemented, CodeNotSupported, format, args...)
}
