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

// Package result is what image-committer reports and the controller reads: one
// line of JSON in the container's termination message, and where a Pod has very many
// containers, in its log. It needs nothing but the standard library, so that the
// controller can import it alone.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxBytes is what the kubelet keeps of a termination message.
// https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
const MaxBytes = 4096

// Result is the outcome of one run. Either Error is set or the run succeeded.
type Result struct {
	// Containers are what a commit pushed, in the order of its arguments. Empty
	// after a thaw.
	Containers []Container `json:"containers,omitempty"`
	// Packed are they in less space, Logged is the sum (SHA-256) of the line in the container's
	// log that tells of them. Of the three at most one is set; Unpack and FromLog lead
	// to the first.
	Packed *Packed `json:"packed,omitempty"`
	Logged string  `json:"logged,omitempty"`
	// FrozenMillis is for how long this run kept containers frozen: from before
	// the first freeze until the last thaw, or until the end of the run where
	// they stay frozen. 0 when nothing was frozen.
	FrozenMillis int64 `json:"frozenMillis,omitempty"`
	// Warnings are what the images do not hold, and what could not be guaranteed of them.
	// Encode leaves out those that are too many.
	Warnings []Warning `json:"warnings,omitempty"`
	// Error is why the run failed.
	Error *Error `json:"error,omitempty"`
	// Thawed says that nothing which this run touched is frozen any more. False
	// after a commit that was to leave containers frozen, and when thawing failed.
	Thawed bool `json:"thawed,omitempty"`
}

// Container is one committed container.
type Container struct {
	// Name is the container's name in its Pod.
	Name string `json:"name"`
	// Image is the tag that was pushed, Digest the digest of its manifest.
	Image  string `json:"image"`
	Digest string `json:"digest"`
	// LayerBytes is the compressed size of the new layers: of one, or of two where
	// the first was read while the container ran.
	LayerBytes int64 `json:"layerBytes"`
	// Layers is the number of layers above the image that the first sandbox of
	// this line was created from.
	Layers int `json:"layers"`
	// Differ is DifferContainerd where the container's own layer could not be read.
	Differ string `json:"differ,omitempty"`
}

// DifferContainerd is containerd's comparison of whole trees, which keeps times to the
// second and no extended attributes but capabilities. The word is part of the API.
const DifferContainerd = "Containerd"

// Reason is why a run failed, in one CamelCase word.
type Reason string

// The reasons are part of the API: they become the reason of a
// SandboxSnapshot's Failed condition.
const (
	// RegistryUnavailable: the registry cannot be reached, or answers with errors
	// that are its own. The same again may succeed later.
	RegistryUnavailable Reason = "RegistryUnavailable"
	// RegistryDenied: the registry refuses what it was asked, for a reason other than the
	// credentials: a quota, a rule, a name, a format.
	RegistryDenied Reason = "RegistryDenied"
	// PushSecretInvalid: the registry refuses the credentials, or their file
	// cannot be read.
	PushSecretInvalid Reason = "PushSecretInvalid"
	// ContainerNotFound: no such container, or it belongs to another Pod.
	ContainerNotFound Reason = "ContainerNotFound"
	// ContainerRestarted: the container ended or was replaced during the commit.
	ContainerRestarted Reason = "ContainerRestarted"
	// RuntimeNotSupported: this runtime or snapshotter keeps the files where they
	// cannot be read exactly.
	RuntimeNotSupported Reason = "RuntimeNotSupported"
	// FreezeFailed: something of the Pod cannot be stopped while files are read.
	FreezeFailed Reason = "FreezeFailed"
	// FrozenTooLong: the containers would have been frozen for longer than
	// --max-frozen allows.
	FrozenTooLong Reason = "FrozenTooLong"
	// ThawedUnattended: nobody came in time for what a commit had left frozen, so it was thawed on the
	// node, and has run on since.
	ThawedUnattended Reason = "ThawedUnattended"
	// FilesNotSupported: there is a file that no image can hold, or holds only at a price
	// that is not paid. It is known before anything is pushed or frozen.
	FilesNotSupported Reason = "FilesNotSupported"
	// DeadlineExceeded: the time of --timeout was up.
	DeadlineExceeded Reason = "DeadlineExceeded"
	// Canceled: SIGTERM.
	Canceled Reason = "Canceled"
	// CommitJobFailed: anything else.
	CommitJobFailed Reason = "CommitJobFailed"
)

