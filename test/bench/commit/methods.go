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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

const (
	ours           = "ours"
	baseline       = "baseline"
	inUpper        = "in-upper"
	reference      = "reference"
	containerdDiff = "containerd-diff"
)

// allMethods are in the order of the result.
var allMethods = []string{ours, baseline, inUpper, reference, containerdDiff}

// sample is one run.
type sample struct {
	seconds, cpu, peakMiB, uploadedMiB float64
	frozen                             *time.Duration // nil: it freezes nothing
}

// methods are those of o that this case has.
func (c testCase) methods(o *options) []string {
	return slices.DeleteFunc(slices.Clone(allMethods), func(method string) bool {
		switch method {
		case inUpper:
			return c.volume == "" || !slices.Contains(o.methods, ours)
		case baseline:
			if o.baseline == "" || c.volume != "" {
				return true
			}
		case reference, containerdDiff:
			if c.alone {
				return true
			}
		}
		return !slices.Contains(o.methods, method)
	})
}

// measure runs each method by turns.
func measure(ctx context.Context, o *options, c testCase, say func(string, ...any)) (_ map[string][]sample, err error) {
	say("%s: preparing", c.name)
	s, err := open(ctx, o, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(), removeDir(o.dir)) }()
	names := c.methods(o)
	methods := map[string]func(context.Context, string) (sample, error){
		ours: func(ctx context.Context, repository string) (sample, error) {
			return s.commit(ctx, o.committer, s.main, repository)
		},
		baseline: func(ctx context.Context, repository string) (sample, error) {
			return s.commit(ctx, o.baseline, s.main, repository)
		},
		inUpper: func(ctx context.Context, repository string) (sample, error) {
			return s.commit(ctx, o.committer, s.beside, repository)
		},
		reference: s.reference, containerdDiff: s.containerdDiff,
	}
	if c.second {
		for _, name := range names {
			if _, err := methods[name](ctx, "first-"+name); err != nil {
				return nil, fmt.Errorf("the first sandbox of %s: %w", name, err)
			}
		}
	}
	all := map[string][]sample{}
	for round := range o.rounds {
		for turn := range names {
			// Another one begins each round: none has always the same neighbour before it.
			name := names[(round+turn)%len(names)]
			if c.touch != nil {
				if err := c.touch(s.main.root, round*len(names)+turn); err != nil {
					return nil, err
				}
			}
			// What one left to be written must not be paid by the next.
			syscall.Sync()
			one, err := methods[name](ctx, fmt.Sprintf("%s-%s-%d", c.name, name, round))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all[name] = append(all[name], one)
			say("%s: round %d: %s %.3f s, %.2f s of CPU, %.0f MiB, %.2f MiB uploaded", c.name, round+1, name, one.seconds, one.cpu, one.peakMiB, one.uploadedMiB)
		}
	}
	return all, nil
}

// commit is an image-committer as its Job runs it.
func (s *stage) commit(ctx context.Context, program string, c *container, repository string) (sample, error) {
	report := filepath.Join(s.dir, "result.json")
	args, err := knownTo(ctx, program, []string{
		"--containerd-address=" + s.socket, "--containerd-namespace=" + namespace, "--registry-insecure",
		"--pod-uid=" + c.podUID, "--snapshot-uid=" + repository, "--termination-log=" + report, "--spool-dir=" + s.dir,
		"--base-repository=" + s.registry + "/sandbox_bases",
		fmt.Sprintf("--container=name=%s,id=%s,image=%s/%s:x", containerName, c.id, s.registry, repository),
	})
	if err != nil {
		return sample{}, err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"commit"}, args...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if !s.second {
		// The repository is fresh but for the base's layers, as it is from the second pause on.
		for _, l := range s.layers {
			location, err := begin(ctx, s.registry, repository, url.Values{"mount": {l.digest.String()}, "from": {baseRepository}})
			if err != nil {
				return sample{}, err
			}
			if location != "" {
				return sample{}, errors.New("the registry did not take the base's layer from another repository")
			}
		}
	}
	one, err := s.timed(ctx, func() ([]*exec.Cmd, error) { return []*exec.Cmd{cmd}, cmd.Run() })
	if err != nil {
		return one, fmt.Errorf("%w:\n%s", err, log.String())
	}
	data, err := os.ReadFile(report)
	if err != nil {
		return one, err
	}
	r, err := result.Decode(data)
	if err != nil {
		return one, err
	}
	frozen := time.Duration(r.FrozenMillis) * time.Millisecond
	one.frozen = &frozen
	return one, os.WriteFile(filepath.Join(s.dir, "ours.log"), log.Bytes(), 0o644)
}

