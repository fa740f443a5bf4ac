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

package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/room"
)

const (
	// maxSocketPath is the size of sun_path less its closing zero; see unix(7).
	maxSocketPath = 107
	// etcdHistory is how far back a watch can resume: as long as the kube-apiserver's.
	etcdHistory = "5m"
	// etcdStartTimeout is ample for replaying a large log on a slow disk.
	etcdStartTimeout = 2 * time.Minute
	// etcdLogEntries is after how many entries its log can be cut. An entry holds a whole object,
	// up to 1.5 MB. What etcd keeps by default, 10,000 entries on the disk and 5,000 in memory, is for
	// members that are behind, and there are none.
	etcdLogEntries = 100
	// etcdLogKept is how many of them stay in memory: zero would be the default.
	etcdLogKept = 1
	// etcdLogFiles is how many files of the log are kept, those included that are needed.
	etcdLogFiles = 2
	// etcdPurgeEvery is how often those that are not needed are deleted. etcd itself does so every
	// half minute, in which eight clients write hundreds of megabytes.
	etcdPurgeEvery = 2 * time.Second
)

func init() {
	wal.SegmentSizeBytes = room.Segment
}

// embeddedEtcd is an etcd of one member inside this process, reached through a Unix socket. It
// opens no port: whoever may enter its directory may use it.
type embeddedEtcd struct {
	etcd *embed.Etcd
	lock *os.File
	// quota is how much its database may hold.
	quota int64
	// logLevel is what etcd says before stop: after, it reports the end of its own listeners as
	// errors.
	logLevel zap.AtomicLevel
}

func etcdSocket(dataDir string) string { return filepath.Join(dataDir, "etcd.sock") }

func validateDataDir(dataDir string) []error {
	if dataDir == "" {
		return []error{errors.New("--data-dir must be set where --etcd-servers is not")}
	}
	if socket := etcdSocket(dataDir); len(socket) > maxSocketPath {
		return []error{fmt.Errorf("--data-dir %s is too long by %d bytes: the path of a Unix socket in it has at most %d",
			dataDir, len(socket)-maxSocketPath, maxSocketPath)}
	}
	return nil
}

// startEtcd starts the etcd of a data directory and waits until it answers. Without a quota its
// database may hold what the volume allows.
func startEtcd(ctx context.Context, dataDir string, quota int64) (_ *embeddedEtcd, err error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	// A volume may come with wider permissions than its directory needs. Where the volume is not
	// ours to change, its owner has decided.
	if err := os.Chmod(dataDir, 0o700); err != nil && !errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("closing the data directory to others: %w", err)
	}
	lock, err := lockDataDir(dataDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()

	// Left behind by a process that was killed: the lock says that nobody listens any more.
	socket := etcdSocket(dataDir)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the old socket: %w", err)
	}
	switch freed, err := room.Free(dataDir, etcdDir(dataDir)); {
	case err != nil:
		return nil, err
	case freed:
		klog.InfoS("The volume of the store is full; the start has deleted the ballast and what else it could", "directory", dataDir)
	}
	if err := reviseStore(dataDir); err != nil {
		return nil, err
	}
	if quota == 0 {
		volume, err := room.ReadVolume(dataDir)
		if err != nil {
			return nil, err
		}
		quota = room.Quota(volume.Total)
	}
	config := etcdConfig(dataDir, socket)
	var size int64
	if info, err := os.Stat(datadir.ToBackendFileName(config.Dir)); err == nil {
		size = info.Size()
	}
	config.QuotaBackendBytes = room.Bound(quota, size)
	logger, logLevel, err := etcdLogger()
	if err != nil {
		return nil, err
	}
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, fmt.Errorf("starting etcd in %s: %w", dataDir, err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err = <-etcd.Err():
		err = fmt.Errorf("etcd in %s ended while it started: %w", dataDir, err)
	case <-ctx.Done():
		err = fmt.Errorf("stopped while etcd was starting: %w", context.Cause(ctx))
	case <-time.After(etcdStartTimeout):
		err = fmt.Errorf("etcd in %s is not ready after %s", dataDir, etcdStartTimeout)
	}
	if err != nil {
		logLevel.SetLevel(zap.FatalLevel)
		etcd.Close()
		return nil, err
	}
	started := &embeddedEtcd{etcd: etcd, lock: lock, logLevel: logLevel, quota: quota}
	started.purgeLog()
	return started, nil
}

// purgeLog has files of the log deleted soon after nothing in them is needed any more, which their
// locks say. etcd waits for its end before it closes the log, and with that its locks.
func (e *embeddedEtcd) purgeLog() {
	server := e.etcd.Server
	server.GoAttach(func() {
		done, failed := fileutil.PurgeFileWithDoneNotify(quiet(), datadir.ToWALDir(e.etcd.Config().Dir), "wal",
			etcdLogFiles, etcdPurgeEvery, server.StoppingNotify())
		<-done
		select {
		case err := <-failed:
			klog.ErrorS(err, "Old files of the store's log are not deleted any more, until the next start")
		default:
		}
	})
}

func etcdDir(dataDir string) string { return filepath.Join(dataDir, "etcd") }

func etcdConfig(dataDir, socket string) *embed.Config {
	client := url.URL{Scheme: "unix", Path: socket}
	// Nobody ever calls the only member, but it needs an address that stays the same wherever the
	// directory is mounted.
	peer := url.URL{Scheme: "unix", Host: "peer"}

	config := embed.NewConfig()
	config.Name = "sandbox-apiserver"
	config.Dir = etcdDir(dataDir)
	config.ListenPeerUrls = nil
	config.AdvertisePeerUrls = []url.URL{peer}
	config.ListenClientUrls = []url.URL{client}
	config.AdvertiseClientUrls = []url.URL{client}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.EnableGRPCGateway = false
	config.SnapshotCount = etcdLogEntries
	config.SnapshotCatchUpEntries = etcdLogKept
	// purgeLog does it. Snapshots, a few kilobytes each, stay five: the newest may not be whole.
	config.MaxWalFiles = 0
	config.AutoCompactionMode = embed.CompactorModePeriodic
	config.AutoCompactionRetention = etcdHistory
	return config
}

// etcdLogger writes what etcd has to say to the server's own log, from errors on: its progress
// reports would drown the rest.
func etcdLogger() (*zap.Logger, zap.AtomicLevel, error) {
	config := zap.NewProductionConfig()
	config.Level = zap.NewAtomicLevelAt(zap.ErrorLevel)
	config.DisableStacktrace = true
	logger, err := config.Build()
	if err != nil {
		return nil, zap.AtomicLevel{}, fmt.Errorf("making the logger of etcd: %w", err)
	}
	return logger.Named("etcd"), config.Level, nil
}

// lockDataDir makes sure that no other process serves the directory. etcd itself would wait for
// its database without a word.
func lockDataDir(dataDir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another process; the embedded etcd serves one replica, name a cluster with --etcd-servers for more", dataDir)
		}
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	return lock, nil
}

// endpoint is where clients find it.
func (e *embeddedEtcd) endpoint() string {
	return e.etcd.Config().ListenClientUrls[0].String()
}

// failed tells when etcd has ended by itself.
func (e *embeddedEtcd) failed() <-chan error { return e.etcd.Err() }

// stop ends etcd after everything that uses it, and gives the directory free.
func (e *embeddedEtcd) stop() {
	e.logLevel.SetLevel(zap.FatalLevel)
	e.etcd.Close()
	_ = e.lock.Close()
}
