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

package sandboxes

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
)

// settings are those of the tests: execd of this project, one folder of nodes, and it is dawn.
func settings() *Settings {
	return &Settings{
		Execd:            injection.Execd{Image: "registry.example.com/execd:dev", Flavor: injection.Own},
		AllowedHostPaths: []string{"/srv/shared"},
		Clock:            clocktesting.NewFakePassiveClock(dawn),
	}
}

// asked is the request of a body.
func asked(t *testing.T, body string) *creation {
	t.Helper()
	req := &httpapi.CreateSandboxRequest{}
	if err := json.Unmarshal([]byte(body), req); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return creationOf(req)
}

// with adds fields to the smallest request.
func with(fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return `{"image":{"uri":"python:3.12"},"entrypoint":["python"],"resourceLimits":{"cpu":"1","memory":"1Gi"}` + fields + `}`
}

func mounted(volume string) string { return with(`"volumes":[` + volume + `]`) }

func TestWhatIsRefused(t *testing.T) {
	const bad, not = http.StatusBadRequest, http.StatusNotImplemented
	for name, test := range map[string]struct {
		body   string
		status int // 0: taken
		code   string
		names  string // what the message names
	}{
		"nothing to refuse":             {with(""), 0, "", ""},
		"nulls say nothing":             {with(`"timeout":null,"env":null,"metadata":null,"extensions":null,"volumes":null,"lifecycle":null,"platform":null,"secureAccess":null,"networkPolicy":null,"credentialProxy":null,"resourceRequests":null,"snapshotId":null,"templateId":null`), 0, "", ""},
		"nothing to start from":         {`{"entrypoint":["x"],"resourceLimits":{"cpu":"1"}}`, bad, "SANDBOX::INVALID_PARAMETER", "image"},
		"two things to start from":      {with(`"snapshotId":"s"`), bad, "SANDBOX::INVALID_PARAMETER", "snapshotId"},
		"a template":                    {`{"templateId":"t","entrypoint":["x"]}`, not, "SANDBOX::API_NOT_SUPPORTED", "templateId"},
		"a pool":                        {with(`"extensions":{"poolRef":"warm"}`), not, "SANDBOX::API_NOT_SUPPORTED", "extensions.poolRef"},
		"renewal by use":                {with(`"extensions":{"access.renew.extend.seconds":"600"}`), not, "SANDBOX::API_NOT_SUPPORTED", "access.renew.extend.seconds"},
		"a network policy":              {with(`"networkPolicy":{"defaultAction":"deny"}`), not, "SANDBOX::API_NOT_SUPPORTED", "networkPolicy"},
		"an empty network policy":       {with(`"networkPolicy":{}`), not, "SANDBOX::API_NOT_SUPPORTED", "networkPolicy"},
		"a credential proxy":            {with(`"credentialProxy":{"enabled":true}`), not, "SANDBOX::API_NOT_SUPPORTED", "credentialProxy"},
		"none is fine":                  {with(`"credentialProxy":{"enabled":false}`), 0, "", ""},
		"windows":                       {with(`"platform":{"os":"windows","arch":"amd64"}`), not, "SANDBOX::API_NOT_SUPPORTED", "platform.os"},
		"linux is fine":                 {with(`"platform":{"os":"linux","arch":"arm64"}`), 0, "", ""},
		"a hook":                        {with(`"lifecycle":{"preStart":{"command":["x"]}}`), not, "SANDBOX::API_NOT_SUPPORTED", "lifecycle"},
		"a periodic hook":               {with(`"lifecycle":{"periodic":[{"name":"a","schedule":"@hourly","command":["x"]}]}`), not, "SANDBOX::API_NOT_SUPPORTED", "lifecycle"},
		"no hooks are fine":             {with(`"lifecycle":{"periodic":[]}`), 0, "", ""},
		"no image":                      {strings.Replace(with(""), "python:3.12", "Python 3", 1), bad, "SANDBOX::INVALID_PARAMETER", "image.uri"},
		"half a login":                  {strings.Replace(with(""), `"python:3.12"`, `"python:3.12","auth":{"username":"u"}`, 1), bad, "SANDBOX::INVALID_PARAMETER", "image.auth"},
		"no entrypoint":                 {`{"image":{"uri":"python"},"resourceLimits":{"cpu":"1"}}`, bad, "DOCKER::INVALID_ENTRYPOINT", "entrypoint"},
		"an empty program":              {strings.Replace(with(""), `["python"]`, `[" ","x"]`, 1), bad, "DOCKER::INVALID_ENTRYPOINT", "entrypoint[0]"},
		"a NUL in an argument":          {strings.Replace(with(""), `["python"]`, `["python","a\u0000b"]`, 1), bad, "DOCKER::INVALID_ENTRYPOINT", "entrypoint"},
		"no limits":                     {`{"image":{"uri":"python"},"entrypoint":["x"]}`, bad, "SANDBOX::INVALID_PARAMETER", "resourceLimits"},
		"no limits of a clone are fine": {`{"snapshotId":"s"}`, 0, "", ""},
		"timeout 59":                    {with(`"timeout":59`), bad, "SANDBOX::INVALID_PARAMETER", "timeout"},
		"timeout 0":                     {with(`"timeout":0`), bad, "SANDBOX::INVALID_PARAMETER", "timeout"},
		"timeout -1":                    {with(`"timeout":-1`), bad, "SANDBOX::INVALID_PARAMETER", "timeout"},
		"timeout 60":                    {with(`"timeout":60`), 0, "", ""},
		"timeout of a hundred years":    {with(`"timeout":3153600000`), 0, "", ""},
		"timeout of more":               {with(`"timeout":3153600001`), bad, "SANDBOX::INVALID_PARAMETER", "timeout"},
		"timeout huge":                  {with(`"timeout":9223372036854775807`), bad, "SANDBOX::INVALID_PARAMETER", "timeout"},

		"memory in Docker's words":    {strings.Replace(with(""), "1Gi", "512MB", 1), bad, "SANDBOX::INVALID_PARAMETER", "resourceLimits.memory"},
		"half a byte":                 {strings.Replace(with(""), "1Gi", "512m", 1), bad, "SANDBOX::INVALID_PARAMETER", "resourceLimits.memory"},
		"half a processor is fine":    {strings.Replace(with(""), `"cpu":"1"`, `"cpu":"500m"`, 1), 0, "", ""},
		"less than nothing":           {strings.Replace(with(""), `"cpu":"1"`, `"cpu":"-1"`, 1), bad, "SANDBOX::INVALID_PARAMETER", "resourceLimits.cpu"},
		"a limit of nothing":          {strings.Replace(with(""), `"cpu":"1"`, `"cpu":"0"`, 1), bad, "SANDBOX::INVALID_PARAMETER", "resourceLimits.cpu"},
		"all GPUs":                    {strings.Replace(with(""), `"cpu":"1"`, `"gpu":"all"`, 1), bad, "SANDBOX::INVALID_PARAMETER", "resourceLimits.gpu"},
		"half a GPU":                  {strings.Replace(with(""), `"cpu":"1"`, `"gpu":"500m"`, 1), bad, "SANDBOX::INVALID_PARAMETER", "resourceLimits.gpu"},
		"a GPU twice":                 {strings.Replace(with(""), `"cpu":"1"`, `"gpu":"1","nvidia.com/gpu":"1"`, 1), bad, "SANDBOX::INVALID_PARAMETER", "nvidia.com/gpu"},
		"a resource of nobody":        {strings.Replace(with(""), `"cpu":"1"`, `"disk":"1Gi"`, 1), bad, "SANDBOX::INVALID_PARAMETER", "disk"},
		"a device is fine":            {strings.Replace(with(""), `"cpu":"1"`, `"example.com/tpu":"2"`, 1), 0, "", ""},
		"more requested than allowed": {with(`"resourceRequests":{"cpu":"2"}`), bad, "SANDBOX::INVALID_PARAMETER", "resourceRequests.cpu"},

		// https://github.com/mastra-ai/mastra/issues/17278: what is no name of a variable went into a shell.
		"a variable without a name":      {with(`"env":{"":"x"}`), bad, "SANDBOX::INVALID_PARAMETER", "env"},
		"a variable with =":              {with(`"env":{"A=B":"x"}`), bad, "SANDBOX::INVALID_PARAMETER", "env"},
		"a variable with a line in it":   {with(`"env":{"A\nB":"x"}`), bad, "SANDBOX::INVALID_PARAMETER", "env"},
		"a NUL in a variable":            {with(`"env":{"A":"x\u0000"}`), bad, "SANDBOX::INVALID_PARAMETER", "env.A"},
		"a variable of this server":      {with(`"env":{"EXECD":"/bin/sh"}`), bad, "SANDBOX::INVALID_PARAMETER", "env.EXECD"},
		"a reserved label":               {with(`"metadata":{"opensandbox.io/id":"x"}`), bad, "SANDBOX::INVALID_METADATA_LABEL", "opensandbox.io/id"},
		"a reserved label below":         {with(`"metadata":{"lifecycle.opensandbox.io/x":"x"}`), bad, "SANDBOX::INVALID_METADATA_LABEL", "lifecycle.opensandbox.io"},
		"a label of Kubernetes":          {with(`"metadata":{"app.kubernetes.io/name":"x"}`), bad, "SANDBOX::INVALID_METADATA_LABEL", "app.kubernetes.io"},
		"a label of Kubernetes' friends": {with(`"metadata":{"Node.K8S.io/x":"x"}`), bad, "SANDBOX::INVALID_METADATA_LABEL", "reserved"},
		"another's label is fine":        {with(`"metadata":{"notopensandbox.io/x":"x","team":"blue"}`), 0, "", ""},
		"a key that is too long":         {with(`"metadata":{"` + strings.Repeat("k", 64) + `":"x"}`), bad, "SANDBOX::INVALID_METADATA_LABEL", "metadata"},
		"a value that is too long":       {with(`"metadata":{"k":"` + strings.Repeat("v", 64) + `"}`), bad, "SANDBOX::INVALID_METADATA_LABEL", "metadata"},
		"a value with a space":           {with(`"metadata":{"k":"a b"}`), bad, "SANDBOX::INVALID_METADATA_LABEL", "metadata"},
		"an extension of no name":        {with(`"extensions":{"opensandbox.extensions.a b":"x"}`), bad, "SANDBOX::INVALID_PARAMETER", "extensions"},
		"extensions that are too large":  {with(`"extensions":{"x":"` + strings.Repeat("x", 1<<16) + `"}`), bad, "SANDBOX::INVALID_PARAMETER", "extensions"},
		"an unknown extension is fine":   {with(`"extensions":{"x":"y"}`), 0, "", ""},

		"a volume of two kinds":      {mounted(`{"name":"v","mountPath":"/v","host":{"path":"/srv/shared"},"pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_BACKEND", "volumes[0]"},
		"a volume of no kind":        {mounted(`{"name":"v","mountPath":"/v"}`), bad, "VOLUME::INVALID_BACKEND", "volumes[0]"},
		"OSS":                        {mounted(`{"name":"v","mountPath":"/v","ossfs":{"bucket":"b"}}`), not, "SANDBOX::API_NOT_SUPPORTED", "ossfs"},
		"no OSS is fine":             {mounted(`{"name":"v","mountPath":"/v","ossfs":null,"host":null,"pvc":{"claimName":"c","storage":null,"accessModes":null}}`), 0, "", ""},
		"no name of a volume":        {mounted(`{"name":"V","mountPath":"/v","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_NAME", "volumes[0].name"},
		"execd's volume":             {mounted(`{"name":"opensandbox-bin","mountPath":"/v","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_NAME", "volumes[0].name"},
		"a relative mount":           {mounted(`{"name":"v","mountPath":"v","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"},
		"a mount that climbs":        {mounted(`{"name":"v","mountPath":"/v/../../etc","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"},
		"a mount over everything":    {mounted(`{"name":"v","mountPath":"//","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"},
		"a mount over execd":         {mounted(`{"name":"v","mountPath":"/opt","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"},
		"two mounts at one place":    {mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c"}},{"name":"w","mountPath":"/v/","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_MOUNT_PATH", "volumes[1].mountPath"},
		"two volumes of one name":    {mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c"}},{"name":"v","mountPath":"/w","pvc":{"claimName":"c"}}`), bad, "VOLUME::DUPLICATE_NAME", "volumes[1].name"},
		"a sub path that climbs":     {mounted(`{"name":"v","mountPath":"/v","subPath":"a/../../b","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_SUB_PATH", "volumes[0].subPath"},
		"an absolute sub path":       {mounted(`{"name":"v","mountPath":"/v","subPath":"/a","pvc":{"claimName":"c"}}`), bad, "VOLUME::INVALID_SUB_PATH", "volumes[0].subPath"},
		"a folder of the node":       {mounted(`{"name":"v","mountPath":"/v","host":{"path":"/etc"}}`), bad, "VOLUME::HOST_PATH_NOT_ALLOWED", "volumes[0].host.path"},
		"a folder that begins alike": {mounted(`{"name":"v","mountPath":"/v","host":{"path":"/srv/shared2"}}`), bad, "VOLUME::HOST_PATH_NOT_ALLOWED", "volumes[0].host.path"},
		"a way out of the folder":    {mounted(`{"name":"v","mountPath":"/v","host":{"path":"/srv/shared/../../etc"}}`), bad, "VOLUME::INVALID_HOST_PATH", "volumes[0].host.path"},
		"a folder that is allowed":   {mounted(`{"name":"v","mountPath":"/v","host":{"path":"/srv/shared/data"}}`), 0, "", ""},
		"no name of a claim":         {mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"C"}}`), bad, "VOLUME::INVALID_PVC_NAME", "volumes[0].pvc.claimName"},
		"no size":                    {mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c","storage":"big"}}`), bad, "SANDBOX::INVALID_PARAMETER", "volumes[0].pvc.storage"},
		"no access mode":             {mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c","accessModes":["Any"]}}`), bad, "SANDBOX::INVALID_PARAMETER", "volumes[0].pvc.accessModes"},
	} {
		t.Run(name, func(t *testing.T) {
			err := asked(t, test.body).check(settings())
			refusal(t, err, test.status, test.code, test.names)
		})
	}
}

// refusal compares an error with the answer that is wanted; status 0 wants none.
func refusal(t *testing.T, err error, status int, code, names string) {
	t.Helper()
	if status == 0 {
		if err != nil {
			t.Errorf("is refused: %v", err)
		}
		return
	}
	var said *answer.Error
	switch {
	case !errors.As(err, &said):
		t.Errorf("answer: %v, want %d %s", err, status, code)
	case said.Status != status || said.Code != code || !strings.Contains(said.Message, names):
		t.Errorf("answer: %v, want %d %s that names %q", err, status, code, names)
	}
}

func TestExpires(t *testing.T) {
	for seconds, want := range map[int64]time.Time{60: dawn.Add(time.Minute), maxTimeout: dawn.Add(maxTimeout * time.Second)} {
		if got := (&creation{TimeoutSeconds: &seconds}).expires(dawn); !got.Time.Equal(want) {
			t.Errorf("%d seconds after %v: %v", seconds, dawn, got)
		}
	}
	minute := int64(60)
	if got := (&creation{TimeoutSeconds: &minute}).expires(dawn.Add(time.Millisecond)); got.Time.Before(dawn.Add(time.Minute + time.Millisecond)) {
		t.Errorf("expires at %v, before the time that was promised", got)
	}
	if got := (&creation{}).expires(dawn); got != nil {
		t.Errorf("no timeout: %v", got)
	}
	if int64(maxTimeout) > math.MaxInt64/int64(time.Second) {
		t.Error("the longest timeout does not fit into a duration")
	}
}

// Of two requests that differ in anything but the password each is another one; how a request is written down does not count.
func TestFingerprint(t *testing.T) {
	fingerprint := func(body string) string {
		t.Helper()
		text, err := asked(t, body).fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	login := func(user, password string) string {
		return strings.Replace(with(""), `"python:3.12"`, `"python:3.12","auth":{"username":"`+user+`","password":"`+password+`"}`, 1)
	}
	if fingerprint(with(`"env":{"A":"1","B":"2"}`)) != fingerprint(with(` "env" : {"B":"2", "A":"1"}, "timeout":null`)) {
		t.Error("the same request, written in another way, counts as another")
	}
	if fingerprint(login("u", "p")) != fingerprint(login("u", "q")) {
		t.Error("the fingerprint, which is in an annotation, depends on the password: it could be tried against it")
	}
	seen := map[string]string{}
	for _, body := range []string{
		with(""), with(`"timeout":60`), with(`"timeout":61`), with(`"env":{"A":"1"}`), with(`"env":{"A":"2"}`), with(`"metadata":{"A":"1"}`), with(`"extensions":{"A":"1"}`),
		with(`"platform":{"os":"linux","arch":"arm64"}`), with(`"resourceRequests":{"cpu":"1"}`), with(`"secureAccess":true`), login("u", "p"), login("v", "p"),
		`{"snapshotId":"s"}`, mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c"}}`), mounted(`{"name":"v","mountPath":"/v","readOnly":true,"pvc":{"claimName":"c"}}`),
		mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c","createIfNotExists":false}}`), mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c","storageClass":""}}`),
	} {
		text := fingerprint(body)
		if before, twice := seen[text]; twice {
			t.Errorf("two requests count as one:\n%s\n%s", before, body)
		}
		seen[text] = body
	}
}

func TestTheRequestsNulls(t *testing.T) {
	want := &creation{Image: &image{URI: "python:3.12"}, Entrypoint: []string{"python"}, Limits: map[string]string{"cpu": "1", "memory": "1Gi"}}
	if diff := cmp.Diff(want, asked(t, with(`"env":null,"volumes":null`))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	claim := asked(t, mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c","createIfNotExists":null}}`)).Volumes[0].Claim
	if !claim.Create {
		t.Error("a claim is not created where nothing is said of it")
	}
}
