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

package gateway

import (
	"context"
	"net/http"

	"github.com/ogen-go/ogen/ogenerrors"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/clientmetrics"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/diagnostics"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/notoffered"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/proxy"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/sandboxes"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/snapshots"
)

// handlers has a method for each operation of the document: those of the rooms that are embedded here, and a 501 for what
// none of them has.
type handlers struct {
	*sandboxRoutes
	snapshotRoutes
	diagnosticRoutes
	metricsRoutes
	portRoutes
	notOffered
	unoffered
}

// Each room calls its handler as it likes.
type (
	sandboxRoutes    = sandboxes.Handler
	snapshotRoutes   = snapshots.Handler
	diagnosticRoutes = diagnostics.Handler
	metricsRoutes    = clientmetrics.Handler
	notOffered       = notoffered.Handler
	portRoutes       = proxy.Endpoints
)

// unoffered lies one level deeper than the rooms, so that any of them goes before it.
type unoffered struct{ httpapi.UnimplementedHandler }

var _ httpapi.Handler = handlers{}

// NewError is for the generated code: what a room has returned as its error.
func (handlers) NewError(ctx context.Context, err error) *httpapi.ErrorStatusCodeWithHeaders {
	return answer.Encoded(ctx, err)
}

// generated is the code from the document, in front of the handlers.
func generated(h httpapi.Handler) (http.Handler, error) {
	return httpapi.NewServer(h, let{},
		httpapi.WithErrorHandler(func(_ context.Context, w http.ResponseWriter, r *http.Request, err error) { answer.Write(w, r, err) }),
		httpapi.WithNotFound(notFound),
		httpapi.WithMethodNotAllowed(notAllowed))
}

// let is the document's security: who has passed an Authenticator may ask.
type let struct{}

func (let) HandleApiKey(ctx context.Context, _ httpapi.OperationName, _ httpapi.ApiKey) (context.Context, error) {
	return passed(ctx)
}

func (let) HandleBearer(ctx context.Context, _ httpapi.OperationName, _ httpapi.Bearer) (context.Context, error) {
	return passed(ctx)
}

func passed(ctx context.Context) (context.Context, error) {
	if identity.From(ctx) == nil {
		return nil, ogenerrors.ErrSecurityRequirementIsNotSatisfied
	}
	return ctx, nil
}
