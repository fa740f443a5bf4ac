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

package integration

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	typed "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/typed/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

// etcdMembers are an external etcd.
type etcdMembers struct {
	t       *testing.T
	configs []*embed.Config
	members []*embed.Etcd
}

// startMembers starts so many members and waits until they have a leader.
func startMembers(t *testing.T, count int) *etcdMembers {
	t.Helper()
	m := &etcdMembers{t: t, members: make([]*embed.Etcd, count)}
	dir, cluster := t.TempDir(), ""
	for i := range count {
		config := embed.NewConfig()
		config.Name = fmt.Sprintf("member-%d", i)
		config.Dir = filepath.Join(dir, config.Name)
		config.ListenPeerUrls, config.ListenClientUrls = []url.URL{freeURL(t)}, []url.URL{freeURL(t)}
		config.AdvertisePeerUrls, config.AdvertiseClientUrls = config.ListenPeerUrls, config.ListenClientUrls
		config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		cluster += "," + config.Name + "=" + config.ListenPeerUrls[0].String()
		m.configs = append(m.configs, config)
	}
	for _, config := range m.configs {
		config.InitialCluster = cluster[1:]
	}
	for i := range count {
		m.start(i)
	}
	t.Cleanup(func() {
		for _, member := range m.members {
			if member != nil {
				member.Close()
			}
		}
	})
	for _, member := range m.members {
		select {
		case <-member.Server.ReadyNotify():
		case <-time.After(deadline):
			t.Fatal("etcd does not start")
		}
	}
	return m
}

func freeURL(t *testing.T) url.URL {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return url.URL{Scheme: "http", Host: listener.Addr().String()}
}

func (m *etcdMembers) start(i int) {
	m.t.Helper()
	var err error
	if m.members[i], err = embed.StartEtcd(m.configs[i]); err != nil {
		m.t.Fatal(err)
	}
}

// kill ends a member without a word to the others.
func (m *etcdMembers) kill(i int) {
	m.members[i].Server.HardStop()
	m.members[i].Close()
	m.members[i] = nil
}

// leader is the member that leads.
func (m *etcdMembers) leader() int {
	m.t.Helper()
	for i, member := range m.members {
		if member != nil && member.Server.Leader() == member.Server.MemberID() {
			return i
		}
	}
	m.t.Fatal("etcd has no leader")
	return -1
}

func (m *etcdMembers) endpoints() (all []string) {
	for _, config := range m.configs {
		all = append(all, config.ListenClientUrls[0].String())
	}
	return all
}

// TestAMemberOfEtcdIsLost has the leader of three killed while somebody writes and somebody watches, and then another one: without
// a majority requests fail in time, and the server lives on. What was acknowledged is there, and a watch that goes on where it was cut
// has told of all of it.
func TestAMemberOfEtcdIsLost(t *testing.T) {
	t.Parallel()
	m := startMembers(t, 3)
	r, err := start(t.TempDir(), func(o *server.Options) {
		o.Recommended.Etcd.StorageConfig.Transport.ServerList = m.endpoints()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.stop() })
	f := fixtureOn(t, r)
	created := f.create(sandbox("demo"))
	// It goes on where it was, where it was cut.
	watching, err := watchtools.NewRetryWatcherWithContext(t.Context(), created.ResourceVersion, sandboxWatcher{f.sandboxes})
	f.must(err)
	defer watching.Stop()

	written := 0
	// write counts on once, again until it is acknowledged.
	write := func() {
		t.Helper()
		written++
		f.eventually(func() error { return f.count(written) })
	}
	for range 20 {
		write()
	}
	first := m.leader()
	m.kill(first)
	for range 20 {
		write()
	}

	second := m.leader()
	m.kill(second)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	began := time.Now()
	if _, err := f.sandboxes.Patch(ctx, "demo", types.MergePatchType, []byte(`{"metadata":{"labels":{"other":"x"}}}`), metav1.PatchOptions{}); err == nil || ctx.Err() != nil {
		t.Errorf("without a majority of etcd a write ended with %v after %s", err, time.Since(began))
	}
	t.Logf("without a majority a write failed after %s", time.Since(began).Round(time.Millisecond))
	select {
	case err := <-r.ended:
		t.Fatalf("the server has ended: %v", err)
	default:
	}
	if _, err := f.client(admin).Discovery().RESTClient().Get().AbsPath("/livez").Param("exclude", "etcd").DoRaw(t.Context()); err != nil {
		t.Errorf("without a majority of etcd the server is not alive: %v", err)
	}

	m.start(second)
	for range 20 {
		write()
	}
	if got := f.get("demo").Labels["count"]; got != strconv.Itoa(written) {
		t.Errorf("the store has %s, %d was acknowledged last", got, written)
	}
	// Each of them is told of once, in order.
	for told, timeout := 0, time.After(deadline); told < written; {
		select {
		case event, open := <-watching.ResultChan():
			now, is := event.Object.(*v1alpha1.Sandbox)
			if !open || !is {
				t.Fatalf("after %d of %d the watch has ended: %v", told, written, event)
			}
			if n, _ := strconv.Atoi(now.Labels["count"]); n == told+1 {
				told++
			} else if n != told {
				t.Fatalf("after %d the watch tells of %d", told, n)
			}
		case <-timeout:
			t.Fatalf("the watch has told of %d of %d", told, written)
		}
	}
}

// sandboxWatcher watches sandboxes.
type sandboxWatcher struct{ sandboxes typed.SandboxInterface }

// WatchWithContext implements cache.WatcherWithContext.
func (w sandboxWatcher) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return w.sandboxes.Watch(ctx, options)
}

// count writes a number into a label.
func (f *fixture) count(n int) error {
	ctx, cancel := context.WithTimeout(f.Context(), 15*time.Second)
	defer cancel()
	_, err := f.sandboxes.Patch(ctx, "demo", types.MergePatchType, []byte(fmt.Sprintf(`{"metadata":{"labels":{"count":"%d"}}}`, n)), metav1.PatchOptions{})
	return err
}
