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

package execd

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// grace is how long a command has between SIGTERM and SIGKILL when it is interrupted.
const grace = 3 * time.Second

// remembered is how many commands are known after their end.
const remembered = 512

// command is one that runs or has run.
type command struct {
	id      string
	content string
	started time.Time
	process *process      // nil where none could be started
	log     *backlog      // of one in the background
	ready   chan struct{} // closed once there is a process, or never will be
	done    chan struct{} // closed at its end

	// Once done.
	finished time.Time
	code     int
	failure  string
}

func newCommand(id, content string) *command {
	return &command{id: id, content: content, started: time.Now(), ready: make(chan struct{}), done: make(chan struct{})}
}

// stop ends it, and returns when it has ended.
func (c *command) stop() {
	<-c.ready
	if c.process != nil {
		c.process.stop(grace)
	}
	<-c.done
}

// commands are those that run, and the newest of those that have ended.
type commands struct {
	table *processes

	mu    sync.Mutex
	byID  map[string]*command
	ended []*command // oldest first
}

func newCommands(table *processes) *commands {
	return &commands{table: table, byID: map[string]*command{}}
}

func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// add makes a command known that was started, or could not be.
func (c *commands) add(cmd *command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID[cmd.id] = cmd
	close(cmd.ready)
}

// end records how a command ended.
func (c *commands) end(cmd *command, code int, failure string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd.finished, cmd.code, cmd.failure = time.Now(), code, failure
	close(cmd.done)
	c.ended = append(c.ended, cmd)
	if len(c.ended) > remembered {
		oldest := c.ended[0]
		c.ended = c.ended[1:]
		if c.byID[oldest.id] == oldest {
			delete(c.byID, oldest.id)
		}
		oldest.log.close()
	}
}

func (c *commands) get(id string) (*command, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cmd := c.byID[id]; cmd != nil {
		return cmd, nil
	}
	return nil, problem(http.StatusNotFound, codeInvalidBody, "there is no command %q; those of before a pause, and all but the newest %d that have ended, are forgotten", id, remembered)
}

// signalAll sends to every command that runs.
func (c *commands) signalAll(sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cmd := range c.byID {
		if cmd.process != nil {
			_ = cmd.process.signal(sig)
		}
	}
}

// runCommand is POST /command.
func (d *daemon) runCommand(w http.ResponseWriter, r *http.Request) error {
	var t task
	if err := readJSON(w, r, &t, false); err != nil {
		return err
	}
	if err := t.validate(); err != nil {
		return err
	}
	l, err := t.prepare()
	if err == nil {
		err = l.script(t.Command)
	}
	cmd := newCommand(newID(), t.Command)
	if t.Background {
		return d.background(w, &t, cmd, l, err)
	}
	d.foreground(w, &t, cmd, l, err, nil)
	return nil
}

// foreground runs a command and streams what it prints. Who goes away does not end it: its timeout does, or DELETE /command.
// It returns what was written to the pipe of a session's state, where there is one.
func (d *daemon) foreground(w http.ResponseWriter, t *task, cmd *command, l *launch, err error, state *pipe) (saved []byte) {
	s := newStream(w)
	var outputs [2]*pipe
	for i := range outputs {
		if err == nil {
			outputs[i], err = newPipe(l.credential)
		}
	}
	if err == nil {
		cmd.process, err = l.start(d.commands.table, outputs[0].write, outputs[1].write)
	}
	d.commands.add(cmd)
	s.send(event{Type: "init", Text: cmd.id})
	if err != nil {
		for _, p := range outputs {
			p.close()
		}
		state.close()
		d.failed(s, cmd, err)
		return nil
	}
	defer s.keepAlive()()
	timedOut := limit(cmd.process, t.Timeout)
	var followed sync.WaitGroup
	for i, kind := range []string{"stdout", "stderr"} {
		followed.Go(func() {
			var l lines
			outputs[i].follow(cmd.process.ended, func(chunk []byte) { s.output(kind, &l, chunk, false) })
			s.output(kind, &l, nil, true)
		})
	}
	if state != nil {
		followed.Go(func() {
			state.follow(cmd.process.ended, func(chunk []byte) { saved = append(saved, chunk...) })
		})
	}
	followed.Wait()
	<-cmd.process.ended
	code, failure := result(cmd.process.status, timedOut())
	d.commands.end(cmd, code, failure)
	if failure == "" {
		took := cmd.finished.Sub(cmd.started).Milliseconds()
		s.send(event{Type: "execution_complete", ExecutionTime: &took})
		return saved
	}
	s.send(event{Type: "error", Error: &execError{"CommandExecError", strconv.Itoa(code), []string{failure}}})
	return saved
}

