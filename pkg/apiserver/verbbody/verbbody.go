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

// Package verbbody reads what is sent to sandboxes/pause and sandboxes/resume, before the generic
// handler does. It imports little, so that fuzzing it need not instrument a whole API server.
package verbbody

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
)

// FillEmpty makes an empty body {}. `curl -X POST` and `kubectl create --raw … -f /dev/null` send
// one, and the generic handler would refuse it as malformed JSON.
func FillEmpty(req *http.Request) {
	if req.ContentLength > 0 {
		return
	}
	// Length zero, or unknown because the body is chunked: one byte tells.
	first := make([]byte, 1)
	n, err := 0, error(io.EOF)
	if req.Body != nil {
		n, err = io.ReadFull(req.Body, first)
	}
	switch {
	case n > 0:
		req.Body = prefixed{io.MultiReader(bytes.NewReader(first), req.Body), req.Body}
	case errors.Is(err, io.EOF):
		req.Body = io.NopCloser(bytes.NewReader([]byte("{}")))
		req.ContentLength = 2
		// What an empty body claims to be cannot matter: `kubectl create --raw` and curl each
		// have their own default, and neither is JSON for certain.
		req.Header.Set("Content-Type", runtime.ContentTypeJSON)
		req.Header.Set("Content-Length", strconv.Itoa(2))
	}
	// Any other error is met again, and answered, by the handler that reads the body.
}

// prefixed is a body of which a part was read ahead.
type prefixed struct {
	io.Reader
	io.Closer
}
