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
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opensandbox-io/sandbox-apiserver/test/bench/serving"
)

// measure has one store served twice: watches of the second server begin before it.
func measure(ctx context.Context, program, dir string) (s sample, err error) {
	dir, err = os.MkdirTemp(dir, "bench-watch")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	first, err := start(ctx, program, dir)
	if err != nil {
		return s, err
	}
	version, err := first.create(ctx)
	if err == nil {
		err = first.write(ctx, 1) // so that what there is now was not there then
	}
	if err := errors.Join(err, first.Stop()); err != nil {
		return s, err
	}
	for _, of := range []struct {
		seconds *float64
		from    func(*served) (string, error)
		seen    int
	}{
		{&s.Writes, nil, 0},
		{&s.Cached, func(now *served) (string, error) { return now.version(ctx) }, 0},
		{&s.Resumed, func(*served) (string, error) { return version, nil }, 1},
	} {
		if *of.seconds, err = serveAndWrite(ctx, program, dir, of.from, of.seen); err != nil {
			return s, err
		}
		// The next is from just before this end.
		if version, err = lastVersion(ctx, program, dir); err != nil {
			return s, err
		}
	}
	return s, nil
}

// lastVersion has a server tell where it is, write once more, and end.
func lastVersion(ctx context.Context, program, dir string) (version string, err error) {
	now, err := start(ctx, program, dir)
	if err != nil {
		return "", err
	}
	if version, err = now.version(ctx); err == nil {
		err = now.write(ctx, 1)
	}
	return version, errors.Join(err, now.Stop())
}

// serveAndWrite is the CPU of a server from when its watchers are there until they have seen all writes.
func serveAndWrite(ctx context.Context, program, dir string, from func(*served) (string, error), seen int) (seconds float64, err error) {
	now, err := start(ctx, program, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, now.Stop()) }()
	ctx, cancel := context.WithTimeout(ctx, serving.Patience)
	defer cancel()
	group, watching := errgroup.WithContext(ctx)
	there := make(chan struct{}, watchers)
	if from != nil {
		version, err := from(now)
		if err != nil {
			return 0, err
		}
		var client *http.Client
		for i := range watchers {
			if i%10 == 0 {
				client = serving.NewClient()
			}
			shared := client
			group.Go(func() error { return now.watch(watching, shared, version, seen, there) })
		}
		for range watchers {
			select {
			case <-there:
			case <-watching.Done():
				return 0, group.Wait()
			}
		}
	}
	before, err := now.cpu()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(now.write(ctx, writes), group.Wait()); err != nil {
		return 0, err
	}
	after, err := now.cpu()
	return after - before, err
}

// watch sees as many events as are to come, and says when it is there, having seen those of before.
func (s *served) watch(ctx context.Context, client *http.Client, version string, seen int, there chan<- struct{}) error {
	request, err := s.Request(ctx, http.MethodGet, serving.Sandboxes+"?watch=true&resourceVersion="+version, "", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("watching from %s on: %s", version, response.Status)
	}
	lines := bufio.NewReader(response.Body)
	for events := 0; ; events++ {
		if events == seen {
			there <- struct{}{}
		}
		if events == seen+writes {
			return nil
		}
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("after %d events: %w", events, err)
		}
		if bytes.HasPrefix(line, []byte(`{"type":"ERROR"`)) {
			return fmt.Errorf("after %d events: %s", events, line)
		}
	}
}

// served is a server that runs.
type served struct {
	*serving.Server
	client *http.Client
}

func start(ctx context.Context, program, dir string) (*served, error) {
	server, err := serving.Start(ctx, program, dir)
	if err != nil {
		return nil, err
	}
	return &served{server, serving.NewClient()}, nil
}

// cpu is what the server has used so far, in seconds.
func (s *served) cpu() (float64, error) {
	reply, err := s.Ask("measure")
	return reply["cpu"], err
}

func (s *served) create(ctx context.Context) (version string, err error) {
	return s.do(ctx, http.MethodPost, serving.Sandboxes, "application/json", `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"demo"},`+
		`"spec":{"template":{"spec":{"containers":[{"name":"main","image":"registry.example.com/image","env":[{"name":"A","value":"b"}],"resources":{"requests":{"cpu":"1"}}}]}}}}`)
}

func (s *served) version(ctx context.Context) (string, error) {
	return s.do(ctx, http.MethodGet, serving.Sandboxes, "", "")
}

func (s *served) write(ctx context.Context, times int) error {
	for i := range times {
		if _, err := s.do(ctx, http.MethodPatch, serving.Sandboxes+"/demo", "application/merge-patch+json", fmt.Sprintf(`{"metadata":{"labels":{"n":"%d-%d"}}}`, time.Now().UnixNano(), i)); err != nil {
			return err
		}
	}
	return nil
}

// do returns the resourceVersion of the answer.
func (s *served) do(ctx context.Context, method, path, contentType, body string) (version string, err error) {
	request, err := s.Request(ctx, method, path, contentType, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	var object struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(answer, &object); err != nil {
		return "", err
	}
	return object.Metadata.ResourceVersion, nil
}