// Error is a failure with its reason.
type Error struct {
	Reason Reason `json:"reason"`
	// Message is a sentence for a person: what was tried, on what, what came
	// back, what to do.
	Message string `json:"message"`

	cause error
}

// Errorf returns an error with a reason; %w works as in fmt.Errorf.
func Errorf(reason Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Reason: reason, Message: err.Error(), cause: err}
}

// Wrap returns an error with a reason, whose message has all that is to be said
// of its cause.
func Wrap(reason Reason, cause error, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), cause: cause}
}

// Error is the message alone.
func (e *Error) Error() string { return e.Message }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *Error) Unwrap() error { return e.cause }

// From returns err with its reason, CommitJobFailed where it has none. The
// message is err's whole text, with what callers put around the reasoned error.
func From(err error) *Error {
	var known *Error
	reason := CommitJobFailed
	if errors.As(err, &known) {
		reason = known.Reason
	}
	// errors.Join writes lines; an event's message is one.
	return &Error{Reason: reason, Message: strings.ReplaceAll(err.Error(), "\n", "; "), cause: err}
}

// errTooLong: the containers do not fit, in whatever form.
var errTooLong = fmt.Errorf("the result takes more than the %d bytes of a termination message", MaxBytes)

// Encode returns r as JSON of at most MaxBytes. Where that is too much its containers are
// packed, and then warnings are cut, all but the one that tells so; of a failure the
// error's message is.
func (r Result) Encode() ([]byte, error) {
	warnings := r.Warnings
	r.Warnings = bounded(warnings, maxWarnings)
	data, err := marshal(r)
	if err == nil && len(data) > MaxBytes && r.Error == nil && len(r.Containers) > 0 {
		if packed, err := pack(r.Containers); err == nil {
			r.Packed, r.Containers = packed, nil
		}
		data, err = marshal(r)
	}
	for most := maxWarnings - 1; err == nil && len(data) > MaxBytes && most > 0; most-- {
		r.Warnings = bounded(warnings, most)
		data, err = marshal(r)
	}
	if err != nil || len(data) <= MaxBytes {
		return data, err
	}
	if r.Error == nil {
		return nil, errTooLong
	}
	r.Warnings, r.Packed = nil, nil
	if data, err = marshal(r); err != nil {
		return nil, err
	}
	// JSON writes one byte as up to six, so cut by what is really too much.
	short := *r.Error
	r.Error = &short
	r.Containers = nil
	for over := len(data) - MaxBytes; len(short.Message) > 0; over = len(data) - MaxBytes {
		short.Message = cut(short.Message, len(short.Message)-max(over/6, 1)-len(ellipsis))
		if data, err = marshal(r); err != nil || len(data) <= MaxBytes {
			return data, err
		}
	}
	return nil, fmt.Errorf("the error's reason is too long for a termination message")
}

const ellipsis = "…"

// cut shortens s to at most n bytes, at the border of a character, and marks
// that it did.
func cut(s string, n int) string {
	s = strings.TrimSuffix(s, ellipsis)
	n = max(min(n, len(s)), 0)
	for n > 0 && n < len(s) && !utf8.RuneStart(s[n]) {
		n--
	}
	if n == 0 {
		return ""
	}
	return s[:n] + ellipsis
}

// Decode reads what Encode wrote.
func Decode(data []byte) (Result, error) {
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return Result{}, fmt.Errorf("the termination message is not a result of image-committer: %w", err)
	}
	if r.Error != nil {
		r.Error.cause = errors.New(r.Error.Message)
	}
	return r, nil
}

func marshal(r Result) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\n")), nil
}