// knownTo are those of the arguments whose flags this build has: it may be older or newer than what they are written for.
func knownTo(ctx context.Context, program string, args []string) ([]string, error) {
	help, err := exec.CommandContext(ctx, program, "commit", "--help").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s commit --help: %w: %s", program, err, help)
	}
	return slices.DeleteFunc(args, func(arg string) bool {
		flag, _, _ := strings.Cut(arg, "=")
		return !bytes.Contains(help, []byte(" "+flag+" "))
	}), nil
}

// reference is the same work by the best separate tools, each on its own.
func (s *stage) reference(ctx context.Context, repository string) (sample, error) {
	return s.timed(ctx, func() ([]*exec.Cmd, error) {
		p := &pipeline{}
		p.add(ctx, "tar", "-C", s.main.upper, "--xattrs", "--xattrs-include=*", "-c", ".")
		diffID := p.hash(ctx)
		p.add(ctx, "zstd", "-1", "-T"+strconv.Itoa(runtime.NumCPU()), "-q", "-c")
		if err := p.push(ctx, s.registry, repository); err != nil {
			return p.all, err
		}
		if diffID.Len() == 0 {
			return p.all, errors.New("no diff ID came out")
		}
		return p.all, nil
	})
}

// containerdDiff is what a user would have instead: frozen as nerdctl and docker commit do it.
func (s *stage) containerdDiff(ctx context.Context, repository string) (sample, error) {
	var frozen time.Duration
	one, err := s.timed(ctx, func() ([]*exec.Cmd, error) {
		p := &pipeline{}
		began := time.Now()
		if _, err := s.ctr(ctx, "tasks", "pause", s.main.id); err != nil {
			return nil, err
		}
		blob, err := os.Create(filepath.Join(s.dir, "blob"))
		if err != nil {
			return nil, err
		}
		defer blob.Close()
		line := s.ctrArgs("snapshots", "diff", s.main.id)
		diff := exec.CommandContext(ctx, line[0], line[1:]...)
		diff.Stdout = blob
		err = diff.Run()
		if _, resumeErr := s.ctr(ctx, "tasks", "resume", s.main.id); err == nil {
			err = resumeErr
		}
		frozen = time.Since(began)
		if err != nil {
			return nil, err
		}
		p.add(ctx, "cat", blob.Name())
		err = p.push(ctx, s.registry, repository)
		return append(p.all, diff), err
	})
	one.frozen = &frozen
	return one, err
}

