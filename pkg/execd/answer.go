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

package execd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"syscall"
)

// Codes of errors, as the reference has them; clients match on the text.
const (
	codeInvalidBody     = "INVALID_REQUEST_BODY"
	codeMissingQuery    = "MISSING_QUERY"
	codeRuntime         = "RUNTIME_ERROR"
	codeInvalidFile     = "INVALID_FILE"
	codeInvalidContent  = "INVALID_FILE_CONTENT"
	codeInvalidMetadata = "INVALID_FILE_METADATA"
	codeFileNotFound    = "FILE_NOT_FOUND"
	codeContextNotFound = "CONTEXT_NOT_FOUND"
	codeNotSupported    = "NOT_SUPPORTED"
)

// refusal is an error with the answer that it gets.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string { return r.message }

func problem(status int, code, format string, args ...any) *refusal {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// answer writes any error as {code, message}.
func answer(w http.ResponseWriter, err error) {
	r := refuse(err)
	body, _ := json.Marshal(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{r.code, strings.ToValidUTF8(r.message, "\uFFFD")})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Content-Disposition")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(r.status)
	_, _ = w.Write(body)
}

// refuse says what answer an error of a file system gets.
func refuse(err error) *refusal {
	var known *refusal
	if errors.As(err, &known) {
		return known
	}
	message := err.Error()
	is := func(numbers ...syscall.Errno) bool {
		for _, number := range numbers {
			if errors.Is(err, number) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &refusal{http.StatusNotFound, codeFileNotFound, message}
	case is(syscall.EACCES, syscall.EPERM):
		return &refusal{http.StatusForbidden, codeRuntime, message + fmt.Sprintf(": execd runs as user %d here", syscall.Geteuid())}
	case is(syscall.EROFS):
		return &refusal{http.StatusForbidden, codeRuntime, message + ": write to a volume, or have the root file system writable"}
	case is(syscall.EEXIST, syscall.ENOTEMPTY, syscall.EBUSY, syscall.ETXTBSY):
		return &refusal{http.StatusConflict, codeRuntime, message}
	case is(syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL, syscall.ENAMETOOLONG, syscall.ELOOP, syscall.ENXIO):
		return &refusal{http.StatusBadRequest, codeInvalidFile, message}
	case is(syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG):
		return &refusal{http.StatusInsufficientStorage, codeRuntime, message}
	default:
		return &refusal{http.StatusInternalServerError, codeRuntime, message}
	}
}
