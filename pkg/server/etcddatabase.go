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

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/room"
)

// keeper keeps house in the embedded etcd of a data directory.
func (e *embeddedEtcd) keeper(dataDir, prefix string) *room.Keeper {
	return &room.Keeper{
		DataDir:  dataDir,
		Database: etcdDatabase{dir: e.etcd.Config().Dir, server: e.etcd.Server, touched: prefix + ".touched"},
		Quota:    e.quota,
		Bound:    e.etcd.Config().QuotaBackendBytes,
		Clock:    clock.RealClock{},
	}
}

// etcdDatabase is the database of the embedded etcd, for those who keep house in it.
type etcdDatabase struct {
	dir    string
	server *etcdserver.EtcdServer
	// touched is a key for writes that are about nothing.
	touched string
}

var _ room.Database = etcdDatabase{}

func (d etcdDatabase) Path() string { return datadir.ToBackendFileName(d.dir) }

func (d etcdDatabase) Sizes() (size, inUse int64) {
	backend := d.server.Backend()
	return backend.Size(), backend.SizeInUse()
}

func (d etcdDatabase) Revision() int64 { return d.server.KV().Rev() }

func (d etcdDatabase) Alarmed() bool {
	for _, alarm := range d.server.Alarms() {
		if alarm.GetAlarm() == etcdserverpb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

func (d etcdDatabase) Disarm(ctx context.Context) error {
	_, err := d.server.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action:   etcdserverpb.AlarmRequest_DEACTIVATE,
		MemberID: uint64(d.server.MemberID()),
		Alarm:    etcdserverpb.AlarmType_NOSPACE,
	})
	return err
}

func (d etcdDatabase) Touch(ctx context.Context) error {
	_, err := d.server.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(d.touched)})
	return err
}

// Compact gives up history. That somebody has given up more is no error.
func (d etcdDatabase) Compact(ctx context.Context, revision int64) error {
	_, err := d.server.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: revision})
	if errors.Is(err, mvcc.ErrCompacted) {
		return nil
	}
	return err
}

func (d etcdDatabase) Defragment() error { return d.server.Defragment() }