// background runs a command that nobody waits for. What it prints is in its log.
func (d *daemon) background(w http.ResponseWriter, t *task, cmd *command, l *launch, err error) error {
	s := newStream(w)
	var output *pipe
	if err == nil {
		output, err = newPipe(l.credential)
	}
	if err == nil {
		cmd.log = newBacklog()
		cmd.process, err = l.start(d.commands.table, output.write, output.write)
	}
	d.commands.add(cmd)
	s.send(event{Type: "init", Text: cmd.id})
	if err != nil {
		output.close()
		d.failed(s, cmd, err)
		return nil
	}
	timedOut := limit(cmd.process, t.Timeout)
	go func() {
		output.follow(cmd.process.ended, cmd.log.append)
		<-cmd.process.ended
		code, failure := result(cmd.process.status, timedOut())
		d.commands.end(cmd, code, failure)
	}()
	took := time.Since(cmd.started).Milliseconds()
	s.send(event{Type: "execution_complete", ExecutionTime: &took})
	return nil
}

// failed tells of a command that could not be started.
func (d *daemon) failed(s *stream, cmd *command, err error) {
	code := codeNotExecutable
	if errors.Is(err, errNoShell) || errors.Is(err, fs.ErrNotExist) {
		code = codeNotFound
	}
	d.commands.end(cmd, code, err.Error())
	s.send(event{Type: "error", Error: &execError{"CommandExecError", err.Error(), []string{err.Error()}}})
}

// limit kills a process and its group when its time is up, and returns a function that says whether it did.
func limit(p *process, milliseconds int64) func() string {
	if milliseconds == 0 || milliseconds > math.MaxInt64/int64(time.Millisecond) {
		return func() string { return "" }
	}
	var mu sync.Mutex
	var why string
	timer := time.AfterFunc(time.Duration(milliseconds)*time.Millisecond, func() {
		mu.Lock()
		why = fmt.Sprintf("its timeout of %d ms is over, so it was killed", milliseconds)
		mu.Unlock()
		if err := p.signal(syscall.SIGKILL); err != nil {
			mu.Lock()
			why = ""
			mu.Unlock()
		}
	})
	return func() string {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		return why
	}
}

// result is the exit code, and what there is to say where it is not 0.
func result(status syscall.WaitStatus, timedOut string) (code int, failure string) {
	code = exitCode(status)
	switch {
	case code == 0:
	case timedOut != "" && status.Signaled():
		failure = timedOut
	case status.Signaled():
		failure = "signal: " + status.Signal().String()
	default:
		failure = fmt.Sprintf("exit status %d", code)
	}
	return code, failure
}

// interrupt is DELETE /command?id=: of a command, or of what runs in a session. It answers when that has ended.
func (d *daemon) interrupt(_ http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	if id == "" {
		return problem(http.StatusBadRequest, codeMissingQuery, "the query has no id")
	}
	if s := d.sessions.get(id); s != nil {
		s.interrupt()
		return nil
	}
	cmd, err := d.commands.get(id)
	if err != nil {
		return err
	}
	cmd.stop()
	return nil
}

// commandState is GET /command/status/{id} and /command/{id}/logs, which one pattern of net/http cannot tell apart.
func (d *daemon) commandState(w http.ResponseWriter, r *http.Request) error {
	a, b := r.PathValue("a"), r.PathValue("b")
	switch {
	case a == "status":
		return d.commandStatus(w, b)
	case b == "logs":
		return d.commandLogs(w, r, a)
	}
	return d.noPath(r)
}

func (d *daemon) commandStatus(w http.ResponseWriter, id string) error {
	cmd, err := d.commands.get(id)
	if err != nil {
		return err
	}
	status := struct {
		ID       string     `json:"id"`
		Content  string     `json:"content"`
		Running  bool       `json:"running"`
		Code     *int       `json:"exit_code,omitempty"`
		Failure  string     `json:"error,omitempty"`
		Started  time.Time  `json:"started_at"`
		Finished *time.Time `json:"finished_at,omitempty"`
	}{ID: cmd.id, Content: cmd.content, Running: true, Started: cmd.started.UTC()}
	select {
	case <-cmd.done:
		finished := cmd.finished.UTC()
		status.Running, status.Code, status.Failure, status.Finished = false, &cmd.code, cmd.failure, &finished
	default:
	}
	return writeJSON(w, status)
}

// commandLogs sends what a background command has printed, from the cursor, a byte, on.
func (d *daemon) commandLogs(w http.ResponseWriter, r *http.Request, id string) error {
	cmd, err := d.commands.get(id)
	if err != nil {
		return err
	}
	var cursor int64
	if text := r.URL.Query().Get("cursor"); text != "" {
		if cursor, err = strconv.ParseInt(text, 10, 64); err != nil || cursor < 0 {
			return problem(http.StatusBadRequest, codeInvalidBody, "cursor %q is not what EXECD-COMMANDS-TAIL-CURSOR said", text)
		}
	}
	if cmd.log == nil {
		return problem(http.StatusBadRequest, codeInvalidBody, "command %s did not run in the background: what it printed went to who ran it", cmd.id)
	}
	ended := false
	select {
	case <-cmd.done:
		ended = true
	default:
	}
	content, end := cmd.log.from(cursor, ended)
	w.Header().Set("EXECD-COMMANDS-TAIL-CURSOR", strconv.FormatInt(end, 10))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.Copy(w, content)
	return nil
}
