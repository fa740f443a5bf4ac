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

// The codes of OpenSandbox's Lifecycle API, where it has one: its clients compare them as text. Some say DOCKER, whatever the
// sandboxes run on.
const (
	CodeMissingKey       = "MISSING_API_KEY"
	CodeInvalidKey       = "INVALID_API_KEY"
	CodeInsufficientRole = "INSUFFICIENT_ROLE"
	CodeOutOfScope       = "OUT_OF_SCOPE"
	CodeQuotaExceeded    = "KUBERNETES::QUOTA_EXCEEDED"

	CodeInvalidParameter      = "SANDBOX::INVALID_PARAMETER"
	CodeInvalidMetadataLabel  = "SANDBOX::INVALID_METADATA_LABEL"
	CodeInvalidMetadataFormat = "INVALID_METADATA_FORMAT"
	CodeInvalidPort           = "DOCKER::INVALID_PORT"
	CodeInvalidEntrypoint     = "DOCKER::INVALID_ENTRYPOINT"
	CodeInvalidExpiration     = "DOCKER::INVALID_EXPIRATION"

	CodePodIPNotAvailable = "KUBERNETES::POD_IP_NOT_AVAILABLE"
	CodeSandboxNotFound   = "KUBERNETES::SANDBOX_NOT_FOUND"
	CodeSnapshotNotFound  = "SNAPSHOT::NOT_FOUND"
	CodePoolNotFound      = "KUBERNETES::POOL_NOT_FOUND"

	CodeInvalidState         = "KUBERNETES::INVALID_STATE"
	CodeSnapshotInvalidState = "SNAPSHOT::INVALID_STATE"

	// CodeBackendConnectionFailed is a port that does not answer: the sandbox's fault, and not the gateway's.
	CodeBackendConnectionFailed = "BACKEND_CONNECTION_FAILED"

	CodeNotSupported = "SANDBOX::API_NOT_SUPPORTED"
	CodeAPIError     = "KUBERNETES::API_ERROR"
	CodeUnknown      = "GENERAL::UNKNOWN_ERROR"
)

// Codes that the reference has none for.
const (
	CodePathNotFound         = "GENERAL::NOT_FOUND"
	CodeMethodNotAllowed     = "GENERAL::METHOD_NOT_ALLOWED"
	CodeBodyTooLarge         = "GENERAL::BODY_TOO_LARGE"
	CodeUnsupportedMediaType = "GENERAL::UNSUPPORTED_MEDIA_TYPE"
	CodeRequestTimeout       = "GENERAL::REQUEST_TIMEOUT"
	CodeUnavailable          = "GENERAL::UNAVAILABLE"
)
