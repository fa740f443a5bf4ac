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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opensandbox-io/sandbox-apiserver/test/bench/serving"
)

// served is a server that runs.
type served struct{ *serving.Server }

func start(ctx context.Context, program, dir string) (*served, error) {
	server, err := serving.Start(ctx, program, dir)
	if err != nil {
		return nil, err
	}
	return &served{server}, nil
}

func (s *served) measure() (map[string]float64, error) { return s.Ask("measure") }

func (s *served) create(ctx context.Context, object io.Reader) error {
	return s.do(ctx, serving.NewClient(), http.MethodPost, serving.Sandboxes, "application/json", object)
}

// patch has clients change a label of the sandbox, until there were so many changes in all.
func (s *served) patch(ctx context.Context, clients, patches int) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range clients {
		client := serving.NewClient()
		group.Go(func() error {
			for {
				n := next.Add(1)
				if n > int64(patches) {
					return nil
				}
				body := strings.NewReader(fmt.Sprintf(`{"metadata":{"labels":{"n":"%d-%d"}}}`, time.Now().UnixNano(), n))
				switch err := s.do(ctx, client, http.MethodPatch, serving.Sandboxes+"/large", "application/merge-patch+json", body); {
				case errors.Is(err, errLost):
					// It costs what it has cost, and does not count, as it does not for a user.
					next.Add(-1)
				case err != nil:
					return err
				}
			}
		})
	}
	return group.Wait()
}

// errLost is the answer to a patch that others were always faster than, or that took too long for that.
var errLost = errors.New("others were faster")

func (s *served) do(ctx context.Context, client *http.Client, method, path, contentType string, body io.Reader) error {
	request, err := s.Request(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode == http.StatusConflict, response.StatusCode == http.StatusGatewayTimeout:
		return errLost
	case response.StatusCode >= http.StatusMultipleChoices:
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	return nil
}
