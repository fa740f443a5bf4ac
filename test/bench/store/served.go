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
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const sandboxes = "/apis/lifecycle.opensandbox.io/v1alpha1/namespaces/default/sandboxes"

// served is a server that runs.
type served struct {
	command *exec.Cmd
	in      io.Writer
	out     *json.Decoder
	url     string
}

// startTimeout is ample for a server on a machine with much else to do.
const startTimeout = 2 * time.Minute

func start(ctx context.Context, program, dir string) (*served, error) {
	command := exec.CommandContext(ctx, program, "--data-dir", dir)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	s := &served{command: command, in: in, out: json.NewDecoder(bufio.NewReader(out))}
	var where struct {
		URL string `json:"url"`
	}
	if err := s.out.Decode(&where); err != nil {
		return nil, errors.Join(fmt.Errorf("the server does not say where it serves: %w", err), command.Wait())
	}
	s.url = where.URL
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for client := newClient(); ; {
		if err = s.do(ctx, client, http.MethodGet, sandboxes, "", nil); err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("the server does not serve: %w", err), s.stop())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *served) stop() error {
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return s.command.Wait()
}

// ask has the server do something, and returns what it replies.
func (s *served) ask(line string) (map[string]float64, error) {
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		return nil, err
	}
	var reply map[string]float64
	if err := s.out.Decode(&reply); err != nil {
		return nil, fmt.Errorf("the server does not answer: %w", err)
	}
	return reply, nil
}

func (s *served) measure() (map[string]float64, error) { return s.ask("measure") }

func (s *served) create(ctx context.Context, object io.Reader) error {
	return s.do(ctx, newClient(), http.MethodPost, sandboxes, "application/json", object)
}

// patch has clients change a label of the sandbox, until there were so many changes in all.
func (s *served) patch(ctx context.Context, clients, patches int) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range clients {
		client := newClient()
		group.Go(func() error {
			for {
				n := next.Add(1)
				if n > int64(patches) {
					return nil
				}
				body := strings.NewReader(fmt.Sprintf(`{"metadata":{"labels":{"n":"%d-%d"}}}`, time.Now().UnixNano(), n))
				switch err := s.do(ctx, client, http.MethodPatch, sandboxes+"/large", "application/merge-patch+json", body); {
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
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer anybody")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
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

// newClient has a connection of its own.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // its certificate is made for this run
		ForceAttemptHTTP2: true,
	}}
}
