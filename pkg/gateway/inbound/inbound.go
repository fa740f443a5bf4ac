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

// Package inbound is what handlers may know of an HTTP request besides the fields that its document lists.
package inbound

import "context"

// Request is one request.
type Request struct {
	// ID is the X-Request-ID of the answer.
	ID string
	// Host is the host, and port, by which the client has reached the gateway.
	Host string
	// Base is the path above the document's paths, as the client has called it: /v1 or empty.
	Base string
}

type key struct{}

// With returns a context that holds a request.
func With(ctx context.Context, request Request) context.Context {
	return context.WithValue(ctx, key{}, request)
}

// From returns the request that a context is of. Where it is of none all fields are empty.
func From(ctx context.Context) Request {
	request, _ := ctx.Value(key{}).(Request)
	return request
}
