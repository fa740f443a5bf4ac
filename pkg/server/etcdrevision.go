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
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"k8s.io/klog/v2"
)

// An older backup of the store has lower revisions than clients have seen: those would take what is new
// for old, or wait for ever. So a backup goes on from a higher revision, with all before it given up, as
// `etcdutl snapshot restore --bump-revision --mark-compacted` has it. That is done to the database while
// no etcd has it open: what it is to be waits in a file for the next start.

func revisionFile(dataDir string) string { return filepath.Join(dataDir, "next-revision") }

// askForRevision has the next start go on from a revision.
func askForRevision(dataDir string, revision int64) error {
	if err := os.WriteFile(revisionFile(dataDir), []byte(strconv.FormatInt(revision, 10)), 0o600); err != nil {
		return fmt.Errorf("noting that the store is to go on from revision %d: %w", revision, err)
	}
	return nil
}

// reviseStore does what was asked for, where something was.
func reviseStore(dataDir string) error {
	text, err := os.ReadFile(revisionFile(dataDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("reading from which revision the store is to go on: %w", err)
	}
	revision, err := strconv.ParseInt(string(text), 10, 64)
	if err == nil {
		err = advanceRevision(datadir.ToBackendFileName(etcdDir(dataDir)), revision)
	}
	if err != nil {
		return fmt.Errorf("making the store go on from the revision in %s: %w", revisionFile(dataDir), err)
	}
	if err := os.Remove(revisionFile(dataDir)); err != nil {
		return fmt.Errorf("noting that the store goes on from revision %d: %w", revision, err)
	}
	klog.InfoS("The store goes on from a higher revision", "revision", revision)
	return nil
}

// advanceRevision makes a revision the newest of a database, and gives up all history before it. It does
// nothing to one that is there already.
func advanceRevision(path string, revision int64) error {
	newest, err := newestRevision(path)
	if err != nil || newest >= revision {
		return err
	}
	db := backend.NewDefaultBackend(quiet(), path)
	tx := db.BatchTx()
	tx.LockOutsideApply()
	// A revision with nothing in it, which is compacted away.
	key := mvcc.BucketKeyToBytes(mvcc.BucketKey{Revision: mvcc.Revision{Main: revision}}, mvcc.NewRevBytes())
	tx.UnsafePut(schema.Key, key, []byte{})
	mvcc.UnsafeSetScheduledCompact(tx, revision)
	tx.Unlock()
	db.ForceCommit()
	return db.Close()
}

func newestRevision(path string) (revision int64, err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return revision, db.View(func(tx *bolt.Tx) error {
		if bucket := tx.Bucket(schema.Key.Name()); bucket != nil {
			if key, _ := bucket.Cursor().Last(); key != nil {
				revision = mvcc.BytesToBucketKey(key).Main
			}
		}
		return nil
	})
}
