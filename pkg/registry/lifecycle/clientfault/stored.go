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

package clientfault

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Stored is the answer to a write that the store has refused. One that was too large for etcd is the
// client's fault: what the validation bounds fits, but every field manager adds a list of what it
// owns.
func Stored(err error) error {
	if err == nil || !isTooLarge(err) {
		return err
	}
	return tooLarge{apierrors.NewRequestEntityTooLargeError(
		"with the managedFields of all its field managers the object would be larger than etcd can store; make it smaller, or apply it as fewer field managers")}
}

// isTooLarge recognises the refusals of etcd and of the way there. They have a gRPC code each, which
// others have too.
func isTooLarge(err error) bool {
	if refusal, ok := err.(interface{ Code() codes.Code }); ok && refusal.Code() == codes.InvalidArgument {
		return strings.Contains(err.Error(), "request is too large")
	}
	refusal, ok := status.FromError(err)
	return ok && refusal.Code() == codes.ResourceExhausted && strings.Contains(refusal.Message(), "message larger than max")
}

// tooLarge answers 413, and is still what the generic handlers recognise: to all but an apply they
// try again, without managedFields.
type tooLarge struct {
	*apierrors.StatusError
}

// GRPCStatus is what the store has said.
func (tooLarge) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, "trying to send message larger than max")
}
