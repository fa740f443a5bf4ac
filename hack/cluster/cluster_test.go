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
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testLayout is a cluster's directory that no cluster ever lives in.
func testLayout(t *testing.T) layout {
	t.Helper()
	l, err := newLayout(t.TempDir(), ".", "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// goodMachine is one on which a cluster can start.
func goodMachine() machine {
	return machine{
		os: "linux", root: true, kernel: [2]int{6, 1}, aptGet: true, goTool: true, dir: "/src/.cluster", unixSocketMax: 60,
		freeBytes: map[string]uint64{"/src/.cluster": 100e9},
	}
}

func TestProblems(t *testing.T) {
	ours, others, nobody := "/src/.cluster", "/other/.cluster", ""
	for name, test := range map[string]struct {
		change func(*machine)
		want   []string // each is part of one sentence, in order
	}{
		"a fresh Debian":                   {func(*machine) {}, nil},
		"packages to install":              {func(m *machine) { m.missing = []string{"runc"} }, nil},
		"a Mac":                            {func(m *machine) { m.os, m.root = "darwin", false }, []string{"this is darwin"}},
		"not root":                         {func(m *machine) { m.root, m.aptGet = false, false }, []string{"must run as root"}},
		"an old kernel":                    {func(m *machine) { m.kernel = [2]int{5, 10} }, []string{"Linux 5.10 is too old"}},
		"the oldest kernel":                {func(m *machine) { m.kernel = [2]int{5, 13} }, nil},
		"no apt-get, nothing missing":      {func(m *machine) { m.aptGet = false }, nil},
		"no apt-get, runc missing":         {func(m *machine) { m.aptGet, m.missing = false, []string{"runc"} }, []string{"runc are missing and there is no apt-get"}},
		"no Go":                            {func(m *machine) { m.goTool = false }, []string{"install Go"}},
		"no Go, but built":                 {func(m *machine) { m.goTool, m.built = false, true }, nil},
		"too small a disk to build":        {func(m *machine) { m.freeBytes["/src/.cluster"] = 5e9 }, []string{"5.0 GB free"}},
		"a small disk, but built":          {func(m *machine) { m.freeBytes["/src/.cluster"], m.built = 5e9, true }, nil},
		"a full disk":                      {func(m *machine) { m.freeBytes["/src/.cluster"], m.built = 1e9, true }, []string{"2 GB are needed"}},
		"a long path":                      {func(m *machine) { m.dir = "/" + strings.Repeat("d", 60) }, []string{"too long"}},
		"a kubelet":                        {func(m *machine) { m.others = []string{"kubelet (pid 7, /usr/bin/kubelet)"} }, []string{"kubelet (pid 7, /usr/bin/kubelet) is already running"}},
		"taken ports":                      {func(m *machine) { m.takenPorts = []string{"a:1", "b:2"} }, []string{"listen on a:1, b:2"}},
		"our bridge":                       {func(m *machine) { m.bridgeOwner = &ours }, nil},
		"another cluster's bridge":         {func(m *machine) { m.bridgeOwner, m.takenPorts = &others, []string{"a:1"} }, []string{"cluster in /other/.cluster is running"}},
		"somebody's bridge":                {func(m *machine) { m.bridgeOwner = &nobody }, []string{"of something else"}},
		"Podman's network":                 {func(m *machine) { m.overlaps = []string{"The network 10.88.0.1/16 of the interface podman0"} }, []string{"podman0 overlaps"}},
		"another kube-proxy":               {func(m *machine) { m.proxyTable = true }, []string{"nft delete table"}},
		"no memory controller":             {func(m *machine) { m.controllers = []string{"memory"} }, []string{"cgroup controllers memory"}},
		"a container's own overlayfs":      {func(m *machine) { m.overlayfs = errors.New("invalid argument") }, []string{"cannot carry overlayfs (invalid argument)"}},
		"two things wrong: both are named": {func(m *machine) { m.proxyTable, m.takenPorts = true, []string{"a:1"} }, []string{"a:1", "nftables"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := goodMachine()
			test.change(&m)
			got := problems(m)
			if len(got) != len(test.want) {
				t.Fatalf("got %d problems, want %d: %q", len(got), len(test.want), got)
			}
			for i := range got {
				if !strings.Contains(got[i], test.want[i]) || !strings.HasSuffix(got[i], ".") {
					t.Errorf("problem %d is %q, want a sentence with %q", i, got[i], test.want[i])
				}
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	const rest = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for name, test := range map[string]struct {
		stat  string
		state byte
		tick  uint64
		fails bool
	}{
		"plain":                     {"7 (etcd) S" + rest, 'S', 4242, false},
		"zombie":                    {"7 (etcd) Z" + rest, 'Z', 4242, false},
		"a name to mislead readers": {"7 (a) R 1 (b) ) T" + rest, 'T', 4242, false},
		"cut short":                 {"7 (etcd) S 1 2", 0, 0, true},
		"empty":                     {"", 0, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			state, tick, err := parseStat(test.stat)
			if test.fails != (err != nil) || !test.fails && (state != test.state || tick != test.tick) {
				t.Errorf("parseStat(%q) = %c, %d, %v", test.stat, state, tick, err)
			}
		})
	}
}

func TestAliveAndStop(t *testing.T) {
	l := testLayout(t)
	if err := os.MkdirAll(l.path("logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep here")
	}
	// A lock, as the caller of a caller may hold it: Dup makes a file descriptor that programs inherit.
	lock, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(lock) })
	p, err := start(t.Context(), l, "sleeper", sleep, []string{"1000"}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", p.PID, lock)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the process has inherited file descriptor %d (%v)", lock, err)
	}
	records, err := recorded(l)
	if err != nil || records["sleeper"] != p {
		t.Fatalf("recorded() = %v, %v, want %v", records, err, p)
	}
	for name, stranger := range map[string]process{
		"same PID, started at another time": {PID: p.PID, StartTick: p.StartTick + 1, BootID: p.BootID},
		"same PID and time, another boot":   {PID: p.PID, StartTick: p.StartTick, BootID: "another"},
		"no process":                        {},
	} {
		if stranger.alive() {
			t.Errorf("%s: alive", name)
		}
		if err := stranger.stop(t.Context(), time.Second); err != nil {
			t.Errorf("%s: stop: %v", name, err)
		}
	}
	if !p.alive() {
		t.Fatal("the process was ended for one that only looked like it")
	}
	if err := p.stop(t.Context(), 5*time.Second); err != nil || p.alive() {
		t.Fatalf("stop: %v, alive afterwards: %v", err, p.alive())
	}
	if err := p.stop(t.Context(), time.Second); err != nil {
		t.Errorf("a second stop: %v", err)
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "keep" {
		if err := keep(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKeep has what ends by itself started again, and ends it with whoever keeps it.
func TestKeep(t *testing.T) {
	l := testLayout(t)
	if err := os.MkdirAll(l.path("logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh here")
	}
	pids := l.path("pids")
	exe, args, err := keeping(shell, []string{"-c", "echo $$ >>" + pids + "; test $(wc -l <" + pids + ") -gt 1 && exec sleep 1000"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := start(t.Context(), l, "kept", exe, args, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.stop(context.Background(), 0) })
	var second process
	if err := poll(t.Context(), time.Minute, 20*time.Millisecond, func() error {
		text, err := os.ReadFile(pids)
		if err != nil {
			return err
		}
		lines := strings.Fields(string(text))
		if len(lines) < 2 {
			return fmt.Errorf("started as %q", lines)
		}
		second = process{Name: "second", BootID: bootID()}
		if second.PID, err = strconv.Atoi(lines[1]); err != nil {
			return permanentError{err}
		}
		_, second.StartTick, err = procStat(second.PID)
		return err
	}); err != nil {
		t.Fatalf("it is not started again: %v\n%s", err, lastLines(l.log("kept"), 5))
	}
	if err := p.stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := poll(t.Context(), time.Minute, 20*time.Millisecond, func() error {
		if second.alive() {
			return fmt.Errorf("process %d is still there", second.PID)
		}
		return nil
	}); err != nil {
		t.Errorf("whoever kept it was killed, and %v", err)
	}
}

func TestRecordedSkipsACutRecord(t *testing.T) {
	l := testLayout(t)
	if err := writeFile(recordFile(l, "etcd"), []byte(`{"name":"et`), 0o644); err != nil {
		t.Fatal(err)
	}
	if records, err := recorded(l); err != nil || len(records) != 0 {
		t.Errorf("recorded() = %v, %v, want none", records, err)
	}
}

func TestPoll(t *testing.T) {
	calls, wrong := 0, errors.New("not yet")
	err := poll(t.Context(), time.Minute, time.Millisecond, func() error {
		if calls++; calls < 3 {
			return wrong
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("success at the third call: %v after %d calls", err, calls)
	}
	if err := poll(t.Context(), 10*time.Millisecond, time.Millisecond, func() error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("time over: %v, want the check's last error", err)
	}
	if err := poll(t.Context(), time.Hour, time.Hour, func() error { return permanentError{wrong} }); !errors.Is(err, wrong) {
		t.Errorf("a permanent error: %v, want it at once and as it is", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := poll(ctx, time.Hour, time.Hour, func() error { return wrong }); !errors.Is(err, errInterrupted) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestParseMounts(t *testing.T) {
	const mountinfo = `22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:30 / /src/.cluster/kubelet rw shared:1 - tmpfs tmpfs rw
31 30 0:31 / /src/.cluster/kubelet/pods/a\040b rw - tmpfs tmpfs rw
32 22 0:32 / /src/.cluster-other/kubelet rw - tmpfs tmpfs rw
33 22 0:33 / /src rw - tmpfs tmpfs rw
34 22 0:34 / /src/.cluster rw - tmpfs tmpfs rw
`
	want := []string{"/src/.cluster", "/src/.cluster/kubelet/pods/a b", "/src/.cluster/kubelet"}
	if got := parseMounts(mountinfo, "/src/.cluster"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIsShim(t *testing.T) {
	const socket = "/src/.cluster/containerd/containerd.sock"
	if id, _ := isShim([]byte("containerd-shim-runc-v2\x00-id\x00abc\x00-address\x00"+socket), socket); id != "abc" {
		t.Errorf("the shim's container is %q", id)
	}
	for _, test := range []struct {
		command string
		want    bool
	}{
		{"/src/.cluster/bin/containerd-shim-runc-v2 -namespace k8s.io -id abc -address " + socket, true},
		{"/usr/bin/containerd-shim-runc-v2 -namespace moby -id abc -address /run/containerd/containerd.sock", false},
		{"/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id abc -address " + socket + ".other", false},
		{"grep containerd-shim-runc-v2 -address " + socket, false},
		{"", false},
	} {
		if _, got := isShim([]byte(strings.ReplaceAll(test.command, " ", "\x00")), socket); got != test.want {
			t.Errorf("isShim(%q) = %v", test.command, got)
		}
	}
}

func TestClaim(t *testing.T) {
	for name, test := range map[string]struct {
		files   []string
		refused bool
	}{
		"empty":                 {nil, false},
		"this program built in": {[]string{"bin", "lock"}, false},
		"a cluster's":           {[]string{marker, "etcd", "pki"}, false},
		"a person's":            {[]string{"bin", "config", "main.go"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLayout(t)
			for _, file := range test.files {
				if err := os.WriteFile(l.path(file), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := claim(l)
			if test.refused != (err != nil) {
				t.Fatalf("claim: %v", err)
			}
			if _, missing := os.Stat(l.path(marker)); test.refused != (missing != nil) {
				t.Errorf("marker: %v", missing)
			}
		})
	}
}

// TestEverythingLivesBelowTheDirectory guards `down`: what is not below the directory would be left behind.
func TestEverythingLivesBelowTheDirectory(t *testing.T) {
	l := testLayout(t)
	for _, path := range l.state() {
		if filepath.Dir(path) != l.dir {
			t.Errorf("down would delete %s", path)
		}
		if slices.Contains([]string{l.bin, l.path("logs"), l.path("debian"), l.path("images")}, path) {
			t.Errorf("down would delete %s, which is kept", path)
		}
	}
	var configs []string
	for n := firstNode; n <= 2; n++ {
		configs = append(configs,
			containerdConfig(l, n, "/usr/sbin/runc"), render(kubeletConfig(l, n, "/etc/resolv.conf")), render(proxyConfig(l, n)), render(cniConfig(l, n)))
	}
	for _, config := range configs {
		for _, word := range strings.FieldsFunc(config, func(r rune) bool { return strings.ContainsRune("\"' ,[]\n", r) }) {
			path := strings.TrimPrefix(word, "unix://")
			allowed := path == "/usr/sbin/runc" || path == "/kubernetes-local-2" || path == "/etc/resolv.conf" || path == "/var/lib/cni." || strings.HasPrefix(path, l.dir+"/")
			if strings.HasPrefix(path, "/") && !allowed {
				t.Errorf("the path %s is not below %s", path, l.dir)
			}
		}
	}
}

// TestNodesHaveTheirOwn: no two nodes have an address, a name or a Pod's address in common, and a further one has its own of
// every directory that a program writes to whatever its configuration says.
func TestNodesHaveTheirOwn(t *testing.T) {
	l := testLayout(t)
	network := netip.MustParsePrefix(podCIDR)
	taken := map[string]node{}
	var before netip.Addr
	for n := firstNode; n <= maxNodes; n++ {
		for _, own := range []string{n.name(), n.ip(), n.mac(), n.link(), n.component("kubelet"), n.socket(l), n.config(l, "kubelet.json"), n.kubeletHealth()} {
			if other, twice := taken[own]; twice {
				t.Errorf("nodes %d and %d have %s", other, n, own)
			}
			taken[own] = n
		}
		if len(n.link()) > 15 {
			t.Errorf("the kernel takes no interface %s: 15 characters at most", n.link())
		}
		if len(n.socket(l))-len(l.dir) > 107-socketRoom {
			t.Errorf("%s is longer than socketRoom has it", n.socket(l))
		}
		from, to := n.podRange()
		first, last := netip.MustParseAddr(from), netip.MustParseAddr(to)
		if address := netip.MustParseAddr(n.ip()); before.IsValid() && address.Compare(before) <= 0 || address.Compare(first) >= 0 || first.Compare(last) >= 0 || !network.Contains(last) {
			t.Errorf("node %d has %s, and %s to %s for its Pods, after %s", n, address, first, last, before)
		}
		before = last
	}
	for _, directory := range append([]string{l.path("containerd"), l.path("kubelet"), l.path("cni")}, hostDirectories...) {
		covered := false
		for place := range (firstNode + 1).covers(l) {
			covered = covered || directory == place || strings.HasPrefix(directory, place+"/")
		}
		if !covered {
			t.Errorf("the nodes share %s", directory)
		}
	}
}

func TestChooseNodes(t *testing.T) {
	for name, test := range map[string]struct {
		up      bool
		further int
		asked   string
		want    node
		fails   bool
	}{
		"a new cluster":                 {want: 1},
		"a new cluster of two":          {asked: "2", want: 2},
		"one that runs":                 {up: true, want: 1},
		"one of two that runs stays so": {up: true, further: 1, want: 2},
		"one more":                      {up: true, further: 1, asked: "3", want: 3},
		"the same once more":            {up: true, further: 1, asked: "2", want: 2},
		"fewer":                         {up: true, further: 1, asked: "1", fails: true},
		"fewer than what an interrupted start left": {further: 1, asked: "1", want: 1},
		"none":       {asked: "0", fails: true},
		"too many":   {asked: "9", fails: true},
		"no number":  {asked: "two", fails: true},
		"a fraction": {asked: "1.5", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLayout(t)
			if test.up {
				if err := writeFile(upFile(l), []byte(bootID()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for i := range test.further {
				if err := os.MkdirAll((firstNode + 1 + node(i)).home(l), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := chooseNodes(l, test.asked); test.fails != (err != nil) || got != test.want {
				t.Errorf("chooseNodes(%q) = %d, %v", test.asked, got, err)
			}
		})
	}
}

func TestWriteConfig(t *testing.T) {
	l := testLayout(t)
	if err := writePKI(l); err != nil {
		t.Fatal(err)
	}
	if err := writeConfig(l, "/etc/resolv.conf", "/usr/sbin/runc"); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{l.kubeconfig(), l.passwordFile(), l.config("htpasswd"), l.pki("ca.key"), l.pki("admin.key"), l.config("kubelet.kubeconfig")} {
		if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want a file of mode 0600", secret, info, err)
		}
	}
	for file, key := range map[string]string{"kubelet.json": "containerRuntimeEndpoint", "kube-proxy.json": "mode", "registry-auth.json": "auth"} {
		content, err := os.ReadFile(l.config(file))
		if err != nil {
			t.Fatal(err)
		}
		var parsed object
		if err := json.Unmarshal(content, &parsed); err != nil || parsed[key] == nil {
			t.Errorf("%s: %v, %s = %v", file, err, key, parsed[key])
		}
	}
	out, err := exec.Command("sh", "-c", ". "+l.path("cluster.env")+` && printf '%s %s' "$REGISTRY" "$KUBECONFIG"`).Output()
	if want := registryOpen + " " + l.kubeconfig(); err != nil || string(out) != want {
		t.Errorf("a shell reads %q (%v) from cluster.env, want %q", out, err, want)
	}
}

func TestPKI(t *testing.T) {
	l := testLayout(t)
	if err := writePKI(l); err != nil {
		t.Fatal(err)
	}
	if err := writeNodePKI(l, 2); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(l.pki("ca.crt"))
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("read the authority: %v", err)
	}
	for _, test := range []struct {
		file, host string
		usage      x509.ExtKeyUsage
		signed     bool
	}{
		{"kube-apiserver", bridgeIP, x509.ExtKeyUsageServerAuth, true},
		{"kube-apiserver", serviceIP, x509.ExtKeyUsageServerAuth, true},
		{"kube-apiserver", "evil.example", x509.ExtKeyUsageServerAuth, false},
		{"kubelet-serving", bridgeIP, x509.ExtKeyUsageServerAuth, true},
		{"kubelet-serving-local-2", node(2).ip(), x509.ExtKeyUsageServerAuth, true},
		{"kubelet-serving-local-2", bridgeIP, x509.ExtKeyUsageServerAuth, false},
		{"kubelet-local-2", "", x509.ExtKeyUsageClientAuth, true},
		{"admin", "", x509.ExtKeyUsageClientAuth, true},
		{"admin", "", x509.ExtKeyUsageServerAuth, false},
		{"front-proxy-client", "", x509.ExtKeyUsageClientAuth, false}, // or any Pod could be anyone: it has its own authority
	} {
		pair, err := tls.LoadX509KeyPair(l.pki(test.file+".crt"), l.pki(test.file+".key"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: test.host, KeyUsages: []x509.ExtKeyUsage{test.usage}})
		if test.signed != (err == nil) {
			t.Errorf("%s for %q: %v", test.file, test.host, err)
		}
	}
}

func TestImageArchive(t *testing.T) {
	i := newBusyboxImage([]byte("program"), []string{"busybox", "sh", "ls"})
	paths := [2]string{filepath.Join(t.TempDir(), "one.tar"), filepath.Join(t.TempDir(), "two.tar")}
	for _, path := range paths {
		if err := i.writeArchive(path); err != nil {
			t.Fatal(err)
		}
	}
	first, second := readTar(t, paths[0]), readTar(t, paths[1])
	if string(first["index.json"]) != string(second["index.json"]) {
		t.Error("the same content gave two digests")
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(first["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if name := index.Manifests[0].Annotations["io.containerd.image.name"]; name != busyboxImage {
		t.Errorf("the image's name is %q", name)
	}
	var manifest struct{ Config, Layers json.RawMessage }
	content := first["blobs/sha256/"+strings.TrimPrefix(index.Manifests[0].Digest, "sha256:")]
	if err := json.Unmarshal(content, &manifest); err != nil || digest(content) != index.Manifests[0].Digest {
		t.Fatalf("manifest %s: %v", content, err)
	}
	var layers []descriptor
	if err := json.Unmarshal(manifest.Layers, &layers); err != nil {
		t.Fatal(err)
	}
	blob := first["blobs/sha256/"+strings.TrimPrefix(layers[0].Digest, "sha256:")]
	if len(blob) != layers[0].Size || digest(blob) != layers[0].Digest {
		t.Fatalf("the layer %v has %d bytes of %s", layers[0], len(blob), digest(blob))
	}
	zr, err := gzip.NewReader(strings.NewReader(string(blob)))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]*tar.Header{}
	for tr := tar.NewReader(zr); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		entries[header.Name] = header
	}
	if sh := entries["bin/sh"]; sh == nil || sh.Typeflag != tar.TypeSymlink || sh.Linkname != "busybox" {
		t.Errorf("bin/sh is %v", sh)
	}
	if tmp := entries["tmp/"]; tmp == nil || tmp.Mode != 0o1777 {
		t.Errorf("tmp/ is %v", tmp)
	}
	if program := entries["bin/busybox"]; program == nil || program.Typeflag != tar.TypeReg || program.Size != int64(len("program")) {
		t.Errorf("bin/busybox is %v", program)
	}
}

func readTar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for tr := tar.NewReader(f); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKubernetesVersion(t *testing.T) {
	want := []string{
		"k8s.io/component-base/version.gitVersion=v1.37.2", "k8s.io/component-base/version.gitMajor=1", "k8s.io/component-base/version.gitMinor=37",
	}
	if got := kubernetesVersion("v1.37.2"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
