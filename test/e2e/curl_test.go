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
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// curl is a person with curl and a key, which is in a file, so that the lines are those of the guide and of docs/lifecycle-api.md.
type curl struct {
	*keyholder
	config string
}

func (k *keyholder) withCurl() *curl {
	k.t.Helper()
	c := &curl{k, filepath.Join(k.t.TempDir(), "curl")}
	if err := os.WriteFile(c.config, []byte("header = \""+keyHeader+": "+k.key+"\"\n"), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return c
}

// do runs a line as a person types it, with $URL for the gateway's, and returns status and body of the answer.
func (c *curl) do(line string, also ...string) (status int, body string) {
	c.t.Helper()
	script := "curl --config \"$CONFIG\" --silent --show-error --max-time 60 --write-out '\\n%{http_code}' " + line
	command := exec.CommandContext(c.t.Context(), "bash", "-c", script)
	command.Env = append(append(os.Environ(), "CONFIG="+c.config, "URL="+c.url), also...)
	stdout, stderr, err := output(command)
	if err != nil {
		c.t.Fatalf("curl %s: %v\n%s%s", line, err, stdout, stderr)
	}
	at := strings.LastIndex(stdout, "\n")
	if status, err = strconv.Atoi(stdout[at+1:]); err != nil {
		c.t.Fatalf("curl %s: %s", line, stdout)
	}
	return status, stdout[:at]
}

// want is do for a line whose answer has to have a status.
func (c *curl) want(status int, line string, also ...string) string {
	c.t.Helper()
	got, body := c.do(line, also...)
	if got != status {
		c.t.Fatalf("curl %s: %d %s, want %d", line, got, body, status)
	}
	return body
}

// json is want for an answer with a body, of which one field at a path is returned.
func (c *curl) json(status int, path, line string) string {
	c.t.Helper()
	var at any
	body := c.want(status, line)
	if err := json.Unmarshal([]byte(body), &at); err != nil {
		c.t.Fatalf("curl %s: %v: %s", line, err, body)
	}
	for _, field := range strings.Split(path, ".") {
		object, _ := at.(map[string]any)
		at = object[field]
	}
	return fmt.Sprint(at)
}

// run runs a command in a sandbox by execd, through the gateway, and returns what that printed.
func (c *curl) run(id, command string) string {
	c.t.Helper()
	request, err := json.Marshal(map[string]string{"command": command})
	if err != nil {
		c.t.Fatal(err)
	}
	events := c.want(http.StatusOK, `-X POST "$URL/v1/sandboxes/`+id+`/proxy/44772/command" -H 'Content-Type: application/json' -d "$BODY"`, "BODY="+string(request))
	out, complete := "", false
	for line := range strings.Lines(events) {
		var event struct{ Type, Text string }
		if err := json.Unmarshal([]byte(strings.TrimPrefix(strings.TrimSpace(line), "data:")), &event); err != nil {
			continue
		}
		if event.Type == "stdout" {
			out += strings.TrimRight(event.Text, "\n") + "\n"
		}
		complete = complete || event.Type == "execution_complete"
	}
	if !complete {
		c.t.Fatalf("%q in sandbox %s does not end: %s", command, id, events)
	}
	return strings.TrimSpace(out)
}

func (c *curl) awaitPing(id string) {
	c.t.Helper()
	eventually(c.t, "execd of sandbox "+id+" answers", patience, func(context.Context) (bool, string) {
		status, body := c.do(`"$URL/v1/sandboxes/` + id + `/proxy/44772/ping"`)
		return status == http.StatusOK, fmt.Sprint(status, body)
	})
}

// TestTheGuideWithCurl: the lines of OpenSandbox's guide, as they stand, but for the key.
func TestTheGuideWithCurl(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	c := k.keyholder(tenantRole).withCurl()

	create := `-X POST "$URL/v1/sandboxes" -H 'Content-Type: application/json' -d '{"image": {"uri": "` + busybox + `"}, "entrypoint": ["tail", "-f", "/dev/null"], "resourceLimits": {"cpu": "100m", "memory": "64Mi"}, "timeout": 600, "metadata": {"story": "curl"}}'`
	id := c.json(http.StatusAccepted, "id", create)
	c.awaitPing(id)
	if got := c.json(http.StatusOK, "status.state", `"$URL/v1/sandboxes/`+id+`"`); got != "Running" {
		t.Errorf("it answers, and is %s", got)
	}
	if got := c.run(id, "id -u; echo kept > /root/note"); got != "0" {
		t.Errorf("a command prints %q", got)
	}
	c.want(http.StatusOK, `-X POST "$URL/v1/sandboxes/`+id+`/proxy/44772/files/upload" -F 'metadata={"path": "/root/uploaded", "mode": 644};type=application/json' -F 'file=@'"$CONFIG"';filename=uploaded'`)

	// What is told of it is read with the rights of the key's user.
	if summary := c.want(http.StatusOK, `"$URL/v1/sandboxes/`+id+`/diagnostics/summary"`); !strings.Contains(summary, "Phase: Running") || !strings.Contains(summary, "Container sandbox: running") {
		t.Errorf("the summary is\n%s", summary)
	}
	for _, one := range []string{"logs?scope=all", "events?scope=all", "logs?tail=5", "inspect"} {
		c.want(http.StatusOK, `"$URL/v1/sandboxes/`+id+`/diagnostics/`+one+`"`)
	}

	// Pause, its status, resume: as the guide has them.
	if body := c.want(http.StatusAccepted, `-X POST $URL/v1/sandboxes/`+id+`/pause -H "Content-Type: application/json"`); body != "" {
		t.Errorf("pause is answered with %q, want nothing", body)
	}
	c.want(http.StatusAccepted, `-X POST $URL/sandboxes/`+id+`/pause`) // a repeat, at the root, without a type
	eventually(t, "the guide's status is paused", patience, func(context.Context) (bool, string) {
		state := c.json(http.StatusOK, "status.state", `$URL/v1/sandboxes/`+id)
		return state == "Paused", state
	})
	k.mustList([]string{id}, "sandboxes", "--field-selector", "metadata.name="+id)
	k.wait("condition=Paused", "sandbox/"+id)
	k.mustList(nil, "pods", "--field-selector", "metadata.name="+id)

	status, body := c.do(`-i "$URL/v1/sandboxes/` + id + `/proxy/44772/ping"`)
	if status != http.StatusServiceUnavailable || !strings.Contains(strings.ToLower(body), "retry-after:") || !strings.Contains(body, "Paused") {
		t.Errorf("the proxy to a paused sandbox says %d %s, want 503 with Retry-After and the state", status, body)
	}
	c.want(http.StatusAccepted, `-X POST $URL/v1/sandboxes/`+id+`/resume -H "Content-Type: application/json"`)
	c.awaitPing(id)
	if got := c.run(id, "cat /root/note; test -s /root/uploaded && echo uploaded"); strings.Join(strings.Fields(got), " ") != "kept uploaded" {
		t.Errorf("after the resume there is %q", got)
	}

	snapshot := c.json(http.StatusAccepted, "id", `-X POST $URL/v1/sandboxes/`+id+`/snapshots -H "Content-Type: application/json" -d '{"name": "curl"}'`)
	eventually(t, "the snapshot is Ready", patience, func(context.Context) (bool, string) {
		state := c.json(http.StatusOK, "status.state", `$URL/v1/snapshots/`+snapshot)
		return state == "Ready", state
	})
	copied := c.json(http.StatusAccepted, "id", `-X POST "$URL/v1/sandboxes" -H 'Content-Type: application/json' -d '{"snapshotId": "`+snapshot+`", "resourceLimits": {"cpu": "100m", "memory": "64Mi"}}'`)
	c.awaitPing(copied)
	if got := c.run(copied, "cat /root/note"); got != "kept" {
		t.Errorf("the copy has %q", got)
	}
	for _, one := range []string{copied, id} {
		c.want(http.StatusNoContent, `-X DELETE $URL/v1/sandboxes/`+one)
		eventually(t, one+" is gone", patience, func(context.Context) (bool, string) {
			status, body := c.do(`$URL/v1/sandboxes/` + one)
			return status == http.StatusNotFound, fmt.Sprint(status, body)
		})
	}
	c.want(http.StatusNoContent, `-X DELETE $URL/v1/snapshots/`+snapshot)
	for _, one := range []string{"health", "openapi.json", "v1/openapi.json"} {
		c.want(http.StatusOK, `$URL/`+one)
	}
}
