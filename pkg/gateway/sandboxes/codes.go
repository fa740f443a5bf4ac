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

package sandboxes

import (
	"fmt"
	"net/http"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// Codes of the reference that are of these routes alone.
const (
	codeSnapshotNotReady = "SNAPSHOT::NOT_READY"
	codeSnapshotConfig   = "SNAPSHOT::INVALID_RESTORE_CONFIG"

	codeVolumeName       = "VOLUME::INVALID_NAME"
	codeVolumeDuplicate  = "VOLUME::DUPLICATE_NAME"
	codeVolumeBackend    = "VOLUME::INVALID_BACKEND"
	codeVolumeMountPath  = "VOLUME::INVALID_MOUNT_PATH"
	codeVolumeSubPath    = "VOLUME::INVALID_SUB_PATH"
	codeVolumeHostPath   = "VOLUME::INVALID_HOST_PATH"
	codeVolumeNotAllowed = "VOLUME::HOST_PATH_NOT_ALLOWED"
	codeVolumeClaim      = "VOLUME::INVALID_PVC_NAME"
	codeVolumeNoClaim    = "VOLUME::PVC_NOT_FOUND"
	codeVolumeNotOffered = "VOLUME::UNSUPPORTED_BACKEND"
)

// badRequest is about a field of the request, which the message names first.
func badRequest(code, format string, args ...any) error {
	return refuse(http.StatusBadRequest, code, format, args...)
}

// invalid is a badRequest without a code of its own.
func invalid(format string, args ...any) error {
	return badRequest(answer.CodeInvalidParameter, format, args...)
}

// notOffered is about what the reference has and this server has not: accepting it would promise what nobody keeps.
func notOffered(format string, args ...any) error {
	return refuse(http.StatusNotImplemented, answer.CodeNotSupported, format, args...)
}

func conflict(code, format string, args ...any) error {
	return refuse(http.StatusConflict, code, format, args...)
}

func refuse(status int, code, format string, args ...any) error {
	return &answer.Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}
