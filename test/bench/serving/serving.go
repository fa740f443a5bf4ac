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

// Package serving runs the server that test/bench/store/serve is, over an embedded etcd, for the benchmarks that need no cluster.
package serving

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
	"syscall"
	"time"
)

// Sandboxes is where the sandboxes of a server are.
const Sandboxes = "/apis/lifecycle.opensandbox.io/v1alpha1/namespaces/default/sandboxes"

// Patience is ample for a server on a machine with much else to do.
const Patience = 2 * time.Minute

// Server is one that runs.
type Server struct {
	command *exec.Cmd
	in      io.Writer
	out     *json.Decoder
	url     string
}

// Start starts the program on a data directory, and waits until it serves sandboxes.
func Start(ctx context.Context, program, dir string) (*Server, error) {
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
	s := &Server{command: command, in: in, out: json.NewDecoder(bufio.NewReader(out))}
	var where struct {
		URL string `json:"url"`
	}
	if err := s.out.Decode(&where); err != nil {
		return nil, errors.Join(fmt.Errorf("the server does not say where it serves: %w", err), command.Wait())
	}
	s.url = where.URL
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for client := NewClient(); ; {
		if err = s.serves(ctx, client); err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("the server does not serve: %w", err), s.Stop())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *Server) serves(ctx context.Context, client *http.Client) error {
	request, err := s.Request(ctx, http.MethodGet, Sandboxes, "", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", Sandboxes, response.Status)
	}
	return nil
}

// Stop ends the server, and returns when it has ended.
func (s *Server) Stop() error {
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return s.command.Wait()
}

// Ask has the server do something, and returns what it replies.
func (s *Server) Ask(line string) (map[string]float64, error) {
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		return nil, err
	}
	var reply map[string]float64
	if err := s.out.Decode(&reply); err != nil {
		return nil, fmt.Errorf("the server does not answer: %w", err)
	}
	return reply, nil
}

// Request is one to the server, at a path, of somebody who may do anything.
func (s *Server) Request(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer anybody")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return request, nil
}

// NewClient has a connection of its own.
func NewClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // its certificate is made for this run
		ForceAttemptHTTP2: true,
	}}
}