// timed measures the programs that work starts, and containerd beside them.
func (s *stage) timed(ctx context.Context, work func() ([]*exec.Cmd, error)) (sample, error) {
	// Resets the peak, see proc_pid_clear_refs(5).
	daemon := s.containerd.Process.Pid
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", daemon), []byte("5"), 0); err != nil {
		return sample{}, err
	}
	idle, err := daemonCPU(daemon)
	if err != nil {
		return sample{}, err
	}
	sent := s.relay.sent.Load()
	began := time.Now()
	all, err := work()
	one := sample{seconds: time.Since(began).Seconds()}
	if err != nil {
		return one, err
	}
	busy, err := daemonCPU(daemon)
	if err != nil {
		return one, err
	}
	one.cpu = busy - idle
	for _, cmd := range all {
		one.cpu += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		one.peakMiB = max(one.peakMiB, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024)
	}
	if len(all) > 1 && filepath.Base(all[len(all)-1].Path) == "ctr" {
		peak, err := daemonPeak(daemon)
		if err != nil {
			return one, err
		}
		one.peakMiB = max(one.peakMiB, peak)
	}
	// A connection is counted when it has ended, which those of programs do with them.
	err = s.await(ctx, "the last connection to the registry", func() error {
		if n := s.relay.connections.Load(); n > 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
	one.uploadedMiB = float64(s.relay.sent.Load()-sent) / mib
	return one, err
}

func daemonCPU(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// After the name in brackets: state, …, utime and stime are the 12th and 13th, in ticks of USER_HZ, always 100.
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100, err
}

func daemonPeak(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("the kernel does not tell a peak")
}

// pipeline is programs that read from each other.
type pipeline struct {
	all  []*exec.Cmd
	last *os.File // what the next one reads
	ends []*os.File
	err  error
}

func (p *pipeline) add(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	if p.last != nil {
		cmd.Stdin = p.last
	}
	p.last = p.pipeTo(func(w *os.File) { cmd.Stdout = w })
	p.all = append(p.all, cmd)
	return cmd
}

func (p *pipeline) pipeTo(set func(*os.File)) *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		p.err = errors.Join(p.err, err)
		return nil
	}
	set(w)
	p.ends = append(p.ends, r, w)
	return r
}

// hash hashes what goes through, beside it. The sum is there when all have ended.
func (p *pipeline) hash(ctx context.Context) *bytes.Buffer {
	tee := p.add(ctx, "tee", "/dev/fd/3")
	sum := exec.CommandContext(ctx, "sha256sum")
	sum.Stdin = p.pipeTo(func(w *os.File) { tee.ExtraFiles = []*os.File{w} })
	out := &bytes.Buffer{}
	sum.Stdout, sum.Stderr = out, os.Stderr
	p.all = append(p.all, sum)
	return out
}

// push runs the whole pipeline into a new blob of the registry.
func (p *pipeline) push(ctx context.Context, registry, repository string) error {
	digest := p.hash(ctx)
	location, err := begin(ctx, registry, repository, nil)
	if err != nil {
		return err
	}
	headers := &bytes.Buffer{}
	curl := exec.CommandContext(ctx, "curl", "--silent", "--show-error", "--fail", "--dump-header", "-", "--output", os.DevNull,
		"--request", "PATCH", "--header", "Content-Type: application/octet-stream", "--header", "Expect:", "--upload-file", "-", location)
	curl.Stdin, curl.Stdout, curl.Stderr = p.last, headers, os.Stderr
	p.all = append(p.all, curl)
	if p.err != nil {
		return p.err
	}
	for i, cmd := range p.all {
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("%s: %w", p.all[i].Path, err)
		}
	}
	for _, f := range p.ends {
		_ = f.Close() // the programs have them
	}
	for _, cmd := range p.all {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w", cmd.Path, err)
		}
	}
	for line := range strings.Lines(headers.String()) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(key, "Location") {
			location = strings.TrimSpace(value)
		}
	}
	sum, _, _ := strings.Cut(digest.String(), " ")
	return p.finish(ctx, location, "sha256:"+sum)
}

// finish is the PUT that makes an upload a blob.
func (p *pipeline) finish(ctx context.Context, location, digest string) error {
	u, err := url.Parse(location)
	if err != nil {
		return err
	}
	q := u.Query()
	q.Set("digest", digest)
	u.RawQuery = q.Encode()
	put := exec.CommandContext(ctx, "curl", "--silent", "--show-error", "--fail", "--request", "PUT", u.String())
	put.Stderr = os.Stderr
	p.all = append(p.all, put)
	return put.Run()
}

// begin asks for an upload and returns where it goes; to nowhere when query made it superfluous.
func begin(ctx context.Context, registry, repository string, query url.Values) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/v2/%s/blobs/uploads/?%s", registry, repository, query.Encode()), nil)
	if err != nil {
		return "", err
	}
	request.Close = true // see timed
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusCreated:
		return "", nil
	case http.StatusAccepted:
		location, err := answer.Location()
		if err != nil {
			return "", err
		}
		return location.String(), nil
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
	return "", fmt.Errorf("the registry answers %s: %s", answer.Status, text)
}
